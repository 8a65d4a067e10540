"""Scorers against records written by hand with known answers, and running against scoring.

The records have the public benchmarks' shapes; none of their items is copied.
"""
import itertools
import json
import random
import shutil
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import eval as ev
from bench import claims, public
from streamo import (FRAME, RESPONSE, STATES, DecoderConfig, Streamo, StreamoConfig, Tokenizer,
                     VisionConfig)
from toy import dialogues


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with random weights, which says all three states now and then."""
    out = tmp_path_factory.mktemp("model")
    torch.manual_seed(3)
    tokenizer = Tokenizer.train(
        [data.SYSTEM, "user\n", "assistant\n", "Describe every event.\n"], 1400)
    tokenizer.add_tokens([*STATES, FRAME])
    config = StreamoConfig(
        vision=VisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                            num_attention_heads=2, image_size=32, patch_size=8),
        decoder=DecoderConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32,
                              num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                              head_dim=16, rope_theta=10000.0, rms_norm_eps=1e-6,
                              max_position_embeddings=4096, tie_word_embeddings=True,
                              attention_bias=False, qk_norm=True),
        frame_token_id=tokenizer.frame_id, vision_feature_layer=-1, pooling="average",
        grid=2, coarse_grid=1, window=60)
    model = Streamo(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3) if p.ndim > 1 else None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def dialogue(task, gold, pred, seconds=20, standby=(), p=None, compute=1.0):
    def said(answers, standby):
        states = ["0"] * seconds
        for k in standby:
            states[k] = "1"
        for second, _ in answers:
            states[second] = "2"
        return {"states": "".join(states), "answers": [list(answer) for answer in answers]}

    pred = said(pred, standby if pred == gold else ()) | {"p": p or [0.0] * seconds}
    return {"id": task, "task": task, "gold": said(gold, standby), "pred": pred,
            "seconds": seconds, "compute": compute}


SPAN = "The event took place from {}s to {}s."
GOLD = {"forward_grounding": [(9, SPAN.format(4, 9))],
        "backward_grounding": [(12, SPAN.format(2, 6))],
        "narration": [(3, "It starts."), (6, "It stops.")],
        "dense_caption": [(7, "The ball falls.")],
        "tsqa": [(2, "No."), (8, "Yes."), (15, "No.")]}


# ---- Streamo-Bench

@pytest.mark.parametrize("a, b, iou", [
    (SPAN.format(12, 20), SPAN.format(12, 20), 1),
    (SPAN.format(10, 20), SPAN.format(15, 25), 5 / 15),
    (SPAN.format(1, 3), SPAN.format(5, 9), 0),
    (SPAN.format(20, 12), SPAN.format(12, 20), 0),
    ("I do not know.", SPAN.format(1, 3), 0), ("At 5s.", SPAN.format(1, 3), 0),
    ("", SPAN.format(1, 3), 0), ("1.5s - 3.5s", SPAN.format(1, 3), 1.5 / 2.5),
    (SPAN.format(5, 5), SPAN.format(5, 5), 1)])
def test_span_iou_is_the_papers_formula(a, b, iou):
    assert ev.span_iou(a, b) == pytest.approx(iou)


def test_matching_is_one_to_one_and_the_largest():
    assert ev.matched([3, 4, 5], [4], 1) == [(0, 0)]
    rng = random.Random(0)
    for _ in range(300):
        a, b = (sorted(rng.choices(range(9), k=rng.randint(0, 4))) for _ in range(2))
        pairs = ev.matched(a, b, 1)
        assert all(abs(a[i] - b[j]) <= 1 for i, j in pairs)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        short, long = sorted((a, b), key=len)
        best = max(sum(abs(x - y) <= 1 for x, y in zip(short, order))
                   for order in itertools.permutations(long, len(short)))
        assert len(pairs) == best


def test_a_perfect_stream_scores_100():
    scores = ev.score_stream([dialogue(task, gold, gold, standby=(0, 1))
                              for task, gold in GOLD.items()])
    for name in (*ev.SIX, "tsqa_precision", "average", "state_f1", "response_precision",
                 "response_recall", "response_f1", "text_exact"):
        assert scores[name] == 100, name
    assert scores["response_rate"] == pytest.approx(100 * 8 / 100)
    assert scores["standby_rate"] == pytest.approx(10)
    assert scores["stream_seconds_per_compute_second"] == 20


def test_a_silent_stream_scores_what_the_formula_says():
    scores = ev.score_stream([dialogue(task, gold, []) for task, gold in GOLD.items()])
    assert all(scores[name] == 0 for name in (*ev.SIX, "tsqa_precision", "average", "response_f1"))
    silence = 2 * 92 / (92 + 100)  # 92 silent seconds of 100; no Standby anywhere
    assert scores["state_f1"] == pytest.approx(100 * silence / 2)
    assert (scores["silence_rate"], scores["response_precision"], scores["text_exact"]) == (
        100, 0, 0)
    assert scores["confusion"] == [[92, 0, 0], [0, 0, 0], [8, 0, 0]]


def test_the_first_grounding_answer_counts():
    said = [(9, SPAN.format(4, 6)), (11, SPAN.format(4, 9))]
    scores = ev.score_stream([
        dialogue("forward_grounding", GOLD["forward_grounding"], said),
        dialogue("forward_grounding", GOLD["forward_grounding"], [(8, "Well.")] + said)])
    assert scores["forward_grounding"] == pytest.approx(100 * (2 / 5 + 0) / 2)


def test_captions_need_the_exact_text_within_a_second_one_to_one():
    gold = [(3, "It starts."), (6, "It stops."), (12, "It starts.")]
    said = [(4, "It starts."), (5, "It starts."), (8, "It stops."), (12, "It begins.")]
    scores = ev.score_stream([dialogue("narration", gold, said),
                              dialogue("dense_caption", gold, said)])
    assert scores["narration"] == scores["dense_caption"] == pytest.approx(100 * 2 * 1 / (4 + 3))
    again = ev.score_stream([dialogue("narration", gold, said), dialogue("narration", gold, gold)])
    assert again["narration"] == pytest.approx(100 * 2 * 4 / (7 + 6))  # micro over all events


def test_dated_questions_count_within_three_seconds():
    """Accuracy over all answers, recall over questions, precision of what was said."""
    first = dialogue("tsqa", [(2, "No."), (8, "Yes.")],
                     [(3, "No."), (5, "No."), (12, "Yes."), (13, "Maybe.")])
    second = dialogue("tsqa", [(4, "Red.")], [(1, "Red.")])
    scores = ev.score_stream([first, second])
    assert scores["tsqa_accuracy"] == pytest.approx(100 * 2 / 3)
    assert scores["tsqa_recall"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert scores["tsqa_precision"] == pytest.approx(100 * 3 / 5)
    assert "average" not in scores


def test_response_turns_and_their_text():
    gold, said = [(5, "a"), (9, "b"), (15, "c")], [(4, "a"), (10, "x"), (18, "c")]
    scores = ev.score_stream([dialogue("other", gold, said)])
    assert scores["response_precision"] == scores["response_recall"] == pytest.approx(200 / 3)
    assert scores["response_f1"] == pytest.approx(200 / 3)
    assert scores["text_exact"] == 50


def test_threshold_curve_by_hand():
    p = [0.0] * 20
    p[5], p[9], p[16] = 0.9, 0.5, 0.7
    curve = {t: pair
             for t, *pair in ev.threshold_curve([dialogue("x", [(5, "a"), (10, "b")], [], p=p)])}
    assert curve[0.4] == pytest.approx((200 / 3, 100))
    assert curve[0.6] == pytest.approx((50, 50))
    assert curve[0.8] == pytest.approx((100, 50))
    assert max(curve) == 0.9  # above it nothing is said, and precision is no number


# ---- official rules, oddity by oddity

def row(response, answer, task="x", **more):
    return {"id": "1", "task": task, "response": response, "answer": answer} | more


@pytest.mark.parametrize("task, response, answer, official, fixed", [
    ("OCR", "B", "B", 1, 1), ("OCR", "Answer: B", "A", 1, 0), ("OCR", "Answer: B", "B", 1, 1),
    ("OCR", "b", "B", 0, 0), ("OCR", None, "B", 0, 0), ("OCR", "ABCD", "C", 1, 0),
    ("OCR", "A man is B.", "B", 1, 1),
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
    results["forward"] = []  # the official script would crash here
    file.write_text(json.dumps(results))
    assert "total" not in public.score("ovo", public.read_rows("ovo", file))


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
    ("multi-choice", "It falls", "A. falls", None),
    ("yes_no", "Yes, it does", "yes", 1), ("yes_no", "Nothing moves", "no", 1),
    ("yes_no", "It does", "yes", None),
    ("caption_matching", "Caption B: The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "Caption B.", "Caption B: The ball rises.", 1),
    ("caption_matching", "(B) The ball rises.", "Caption B: The ball rises.", 1),
    ("caption_matching", "Caption A", "Caption B: The ball rises.", 0),
    ("caption_matching", "It rises", "Caption B: The ball rises.", None)])
def test_tempcompass_rules(task, response, answer, mark):
    item = row(response, answer, task, question=PAIR)
    assert public.tempcompass_match(item) == mark
    assert public.RULES["tempcompass"](item) == (mark or 0)  # no judge: 0


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


@pytest.mark.parametrize("response, answer, official, fixed", [
    ("C", "C", 1, 1), ("The best answer is C.", "C", 1, 1),
    ("Best answer: C", "C", 0, 1), ("Best answer: C", "B", 1, 0),
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


# ---- running

def toy_args(folder, out, **more):
    return Namespace(**{"bench": "toy", "model": folder, "data": None, "folder": Path(), "seed": 11,
                        "videos": 2, "fps": 1, "threshold": 0.5, "window": None, "workers": 1,
                        "out": out} | more)


def test_run_then_score_is_the_figure_in_process_and_a_run_resumes(folder, tmp_path, capsys):
    rows, _, out = ev.run_bench(toy_args(folder, tmp_path / "a.json"))
    assert Counter(r["task"] for r in rows)["tsqa"] == 12 and len(rows) == 20
    whole = ev.score_stream(rows)
    assert whole == ev.score_stream(public.read_rows("raw", out))
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:14]) + lines[14][:50])  # stopped in the middle of a line
    again, _, _ = ev.run_bench(toy_args(folder, tmp_path / "a.json", workers=2))
    assert [{**r, "compute": 0} for r in sorted(again, key=lambda r: r["id"])] == [
        {**r, "compute": 0} for r in sorted(rows, key=lambda r: r["id"])]
    assert len(public.read_rows("raw", out)) == 20
    with pytest.raises(ValueError, match="another run"):
        ev.run_bench(toy_args(folder, tmp_path / "a.json", fps=2))
    ev.main(["toy", "--model", str(folder), "--videos", "2", "--seed", "11", "--workers", "1",
             "--threshold", "0.5", "--out", str(tmp_path / "a.json")])
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved["average"] == whole["average"] and (
        len(saved["run"]["sha256"]["model.safetensors"]) == 64)
    assert "state_f1" in capsys.readouterr().out


def test_a_shorter_run_keeps_the_answers_of_a_longer_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", lambda group, run: group["rows"])
    _, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=3))
    rows, _, _ = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))
    assert len(rows) == 10 and len(public.read_rows("raw", out)) == 30


@pytest.mark.parametrize("arguments, words", [
    (["toy", "--out", "s.jsonl"], "--out s.jsonl"), (["toy", "--videos", "0"], "--videos 0"),
    (["run", "ovo", "--data", "x", "--videos", "x", "--max-frames", "0"], "--max-frames 0"),
    (["toy", "--fps", "0"], "--fps 0")])
def test_bad_arguments_are_named_before_anything_runs(folder, arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        ev.main([*arguments[:-2], "--model", str(folder), "--out", "s.json", *arguments[-2:]])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_answers_to_another_benchmark_are_not_scored(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ev, "run_group", lambda group, run: group["rows"])
    _, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))
    with pytest.raises(SystemExit) as end:
        ev.main(["score", "ovo", str(out), "--out", str(tmp_path / "ovo.json")])
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"eval.py: {out}: not a file of ovo (ValueError('answers to toy'))"


def test_an_item_in_two_files_is_not_scored_twice(folder, tmp_path, monkeypatch, capsys):
    """As when the shards of a run on three processes lie beside those of one on two."""
    monkeypatch.setattr(ev, "run_group", lambda group, run: group["rows"])
    shards = []
    for rank, world in ((0, 1), (2, 3)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        shards.append(ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=3))[2])
    with pytest.raises(SystemExit) as end:
        ev.main(["score", "raw", *map(str, shards), "--out", str(tmp_path / "all.json")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and not (tmp_path / "all.json").exists()
    assert error == f"eval.py: {shards[1]}: item 11/2/0 is in {shards[0]}, too"


def test_a_row_is_what_the_stream_said_and_the_records_turns_say(folder, monkeypatch):
    """Questions at t are asked in turn t-1; the targets are those of data.turns_from_record."""
    stream, heard = ev.stream, []
    monkeypatch.setattr(ev, "stream", lambda m, t, f, questions, **o: (
        heard.append(questions), stream(m, t, f, questions, **o))[1])
    model, tokenizer = ev.load_model(folder, "cpu")
    clip, records = dialogues.bench(11, 0)
    pictures = [(t, clip.frame(t, 32)) for t in range(clip.seconds)]
    features = ev.encode(model, pictures)
    task, record = records[4]
    got = ev.streamed(model, tokenizer, features, record, {"fps": 1})
    turns = data.turns_from_record(record, clip.seconds)
    question = [(max(0, int(q["time"]) - 1), q["content"]) for q in record["question"]]
    direct = list(stream(model, tokenizer, pictures, question))
    assert heard == [question] and question[0][0] == int(record["question"][0]["time"]) - 1
    assert got["pred"]["answers"] == [[t.start, t.text] for t in direct if t.state == "response"]
    assert got["pred"]["states"] == "".join(str(ev.NAMES.index(t.state)) for t in direct)
    assert got["gold"]["answers"] == [[t.second, t.text] for t in turns if t.state == RESPONSE]


def test_the_pictures_of_a_video_are_encoded_once(folder, monkeypatch):
    model, _ = ev.load_model(str(folder), "cpu")
    seen = []
    monkeypatch.setattr(model.vision_tower, "forward", lambda x, f=model.vision_tower.forward: (
        seen.append(len(x)), f(x))[1])
    args = toy_args(str(folder), None)
    rows = ev.run_group(ev.groups_of(args)[1], vars(args) | {"device": "cpu", "offline": None})
    assert len(rows) == 10
    assert sum(seen) == dialogues.bench(11, 1)[0].seconds


def test_shards_share_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", lambda group, run: group["rows"])
    ids = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        rows, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.jsonl", videos=5))
        assert out.name == f"s.rank{rank}.jsonl"
        ids += [r["id"] for r in rows]
    assert sorted(ids) == sorted(f"11/{i}/{k}" for i in range(5) for k in range(10))


def fake_stream(states, heard):
    """A stream that says what `states` says, and notes what it is shown and asked."""
    def stream(model, tokenizer, frames, questions, **options):
        heard["questions"] = questions
        for second, picture in frames:
            heard.setdefault("frames", []).append((second, int(picture[0])))
            state = states.get(second, "silence")
            yield Namespace(start=second, end=second + 1, state=state, text=f"{second}!",
                            probs=(0, 0, 0))

    return stream


def test_online_no_frame_from_after_the_moment_is_seen(monkeypatch):
    """The question comes in the last second; the picture then stands still until the answer."""
    heard = {}
    monkeypatch.setattr(ev, "stream", fake_stream({2: "response", 6: "response"}, heard))
    features = [(t, torch.tensor([t])) for t in range(5)]
    assert ev.asked(None, None, features, [{"prompt": "What?"}], 10, {}) == ["6!"]
    assert heard["questions"] == [(4, "What?")]
    assert heard["frames"] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 4)]
    monkeypatch.setattr(ev, "stream", fake_stream({2: "response"}, {}))
    assert ev.asked(None, None, features, [{"prompt": "What?"}], 10, {}) == [None]


def test_online_forward_tasks_are_read_at_their_moments(monkeypatch):
    said = {3: "response", 4: "standby", 5: "standby", 8: "response"}
    features, heard = [(t, torch.tensor([t])) for t in range(10)], {}
    monkeypatch.setattr(ev, "stream", fake_stream(said, heard))
    for read, wanted in (("last", [None, "3!", "3!", "8!"]),
                         ("any", ["No", "Yes", "Yes", "Yes"]),
                         ("state", ["No", "Yes", "Yes", "Yes"])):
        rows = [{"ask": (1, "?", read), "end": end} for end in (2, 3.2, 6, 9)]
        assert ev.asked(None, None, features, rows, 10, {}) == wanted
    assert heard["questions"] == [(1, "?")]


def test_ovo_items_share_a_stream_and_end_at_their_moment(folder, tmp_path, monkeypatch):
    """Through run: a video found in a tree, one stream for an item's counts, one for each MCQ."""
    videos = tmp_path / "tree" / "deep"
    videos.mkdir(parents=True)
    for i in range(6):
        dialogues.sample(1, 0)
        claims.Image.fromarray(np.full((32, 32, 3), i * 40, np.uint8)).save(tmp_path / f"{i}.png")
    (videos / "clip").mkdir()
    for i in range(6):
        (tmp_path / f"{i}.png").rename(videos / "clip" / f"{i}.png")
    items = [
        {"id": 1, "task": "OCR", "video": "deep/clip", "realtime": 2.5, "question": "?",
         "options": ["x", "y"], "gt": 1},
        {"id": 3, "task": "OCR", "video": "deep/clip", "realtime": 3, "question": "?",
         "options": ["x", "y"], "gt": 0},
        {"id": 2, "task": "REC", "video": "deep/clip", "activity": "jump", "start_times": [4],
         "test_info": [{"realtime": 3, "count": 0}, {"realtime": 6, "count": 1}]}]
    (tmp_path / "ovo.json").write_text(json.dumps(items))
    streams, real = [], ev.stream

    def spy(model, tokenizer, frames, questions, **options):
        frames = list(frames)
        streams.append((len(frames), questions[0][0]))
        return real(model, tokenizer, frames, questions, **options)

    monkeypatch.setattr(ev, "stream", spy)
    command = ["run", "ovo", "--model", str(folder), "--data", str(tmp_path / "ovo.json"),
               "--videos", str(tmp_path / "tree"), "--out", str(tmp_path / "rows.jsonl"),
               "--workers", "1", "--patience", "2"]
    ev.main(command)
    assert sorted(streams) == [(3 + 2, 2), (3 + 2, 2), (6, 1)]
    ev.main(["score", "ovo", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "s.json")])
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["items"] == 4 and {"OCR", "REC", "forward", "realtime"} <= set(scores)


def test_offline_is_one_turn_with_the_question_last_and_an_answer_forced(folder, monkeypatch):
    """The cached decoding gives the tokens of a model that reads everything anew for each token."""
    model, tokenizer = ev.load_model(folder, "cpu")
    features, heard = [torch.randn(4, 32) for _ in range(5)], []
    monkeypatch.setattr(model, "forward", lambda ids, *a, f=model.forward, **k: (
        heard.append(ids[0].tolist()), f(ids, *a, **k))[1])
    text = ev.answer_at_once(model, tokenizer, features, "Describe every event.", max_new_tokens=6)
    frames, ask = (data.Turn(4, STATES[0]),
                   data.Turn(5, RESPONSE, question="Describe every event."))
    written, _ = data.render(tokenizer, [frames, ask], [[2] * 5, []])  # what training would read
    assert tokenizer.decode(written) == tokenizer.decode(heard[0]) + "<|im_end|>\n"
    assert written[:len(heard[0])] == heard[0]
    *_, seen, last = tokenizer.decode(heard[0]).split("<|im_start|>user\n")
    assert seen.count(FRAME) == 20 and FRAME not in last  # all frames in one turn
    assert last.startswith("Describe every event.\n") and last.endswith(f"assistant\n{RESPONSE}")
    monkeypatch.undo()
    ids, said = heard[0], []
    for _ in range(6):
        logits = model(torch.tensor([ids + said]), torch.cat(features), select="last")[0]
        said.append(int((logits + ev.unspoken(model, tokenizer)).argmax()))
        if said[-1] == tokenizer.id("<|im_end|>"):
            break
    assert text == tokenizer.decode([t for t in said if t != tokenizer.id("<|im_end|>")]).strip()
    with pytest.raises(ValueError, match="--max-frames"):
        ev.answer_at_once(model, tokenizer, features * 300, "Why?")


def test_raw_files_of_our_own_and_offline(folder, tmp_path, capsys):
    """`toy --data` scores any raw file by the task it names; `run --offline` answers at once."""
    videos = tmp_path / "videos"
    (videos / "clip").mkdir(parents=True)
    for i in range(8):
        claims.Image.fromarray(np.full((32, 32, 3), i * 30, np.uint8)).save(
            videos / "clip" / f"{i}.png")
    records = [{"video_name": "clip", "video_path": "clip", "task_type": kind, "source": "own",
                "question": [{"content": "When?", "time": "1"}],
                "response": [{"content": SPAN.format(3, 5), "st_time": 3.0, "end_time": 5.0,
                              "time": ""}]}
               for kind in ("Event Grounding", "Something Else")]
    (tmp_path / "own.json").write_text(json.dumps(records))
    own = ["toy", "--model", folder, "--data", tmp_path / "own.json", "--videos-folder", videos,
           "--workers", 1, "--out", tmp_path / "own_scores.json"]
    ev.main([*map(str, own)])
    scores = json.loads((tmp_path / "own_scores.json").read_text())
    assert "forward_grounding" in scores and "narration" not in scores and scores["dialogues"] == 2
    (tmp_path / "temporal.json").write_text(json.dumps([
        {"video": "clip", "question": "?", "candidates": ["x", "y"], "answer": "x",
         "start": 2, "end": 5}]))
    out = tmp_path / "mv.jsonl"
    ev.main(["run", "mvbench", "--offline", "--model", str(folder),
             "--data", str(tmp_path / "temporal.json"), "--videos", str(videos), "--workers", "1",
             "--out", str(out)])
    assert isinstance(public.read_rows("mvbench", out)[0]["response"], str)
    (tmp_path / "own.json").write_text(json.dumps(records[::-1]))
    with pytest.raises(SystemExit):  # the answers there are to other records
        ev.main([*map(str, own)])
    assert "own_scores.jsonl: of another run" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, says", [
    (["score", "ovo", "MISSING", "--out", "o.json"], "MISSING"),
    (["score", "ovo", "BAD", "--out", "o.json"], "bad.json"),
    (["score", "videomme", "WRONG", "--out", "o.json"], "wrong.json"),
    (["toy", "--model", "MISSING", "--videos", "1", "--out", "o.json"], "MISSING"),
    (["toy", "--model", "MISSING", "--fps", "0", "--out", "o.json"], "--fps 0")])
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("[{")
    (tmp_path / "wrong.json").write_text('[{"id": 1}]')
    names = {"BAD": tmp_path / "bad.json", "WRONG": tmp_path / "wrong.json",
             "o.json": tmp_path / "o.json"}
    with pytest.raises(SystemExit) as caught:
        ev.main([str(names.get(a, a)) for a in arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and says in error


def test_a_video_name_must_be_found_once(tmp_path, monkeypatch):
    for name in ("a/clips/v.mp4", "b/clips/v.mp4", "a/clips/w.mp4", "xw.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    args = Namespace(bench="ovo", data=None, folder=tmp_path)

    def found(*names):
        monkeypatch.setattr(public, "read_rows", lambda bench, path: [{"video": n} for n in names])
        return [(group["video"], len(group["rows"])) for group in ev.groups_of(args)]

    w, v = str(tmp_path / "a/clips/w.mp4"), str(tmp_path / "a/clips/v.mp4")
    assert found("w.mp4", "a/clips/v.mp4", "clips/w.mp4") == [(w, 2), (v, 1)]
    for name in ("v.mp4", "x.mp4"):
        with pytest.raises(ValueError, match=name):
            found("w.mp4", name)
    monkeypatch.chdir(tmp_path / "a/clips")                     # as `--videos .`
    args.folder = Path()
    assert found("w.mp4") == [(w, 1)]


@pytest.fixture
def trained(folder, monkeypatch):
    """train.py without the training: the tiny random model, a log; what it was asked to do."""
    commands = []

    def train(command, check):
        commands.append([str(word) for word in command[2:]])
        out = Path(command[command.index("--out") + 1])
        shutil.copytree(folder, out / "model")
        log = [{"step": k, "recall_response": k / 1000, "mended": {}, "lr": 1e-3}
               for k in range(1, 151)]
        log[1].pop("recall_response")  # a step without a Response
        (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        (out / "model" / "run.json").write_text("{}")

    bench = dialogues.bench
    monkeypatch.setattr(dialogues, "bench",                             # a task each
                        lambda *of: (bench(*of)[0], bench(*of)[1][:5]))
    monkeypatch.setattr(claims.subprocess, "run", train)
    return commands


def claim(tmp_path, name, *more):
    """Runs `bench.claims`; the result as JSON and as Markdown."""
    claims.main([name, "--steps", "150", "--videos", "1", "--workers", "1", "--seed", "30"]
            + ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *map(str, more)])
    out = tmp_path / "out"
    return json.loads((out / f"{name}.json").read_text()), (out / f"{name}.md").read_text()


def test_a_claim_trains_its_variants_alike_and_only_once(folder, tmp_path, trained, monkeypatch):
    rows = [dialogue(task, gold, gold) for task, gold in GOLD.items()]
    monkeypatch.setattr(claims, "run_bench", lambda args: (rows, {}, None))
    claim(tmp_path, "loss", "--seeds", "2")
    same = ["--steps", "150", "--seed"]
    assert [command[:command.index("--out")] for command in trained] == [
        [*loss, *same, seed]
        for loss in ([], ["--loss", "fixed"], ["--loss", "ce"]) for seed in "01"]
    claim(tmp_path, "loss", "--seeds", "2")
    claim(tmp_path, "states")  # its first variant is the focal loss's
    assert len(trained) == 7 and trained[6][:2] == ["--states", "2"]
    claim(tmp_path, "states", "--model", folder)  # another start is another run
    folders = {command[command.index("--out") + 1] for command in trained}
    assert len(trained) == len(folders) == 9
    start = ["--model", str(folder)]
    assert trained[7][:2] == start and trained[8][2:4] == start
    unfinished = Path(trained[8][trained[8].index("--out") + 1])
    shutil.rmtree(unfinished / "model")
    (unfinished / "step-000100").mkdir()
    claim(tmp_path, "states", "--model", folder)
    assert len(trained) == 10 and trained[9] == [*trained[8], "--resume"]


def test_a_claim_tells_every_score_and_how_to_repeat_it(tmp_path, trained):
    """The table's figures are the mean and half the range of the seeds'; the curve is of all."""
    found, table = claim(tmp_path, "loss", "--seeds", "2")
    assert found["command"].startswith("python -m bench.claims loss --steps 150 --videos 1")
    assert found["start"] == "nothing" and {"torch", "python"} <= set(found["versions"])
    focal = found["variants"]["focal"]
    scores = [run["response_precision"] for run in focal["seeds"].values()]
    assert len(scores) == 2 and focal["mean"]["response_precision"] == sum(scores) / 2
    rows = []
    for path in sorted(tmp_path.glob("runs/base-*/toy-1fps.jsonl")):
        rows += public.read_rows("raw", path)
    assert focal["curve"] == [list(point) for point in ev.threshold_curve(rows)]
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if "|" in line}
    precision = f"| response precision | {scores[0]:.1f} ± 0.0 |"
    assert lines["response precision"].startswith(precision)
    theirs = next(line for name, line in lines.items() if name.startswith("the paper, table 4"))
    assert theirs.split(" | ")[1:3] == ["27.94 / 50.72 / 82.5", "18.62 / 41.02 / 49.17"]
    threshold, precision, recall = focal["curve"][0]
    row = lines[f"precision / recall, Response if p ≥ {threshold:g}"]
    assert row.split(" | ")[1] == f"{precision:.1f} / {recall:.1f}"
    assert sum("Response if p ≥" in line for line in table.splitlines()) == len(ev.THRESHOLDS)
    log = json.loads(next((tmp_path / "out" / "logs").glob("base-*seed-1.json")).read_text())
    assert len(log) == 50 and log[0] == {"step": 3, "recall_response": 0.002, "lr": 0.001}
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 6


def test_the_mean_of_different_runs_and_its_spread(tmp_path, trained, monkeypatch):
    texts = iter(["It starts.", "Nothing."] * 2)
    gold, made = [(3, "It starts."), (6, "It stops.")], []

    def rows(args):
        text = next(texts)
        p = [0.9 * (k == 3 and text == gold[0][1]) for k in range(20)]
        said = [dialogue("narration", gold, [(3, text)], p=p)]
        made.extend(said)
        return said + [dialogue(task, gold, gold) for task, gold in GOLD.items()], {}, None

    monkeypatch.setattr(claims, "run_bench", rows)
    found, table = claim(tmp_path, "fps", "--seeds", "2")
    scores = [100 * 2 * 3 / 7, 100 * 2 * 2 / 7]
    variant = found["variants"]["tested at 2 fps"]
    assert variant["mean"]["narration"] == pytest.approx(sum(scores) / 2)
    assert variant["half_range"]["narration"] == pytest.approx((scores[0] - scores[1]) / 2)
    both = [dialogue(task, gold, gold) for task, gold in GOLD.items()] * 2 + made[2:]
    assert variant["curve"] == [list(point) for point in ev.threshold_curve(both)]
    assert variant["curve"] != [list(point) for point in ev.threshold_curve(both[:6])]
    assert f"| narration | {sum(scores) / 2:.1f} ± {(scores[0] - scores[1]) / 2:.1f} |" in table
    assert "Response if p" not in table and not (tmp_path / "out" / "fps.png").exists()


def test_the_claim_about_fps_tests_one_training_at_two_rates(tmp_path, trained):
    found, table = claim(tmp_path, "fps")
    assert len(trained) == 1 and [v["fps"] for v in found["variants"].values()] == [1, 2]
    assert "±" not in table.split("\n\n")[0]  # one seed has no spread
    headers = [json.loads(path.read_text().split("\n")[0])["run"]["fps"]
               for path in sorted(tmp_path.glob("runs/*/toy-?fps.jsonl"))]
    assert headers == [1, 2]


def test_the_figure_shows_recall_in_training_and_the_curve(tmp_path):
    """Where a line must pass there is its colour; where it cannot, there is not."""
    found, training = {}, {}
    for name, recall in (("a", 0.9), ("b", 0.4)):
        training[name] = [[{"step": 10 * k, "recall_response": recall} for k in range(11)]] * 2
        found[name] = {"curve": [(0.1, 20, 100 * recall), (0.9, 20, 0)],
                       "mean": {"response_recall": 50 * recall, "response_precision": 20}}
    found["c"], training["c"] = found["b"], [[{"step": 99}]]  # no Response to learn from
    claims.loss_figure(found, training, tmp_path / "x.png")
    picture = np.asarray(claims.Image.open(tmp_path / "x.png")).astype(int)
    assert picture.shape == (860, 2240, 3)

    def near(panel, x, y, colour):
        row, column = round(2 * (348 - 3 * y)), round(2 * (52 + 560 * panel + 480 * x))
        patch = picture[row - 3:row + 4, column - 3:column + 4]
        return (abs(patch - colour).sum(-1) < 30).any()

    blue, red = (0, 114, 178), (213, 94, 0)
    assert near(0, 0.53, 90, blue) and near(0, 0.53, 40, red)
    assert not near(0, 0.53, 40, blue) and not near(0, 0.53, 65, blue)
    assert near(1, 0.8, 20, blue) and not near(1, 0.8, 20, red)
