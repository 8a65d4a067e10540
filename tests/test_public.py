"""The public benchmarks' rules, oddity by oddity, against records written by hand.

The records have the benchmarks' shapes; none of their items is copied.
"""
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import eval as ev
from bench import public


def row(response, answer, task="x", **more):
    return {"id": "1", "task": task, "response": response, "answer": answer} | more


@pytest.mark.parametrize("task, response, answer, official, fixed", [
    ("OCR", "B", "B", 1, 1), ("OCR", "Answer: B", "A", 1, 0), ("OCR", "Answer: B", "B", 1, 1),
    ("OCR", "b", "B", 0, 0), ("OCR", None, "B", 0, 0), ("OCR", "ABCD", "C", 1, 0),
    ("OCR", "A man is B.", "B", 1, 1), ("OCR", "A is correct.", "A", 1, 1),
    ("OCR", "Option A because it moves", "A", 1, 1), ("OCR", "A dog, so A.", "A", 1, 1),
    ("REC", "3 times", "3", 1, 1), ("REC", "1 or 2", "12", 1, 0), ("REC", "1 or 2", "1", 0, 1),
    ("REC", "none", "0", 0, 0), ("REC", None, "0", 0, 0), ("REC", "12", "1", 0, 0),
    ("SSR", "N", "No", 1, 1), ("SSR", "Y", "Yes", 1, 1),
    ("CRR", "Yes.", "Yes", 1, 1), ("CRR", "yes", "Yes", 0, 1), ("CRR", "Not yet", "No", 1, 0),
    ("SSR", "No", "Yes", 0, 0), ("OCR", "N", "No", 0, 1)])
def test_ovo_rule(task, response, answer, official, fixed):
    assert public.ovo_rule(row(response, answer, task)) == official
    assert public.corrected(row(response, answer, task)) == fixed


def test_ovo_averages_and_official_result_file(tmp_path):
    """Every test_info counts in its task, a task in its category, a category in the total."""
    def mcq(i, task, response):
        return {"id": i, "video": "a.mp4", "task": task, "question": "?", "response": response,
                "ground_truth": "C"}

    rec = {"id": 9, "video": "a.mp4", "task": "REC", "activity": "jump", "test_info": [
        {"realtime": 3, "count": 1, "response": "1"},
        {"realtime": 6, "count": 2, "response": "1"},
        {"realtime": 9, "count": 3, "response": None}]}
    ssr = {"id": 10, "video": "a.mp4", "task": "SSR", "test_info": [
        {"realtime": 3, "step": "cut", "type": 0, "response": "N"},
        {"realtime": 5, "step": "cut", "type": 1, "response": "No"}]}
    crr = {"id": 11, "video": "a.mp4", "task": "CRR", "question": "?", "ask_time": 2,
           "test_info": [{"realtime": 3, "type": 1, "response": "Yes"}]}
    results = {
        "backward": [mcq(1, "EPM", "C"), mcq(2, "EPM", "C"), mcq(3, "EPM", "A"),
                     mcq(4, "ASI", "B")],
        "realtime": [mcq(5, "OCR", "A. or C."), mcq(6, "ATR", None)],
        "forward": [rec, ssr, crr]}
    file = tmp_path / "model.json"
    file.write_text(json.dumps(results))
    ev.main(["score", "ovo", str(file), "--out", str(tmp_path / "out.json")])
    scores = json.loads((tmp_path / "out.json").read_text())
    wanted = {"EPM": 200 / 3, "ASI": 0, "OCR": 100, "ATR": 0, "REC": 100 / 3, "SSR": 50, "CRR": 100,
              "backward": 100 / 3, "realtime": 50, "forward": 550 / 9,
              "total": (100 / 3 + 50 + 550 / 9) / 3}
    for name, value in wanted.items():
        assert scores[name] == pytest.approx(value), name
    assert scores["corrected"]["OCR"] == 0 and scores["items"] == 12
    assert scores["total_without_forward"] == pytest.approx((100 / 3 + 50) / 2)
    assert "without_forward" in scores["meant"]
    results["forward"] = []  # the official script would crash here
    file.write_text(json.dumps(results))
    without = public.score("ovo", public.read_rows("ovo", file))
    assert "total" not in without and without["total_without_forward"] == pytest.approx(125 / 3)
    file.write_text(json.dumps({"backward": results["backward"]}))
    without = public.score("ovo", public.read_rows("ovo", file))
    assert not {"total", "total_without_forward"} & without.keys()


@pytest.mark.parametrize("item, says", [
    ({"task": "OCR", "gt": -1, "options": ["a", "b"]}, "item 7: gt -1 is none of its options"),
    ({"task": "OCR", "gt": 2, "options": ["a", "b"]}, "item 7: gt 2 is none of its options"),
    ({"task": "SSR", "test_info": [{"realtime": 3, "type": -1}]}, "item 7: type -1 is neither")])
def test_a_key_that_is_no_answer_is_told(item, says, tmp_path):
    (tmp_path / "ovo.json").write_text(json.dumps([
        {"id": 7, "video": "a.mp4", "question": "?", **item}]))
    with pytest.raises(ValueError, match=says):
        public.read_rows("ovo", tmp_path / "ovo.json")


def test_a_question_of_a_moment_is_asked_before_it(tmp_path):
    """In the turn that ends with it at the latest: CRR's first is often the second of asking."""
    (tmp_path / "ovo.json").write_text(json.dumps([
        {"id": 1, "video": "a", "task": "CRR", "question": "?", "ask_time": 6, "test_info": [
            {"realtime": 6, "type": 0}, {"realtime": 9, "type": 1}]},
        {"id": 2, "video": "a", "task": "REC", "activity": "jump", "start_times": [9, 12],
         "test_info": [{"realtime": 4, "count": 0}, {"realtime": 13, "count": 2}]},
        {"id": 3, "video": "a", "task": "REC", "activity": "jump", "start_times": [9],
         "test_info": [{"realtime": 10, "count": 1}]},
        {"id": 4, "video": "a", "task": "SSR", "test_info": [
            {"realtime": 1, "step": "cut", "type": 0}]}]))
    rows = public.read_rows("ovo", tmp_path / "ovo.json")
    assert [row["ask"][0] for row in rows] == [5, 5, 3, 3, 6, 0]


def test_annotations_are_no_answers(tmp_path, capsys):
    """null is one, a wrong one."""
    item = {"id": 1, "video": "a", "task": "EPM", "question": "?", "ground_truth": "A"}
    long = {"id": "x", "video_path": "a.mp4", "question": "?", "candidates": ["x", "y"],
            "correct_choice": 1, "question_category": "S2E", "duration_group": 15}
    for bench, content in (("ovo", item), ("longvideobench", long)):
        (tmp_path / "a.json").write_text(json.dumps([content]))
        with pytest.raises(SystemExit):
            ev.main(["score", bench, str(tmp_path / "a.json"), "--out", str(tmp_path / "s.json")])
        assert f"a.json: no answered item of {bench}" in capsys.readouterr().err
    (tmp_path / "gold.json").write_text(json.dumps([item]))
    (tmp_path / "a.json").write_text(json.dumps([item | {"response": None}]))
    for more in ([], ["--data", str(tmp_path / "gold.json")]):
        ev.main(["score", "ovo", str(tmp_path / "a.json"), "--out", str(tmp_path / "s.json"),
                 *more])
        assert json.loads((tmp_path / "s.json").read_text())["EPM"] == 0


def test_a_response_in_a_list_is_unwrapped_or_named(tmp_path):
    """Published OVO-Bench files have ["C"]; what is no text at all is named."""
    def read(*responses):
        items = [{"id": i, "video": "a.mp4", "task": "EPM", "question": "?", "ground_truth": "C",
                  "response": response} for i, response in enumerate(responses)]
        (tmp_path / "r.json").write_text(json.dumps(
            {"backward": items, "forward": [{"id": 9, "video": "a.mp4", "task": "REC",
             "activity": "jump", "test_info": [{"realtime": 3, "count": 2, "response": ["2"]}]}]}))
        return public.read_rows("ovo", tmp_path / "r.json")

    assert [r["response"] for r in read(["C"], None, "C", [None])] == ["C", None, "C", None, "2"]
    assert public.score("ovo", read(["C"]))["REC"] == 100
    for bad in (["A", "B"], [], 3, {"text": "C"}, [["C"]]):
        with pytest.raises(ValueError, match=r"r\.json: item 1_0: the response is no text"):
            read("C", bad)


@pytest.mark.parametrize("response, official", [
    ("B", 1), ("(B) dog", 1), ("b. dog", 1), ("B.", 1), ("The answer is B", 1),
    ("", None), (None, None), ("A dog, option B", 0), ("a dog", 0), ("dog", 0),
    ("Best option: B", 1), ("option-B", 1), ("my pick: b", 1), ("1,2 option-B", 0)])
def test_mvbench_rule(response, official):
    """The article is option A; with a number like 1,2 all punctuation is glued together."""
    assert public.mvbench_rule(row(response, "B")) == official


def test_mvbench_files_and_average(tmp_path):
    task = [{"video": "v.mp4", "question": "What?", "candidates": ["cat", "dog"], "answer": "dog",
             "start": 1, "end": 2}]
    (tmp_path / "action_count.json").write_text(json.dumps(task * 2))
    (tmp_path / "state_change.json").write_text(json.dumps(task))
    rows = public.read_rows("mvbench", tmp_path)
    assert [r["answer"] for r in rows] == ["B"] * 3 and "(B) dog\nOnly give" in rows[0]["prompt"]
    for r, response in zip(rows, ("B", "", "A")):
        r["response"] = response
    scores = public.score("mvbench", rows)
    assert (scores["action_count"], scores["state_change"], scores["average"]) == (100, 0, 50)
    assert scores["corrected"]["action_count"] == 50  # an empty response is wrong


PAIR = "Which caption fits?\nCaption A: The ball falls.\nCaption B: The ball rises."


@pytest.mark.parametrize("task, response, answer, mark", [
    ("multi-choice", "A. falls", "A. falls", 1), ("multi-choice", "A", "A. falls", 1),
    ("multi-choice", "B", "A. falls", 0), ("multi-choice", "A) falls", "A. falls", 1),
    ("multi-choice", "A.</s>", "A. falls", 1), ("multi-choice", "A falls", "A. falls", None),
    ("multi-choice", "It falls", "A. falls", None), ("multi-choice", "", "A. falls", None),
    ("multi-choice", " A. falls\n", "A. falls", 1), ("multi-choice", "\nB</s> ", "A. falls", 0),
    ("multi-choice", None, "A. falls", None), ("multi-choice", "Apples", "A. falls", None),
    ("yes_no", "Yes, it does", "yes", 1), ("yes_no", "Nothing moves", "no", 1),
    ("yes_no", "It does", "yes", None), ("yes_no", " Yes.", "yes", 1), ("yes_no", "\nNo", "yes", 0),
    ("caption_matching", "Caption B: The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "Caption B.", "Caption B: The ball rises.", 1),
    ("caption_matching", "(B) The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "Caption A", "Caption B: The ball rises.", 0),
    ("caption_matching", "B", "Caption B: The ball rises.", 1),
    ("caption_matching", "A.", "Caption B: The ball rises.", 0),
    ("caption_matching", "  Caption B: The ball rises.\n", "Caption B: The ball rises.", 1),
    ("caption_matching", "C", "Caption B: The ball rises.", None),
    ("caption_matching", "It rises", "Caption B: The ball rises.", None)])
def test_tempcompass_rules(task, response, answer, mark):
    item = row(response, answer, task, question=PAIR)
    assert public.tempcompass_match(item) == mark
    assert public.RULES["tempcompass"](item) == (mark or 0)  # no judge: 0


@pytest.mark.parametrize("kind", ["Option", "Sentence", "Caption"])
@pytest.mark.parametrize("response, mark", [
    ("1", 1), ("1.", 1), ("{} 1", 1), ("2", 0), ("(1) It stops.", 1), ("It stops.", 1),
    ("The first", None), ("{} 1: It stops", None), ("{} 2: It goes.", 0)])
def test_tempcompass_captions_by_their_bare_index(kind, response, mark):
    question = f"Which?\n{kind} 1: It stops.\n{kind} 2: It goes."
    item = row(response.format(kind), f"{kind} 1: It stops.", "caption_matching", question=question)
    assert public.tempcompass_match(item) == mark


def test_tempcompass_takes_the_judges_rating_where_the_rules_cannot_tell(tmp_path):
    """As the official auto_eval_results have it."""
    items = [{"question": "Fast?", "gt-answer": "yes", "video-llm-prediction": said,
              "match_success": rating is None, "rating": rating or 0}
             for said, rating in (("It is", 1), ("Hardly", 0), ("no", None), ("Yes", None))]
    (tmp_path / "yes_no.json").write_text(json.dumps({"7": {"speed": items}}))
    items[3]["rating"] = 1
    rows = public.read_rows("tempcompass", tmp_path / "yes_no.json")
    scores = public.score("tempcompass", rows)
    assert (scores["yes_no"], scores["matched_without_judge"]) == (50, 50)


def test_a_tempcompass_file_is_called_as_its_task(tmp_path):
    file = tmp_path / "my_results.json"
    file.write_text(json.dumps({"7": {"speed": [{"question": "?", "answer": "yes"}]}}))
    with pytest.raises(ValueError, match="my_results.json.*its name tells the task"):
        public.read_rows("tempcompass", file)


def test_tempcompass_files(tmp_path):
    def write(name, *items):
        (tmp_path / name).write_text(json.dumps({"7": {"speed": list(items)}}))
        return tmp_path / name

    files = [
        write("yes_no.json", {"question": "Fast?", "answer": "yes", "prediction": "yes"},
              {"question": "Slow?", "answer": "no", "response": "hm"}),
        write("caption_matching.json",
              {"question": PAIR, "answer": PAIR.split("\n")[1], "prediction": "Caption B"}),
        write("captioning.json", {"question": "Tell.", "answer": "A. x", "prediction": "x"})]
    rows = [r for file in files for r in public.read_rows("tempcompass", file)]
    assert rows[0]["video"] == "7.mp4" and rows[0]["prompt"] == "Fast?\nPlease answer yes or no:"
    scores = public.score("tempcompass", rows)
    assert (scores["yes_no"], scores["caption_matching"], scores["average"]) == (50, 0, 25)
    assert "captioning" not in scores and scores["matched_without_judge"] == pytest.approx(200 / 3)
    assert scores["all_questions"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("response, answer, official, fixed", [
    ("C", "C", 1, 1), ("The best answer is C.", "C", 1, 1),
    ("Best answer: C", "C", 0, 1), ("Best answer: C", "B", 1, 0),
    ("Answer: B", "B", 1, 1), ("Answer: B", "A", 0, 0), ("Option: D", "D", 1, 1),
    ("The correct answer: B", "B", 1, 1), ("The correct option C", "C", 1, 1),
    ("Correct Answer: B", "B", 0, 1), ("The best option is B", "B", 1, 1), (" B", "B", 1, 1),
    ("I see none", "C", None, 0), ("", "C", None, 0), (None, "C", None, 0), ("D", "C", 0, 0),
    ("The answer is (B)", "B", 1, 1), ("Black cats", "B", 1, 0)])
def test_videomme_rule(response, answer, official, fixed):
    assert public.videomme_rule(row(response, answer)) == official
    assert public.corrected(row(response, answer)) == fixed


def test_videomme_files(tmp_path):
    """Old and new keys; what has no letter leaves the denominator; a missing video is skipped."""
    def question(i, response):
        return {"question_id": i, "task_type": "Counting", "question": "How many?", "answer": "C",
                "options": ["A. 1", "B. 2", "C. 3", "D. 4"], "response": response}

    new = {"video_id": "001", "duration": "short", "domain": "Sports", "sub_category": "Chess",
           "questions": [question("1", "C"), question("2", "none")]}
    old = {"video_id": "002", "duration_category": "long", "video_category": "Sports",
           "video_subcategory": "Go", "missing": False, "questions": [question("3", "B")]}
    (tmp_path / "r.json").write_text(json.dumps([new, old, old | {"missing": True}]))
    rows = public.read_rows("videomme", tmp_path / "r.json")
    assert [r["answer"] for r in rows] == ["C"] * 3
    assert rows[0]["prompt"].endswith("\nHow many?\nA. 1\nB. 2\nC. 3\nD. 4\nThe best answer is:")
    both = {"videoID": "youtube", "video_id": "001", "duration": "short"}
    nested = both | {"questions": [question("4", None)]}
    (tmp_path / "hub.json").write_text(json.dumps([both | question("5", None), nested]))
    rows_of_hub = public.read_rows("videomme", tmp_path / "hub.json")
    assert [r["video"] for r in rows_of_hub] == ["youtube.mp4"] * 2
    scores = public.score("videomme", rows)
    assert (scores["overall"], scores["short"], scores["long"], scores["Sports"]) == (
        50, 100, 0, 50)
    assert scores["corrected"]["overall"] == pytest.approx(100 / 3) and (
        rows[0]["video"] == "001.mp4")


def test_longvideobench(tmp_path):
    """Without a letter the official script guesses; the corrected figure does not."""
    item = {"video_id": "v", "question": "What?", "candidates": ["x", "y", "z", "w"],
            "correct_choice": 1, "question_category": "S2E", "duration_group": 15,
            "video_path": "v.mp4"}
    (tmp_path / "lvb.json").write_text(json.dumps([item | {"id": f"v_{i}"} for i in range(400)]))
    rows = public.read_rows("longvideobench", tmp_path / "lvb.json")
    assert rows[0]["answer"] == "B" and "D. w" in rows[0]["prompt"]
    for i, r in enumerate(rows):
        r["response"] = "B. y" if i < 100 else "y"
    scores = public.score("longvideobench", rows)
    assert scores["overall"] == pytest.approx(100 * (100 + 300 / 4) / 400, abs=7)
    assert scores == public.score("longvideobench", rows) and scores["corrected"]["overall"] == 25
    assert not any(public.longvideobench_rule(row("y", "E", id=str(i), choices=4))
                   for i in range(99))
    assert scores["15"] == scores["S2E"] == scores["overall"]
    hub = {k: v for k, v in item.items() if k != "candidates"} | {
        f"option{i}": c for i, c in enumerate("xyz")}
    (tmp_path / "hub.jsonl").write_text(
        json.dumps(hub | {"id": "v", "option3": "N/A", "option4": "N/A"}))
    assert public.read_rows("longvideobench", tmp_path / "hub.jsonl")[0]["choices"] == 3
    own = item | {"id": "v", "candidates": ["x", "N/A", "y"], "correct_choice": 2}
    (tmp_path / "own.json").write_text(json.dumps([own]))           # an option like any other
    assert public.read_rows("longvideobench", tmp_path / "own.json")[0]["answer"] == "C"
    for wrong in (-1, 3):
        (tmp_path / "own.json").write_text(json.dumps([own | {"correct_choice": wrong}]))
        with pytest.raises(ValueError, match=f"item 0: its answer is option {wrong} of 3"):
            public.read_rows("longvideobench", tmp_path / "own.json")
