"""The paper's baselines: a decider of its own, StreamingVLM's memory, and how they are run."""
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_eval import folder  # noqa: F401 (a fixture)

import eval as ev
from bench import answers, baselines
from infer import Session, step
from parts.slots import FRAME, PINNED, TEXT
from toy import dialogues


@pytest.fixture(autouse=True)
def two_dialogues(monkeypatch):
    bench = dialogues.bench
    monkeypatch.setattr(dialogues, "BENCH", {"": lambda *of: (bench(*of)[0], bench(*of)[1][:2])})


# ---- The memory of StreamingVLM

def test_which_slots_leave_the_sinks_memory(monkeypatch):
    """Frames after 2 seconds; of text whole turns, the oldest, until 4 tokens are left."""
    monkeypatch.setattr(baselines, "RECENT_FRAMES", 2)
    monkeypatch.setattr(baselines, "RECENT_TEXT", 4)
    slots = [(-1, PINNED), (0, TEXT), (0, FRAME), (1, TEXT), (1, TEXT), (1, PINNED), (2, FRAME),
             (2, TEXT), (3, FRAME), (3, TEXT), (3, TEXT)]
    seconds, kinds = map(np.array, zip(*slots))
    gone = baselines.sinks(seconds, kinds, 4, 0, 60, None)
    assert [slots[k] for k in np.flatnonzero(gone)] == [
        (0, TEXT), (0, FRAME), (1, TEXT), (1, TEXT), (2, FRAME)]
    assert not baselines.sinks(seconds[5:], kinds[5:], 3, 0, 60, None)[2:].any()


def test_a_stream_with_sinks_holds_a_few_seconds_of_frames_and_more_of_text(folder):
    """Also frames of seconds in which it spoke, which a window of ours keeps."""
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (90, 32, 32, 3), np.uint8)
    sinks, ours = (kind(model, tokenizer, threshold=0.02, max_new_tokens=2, window=60)
                   for kind in (baselines.SinksSession, Session))
    spoke = 0
    for second, picture in enumerate(pictures):
        turn, _ = step([sinks, ours], [[picture], [picture]])
        spoke += turn.state == "response"
        held = sinks.slots.turns((FRAME,))
        assert held and min(held) > second - 16
        assert (sinks.slots.kind == TEXT).sum() <= 512 + 40         # and what this second brought
    assert spoke > 10 and len(held) == 16
    assert 20 < len(sinks.slots.turns((TEXT,))) < 60 <= len(ours.slots.turns((TEXT,))) + 8


# ---- A decision module of its own

def decider(hidden=32, tokens=4):
    torch.manual_seed(0)
    return baselines.Decider(hidden, tokens, size=24)


def test_a_decider_looks_back_only_at_what_was_seen_and_asked():
    torch.manual_seed(1)
    frames, words = torch.randn(9, 4, 32), torch.randn(5, 32)
    base = decider()(frames, {2: words})
    assert base.shape == (9,)
    later = frames.clone()
    later[6] += 1
    assert [k for k, (a, b) in enumerate(zip(base, decider()(later, {2: words}))) if a != b
            ] == [6, 7, 8]
    asked = decider()(frames, {2: words, 5: words.flip(0)})
    assert [k for k, (a, b) in enumerate(zip(base, asked)) if a != b] == [5, 6, 7, 8]
    assert not torch.equal(base[2:], decider()(frames, {2: words.flip(0)})[2:])     # their order
    assert not torch.equal(base[:2], decider()(frames, {0: words})[:2])


def test_a_decider_reads_each_second_and_how_it_differs_from_the_one_before():
    torch.manual_seed(1)
    frames, read, one = torch.randn(5, 4, 32), [], decider()
    one.picture.register_forward_hook(lambda _, seen, __: read.append(seen[0].view(5, 4, 64)))
    one(frames, {})
    seen, changed = read[0].split(32, -1)
    assert torch.equal(seen, frames) and not changed[0].any()
    assert torch.equal(changed[1:], frames[1:] - frames[:-1])


def test_a_stream_speaks_where_its_decider_says_so(folder, monkeypatch):
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    wanted = [k in (3, 4, 11) for k in range(16)]
    monkeypatch.setattr(answers, "load_decider", lambda *_: None)
    monkeypatch.setattr(baselines, "seconds_to_speak", lambda *_: wanted)
    clip, [(_, record), *_] = dialogues.bench(11, 0)
    features = answers.encode(model, enumerate(
        [clip.frame(t, 32) for t in range(16)]))
    settings = {"fps": 1, "window": 60, "decider": "somewhere"}
    alone = answers.streamed(model, tokenizer, features, record, settings)
    both = answers.streamed_together(model, tokenizer, features, [record, record], settings)
    assert both == [alone, alone]
    assert alone["pred"]["states"] == "".join("2" if said else "0" for said in wanted)


def test_a_decider_reads_the_last_frame_of_each_second(folder):
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    torch.manual_seed(2)
    whole, between = torch.randn(6, 4, 32), torch.randn(6, 4, 32)
    asked = [(1, "What?"), (1, "Where?"), (40, "Too late?")]
    one = [(float(k), frame) for k, frame in enumerate(whole)]
    two = sorted([*((k, f) for k, f in enumerate(between)), *((k + 0.5, f) for k, f in one)],
                 key=lambda pair: pair[0])
    found = baselines.seconds_to_speak(decider(), model, tokenizer, one, asked)
    assert len(found) == 6
    assert found == baselines.seconds_to_speak(decider(), model, tokenizer, two, asked)


def test_a_decider_is_trained_saved_and_asked(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "decider"
    monkeypatch.setattr(baselines, "CURRICULUM", ((1.0, 300, {"short": 1.0}),))
    baselines.main(["--model", str(folder), "--out", str(out), "--steps", "9"])
    model, tokenizer, _ = answers.load_model(folder, "cpu")
    found = baselines.Decider.load(out, model.config)
    assert json.loads((out / "run.json").read_text())["parameters"] == sum(
        p.numel() for p in found.parameters())
    scores = tmp_path / "s.json"
    run = ["toy", "--model", str(folder), "--videos", "1", "--seed", "11", "--workers", "1",
           "--out", str(scores), "--strict"]
    ev.main([*run, "--decider", str(out)])
    saved = json.loads(scores.read_text())
    assert len(saved["run"]["decider_sha256"]["decider.safetensors"]) == 64
    first = saved["kv_slots"]
    scores.with_suffix(".jsonl").unlink()
    ev.main([*run, "--memory", "sinks"])
    assert 0 < json.loads(scores.read_text())["kv_slots"] != first
    capsys.readouterr()
    for more in (["--polled"], ["--threshold", "0.3"], ["--patience", "2"], ["--no-repeat"]):
        assert f"--decider: it alone says when to speak; go without {more[0]}" in refused(
            [*run, "--decider", str(out), *more], capsys)
    for more in (["--window", "9"], ["--prune", "9"]):
        assert f"go without {more[0]}" in refused([*run, "--memory", "sinks", *more], capsys)
    assert "no decider" in refused([*run, "--decider", str(tmp_path / "none")], capsys)
    assert "would write over --decider" in refused(
        [*run[:-2], str(out / "run.json"), "--strict", "--decider", str(out)], capsys)
    words = (out / "decider.safetensors").read_bytes()
    (out / "decider.safetensors").write_bytes(words[:-9])
    assert "decider.safetensors: not a decider of this model" in refused(
        [*run, "--decider", str(out)], capsys)
    save_file({name: weight * math.nan for name, weight in found.state_dict().items()},
              out / "decider.safetensors")
    assert "decider.safetensors: some weights are no numbers" in refused(
        [*run, "--decider", str(out)], capsys)
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(about | {"model_sha256": "other"}))
    assert "other weights" in refused([*run, "--decider", str(out)], capsys)
    (out / "run.json").write_text("[]")
    assert "run.json: misshapen" in refused([*run, "--decider", str(out)], capsys)


def refused(arguments, capsys):
    """What `eval.py` says to these, in a line, before anything runs."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        ev.main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    return error


def test_an_offline_model_has_no_states_to_decide(folder, tmp_path, capsys):
    model = tmp_path / "offline"
    shutil.copytree(folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "llava_onevision"}))
    for more in (["--memory", "sinks"], ["--prune", "3"], ["--patience", "2"], ["--no-repeat"]):
        assert f"{more[0]}: {model} has no states" in refused(
            ["toy", "--model", str(model), "--out", str(tmp_path / "s.json"), *more], capsys)
    with pytest.raises(SystemExit):
        baselines.main(["--model", str(model), "--out", str(tmp_path / "decider")])
    assert "it has no states to decide" in capsys.readouterr().err


def test_a_decider_is_not_written_over_something_else(folder, tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"config": {}}')
    with pytest.raises(SystemExit):
        baselines.main(["--model", str(folder), "--out", str(tmp_path), "--steps", "1"])
    assert "there is something else in it" in capsys.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text()) == {"config": {}}


def test_a_decider_is_not_put_into_a_model_or_a_file(folder, tmp_path, capsys):
    for out, what in ((folder, "there is a model in it"), (Path(__file__), "no folder can be")):
        with pytest.raises(SystemExit) as end:
            baselines.main(["--model", str(folder), "--out", str(out), "--steps", "1"])
        assert end.value.code == 2 and what in capsys.readouterr().err
    assert not (folder / "decider.safetensors").exists()


def test_a_decider_learns(folder, tmp_path, monkeypatch):
    """Where what is asked can be answered at once, it is to speak at once."""
    losses, own = [], torch.nn.functional.binary_cross_entropy_with_logits
    monkeypatch.setattr(baselines.F, "binary_cross_entropy_with_logits",
                        lambda *of: losses.append(own(*of)) or losses[-1])
    monkeypatch.setattr(baselines, "CURRICULUM", ((1.0, 60, {"one": 1.0}),))
    baselines.main(["--model", str(folder), "--out", str(tmp_path), "--steps", "80"])
    first, last = (sum(x.item() for x in some) / 10 for some in (losses[:10], losses[-10:]))
    assert last < 0.5 * first
