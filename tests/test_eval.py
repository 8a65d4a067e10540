"""Running against scoring: what the model is shown and asked, what is kept, what is told."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import eval as ev
from bench import answers, public, report, streams
from streamo import (FRAME, RESPONSE, STATES, DecoderConfig, Streamo, StreamoConfig, Tokenizer,
                     VisionConfig)
from toy import dialogues

SPAN = "The event took place from {}s to {}s."


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


@pytest.fixture(autouse=True)
def ten_dialogues(monkeypatch):
    """Those of the first edition of a film: enough to see how a benchmark runs."""
    bench = dialogues.bench
    monkeypatch.setattr(dialogues, "BENCH", {"": lambda *of: (bench(*of)[0], bench(*of)[1][:10])})


def toy_args(folder, out, **more):
    return Namespace(**{"bench": "toy", "model": folder, "data": None, "folder": Path(), "seed": 11,
                        "videos": 2, "fps": 1, "threshold": 0.5, "window": None, "workers": 1,
                        "out": out, "polled": False, "every": 5, "agreement": 1,
                        "no_repeat": False} | more)


def answered_at_once(group, run):
    """In place of run_group: no model is asked."""
    return group["rows"]


def test_run_then_score_is_the_figure_in_process_and_a_run_resumes(folder, tmp_path, capsys):
    rows, _, out = ev.run_bench(toy_args(folder, tmp_path / "a.json"))
    assert Counter(r["task"] for r in rows)["tsqa"] == 12 and len(rows) == 20
    whole = streams.score_stream(rows)
    assert whole == streams.score_stream(public.read_rows("raw", out))
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
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    _, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=3))
    rows, _, _ = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))
    assert len(rows) == 10 and len(public.read_rows("raw", out)) == 30


@pytest.mark.parametrize("arguments, words", [
    (["toy", "--out", "s.jsonl"], "--out s.jsonl"), (["toy", "--out", "s.txt"], "--out s.txt"),
    (["toy", "--videos", "0"], "--videos 0"),
    (["run", "ovo", "--data", "x", "--videos", "x", "--max-frames", "0"], "--max-frames 0"),
    (["toy", "--fps", "0"], "--fps 0"), (["toy", "--threshold", "nan"], "--threshold nan"),
    (["toy", "--window", "-1"], "--window -1"), (["toy", "--every", "0"], "--every 0"),
    (["run", "raw", "--data", "x", "--videos", "x", "--patience", "-3"], "--patience -3"),
    (["toy", "--data", "x", "--seed", "4"], "--seed: of the toy world"),
    (["toy", "--threshold", "7"], "--threshold 7"), (["toy", "--fps", "1000000"], "--fps 1000000"),
    (["toy", "--videos", "1000000000"], "--videos 1000000000"),
    (["toy", "--workers", "1000000"], "--workers 1000000"), (["toy", "--data", ""], "--data"),
    (["run", "raw", "--data", "x", "--videos", "x", "--max-frames", "3"], "--max-frames: of"),
    (["run", "ovo", "--data", "x", "--videos", "x", "--offline", "--window", "3"], "--offline: "),
    (["toy", "--polled", "--threshold", "0.3"], "--polled: "),
    (["toy", "--polled", "--every", "3"], "--polled: "),
    (["run", "raw", "--offline", "--data", "x", "--videos", "x"], "--offline: raw asks when"),
    (["run", "raw", "--data", "x", "--videos", "x"], "--out s.json: the answers' file, .jsonl"),
    (["toy", "--no-repeat", "--polled"], "--polled: "), (["toy", "--every", "3"], "--every: of an"),
    (["toy", "--videos-folder", "x"], "--videos-folder: of --data"),
    (["threshold", "--data", "x", "--videos", "4"], "--videos: of the toy world")])
def test_bad_arguments_are_named_before_anything_runs(folder, arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        ev.main([*arguments[:-2], "--model", str(folder), "--out", "s.json", *arguments[-2:]])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_threshold_is_of_all_answers_of_states(folder, tmp_path, monkeypatch, capsys):
    command = ["threshold", "--out", "s.json", "--model"]
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as end:
        ev.main([*command, str(folder)])
    assert end.value.code == 2 and "go without torchrun" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    (tmp_path / "config.json").write_text('{"model_type": "llava_onevision"}')
    with pytest.raises(SystemExit) as end:
        ev.main([*command, str(tmp_path)])
    assert end.value.code == 2 and "--model has no states" in capsys.readouterr().err


def test_what_is_written_into_a_models_folder_is_not_the_model(folder, tmp_path, monkeypatch):
    """Scores, answers, and all that a checkpoint has beside: the run goes on."""
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    model = shutil.copytree(folder, tmp_path / "model")
    ev.run_bench(toy_args(model, model / "s.json", videos=1))
    for name in ("s.json", "eval.json", "run.json", "notes.txt", "optimizer.safetensors"):
        (model / name).write_text("{}")
    ev.run_bench(toy_args(model, model / "s.json", videos=1))
    for name in ("model.safetensors.index.json", "added_tokens.json", "run.json", "config.json"):
        (model / name).touch()
        with pytest.raises(ValueError, match="would write over --model"):
            ev.run_bench(toy_args(model, model / "s.json", videos=1), model / name)
    (model / "model.safetensors.index.json").unlink()
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="of another run, with another sha256"):
        ev.run_bench(toy_args(model, model / "s.json", videos=1))


def test_records_of_one_folder_of_pictures_are_watched_at_their_own_rates(folder, tmp_path):
    (tmp_path / "clip").mkdir()
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i,) * 3).save(tmp_path / "clip" / f"{i}.png")
    record = {"video_name": "clip", "video_path": "clip", "task_type": "T", "source": "own",
              "question": [{"content": "When?", "time": "1"}],
              "response": [{"content": "Now.", "st_time": "", "end_time": "", "time": "2"}]}
    (tmp_path / "own.json").write_text(json.dumps([record, record | {"fps": 3}, record]))
    args = toy_args(folder, tmp_path / "s.json", data=tmp_path / "own.json", bench="raw")
    args.folder = tmp_path
    rows, _, _ = ev.run_bench(args)
    assert [row["seconds"] for row in rows] == [6, 6, 2]


def test_no_figure_of_a_report_hides_one_of_the_benchmark(tmp_path, capsys):
    """A kind of question is called "absent", and items may be."""
    said = {"states": "0002", "answers": [[3, "There is no red star."]]}
    rows = [{"id": str(n), "task": "absent", "seconds": 4, "compute": 1, "gold": said,
             "pred": said if n else {"states": "0000", "answers": []}} for n in range(4)]
    lines = [{"run": {"bench": "toy", "items": 9}}, *rows]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ev.main(["score", "raw", str(tmp_path / "s.jsonl"), "--out", str(tmp_path / "s.json")])
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["absent"] == 75 and saved["lacking"] == {"": 5}
    assert json.loads(json.dumps(streams.score_stream(rows))).items() <= saved.items()
    assert "5 items" in capsys.readouterr().out


def test_an_answer_may_be_as_long_as_is_said_and_one_that_is_cut_is_counted(folder, tmp_path):
    found = {}
    for most in (2, 5):
        args = toy_args(folder, tmp_path / f"{most}.json", videos=1, threshold=0.0,
                        max_new_tokens=most)
        rows, _, _ = ev.run_bench(args)
        found[most] = streams.score_stream(rows)["answers_cut"]
        assert all(row["cut"] <= len(row["pred"]["answers"]) for row in rows)
    assert found[2] >= found[5] > 0                         # a random model finds no end
    whole = [row | {"cut": 0} for row in rows]
    assert "answers_cut" not in streams.score_stream(whole)


def test_answers_to_another_benchmark_are_not_scored(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    _, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))
    with pytest.raises(SystemExit) as end:
        ev.main(["score", "ovo", str(out), "--out", str(tmp_path / "ovo.json")])
    assert end.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"eval.py: {out}: not a file of ovo: answers to toy"


def test_an_item_in_two_files_is_not_scored_twice(folder, tmp_path, monkeypatch, capsys):
    """As when the shards of a run on three processes lie beside those of one on two."""
    monkeypatch.setattr(ev, "run_group", answered_at_once)
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
    twice = tmp_path / "twice.jsonl"
    head, *rows = shards[0].read_text().splitlines(keepends=True)
    twice.write_text(head + rows[0] + rows[1] + rows[0])
    with pytest.raises(ValueError, match=f"twice.jsonl: item {json.loads(rows[0])['id']} is answ"):
        report.read_answers("raw", [twice])
    failed = [json.dumps({"id": name, "task": "tsqa", "failed": "no video"}) + "\n"
              for name in ("a", "a", json.loads(rows[0])["id"])]
    for name in ("b.jsonl", "c.jsonl"):
        (tmp_path / name).write_text(head + "".join(failed[:2]))
    twice.write_text(head + failed[2] + rows[0])
    good, bad, *_ = report.read_answers("raw", [twice, *tmp_path.glob("[bc].jsonl")])
    assert [row["id"] for row in good] == [json.loads(rows[0])["id"]]
    assert [row["id"] for row in bad] == ["a"]              # failed four times, counted once


def test_a_row_is_what_the_stream_said_and_the_records_turns_say(folder, monkeypatch):
    """Questions at t are asked in turn t-1; the targets are those of data.turns_from_record."""
    stream, heard = answers.stream, []
    monkeypatch.setattr(answers, "stream", lambda m, t, f, questions, **o: (
        heard.append(questions), stream(m, t, f, questions, **o))[1])
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    clip, records = dialogues.bench(11, 0)
    pictures = [(t, clip.frame(t, 32)) for t in range(clip.seconds)]
    features = answers.encode(model, pictures)
    task, record = records[4]
    got = answers.streamed(model, tokenizer, features, record, {"fps": 1})
    turns = data.turns_from_record(record, clip.seconds)
    question = [(max(0, int(q["time"]) - 1), q["content"]) for q in record["question"]]
    direct = list(stream(model, tokenizer, pictures, question))
    assert heard == [question] and question[0][0] == int(record["question"][0]["time"]) - 1
    assert got["pred"]["answers"] == [[t.start, t.text] for t in direct if t.state == "response"]
    assert got["pred"]["states"] == "".join(str(answers.NAMES.index(t.state)) for t in direct)
    assert got["gold"]["answers"] == [[t.second, t.text] for t in turns if t.state == RESPONSE]


def test_an_item_that_is_there_twice_is_told_before_it_is_run(folder, tmp_path, capsys):
    item = {"id": 7, "video": "a.mp4", "task": "OCR", "question": "?", "gt": 0, "options": ["a"]}
    (tmp_path / "ovo.json").write_text(json.dumps([item, item]))
    with pytest.raises(SystemExit):
        ev.main(["run", "ovo", "--data", str(tmp_path / "ovo.json"), "--videos", str(tmp_path),
                 "--model", str(folder), "--out", str(tmp_path / "o.jsonl")])
    assert "item 7_0 is there 2 times" in capsys.readouterr().err


def test_the_best_threshold_is_found_and_written(folder, tmp_path, capsys, monkeypatch):
    """Worked by hand: P(Response) is .9 at an event, .6 a turn late, .3 elsewhere."""
    copy = shutil.copytree(folder, tmp_path / "model")
    gold = [[5, "a"], [9, "b"]]

    def row(number):
        p = [0.3] * 20
        p[5], p[9], p[14] = 0.9, 0.6, 0.55
        said = {"answers": gold, "states": "0" * 20}
        return {"id": f"11/{number}", "task": "narration", "gold": said, "pred": said | {"p": p}}
    monkeypatch.setattr(ev, "run_bench", lambda args, also: ([row(0), row(1)], {}, None))
    ev.main(["threshold", "--model", str(copy), "--out", str(tmp_path / "t.json"), "--write"])
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["best"] == {"threshold": 0.6, "precision": 100, "recall": 100, "f1": 100}
    assert json.loads((copy / "config.json").read_text())["threshold"] == 0.6
    assert "0.6      100.0   100.0  100.0 <" in capsys.readouterr().out
    sure = row(0)
    sure["pred"]["p"] = [0.1 + 0.8 * (k in (5, 9)) for k in range(20)]
    monkeypatch.setattr(ev, "run_bench", lambda args, also: ([sure], {}, None))
    ev.main(["threshold", "--model", str(copy), "--out", str(tmp_path / "t.json")])
    alike = [point["threshold"] for point in json.loads((tmp_path / "t.json").read_text())["curve"]
             if point["f1"] == 100]
    best = json.loads((tmp_path / "t.json").read_text())["best"]["threshold"]
    assert alike[0] < 0.2 < best < 0.8 < alike[-1]          # far from either end
    silent = row(0) | {"gold": {"answers": [], "states": "0" * 20}}
    monkeypatch.setattr(ev, "run_bench", lambda args, also: ([silent], {}, None))
    with pytest.raises(SystemExit):             # no threshold is best where nothing is to be said
        ev.main(["threshold", "--model", str(copy), "--out", str(tmp_path / "u.json"), "--write"])
    assert "nothing is ever to be said there" in capsys.readouterr().err
    wrong = row(0) | {"gold": {"answers": [[1, "a"]], "states": "0" * 20}}
    wrong["pred"] = {"answers": [], "states": "0" * 20, "p": [0] * 10 + [0.9] * 10}
    wrong["pred"]["p"][:10] = [-1.0] * 10                # below every threshold
    monkeypatch.setattr(ev, "run_bench", lambda args, also: ([wrong], {}, None))
    with pytest.raises(SystemExit):             # nor where none is better than another
        ev.main(["threshold", "--model", str(copy), "--out", str(tmp_path / "u.json"), "--write"])
    assert "no threshold has a Response in its place" in capsys.readouterr().err
    assert json.loads((copy / "config.json").read_text())["threshold"] == 0.6
    at_half = next(point for point in found["curve"] if point["threshold"] == 0.5)
    assert at_half["precision"] == pytest.approx(200 / 3) and at_half["recall"] == 100


def toy_run(**more):
    return {"bench": "toy", "seed": 11, "fps": 1, "threshold": None, "window": None, "every": 5,
            "offline": False, "polled": False, "patience": 0, **more}


@pytest.mark.long
@pytest.mark.parametrize("more", [{"window": 6}, {"polled": True}])
def test_dialogues_of_a_film_step_together_as_each_does_alone(monkeypatch, more):
    """And one forward of the decoder a second serves them all; answers take more. With the shipped
    model, whose decisions are no matter of the last digit."""
    model, tokenizer, _ = answers.load_model(str(Path(__file__).parents[1] / "assets/tiny"), "cpu")
    run, (_, rows) = toy_run(**more), dialogues.bench(11, 0)
    pictures = answers.pictures_of({"video": ("", 0)}, run, 64)
    features = answers.encode(model, pictures)[:10]
    settings = answers.settings_of(model, tokenizer, None, run)
    records = [record for _, record in rows[3:7]]
    alone = [answers.streamed(model, tokenizer, features, record, settings) for record in records]
    stepped, real = [], answers.step
    monkeypatch.setattr(answers, "step", lambda sessions, *a: (
        stepped.append(len(sessions)), real(sessions, *a))[1])
    both = answers.streamed_together(model, tokenizer, features, records, settings)
    assert stepped == [4] * 10
    for one, other in zip(alone, both, strict=True):
        assert np.allclose(one["pred"].pop("p"), other["pred"].pop("p"), atol=2e-4)
        assert one == other
    assert sum(len(dialogue["pred"]["answers"]) for dialogue in alone) > 2


def test_a_dialogue_that_fails_is_told_from_those_beside_it(folder, monkeypatch):
    model, tokenizer, _ = answers.load_model(str(folder), "cpu")
    clip, records = dialogues.bench(11, 0)
    rows = [{"id": str(i), "task": task, "record": record}
            for i, (task, record) in enumerate(records[:3])]
    long = {**rows[1]["record"], "question": [{"content": "Why? " * 2000, "time": "1"}]}
    rows[1] = rows[1] | {"record": long}
    done = answers.answer_group(model, tokenizer, None, {"video": ("", 0), "rows": rows}, toy_run())
    failed = {row["id"]: row.get("failed", "") for row in done}
    assert set(failed) == {"0", "1", "2"} and not failed["0"] and not failed["2"]
    assert "refused" in failed["1"] or "too long" in failed["1"]


def test_polled_asks_in_every_second(folder):
    """Threshold 0 and no answer twice; an offline model's session is asked every second."""
    model, tokenizer, _ = answers.load_model(str(folder), "cpu")
    settings = answers.settings_of(model, tokenizer, None, toy_run(polled=True, threshold=0.9))
    assert settings == {"fps": 1, "threshold": 0.0, "window": None, "patience": 1,
                        "no_repeat": True, "max_new_tokens": 64}


def test_the_rules_of_speaking_are_options_of_the_toy_benchmark(folder, tmp_path):
    model, tokenizer, _ = answers.load_model(str(folder), "cpu")
    line = ["toy", "--model", str(folder), "--out", str(tmp_path / "t.json")]
    args = ev.parse([*line, "--patience", "3", "--no-repeat"])
    for world, rules in ((args, (3, True)), (ev.parse(line), (1, False))):
        settings = answers.settings_of(model, tokenizer, None, ev.settings_of(world, 1))
        assert (settings["patience"], settings["no_repeat"]) == rules
    (tmp_path / "d.json").write_text("[]")                       # of `run`, --patience is another
    run = ["run", "ovo", "--data", str(tmp_path / "d.json"), "--videos", str(tmp_path),
           *line[1:-1], "t.jsonl"]
    settings = answers.settings_of(model, tokenizer, None, ev.settings_of(ev.parse(run), 1))
    assert (settings["patience"], settings["no_repeat"]) == (1, False)
    with pytest.raises(ValueError, match="--patience 0: at least 1"):
        ev.parse([*line, "--patience", "0"])


def test_the_pictures_of_a_video_are_encoded_once(folder, monkeypatch):
    model, *_ = answers.load_model(str(folder), "cpu")
    seen = []
    monkeypatch.setattr(model.vision_tower, "forward", lambda x, f=model.vision_tower.forward: (
        seen.append(len(x)), f(x))[1])
    args = toy_args(str(folder), None)
    rows = ev.run_group(ev.groups_of(args)[1], vars(args) | {"device": "cpu", "offline": None})
    assert len(rows) == 10
    assert sum(seen) == dialogues.bench(11, 1)[0].seconds


def test_shards_share_the_work(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", answered_at_once)
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
    monkeypatch.setattr(answers, "stream", fake_stream({2: "response", 6: "response"}, heard))
    features = [(t, torch.tensor([t])) for t in range(5)]
    assert answers.asked(None, None, features, [{"prompt": "What?"}], 10, {}) == ["6!"]
    assert heard["questions"] == [(4, "What?")]
    assert heard["frames"] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 4)]
    monkeypatch.setattr(answers, "stream", fake_stream({2: "response"}, {}))
    assert answers.asked(None, None, features, [{"prompt": "What?"}], 10, {}) == [None]


def test_online_forward_tasks_are_read_at_their_moments(monkeypatch):
    said = {3: "response", 4: "standby", 5: "standby", 8: "response"}
    features, heard = [(t, torch.tensor([t])) for t in range(10)], {}
    monkeypatch.setattr(answers, "stream", fake_stream(said, heard))
    for read, wanted in (("last", [None, "3!", "3!", "8!"]),
                         ("any", ["No", "Yes", "Yes", "Yes"]),
                         ("state", ["No", "Yes", "Yes", "Yes"])):
        rows = [{"ask": (1, "?", read), "end": end} for end in (2, 3.2, 6, 9)]
        assert answers.asked(None, None, features, rows, 10, {}) == wanted
    assert heard["questions"] == [(1, "?")]


def test_ovo_items_share_a_stream_and_end_at_their_moment(folder, tmp_path, monkeypatch):
    """Through run: a video found in a tree, one stream for an item's counts, one for each MCQ."""
    videos = tmp_path / "tree" / "deep"
    videos.mkdir(parents=True)
    for i in range(6):
        dialogues.sample(1, 0)
        Image.fromarray(np.full((32, 32, 3), i * 40, np.uint8)).save(tmp_path / f"{i}.png")
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
    ran, real = [], answers.stream

    def spy(model, tokenizer, frames, questions, **options):
        frames = list(frames)
        ran.append((len(frames), questions[0][0]))
        return real(model, tokenizer, frames, questions, **options)

    monkeypatch.setattr(answers, "stream", spy)
    command = ["run", "ovo", "--model", str(folder), "--data", str(tmp_path / "ovo.json"),
               "--videos", str(tmp_path / "tree"), "--out", str(tmp_path / "rows.jsonl"),
               "--workers", "1", "--patience", "2"]
    ev.main(command)
    assert sorted(ran) == [(3 + 2, 2), (3 + 2, 2), (6, 1)]
    ev.main(["score", "ovo", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "s.json")])
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["items"] == 4 and {"OCR", "REC", "forward", "realtime"} <= set(scores)


def test_offline_is_one_turn_with_the_question_last_and_an_answer_forced(folder, monkeypatch):
    """The cached decoding gives the tokens of a model that reads everything anew for each token."""
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    features, heard = [torch.randn(4, 32) for _ in range(5)], []
    monkeypatch.setattr(model, "forward", lambda ids, *a, f=model.forward, **k: (
        heard.append(ids[0].tolist()), f(ids, *a, **k))[1])
    text = answers.answer_at_once(model, tokenizer, features, "Describe every event.",
                                  max_new_tokens=6)
    frames, ask = (data.Turn(4, STATES[0]),
                   data.Turn(5, RESPONSE, question="Describe every event."))
    written, _ = data.render(tokenizer, [frames, ask], [[4] * 5, []])  # what training would read
    assert tokenizer.decode(written) == tokenizer.decode(heard[0]) + "<|im_end|>\n"
    assert written[:len(heard[0])] == heard[0]
    *_, seen, last = tokenizer.decode(heard[0]).split("<|im_start|>user\n")
    assert seen.count(FRAME) == 20 and FRAME not in last  # all frames in one turn
    assert last.startswith("Describe every event.\n") and last.endswith(f"assistant\n{RESPONSE}")
    monkeypatch.undo()
    ids, said = heard[0], []
    for _ in range(6):
        logits = model(torch.tensor([ids + said]), torch.cat(features), select="last")[0]
        said.append(int((logits + answers.unspoken(model, tokenizer)).argmax()))
        if said[-1] == tokenizer.id("<|im_end|>"):
            break
    assert text == tokenizer.decode([t for t in said if t != tokenizer.id("<|im_end|>")]).strip()
    with pytest.raises(ValueError, match="--max-frames"):
        answers.answer_at_once(model, tokenizer, features * 300, "Why?")


def test_raw_files_of_our_own_and_offline(folder, tmp_path, capsys):
    """`toy --data` scores any raw file by the task it names; `run --offline` answers at once."""
    videos = tmp_path / "videos"
    (videos / "clip").mkdir(parents=True)
    for i in range(8):
        Image.fromarray(np.full((32, 32, 3), i * 30, np.uint8)).save(
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
    assert "own_scores.jsonl: of another run, with another data_sha256;" in capsys.readouterr().err


def test_a_task_of_ones_own_is_none_of_the_benchmarks(folder, tmp_path):
    """Whatever it is called: it has moments, states and texts."""
    videos = tmp_path / "videos"
    (videos / "clip").mkdir(parents=True)
    for k in range(4):
        Image.new("RGB", (32, 32), (50 * k,) * 3).save(videos / "clip" / f"{k}.png")
    names = ["absent", "never_another", "reworded_tsqa", "tsqa", "denied", "Mine"]
    (tmp_path / "own.json").write_text(json.dumps([
        {"video_path": "clip", "task_type": name, "source": "x",
         "question": [{"content": "What?", "time": "1"}],
         "response": [{"content": "It.", "st_time": "", "end_time": "", "time": "3"}]}
        for name in names]))
    ev.main(["toy", "--model", str(folder), "--data", str(tmp_path / "own.json"),
             "--videos-folder", str(videos), "--workers", "1", "--out", str(tmp_path / "s.json")])
    scores = json.loads((tmp_path / "s.json").read_text())
    assert set(scores["timing"]) == {"all", "own absent", "own denied", "own tsqa", "Mine",
                                     "never another", "reworded tsqa"}      # "_" is a blank
    assert {"response_f1", "state_f1"} <= set(scores)
    assert not {"absent", "denied", "false_alarms", "reworded", "tsqa_accuracy"} & set(scores)


@pytest.mark.parametrize("arguments, says", [
    (["score", "ovo", "MISSING", "--out", "o.json"], "MISSING"),
    (["score", "ovo", "BAD", "--out", "o.json"], "bad.json"),
    (["score", "ovo", "BAD", "BAD", "--out", "o.json"], "bad.json: each file once"),
    (["score", "ovo", "BAD", "AGAIN", "--out", "o.json"], "again.json: each file once"),
    (["score", "ovo", "BAD", "--out", "o.txt"], "--out o.txt: the scores' file, .json"),
    (["score", "ovo", "BAD", "--out", "config.json"], "--out config.json: a model's file"),
    (["score", "ovo", "BAD", "--out", "WRONG"], "wrong.json: there is something else in it"),
    (["score", "ovo", "BAD", "--out", "BAD/o.json"], "bad.json: no folder can be made"),
    (["run", "ovo", "--model", "TINY", "--data", "BAD", "--videos", "MISSING", "--out", "o.jsonl"],
     "--videos MISSING: no such folder"),
    (["score", "videomme", "WRONG", "--out", "o.json"], "wrong.json"),
    (["toy", "--model", "MISSING", "--videos", "1", "--out", "o.json"], "MISSING: no such folder"),
    (["toy", "--model", "MISSING", "--fps", "0", "--out", "o.json"], "--fps 0")])
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("[{")
    (tmp_path / "wrong.json").write_text('[{"id": 1}]')
    (tmp_path / "again.json").symlink_to("bad.json")
    names = {"BAD": tmp_path / "bad.json", "WRONG": tmp_path / "wrong.json",
             "AGAIN": tmp_path / "again.json", "BAD/o.json": tmp_path / "bad.json" / "o.json",
             "TINY": Path(__file__).parents[1] / "assets" / "tiny", "o.json": tmp_path / "o.json"}
    with pytest.raises(SystemExit) as caught:
        ev.main([str(names.get(a, a)) for a in arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and says in error


def test_bytes_of_a_broken_disk_are_named_by_file_and_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    _, _, out = ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))
    lines = out.read_bytes().split(b"\n")
    out.write_bytes(b"\n".join([*lines[:3], b'\xff\xfe{"id"', *lines[4:]]))
    with pytest.raises(ValueError, match=f"{out}: line 4 is no answer"):
        ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))


def test_a_mistyped_folder_of_videos_is_mended_without_a_removal(folder, tmp_path, capsys):
    """A file in which all items failed holds nothing to be lost; one with an answer stays."""
    (tmp_path / "right" / "clip").mkdir(parents=True)
    (tmp_path / "wrong").mkdir()
    for k in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / "right" / "clip" / f"{k}.png")
    (tmp_path / "own.json").write_text(json.dumps([
        {"video_path": "clip", "task_type": "Mine", "source": "x",
         "question": [{"content": "What?", "time": "1"}],
         "response": [{"content": "It.", "st_time": "", "end_time": "", "time": "3"}]}]))

    def score(videos):
        ev.main(["toy", "--model", str(folder), "--data", str(tmp_path / "own.json"),
                 "--videos-folder", str(tmp_path / videos), "--workers", "1",
                 "--out", str(tmp_path / "s.json")])

    with pytest.raises(SystemExit):
        score("wrong")
    assert "failed" in capsys.readouterr().err
    score("right")
    assert json.loads((tmp_path / "s.json").read_text())["dialogues"] == 1
    answers = (tmp_path / "s.jsonl").read_text()
    with pytest.raises(SystemExit):
        score("wrong")
    assert "of another run, with another folder" in capsys.readouterr().err
    assert (tmp_path / "s.jsonl").read_text() == answers


def rows_of(*videos):
    return [{"id": f"{i}", "task": "x", "video": video} for i, video in enumerate(videos)]


def test_a_video_is_found_once_or_its_items_fail(tmp_path, monkeypatch):
    for name in ("a/clips/v.mp4", "b/clips/v.mp4", "a/clips/w.mp4", "xw.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(*names, folder=tmp_path):
        return [(group["video"], len(group["rows"]), group.get("missing", "")[-60:])
                for group in ev.found_videos(folder, rows_of(*names))]

    w, v = str(tmp_path / "a/clips/w.mp4"), str(tmp_path / "a/clips/v.mp4")
    assert found("w.mp4", "a/clips/v.mp4", "clips/w.mp4") == [(w, 2, ""), (v, 1, "")]
    (_, two, _), (name, one, reason) = found("w.mp4", "x.mp4", "w.mp4")
    assert (two, name, one) == (2, "x.mp4", 1) and "0 files are called x.mp4" in reason
    assert "2 files are called v.mp4" in ev.found_videos(
        tmp_path, rows_of("w.mp4", "v.mp4"))[1]["missing"]
    with pytest.raises(ValueError, match=r"no video of the benchmark is there, as x\.mp4"):
        found("x.mp4", "y.mp4")
    monkeypatch.chdir(tmp_path / "a/clips")                     # as `--videos .`
    assert found("w.mp4", folder=Path()) == [(w, 1, "")]
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "round").symlink_to(tmp_path / "here")                    # without end
    assert found("w.mp4", folder=tmp_path / "here") == [
        (str(tmp_path / "here/linked/clips/w.mp4"), 1, "")]
    for link in ("A", "z"):                                     # met before its folder, and after
        both = tmp_path / "both" / link
        (both / "clips").mkdir(parents=True)
        (both / "clips" / "x.mp4").touch()
        (both / link).symlink_to("clips")
        for name in ("clips/x.mp4", f"{link}/x.mp4", "x.mp4"):
            assert found(name, folder=both)[0][1:] == (1, ""), name


# ---- What fails, and what is not lost

@pytest.fixture
def three(folder, tmp_path):
    """A benchmark of three videos, the second of which cannot be read: command(*more), items."""
    videos = tmp_path / "videos"
    for name in ("aaa", "ccc"):
        (videos / f"{name}.mp4").mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(videos / f"{name}.mp4" / f"{i}.png")
    (videos / "bbb.mp4").write_bytes(b"no video at all")
    items = [{"videoID": name, "duration": "short", "domain": "d", "sub_category": "s",
              "question_id": name, "task_type": "t", "question": "What?", "answer": "A",
              "options": ["A. a", "B. b", "C. c", "D. d"]} for name in ("aaa", "bbb", "ccc")]
    (tmp_path / "mme.json").write_text(json.dumps(items))

    def run(*more):
        ev.main(["run", "videomme", "--data", str(tmp_path / "mme.json"), "--videos", str(videos),
                 "--model", str(folder), "--workers", "1", "--patience", "1",
                 "--out", str(tmp_path / "o.jsonl"), *more])
        return {row["id"]: row for row in public.read_rows("videomme", tmp_path / "o.jsonl")}

    return run, videos


def test_one_bad_video_ends_nothing_and_is_tried_again(three, tmp_path, capsys):
    run, videos = three
    rows = run()
    assert [*rows] == ["aaa", "bbb", "ccc"] and "bbb.mp4" in rows["bbb"]["failed"]
    assert "response" in rows["ccc"] and "response" not in rows["bbb"]
    assert "1 item failed, in no score" in capsys.readouterr().out
    score = ["score", "videomme", str(tmp_path / "o.jsonl"), "--out", str(tmp_path / "s.json")]
    ev.main(score)
    saved, said = json.loads((tmp_path / "s.json").read_text()), capsys.readouterr().out
    assert saved["items"] == 2 and [row["id"] for row in saved["failed"]] == ["bbb"]
    assert saved["lacking"] == {} and "bbb: " in said          # of three, two answered, one failed
    (videos / "bbb.mp4").unlink()
    assert "0 files are called bbb.mp4" in run()["bbb"]["failed"]
    before = (tmp_path / "o.jsonl").read_text()
    (videos / "ccc.mp4").rename(videos / "bbb.mp4")            # what is done is not run again
    assert "response" in run()["bbb"]
    assert before.splitlines()[1] in (tmp_path / "o.jsonl").read_text()
    ev.main(score)
    assert json.loads((tmp_path / "s.json").read_text())["items"] == 3


def test_one_bad_question_fails_alone(three, tmp_path, monkeypatch):
    """Its video's other items are answered, and not asked again with it."""
    run, _ = three
    items = json.loads((tmp_path / "mme.json").read_text())[:1]
    items.append(items[0] | {"question_id": "late", "question": "Refused?"})
    (tmp_path / "mme.json").write_text(json.dumps(items))
    heard, real = [], answers.stream

    def stream(model, tokenizer, frames, questions, counts, **options):
        heard.append(questions[0][1])
        counts["questions refused"] += len(heard) == 2 and "Refused?" in questions[0][1]
        yield from real(model, tokenizer, frames, questions, **options)

    monkeypatch.setattr(answers, "stream", stream)
    rows = run()
    assert "response" in rows["aaa"] and "questions refused" in rows["late"]["failed"]
    before = (tmp_path / "o.jsonl").read_text().splitlines()
    assert "response" in run()["late"] and len(heard) == 3
    assert before[1] in (tmp_path / "o.jsonl").read_text().splitlines()


def test_strict_ends_at_the_first_and_keeps_what_was_finished(three, tmp_path, capsys):
    run, videos = three
    with pytest.raises(SystemExit) as end:
        run("--strict")
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and error.startswith("eval.py: ") and "bbb.mp4" in error
    assert [row["id"] for row in public.read_rows("videomme", tmp_path / "o.jsonl")] == ["aaa"]
    assert [*run()] == ["aaa", "bbb", "ccc"]                   # it goes on, without --strict, too


def test_nothing_but_failures_is_an_error(three, tmp_path, capsys):
    run, videos = three
    (videos / "aaa.mp4" / "0.png").write_bytes(b"x")
    (videos / "ccc.mp4" / "0.png").write_bytes(b"x")
    with pytest.raises(SystemExit) as end:
        run()
    said = capsys.readouterr().err
    assert end.value.code == 2 and "nothing was answered, 3 items failed, the first" in said


def test_a_checkpoint_that_cannot_be_read_is_no_bad_video(three, folder, tmp_path, capsys):
    run, _ = three
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad/config.json").write_text("{}")
    with pytest.raises(SystemExit):
        run("--model", str(tmp_path / "bad"))
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 1
    assert "bad/config.json" in capsys.readouterr().err


def test_what_is_absent_from_the_answers_is_told(three, tmp_path, capsys):
    """By the run's own header, by the benchmark's known size, by the annotations."""
    run, _ = three
    run()
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    (tmp_path / "o.jsonl").write_text("\n".join(lines[:2]) + "\n")
    out = str(tmp_path / "s.json")
    ev.main(["score", "videomme", str(tmp_path / "o.jsonl"), "--out", out])
    assert "Not in the answers given: 2 items" in capsys.readouterr().out
    for name, data, n in (("p", "x", 5), ("q", "y", 7), ("r", "y", 7)):     # q, r: ranks of a run
        row = json.loads(lines[1]) | {"id": name, "response": "A", "answer": "A"}
        head = {"run": {"bench": "videomme", "items": n, "data_sha256": {"d.json": data}}}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(head) + "\n" + json.dumps(row) + "\n")
    for order in (("p", "q", "r"), ("r", "p", "q")):
        files = [str(tmp_path / f"{name}.jsonl") for name in order]
        ev.main(["score", "videomme", *files, "--out", out])
        assert "Not in the answers given: 9 items" in capsys.readouterr().out
    items = [{"id": i, "video": "v", "task": task, "question": "?", "ground_truth": "A",
              "response": "A"} for i, task in enumerate(["EPM"] * 297 + ["OCR"] * 140)]
    (tmp_path / "ovo.json").write_text(json.dumps(items))
    ev.main(["score", "ovo", str(tmp_path / "ovo.json"), "--out", out])
    lacking = json.loads(Path(out).read_text())["lacking"]
    assert lacking["OCR"] == 9 and lacking["REC"] == 698 and "EPM" not in lacking
    (tmp_path / "all.json").write_text(json.dumps(items[:2] + items[-1:]))
    (tmp_path / "two.json").write_text(json.dumps(items[1:2]))
    ev.main(["score", "ovo", str(tmp_path / "two.json"), "--data", str(tmp_path / "all.json"),
             "--out", out])
    assert json.loads(Path(out).read_text())["lacking"] == {"EPM": 1, "OCR": 1}
    with pytest.raises(SystemExit):
        ev.main(["score", "ovo", str(tmp_path / "all.json"), "--data", str(tmp_path / "two.json"),
                 "--out", out])
    assert "all.json: item 0_0 is not in" in capsys.readouterr().err


def test_an_output_is_never_an_input(folder, tmp_path, capsys):
    data, link, model = tmp_path / "ovo.json", tmp_path / "link.json", tmp_path / "model"
    item = {"id": 1, "video": "film.mp4", "task": "EPM", "question": "?", "ground_truth": "A",
            "response": "A"}
    data.write_text(json.dumps([item]))
    link.symlink_to(data)
    lines, raw = tmp_path / "ovo.jsonl", tmp_path / "raw.json"
    lines.write_text(json.dumps(item))
    raw.write_text("[]")
    film = tmp_path / "film.json"
    film.write_text(json.dumps([{
        "video_name": "film", "video_path": "film.mp4", "task_type": "x", "source": "own",
        "question": [{"content": "?", "time": "1"}],
        "response": [{"content": "!", "time": "2"}]}]))
    (tmp_path / "film.mp4").write_bytes(b"a film")
    shutil.copytree(folder, model)
    kept = {path: path.read_bytes()
            for path in (data, lines, raw, film, *model.iterdir(), tmp_path / "film.mp4")}
    for words in (["score", "ovo", data, "--out", data], ["score", "ovo", link, "--out", data],
                  ["score", "ovo", data, "--out", link],
                  ["score", "ovo", data, "--data", lines, "--out", lines],
                  ["toy", "--model", model, "--data", raw, "--out", raw],
                  ["toy", "--model", model, "--videos", 1, "--out", model / "config.json"],
                  ["toy", "--model", model, "--data", film, "--videos-folder", tmp_path,
                   "--out", tmp_path / "film.mp4"],
                  ["run", "ovo", "--model", model, "--data", lines, "--videos", tmp_path,
                   "--out", lines]):
        with pytest.raises(SystemExit) as end:
            ev.main([*map(str, words)])
        assert end.value.code == 2 and "would write over" in capsys.readouterr().err, words
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert not [*tmp_path.rglob("*.partial")]


def test_a_changed_config_is_another_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    shutil.copytree(folder, tmp_path / "model")
    args = toy_args(tmp_path / "model", tmp_path / "s.json", videos=1)
    _, run, _ = ev.run_bench(args)
    assert {"config.json", "model.safetensors"} <= run["sha256"].keys()
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"window": 9}))
    with pytest.raises(ValueError, match="another run"):
        ev.run_bench(args)


@pytest.mark.parametrize("break_it, says", [
    (lambda row: row.pop("pred"), "item 11/0/1: there is no 'pred'"),
    (lambda row: row["gold"].update(answers=3), "item 11/0/1: misshapen"),
    (lambda row: row["pred"].update(states="0"), "item 11/0/1: zip() argument 2 is shorter"),
    (lambda row: row.pop("id"), "not a row of raw")])
def test_a_broken_row_is_named_with_its_file(folder, tmp_path, capsys, break_it, says):
    said = {"states": "002", "answers": [[2, "x"]]}
    rows = [{"id": f"11/0/{k}", "task": "narration", "seconds": 3, "compute": 1.0,
             "gold": dict(said), "pred": said | {"p": [0, 0, 1]}} for k in range(3)]
    break_it(rows[1])
    lines = [{"run": {"bench": "toy"}}, *rows]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SystemExit) as end:
        ev.main(["score", "raw", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "s.json")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and f"{tmp_path / 'r.jsonl'}: {says}" in error
    assert not (tmp_path / "s.json").exists()


def test_a_broken_line_of_a_run_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", answered_at_once)
    args = toy_args(folder, tmp_path / "s.json", videos=1)
    _, _, out = ev.run_bench(args)
    lines = out.read_text().splitlines()
    out.write_text("\n".join([*lines[:2], lines[2][:20], *lines[3:], ""]))
    with pytest.raises(ValueError, match=r"s\.jsonl: line 3 is no answer"):
        ev.run_bench(args)


def test_a_full_disk_is_named_with_its_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "run_group", answered_at_once)

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def write(self, text):
            raise OSError(28, "No space left on device")

    real = open
    monkeypatch.setattr(ev, "open", lambda path, mode="r", **more: (
        Full() if mode == "a" else real(path, mode, **more)), raising=False)
    with pytest.raises(OSError, match=r"No space left on device: .*s\.jsonl"):
        ev.run_bench(toy_args(folder, tmp_path / "s.json", videos=1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_scores_are_written_whoever_reads_the_table(tmp_path, monkeypatch, capsys):
    """`| head -1`, a full disk: the file comes first, and nothing is left for Python's own end."""
    (tmp_path / "ovo.json").write_text(json.dumps([
        {"id": 1, "video": "v", "task": "EPM", "question": "?", "ground_truth": "A",
         "response": "A"}]))
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    for name, target, code in (("pipe", write, None), ("full", full, 2)):
        with open(target, "w") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            try:
                ended = ev.main(["score", "ovo", str(tmp_path / "ovo.json"),
                                 "--out", str(tmp_path / f"{name}.json")])
            except SystemExit as end:
                ended = end.code
            stdout.flush()
        error = capsys.readouterr().err
        assert ended == code and error.count("\n") == (1 if code else 0), error
        assert json.loads((tmp_path / f"{name}.json").read_text())["EPM"] == 100
    assert error == "eval.py: standard output: No space left on device\n"


def test_ctrl_c_is_a_line_and_130(folder, tmp_path, monkeypatch, capsys):
    def interrupted(group, run):
        if group["video"] == ("", 1):
            raise KeyboardInterrupt
        return answered_at_once(group, run)

    monkeypatch.setattr(ev, "run_group", interrupted)
    with pytest.raises(SystemExit) as end:
        ev.main(["toy", "--model", str(folder), "--videos", "3", "--seed", "11", "--workers", "1",
                 "--out", str(tmp_path / "s.json")])
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("eval.py: interrupted")
    assert len(public.read_rows("raw", tmp_path / "s.jsonl")) == 10     # the finished video's


def test_ctrl_c_while_importing_is_130_and_no_traceback():
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-X", "importtime", root / "eval.py", "toy"],
                               stderr=subprocess.PIPE, text=True)
    said = process.stderr.readline()
    while "torch" not in said:                          # of which the parts come first
        said = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in rest


def test_a_refused_question_is_a_failure_and_no_silence(folder, monkeypatch):
    def refusing(model, tokenizer, frames, questions, counts, **options):
        counts["questions refused: too many are open"] += 1
        yield Namespace(start=4, end=5, state="silence", text="", probs=(1, 0, 0))

    monkeypatch.setattr(answers, "stream", refusing)
    with pytest.raises(ValueError, match="second 4: questions refused"):
        list(answers.turns_of(None, None, [], [(0, "?")], {}))


SAID = {"states": "002", "answers": [[2, "from 1s to 3s"]]}
TALK = [{"from": "human", "value": "a", "time": 0.0}, {"from": "gpt", "value": "b", "time": 0.1},
        {"from": "gpt", "value": "c", "time": 4.0, "timespan": [3.0, 5.0]}]
RESULTS = {  # benchmark: a file's name, and what a sound one holds
    "ovo": ("r.json", {"backward": [{"id": 1, "video": "a", "task": "EPM", "question": "?",
                                     "response": "C", "ground_truth": "C"}],
                       "forward": [{"id": 9, "video": "a", "task": "REC", "activity": "j",
                                    "test_info": [{"realtime": 3, "count": 2, "response": "2"}]}]}),
    "tempcompass": ("caption_matching.json", {"7": {"speed": [
        {"question": "W?\nCaption A: x.\nCaption B: y.", "answer": "Caption A: x.",
         "prediction": "A"}]}}),
    "videomme": ("r.json", [{"video_id": "1", "duration": "short", "domain": "d",
                             "sub_category": "s", "questions": [
                                 {"question_id": "1", "task_type": "t", "question": "?",
                                  "answer": "C", "options": ["A. 1", "C. 3"], "response": "C"}]}]),
    "vispeak": ("AW.jsonl", [{"run": {"bench": "vispeak", "items": 3}},
                             {"id": "AW/a", "task": "AW", "window": [1, 2], "said": [[1, "x"]],
                              "truth": "y", "compute": 1.0}]),
    "omnimmi": ("p.json", [{"video": "v", "question": "?", "answer": [1, 20], "pred": [3.0, 5]},
                           {"video": "w", "conversation": [{"human": "c"}], "pred": ""}]),
    "raw": ("r.jsonl", [{"run": {"bench": "toy"}},
                        {"id": "1", "task": "tsqa", "seconds": 3, "compute": 1.0, "gold": SAID,
                         "pred": SAID | {"p": [0, 0, 1]}}])}


def places(value, path=()):
    """The path of each value inside a value."""
    inner = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())
    for key, more in inner:
        yield (*path, key)
        yield from places(more, (*path, key))


def test_a_broken_file_of_results_is_scored_or_named(tmp_path, capsys):
    """One value is gone or another; what comes is scores, or a line with exit code 2."""
    rng = random.Random(0)
    for _ in range(150):
        bench = rng.choice([*RESULTS])
        name, content = RESULTS[bench][0], json.loads(json.dumps(RESULTS[bench][1]))
        *path, last = rng.choice([*places(content)])
        inside = content
        for key in path:
            inside = inside[key]
        if rng.random() < 0.3:
            del inside[last]
        else:
            inside[last] = rng.choice([None, 3, -1.5, float("nan"), "", [], {}, "x", ["a"], True,
                                       {"a": 1}, 10**30, "\ud800"])
        lines = content if name.endswith("l") else [content]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            ev.main(["score", bench, str(tmp_path / name), "--out", str(tmp_path / "s.json")])
        except SystemExit as end:
            assert end.code == 2, content
            assert capsys.readouterr().err.count("eval.py: ") == 1, content
    assert not [*tmp_path.glob("*.partial")]
