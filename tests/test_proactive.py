"""ViSpeak-Bench, OmniMMI's proactive tasks and StreamingBench's: their rules on rows made by hand,
whose marks are those of the official code, and their streams."""
import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_eval import folder  # noqa: F401 (a fixture)

import eval as ev
from bench import answers as answering
from bench import proactive, public

# ---- ViSpeak-Bench


@pytest.mark.parametrize("window, time, official, fixed", [
    ((10, 14), 10.0, 1, 1), ((10, 14), 9.99, 0, 0), ((10, 14), 16.0, 1, 1), ((10, 14), 16.01, 0, 0),
    ((0, 3), 0, 1, 1), ((-2, 3), -1, 0, 0), ((-2, 3), 0, 1, 1),
    (7.0, 5, 0, 0), (7.0, 7.0, 0, 1), (7.0, 7.1, 1, 1), (7.0, 500, 1, 0),  # any later one, but not
    (1.5, 0, 1, 0), (2.01, 0, 0, 0)])                                      # the moment itself
def test_in_time(window, time, official, fixed):
    item = {"task": "AW", "said": [[time, "x"]], "window": window}
    assert (proactive.vispeak_hit(item), proactive.vispeak_fixed(item)) == (official, fixed)
    assert not proactive.vispeak_hit(item | {"said": []})


@pytest.mark.parametrize("response, letter", [
    ("B. Conical", "B"), ("b", ""), ("Answer: (D)", "A"), ("Can it be D?", "C"),
    ("I think it is a chair", ""), ("Best answer: C", "B"), ("The best answer is C", "C"),
    ("", ""), (None, "")])                              # at None the official code crashes
def test_the_letter_of_a_visual_reference(response, letter):
    for answer in "ABCDE":
        item = {"task": "VR", "response": response, "answer": answer}
        assert proactive.vispeak_hit(item) == (letter == answer)
    assert proactive.vispeak_fixed({"task": "VR", "response": "Best answer: C", "answer": "C"})


def test_averages_are_those_of_the_papers_row():
    six, text = ("AW", "VI", "HR", "VW", "VT", "GU"), (2.63, 3.84, 1.07, 4.95, 3.15, 3.36)
    time = dict(zip(six, (56.5, 72, 83, 93, 79, 99)))
    found = proactive.vispeak_averages(time, dict(zip(six, text)) | {"VR": 3.75})
    assert {name: round(of, 2) for name, of in found.items()} == {
        "time_all": 80.42, "text_all_of_5": 3.25, "overall_of_5": 2.76}
    assert "time_all" in proactive.vispeak_averages(time, {})       # without a judge
    assert proactive.vispeak_averages({"AW": 5.0}, {}) == {}


def vispeak(tmp_path):
    """Annotations of four anomalies, of a termination and of four references, in a folder."""
    def said(value, span, *before):
        return {"proactive": True, "conversations": [*before, {
            "from": "gpt", "value": value, "time": sum(span) / 2, "timespan": span}]}

    before = ({"from": "human", "value": "Tell me a tale.", "time": 4.5, "timespan": [1.0, 4.5]},
              {"from": "gpt", "value": "Once there was a mill.", "time": 4.6})
    out = tmp_path / "annotations"
    out.mkdir()
    for name, items in {
            "Anomaly_Warning": [{"video": f"Anomaly_Warning/{i}.mp4",
                                 **said("A fall. Help.", [4.0, 6.5])} for i in range(4)],
            "Visual_Termination": [{"video": "w/1.mp4", "video_start_time": 3.0,
                                    **said("Bye.", [7.1, 9.0], *before)}],
            "Gesture_Understanding": [{"video": "g/1.mp4", "gesture": "Thumbs up",
                                       **said("You like it.", [1.0, 3.0], *before)}],
            "Visual_Reference": [{"video": f"r/{i}.mp4", "video_start_time": 0.0, "ans": "B",
                                  "video_end_time": 1.7, "proactive": False,
                                  "questions": "What? A. x B. y\n\nThe best option is:"}
                                 for i in range(4)]}.items():
        (out / f"{name}.json").write_text(json.dumps(items))
    return out


def test_what_a_stream_of_vispeak_is_asked(tmp_path):
    rows = {row["id"]: row for row in
            public.read_rows("vispeak", vispeak(tmp_path), proactive.READERS)}
    warning, end = rows["AW/Anomaly_Warning/0.mp4"], rows["VT/w/1.mp4"]
    assert warning["request"].startswith("What unusual events occur") and warning["start"] == 0
    assert (warning["window"], warning["end"]) == ([4.0, 6.5], 8)   # polled last at 8 <= 6.5 + 2
    assert end["request"] == ("From human: Tell me a tale.\nFrom gpt: Once there was a mill.\n"
                              "When you see the goodbye gesture, what should you respond to me? "
                              "Directly output your response.")
    assert (end["start"], end["end"]) == (3.0, 11) and end["truth"] == "Bye."
    assert rows["VR/r/0.mp4"]["prompt"].startswith("What? A. x") and len(rows) == 10


def predictions(tmp_path, name, answers):
    """A file as the official run writes it: a list of {video: [answer, time, history]}."""
    file = tmp_path / name
    file.write_text(json.dumps([{video: list(of)} for video, of in answers.items()]))
    return str(file)


def test_official_predictions_a_judge_and_what_is_absent(tmp_path, capsys):
    """Three of four, two of them in time, marks of 4: 66.7; 2.667 overall, 4 of those in time."""
    aw = "Anomaly_Warning/{}.mp4".format
    file = predictions(tmp_path, "model_aw_output.json", {
        aw(0): ["He fell.", 5, []], aw(1): ["", 8.5, []], aw(2): [None, 9.0, []]})
    score = ["score", "vispeak", file, "--out", str(tmp_path / "s.json")]
    with pytest.raises(SystemExit):
        ev.main(score)
    assert "item AW/Anomaly_Warning/0.mp4" in (said := capsys.readouterr().err) and "--data" in said
    score += ["--data", str(vispeak(tmp_path))]
    ev.main(score)
    said, saved = capsys.readouterr().out, json.loads((tmp_path / "s.json").read_text())
    assert saved["AW_time"] == pytest.approx(200 / 3) and saved["corrected"]["AW_time"] == 50
    assert not {"AW_text_of_5", "text_all_of_5", "time_all"} & saved.keys()
    assert "in no total: 2 answers in" in said and "1 item of AW" in said
    assert saved["timing"]["AW"]["on_time"] == 1 and saved["timing"]["AW"]["late"]["mean"] == 2
    judge = tmp_path / "s.judge.jsonl"
    lines = [json.loads(line) for line in judge.read_text().splitlines()]
    assert [line["case"] for line in lines] == [
        "GPT text:He fell.\n\nGround Truth:A fall. Help.",
        "GPT text:null\n\nGround Truth:A fall. Help."]
    assert lines[0]["rubric"].startswith("ANOMALY") and lines[0]["advice"] is None
    score += ["--judged", str(judge)]
    with pytest.raises(SystemExit):                             # nobody has judged yet
        ev.main(score)
    assert "s.judge.jsonl: item AW/Anomaly_Warning/0.mp4: no description" in capsys.readouterr().err
    judge.write_text("".join(json.dumps(line | {"description": 3, "advice": 1}) + "\n"
                             for line in lines))
    ev.main(score)
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["AW_text_of_5"] == 4 and saved["AW_overall_of_5"] == pytest.approx(8 / 3)
    assert json.loads(judge.read_text().splitlines()[0])["advice"] == 1     # never written over
    predictions(tmp_path, "model_aw_output.json", {     # one more answer, and another one
        aw(0): ["He fell.", 5, []], aw(1): ["Oh.", 8.5, []], aw(2): ["So.", 5.0, []]})
    ev.main(score[:-2])
    marks = [(line["case"][9:], line["advice"]) for line in map(json.loads, judge.open())]
    assert [(case[:case.index("\n")], mark) for case, mark in marks] == [
        ("He fell.", 1), ("Oh.", None), ("So.", None), ("null", 1)]     # no mark of another case
    (tmp_path / "old.jsonl").write_text("".join(
        json.dumps(line | {"description": 3, "advice": 1}) + "\n" for line in lines))
    with pytest.raises(SystemExit):
        ev.main([*score[:-1], str(tmp_path / "old.jsonl")])
    assert "1.mp4: its marks are of another answer" in capsys.readouterr().err
    (tmp_path / "twice.jsonl").write_text((tmp_path / "old.jsonl").read_text() + json.dumps(
        lines[0] | {"description": 0, "advice": 0}))
    with pytest.raises(SystemExit):
        ev.main([*score[:-1], str(tmp_path / "twice.jsonl")])
    assert "0.mp4 is there twice, and not alike" in capsys.readouterr().err
    judge.write_text("".join(json.dumps(line | {"reason": "So."}) + "\n"
                             for line in map(json.loads, judge.read_text().splitlines())))
    predictions(tmp_path, "model_aw_output.json", {aw(2): ["So.", 5.0, []]})
    ev.main(score[:-2])                                 # another file: what is judged stays
    kept = {line["id"][-5]: line for line in map(json.loads, judge.open())}
    assert (kept["0"]["advice"], kept["0"]["reason"]) == (1, "So.")
    assert kept["1"]["case"].startswith("GPT text:null") and kept["1"]["advice"] == 1
    predictions(tmp_path, "model_aw_output.json", {
        aw(0): ["He fell.", 5, []], aw(1): ["Oh.", 8.5, []], aw(2): ["So.", 5.0, []]})
    for content, says in (('{"HR/a.mp4": 4}', "no line of a judge's file"),
                          ('[{"advice": 1}]', "no line of a judge's file"), (json.dumps(
                              [line | {"description": 5, "advice": 0} for line in lines]),
                              "no description of 0 to 3")):
        (tmp_path / "marks.json").write_text(content)
        with pytest.raises(SystemExit):
            ev.main([*score[:-1], str(tmp_path / "marks.json")])
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1


def test_three_references_of_four(tmp_path):
    """answer_correct is 5 x 2/3: the absent one is in no official figure."""
    file = predictions(tmp_path, "Visual_Reference.json", {
        "r/0.mp4": ["B. y", 0], "r/1.mp4": ["Can it be B?", 0], "r/2.mp4": ["B", 0]})
    ev.main(["score", "vispeak", file, "--data", str(vispeak(tmp_path)),
             "--out", str(tmp_path / "s.json")])
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["VR_accuracy"] / 20 == pytest.approx(3.333, abs=1e-3)
    assert saved["corrected"]["VR_accuracy"] == 75              # 3 of all four


def test_what_the_judge_reads_of_each_task():
    row = {"said": [[1, "Hi"]], "truth": "Yes.", "history": "From human: a\nFrom gpt: b\n",
           "gesture": "OK"}
    case = {code: proactive.vispeak_case(row | {"task": code}) for code in proactive.MARKS}
    assert case["VT"] == case["VI"] == case["VW"] == "GPT text:Hi"
    assert case["HR"] == "GPT text: Hi\n\nGround Truth:Yes."
    assert case["GU"] == (
        "[Dialogue History]:\nFrom human: a\nFrom gpt: b\n\n[Gesture]:OK\n\n[Reference Text]:Yes."
        "\n\n Here is the GPT response to evaluate: Hi\n\n")


def test_the_file_names_the_task():
    for stem, code in (("Visual_Wake-Up_output", "VW"), ("qwen_vt_1fps", "VT"), ("GU", "GU"),
                       ("Visual_Termination", "VT")):
        assert proactive.vispeak_task(stem) == code
    with pytest.raises(ValueError, match="its name tells the task"):
        proactive.vispeak_task("results")


# ---- OmniMMI

@pytest.mark.parametrize("times, marks", [
    ([], (0, 0, 0)), ([10], (1, 1, 0)), ([20], (1, 1, 0)), ([9.9], (0, 0, 0)), ([20.5], (0, 0, 0)),
    ([15, 18], (1, 1, .3)), ([5, 15], (0, .5, 1 / 3)), ([15, 25], (1, .5, 1 / 3)),
    ([9, 30], (0, 0, 10 / 21)), ([18, 12], (1, 1, 0)), ([12.5, 15, 30], (1, 2 / 3, .375))])
def test_alerts(times, marks):
    assert proactive.alert_marks(times, [10, 20]) == pytest.approx(marks)


def test_an_alert_at_no_time_is_named():
    row = {"id": "PA/x", "task": "PA", "window": [1, 2], "said": [[float("nan"), ""]]}
    with pytest.raises(ValueError, match="item PA/x: it was said at nan s"):
        proactive.omnimmi_scores([row], proactive.alert_marks, proactive.turn_kept)


def test_alerts_without_the_official_faults():
    assert proactive.alert_fixed([18, 12], [10, 20]) == pytest.approx((1, 1, .6))
    assert proactive.alert_marks([10], [10, 10]) == (1, 1, 0)   # the official code would crash
    assert proactive.alert_fixed([10], [10, 10]) == (1, 1, 1)
    assert proactive.alert_fixed([], [10, 20]) == (0, 0, 0)


def omnimmi(tmp_path, *preds, name="pa_model_0.json"):
    """Predictions as they are written: an object a line, in a .json file."""
    lines = [{"video": f"abc_{k}.0_9.0.mp4", "question": "Tell me when.", "answer": [10, 20],
              "pred": pred} for k, pred in enumerate(preds)]
    file = tmp_path / name
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize("preds, accuracy, precision, iou", [
    (([], [12, 18]), 50, 50, 30), (([12, 18],), 100, 100, 60), ((12.5, 30), 50, None, None)])
def test_files_of_alerts(tmp_path, preds, accuracy, precision, iou):
    rows = public.read_rows("omnimmi", omnimmi(tmp_path, *preds), proactive.READERS)
    scores = proactive.score("omnimmi", rows)
    assert [scores.get(f"PA_{name}") for name in ("accuracy", "precision", "iou")] == pytest.approx(
        [accuracy, precision, iou])
    assert scores["timing"]["PA"]["due"] == len(preds) and "never speaks has 100" in scores["meant"]


@pytest.mark.parametrize("pred, official, fixed", [
    ("", 1, 1), ("<2>", 1, 1), ("<2> ok", 1, 1), ("  <2>", 0, 1), (" ", 0, 1), ("\n", 0, 1),
    ("No", 0, 0), ("</Silence>", 0, 1)])
def test_turns(pred, official, fixed):
    assert proactive.turn_kept({"response": pred}) == official
    assert proactive.turn_fixed({"response": pred}) == fixed


TALK = {"video": "park_1.mp4", "conversation": [
    {"human": "Hello.", "assistant": "Hi."}, {"human": "Who runs?", "assistant": "A dog."},
    {"human": "Ah, fine."}]}


def test_files_of_turns(tmp_path):
    (tmp_path / "pt.json").write_text(json.dumps([TALK]))
    row, = public.read_rows("omnimmi", tmp_path / "pt.json", proactive.READERS)
    assert row["prompt"] == "human\nWho runs?\nassistant\nA dog.\nhuman\nAh, fine.\n"
    assert not proactive.answered(row)
    for pred in (1, None):                              # there the official code ends in an error
        (tmp_path / "pt.json").write_text(json.dumps(TALK | {"pred": pred}))
        with pytest.raises(ValueError, match=r"pt\.json.*item PT/park_1\.mp4: its pred"):
            public.read_rows("omnimmi", tmp_path / "pt.json", proactive.READERS)
    (tmp_path / "pt.json").write_text(json.dumps(TALK | {"pred": "Yes?"}))
    rows = public.read_rows("omnimmi", tmp_path / "pt.json", proactive.READERS)
    absent = [row | {"id": "PT/other.mp4"}]
    scores = proactive.score("omnimmi", rows + [rows[0] | {"response": ""}], absent)
    assert scores["PT_accuracy"] == 50 and scores["corrected"]["PT_accuracy"] == pytest.approx(
        100 / 3)


# ---- StreamingBench

@pytest.mark.parametrize("said, marks, fixed", [
    ([[29, "3"]], (1, 1), (1, 1)), ([[31, "It is 3."]], (1, 1), (1, 1)),
    ([[32, "3"]], (0, 0), (0, 0)), ([[27, "3"]], (1, 1), (1, 1)), ([[26, "3"]], (0, 0), (0, 0)),
    ([[30, "13"]], (1, 1), (1, 0)), ([[30, "none"]], (1, 0), (1, 0)), ([], (0, 0), (0, 0))])
def test_outputs(said, marks, fixed):
    row = {"said": said, "window": [29, 29], "answer": "3"}
    assert (proactive.output_marks(row), proactive.output_fixed(row)) == (marks, fixed)
    never = {"said": [[29, None]], "window": [29, 29], "answer": "3"}      # the last poll, a no
    assert (proactive.output_marks(never), proactive.output_fixed(never)) == ((1, 0), (0, 0))
    right = {"said": [[29, "goal!"]], "window": [29, 29], "answer": "Goal"}
    assert (proactive.output_marks(right), proactive.output_fixed(right)) == ((1, 0), (1, 1))


def proactive_output(**more):
    return [{"time": "[0:00:00 - 0:00:30]", "video_path": "./videos/sample_17_proactive.mp4",
             "questions": [{"task_type": "Proactive Output", "question": "At 3 points, output 3.",
                            "time_stamp": "0:00:02", "ground_truth_time_stamp": "00:00:05",
                            "ground_truth_output": "3", "required_ability": "x", **more}]}]


def test_files_of_outputs(tmp_path):
    file = tmp_path / "questions_proactive.json"
    file.write_text(json.dumps(proactive_output()))
    row, = public.read_rows("streamingbench", file, proactive.READERS)
    assert (row["video"], row["start"], row["end"]) == ("sample_17_proactive.mp4", 2, 9)
    assert row["request"] == "At 3 points, output 3." and not proactive.answered(row)
    polls = [{"role": "assistant", "content": "no", "time": 3, "cost": 1.0},
             {"role": "assistant", "content": "It is 3", "time": 6, "cost": 1.0}]
    file.write_text(json.dumps(proactive_output(M={"answered": 6, "dialog_history": polls})))
    rows = public.read_rows("streamingbench", file, proactive.READERS)
    scores = proactive.score("streamingbench", rows)
    assert (scores["time_accuracy"], scores["answer_accuracy"]) == (100, 100)
    assert scores["timing"]["Proactive Output"]["late"]["mean"] == 1
    never = [{"role": "assistant", "content": "no", "time": 9}]
    file.write_text(json.dumps(proactive_output(M={"answered": False, "dialog_history": never})))
    scores = proactive.score("streamingbench",
                             public.read_rows("streamingbench", file, proactive.READERS))
    assert scores["time_accuracy"] == 0 and scores["timing"]["Proactive Output"]["said"] == 0
    both = {"answered": 6, "dialog_history": polls}
    file.write_text(json.dumps(proactive_output(M=both, N=both)))
    with pytest.raises(ValueError, match="several models: M, N"):
        public.read_rows("streamingbench", file, proactive.READERS)
    file.write_text(json.dumps([{"questions": [{"question": "?", "answer": "A"}]}]))
    with pytest.raises(ValueError, match="not its proactive task"):
        public.read_rows("streamingbench", file, proactive.READERS)


# ---- The stream decides

def says(moments, heard):
    """In place of infer.stream: Responses in some of its seconds."""
    def stream(model, tokenizer, features, questions, **options):
        features = list(features)
        heard.append((len(features), questions))
        for second, _ in features:
            said = "response" if second in moments else "silence"
            yield Namespace(start=second, end=second + 1, state=said, text=moments.get(second, ""),
                            probs=(0, 0, 0))

    return stream


@pytest.fixture
def videos(tmp_path):
    """Videos of 14 seconds, which are folders of pictures."""
    for name in ("Anomaly_Warning/0", "w/1", "r/0", "abc_0.0_9.0", "park_1", "sample_17_proactive"):
        (tmp_path / "videos" / f"{name}.mp4").mkdir(parents=True)
        for i in range(14):
            Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(
                tmp_path / f"videos/{name}.mp4/{i}.png")
    return tmp_path / "videos"


def answers(bench, data, videos, model, *more):
    """Runs a benchmark; its rows by their names."""
    out = videos.parent / f"{bench}.jsonl"
    ev.main([*map(str, ("run", bench, "--data", data, "--videos", videos, "--model", model,
                        "--workers", 1, "--out", out, *more))])
    return {row["id"]: row for row in public.read_rows(bench, out, ev.READERS)}


def test_vispeak_runs_natively(folder, videos, monkeypatch, capsys):  # noqa: F811
    """The first Response of each stream, at the end of its second, in the time of the video."""
    heard = []
    monkeypatch.setattr(answering, "stream", says({5: "Help!", 6: "Again."}, heard))
    rows = answers("vispeak", vispeak(videos.parent), videos, folder)
    assert rows["AW/Anomaly_Warning/0.mp4"]["said"] == [[6, "Help!"]]
    assert rows["VT/w/1.mp4"]["said"] == [[9.0, "Help!"]]               # which begins at second 3
    assert "failed" in rows["GU/g/1.mp4"] and rows["VR/r/0.mp4"]["response"] == "Help!"
    lengths = {questions[0][1][:9]: (n, questions[0][0]) for n, questions in heard}
    assert lengths["What unus"] == (8, 0) and lengths["From huma"] == (8, 0)
    ev.main(["score", "vispeak", str(videos.parent / "vispeak.jsonl"),
             "--out", str(videos.parent / "s.json")])
    scores = json.loads((videos.parent / "s.json").read_text())
    assert (scores["AW_time"], scores["VT_time"], scores["VR_accuracy"]) == (100, 100, 0)
    assert len(scores["failed"]) == 7 and scores["lacking"] == {}
    assert "2 answers in" in capsys.readouterr().out


def test_omnimmi_runs_natively(folder, videos, monkeypatch):  # noqa: F811
    """Alerts: all Responses but those of the first second. A remark: the one second in which it
    comes; silence is ""."""
    heard, data = [], videos.parent / "both.json"
    monkeypatch.setattr(answering, "stream", says({0: "Now", 3: "Now", 11: "Now"}, heard))
    alert = {"video": "abc_0.0_9.0.mp4", "question": "Tell me when.", "answer": [10, 20]}
    data.write_text(json.dumps([alert, TALK]))
    rows = answers("omnimmi", data, videos, folder)
    assert rows["PA/abc_0.0_9.0.mp4"]["said"] == [[4, "Now"], [12, "Now"]]
    assert rows["PT/park_1.mp4"]["response"] == "" and heard[1] == (
        14, [(13, "human\nWho runs?\nassistant\nA dog.\nhuman\nAh, fine.\n")])
    scores = proactive.score("omnimmi", [*rows.values()])
    assert (scores["PA_accuracy"], scores["PA_precision"], scores["PT_accuracy"]) == (0, 50, 100)


def test_streamingbench_runs_natively(folder, videos, monkeypatch):  # noqa: F811
    heard, data = [], videos.parent / "questions_proactive.json"
    monkeypatch.setattr(answering, "stream", says({3: "It is 3."}, heard))
    data.write_text(json.dumps(proactive_output()))
    row, = answers("streamingbench", data, videos, folder).values()
    assert row["said"] == [[6, "It is 3."]]                 # second 3 of a stream from second 2 on
    assert heard == [(7, [(0, "At 3 points, output 3.")])]  # up to 4 s after the moment
    assert proactive.score("streamingbench", [row])["answer_accuracy"] == 100


def test_a_real_stream_answers_all_three(folder, videos):  # noqa: F811
    """Through the model: what is said is dated and inside the stream."""
    data = videos.parent / "questions_proactive.json"
    data.write_text(json.dumps(proactive_output()))
    row, = answers("streamingbench", data, videos, folder, "--threshold", 0).values()
    assert row["said"][0][0] == 3 and isinstance(row["said"][0][1], str)
    again, = answers("streamingbench", data, videos, folder, "--threshold", 0).values()
    assert again == row


def test_offline_is_refused_where_the_moment_is_asked_for(folder, videos, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as end:
        answers("omnimmi", videos, videos, folder, "--offline")
    assert end.value.code == 2 and "--offline: omnimmi" in capsys.readouterr().err


def test_timing_is_measured_from_the_window():
    assert [proactive.offset(time, (10, 14)) for time in (8, 10, 12.5, 14, 15.25)] == [
        -2, 0, 0, 0, 1.25]
    assert math.isclose(proactive.offset(2.5, (3, 3)), -0.5)
