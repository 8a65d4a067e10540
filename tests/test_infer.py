"""The streaming loop: equal to training and to the cache-free oracle, at the promised cost; what
the cache holds under every policy; the command line. The models are tiny and random."""
import json
import os
import subprocess
import sys
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import data
import infer
from parts import arguments, sources, video
from parts.compressor import Compressor
from parts.questions import Agenda
from parts.slots import Slots
from streamo import (FRAME, STATES, DecoderConfig, KVCache, Streamo, StreamoConfig, Tokenizer,
                     VisionConfig)

ROOT = Path(infer.__file__).parent
SAY = "A red circle."


@pytest.fixture(scope="module")
def tokenizer():
    text = "What moves? Describe it. A red circle. system\n user\nassistant\n"
    tokenizer = Tokenizer.train([text], 1270)
    tokenizer.add_tokens([*STATES, FRAME])
    return tokenizer


def build(tokenizer, layers=2, positions=4096, scripted=False, **settings):
    """A random model with weights large enough for the states to differ from second to second."""
    torch.manual_seed(0)
    decoder = DecoderConfig(len(tokenizer) + 3, 32, 64, layers, 4, 2, 8, rope_theta=1e4,
                            max_position_embeddings=positions)
    config = StreamoConfig(VisionConfig(32, 64, 1, 2, 3, 32, 8), decoder, tokenizer.frame_id, -1,
                           "average", **{"grid": 2, "coarse_grid": 1, "window": 16, **settings})
    model = (Scripted if scripted else Streamo)(config)
    for parameter in model.parameters():
        parameter.data.mul_(12 if parameter.dim() > 1 else 1)
    model.words = tokenizer.encode(f" {SAY}", special=False) + [tokenizer.id("<|im_end|>")]
    return model


class Scripted(Streamo):
    """Says SAY in each response, by a bonus on its tokens; everything else is computed."""
    def forward(self, ids, *args, **kwargs):
        logits = super().forward(ids, *args, **kwargs)
        if kwargs.get("select") == "last":
            self.said = {} if not hasattr(self, "said") else self.said   # words of each stream
            for row, (cache, tokens) in zip(logits, kwargs["cache"]):
                said = self.said[id(cache)] = self.said.get(id(cache), 0) + 1 if tokens == 1 else 0
                if said:
                    row[self.words[said - 1]] += 1e4
        return logits


def pictures(n, fps=1, seed=0):
    rng = np.random.default_rng(seed)
    return [(k / fps, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for k in range(n * fps)]


def scripted_states(monkeypatch, pattern):
    """The states by second, whatever the probabilities are."""
    n = iter(range(10**9))
    monkeypatch.setattr(infer.Decision, "state", lambda *_: pattern[next(n) % len(pattern)])


def trained_probs(model, tokenizer, ids, pixels, sides, places):
    """P of the three states at `places` of a dialogue, by the forward that training uses."""
    pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    logits = Streamo.forward(model, torch.tensor([ids]), pixels=pixels,
                             frames=torch.arange(len(sides)), grids=torch.tensor(sides))[0]
    return logits[places][:, list(tokenizer.state_ids)].softmax(-1)


# ---- The same as training, the same as without a cache

def whole_letters(tokenizer, ids):
    """The longest beginning of what ids spell that is UTF-8."""
    raw = b"".join(tokenizer.bytes[i] for i in ids)
    while raw:
        try:
            return raw.decode().strip()
        except UnicodeDecodeError as error:
            if error.end < len(raw) or error.reason != "unexpected end of data":
                return raw.decode(errors="replace").strip()
            raw = raw[:error.start]
    return ""


@torch.inference_mode()
def stream_naive(model, tokenizer, frames, questions, *, fps, threshold, max_new_tokens):
    """The oracle of `stream`: no cache; all that was seen and said is read anew for every token."""
    ids, seen, agenda = data.system_part(tokenizer), [], Agenda(questions)
    close, bias = tokenizer.encode("<|im_end|>\n"), infer.unspoken(model, tokenizer)

    def logits():
        return model(torch.tensor([ids]), infer.see(model, seen)[1])[0, -1]

    for second, images in infer.by_second(frames, fps):
        question, seen = "\n".join(agenda.due(second)) or None, seen + images
        ids += data.user_part(tokenizer, second, infer.see(model, images)[0], question)
        probs = logits()[list(tokenizer.state_ids)].softmax(-1).tolist()
        state = infer.Decision(threshold).state(probs)
        ids, said = [*ids, tokenizer.state_ids[state]], []
        while state == 2 and len(said) < max_new_tokens:
            token = int((logits() + bias).argmax())
            if token == close[0]:
                break
            ids, said = [*ids, token], [*said, token]
        ids += close
        yield infer.StreamTurn(second, second + 1, infer.STATES[state], tuple(probs),
                               whole_letters(tokenizer, said), question, 0.0)


@pytest.mark.parametrize("fps", [1, 2])
def test_streamed_probabilities_are_those_of_the_training_forward(tokenizer, monkeypatch, fps):
    """One renderer: what streams into the cache is, token for token, what training reads."""
    model, frames, pattern = build(tokenizer, scripted=True), pictures(10, fps), [0, 1, 1, 2, 0]
    scripted_states(monkeypatch, pattern)
    asked = {0: "What moves?", 4: "Describe it.\nWhat moves?"}
    questions = [(0, "What moves?"), (4, "Describe it."), (3.5, "What moves?")]
    streamed = list(infer.stream(model, tokenizer, frames, questions, fps=fps, window=0))
    assert [turn.question for turn in streamed if turn.question] == list(asked.values())
    assert [turn.text for turn in streamed if turn.state == "response"] == [SAY, SAY]
    turns = [data.Turn(k, STATES[pattern[k % 5]], SAY if pattern[k % 5] == 2 else "", asked.get(k))
             for k in range(10)]
    with torch.no_grad():
        ids, labels = data.render(tokenizer, turns, [[4] * fps] * 10)
        places = [i - 1 for i, label in enumerate(labels) if label in tokenizer.state_ids]
        expected = trained_probs(model, tokenizer, ids, [image for _, image in frames],
                                 [2] * len(frames), places)
    torch.testing.assert_close(torch.tensor([turn.probs for turn in streamed]), expected,
                               rtol=0, atol=1e-5)


@pytest.mark.parametrize("threshold, limit, fps", [(None, 8, 1), (0.0, 3, 1), (0.25, 6, 2)])
def test_cached_loop_says_what_the_naive_loop_says(tokenizer, threshold, limit, fps):
    model, options = build(tokenizer), dict(threshold=threshold, max_new_tokens=limit, fps=fps)
    questions, frames = [(0, "What moves?"), (5, "Describe it.")], pictures(9, fps)
    fast = list(infer.stream(model, tokenizer, frames, questions, window=0, **options))
    slow = list(stream_naive(model, tokenizer, frames, questions, **options))
    assert [(t.start, t.end, t.state, t.text, t.question) for t in fast] == [
        (t.start, t.end, t.state, t.text, t.question) for t in slow]
    np.testing.assert_allclose([t.probs for t in fast], [t.probs for t in slow], atol=1e-5)
    if threshold is not None:
        assert any(t.text for t in fast) and all(sum(t.probs) == pytest.approx(1) for t in fast)


def test_a_silent_second_is_one_vision_and_one_decoder_forward(tokenizer):
    model, calls = build(tokenizer), Counter()
    model.vision_tower.register_forward_hook(lambda *_: calls.update(["vision"]))
    model.language_model.register_forward_hook(lambda *_: calls.update(["decoder"]))
    turns = infer.stream(model, tokenizer, pictures(12, 2), [(0, "What moves?")], fps=2,
                         threshold=1.0, window=6, prune=2, compress=3.0)
    for n, turn in enumerate(turns, 1):
        assert turn.state != "response"
        assert calls == {"vision": n, "decoder": n + 1}              # and one of the system part


def test_a_second_is_answered_with_its_last_frame(tokenizer):
    """A live stream must not wait for the next second's first frame."""
    def frames():
        yield from pictures(1, 2)
        raise AssertionError("read on before the answer")
    turn = next(infer.stream(build(tokenizer), tokenizer, frames(), fps=2))
    assert (turn.start, turn.end) == (0, 1)
    groups = [(0, "a"), (0.5, "b"), (0.9, "c"), (1.999999999, "d"), (4, "e")]
    assert list(infer.by_second(groups, 2)) == [(0, ["a", "b"]), (2, ["d"]), (4, ["e"])]


def test_a_probability_that_reaches_the_threshold_is_enough():
    """Else the likelier of the quiet states is said, and known in any case."""
    decision = infer.Decision(0.3)
    assert decision.state([0.2, 0.5, 0.3]) == 2 and decision.quiet == 1
    assert decision.state([0.4, 0.31, 0.29]) == 0


def test_threshold_trades_silence_for_answers():
    assert infer.Decision().state([0.2, 0.5, 0.3]) == 1
    assert infer.Decision(0.25).state([0.2, 0.5, 0.3]) == 2
    assert infer.Decision(0.8).state([0.2, 0.1, 0.7]) == 0


def test_an_answer_holds_no_token_of_ours(tokenizer):
    """Else a <frame> in an answer would ask for visual tokens that nobody has."""
    model = build(tokenizer, scripted=True)
    for token in (tokenizer.frame_id, tokenizer.id("<|im_start|>"), len(tokenizer) + 1):
        model.words = [token] * 5
        texts = [t.text for t in infer.stream(model, tokenizer, pictures(2), threshold=0.0,
                                              max_new_tokens=4)]
        assert all(texts) and not any("<frame>" in t or "<|im" in t for t in texts)


def test_frames_may_be_pil_images_or_encoded_before(tokenizer):
    from PIL import Image
    model, frames = build(tokenizer), pictures(4)
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(i) for _, i in frames]).permute(0, 3, 1, 2)
        encoded = model.encode_frames(pixels.float() / 127.5 - 1)
    kinds = [frames, [(s, Image.fromarray(i)) for s, i in frames],
             [(s, e) for (s, _), e in zip(frames, encoded)]]
    probs = [[turn.probs for turn in infer.stream(model, tokenizer, kind)] for kind in kinds]
    np.testing.assert_allclose(probs[1], probs[0], atol=1e-6)
    np.testing.assert_allclose(probs[2], probs[0], atol=1e-5)
    with pytest.raises(ValueError, match="compress"):
        next(infer.stream(model, tokenizer, kinds[2], compress=3.0))


# ---- What the cache holds

@pytest.fixture
def shadow(monkeypatch):
    """The ids that lie in the cache, kept by watching what is read and what is dropped."""
    shadow = SimpleNamespace(ids=[], slots=None, session=None, drops=0)
    note, drop, hear = Slots.note, KVCache.drop, infer.Session.hear

    def watched_note(self, pieces):
        shadow.slots = self
        shadow.ids += (ids := note(self, pieces))
        return ids

    def watched_hear(self, *args):
        shadow.session = self
        return hear(self, *args)

    def watched_drop(self, start, end):
        for a, b in zip(start[::-1], end[::-1]):         # from the right: others stay in place
            del shadow.ids[a:b]
        shadow.drops += 1
        drop(self, start, end)
    monkeypatch.setattr(Slots, "note", watched_note)
    monkeypatch.setattr(infer.Session, "hear", watched_hear)
    monkeypatch.setattr(KVCache, "drop", watched_drop)
    return shadow


POLICIES = [dict(), dict(window=8), dict(window=1), dict(window=20, prune=3),
            dict(window=8, prune=1, compress=3.0), dict(window=30, compress=3.0),
            dict(window=20, prune=5, fps=2), dict(window=40, capacity=520, prune=9, compress=3.0),
           dict(window=40, prune=17)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_cache_is_a_rendered_dialogue_under_every_policy(
        tokenizer, monkeypatch, shadow, policy):
    """System part, data.pinned_part of each question that left, the turns that stay, in training's
    words; and with one layer, where keys and values know nothing of what has left, the
    probabilities are those of a fresh forward on just that."""
    model = build(tokenizer, layers=1, scripted=True)
    pattern = [0, 1, 2, 0, 0, 1, 0]
    asked = {0: "What moves?", 13: "Describe it.", 30: "What is it?"}
    scripted_states(monkeypatch, pattern)
    fps, window = policy.get("fps", 1), policy.get("window", model.config.window)
    frames = [(s, image // 64 * 64 if int(s) % 3 else image * 0 + 9)       # some hardly differ
              for s, image in pictures(45, fps)]
    sides, compressor = [], Compressor(2, 1, 3.0)
    for _, image in frames:
        sides.append(compressor(image) if "compress" in policy else 2)
    turns, used = [], 0
    for k, turn in enumerate(infer.stream(model, tokenizer, frames, list(asked.items())[::-1],
                                          max_new_tokens=len(model.words), **policy)):
        state = pattern[k % len(pattern)]
        turns.append(data.Turn(k, STATES[state], SAY if state == 2 else "", asked.get(k)))
        kept = sorted(shadow.slots.turns())
        assert kept == list(range(kept[0], k + 1)) and k - kept[0] < window
        if "capacity" not in policy:
            assert len(kept) >= min(k + 1, window - window // 8)
        pinned = [q for second, q in asked.items() if second < kept[0]]
        prune = policy.get("prune", 10**9)
        silent = [s for s in kept if pattern[s % len(pattern)] == 0]
        framed = sorted(shadow.slots.turns((infer.FRAME,)))     # of turns that may be pruned
        bare = silent[:len(silent) - len(framed)]
        assert framed == silent[len(bare):] and all(k - s < prune for s in framed)
        assert all(k - s >= prune - prune // 8 for s in bare)
        grids = [sides[s * fps:(s + 1) * fps] if s not in bare else [] for s in kept]
        ids, labels = data.render(tokenizer, turns[kept[0]:],
                                  [[side * side for side in turn] for turn in grids], pinned)
        assert shadow.ids + shadow.session.pending == ids
        assert len(shadow.ids) == turn.kv[0] == shadow.slots.cache.length <= turn.kv[1]
        used = max(used, turn.kv[0])
        shown = [frames[s * fps + j][1] for s in kept if s not in bare for j in range(fps)]
        with torch.no_grad():
            last = max(i for i, label in enumerate(labels) if label in tokenizer.state_ids)
            expected = trained_probs(model, tokenizer, ids, shown, sum(grids, []), [last - 1])[0]
        np.testing.assert_allclose(turn.probs, expected, atol=2e-5)
    assert k == 44 and shadow.drops > 0
    assert turn.kv[1] == policy.get("capacity", turn.kv[1]) and used > 0.3 * turn.kv[1]


@pytest.mark.parametrize("capacity", range(260, 330, 18))
def test_long_answers_in_a_small_cache_push_the_oldest_turns_out(tokenizer, shadow, capacity):
    """Room is made before a turn for the longest answer: the cache itself refuses one slot more."""
    model, counts = build(tokenizer, layers=1, window=60), Counter()
    turns = list(infer.stream(model, tokenizer, pictures(20), [(0, "Why?")], threshold=0.0,
                              max_new_tokens=20, capacity=capacity, counts=counts))
    assert len(turns) == 20 and max(turn.kv[0] for turn in turns) <= capacity
    assert counts["turns dropped"] >= 8
    start = data.system_part(tokenizer) + data.pinned_part(tokenizer, "Why?")
    assert shadow.ids[:len(start)] == start


def test_a_window_of_0_keeps_all_and_then_says_that_the_cache_is_full(tokenizer):
    model = build(tokenizer, positions=400)
    turns = []
    with pytest.raises(ValueError, match=r"second \d+: the cache is full.*--window"):
        for turn in infer.stream(model, tokenizer, pictures(100), window=0, threshold=1.0):
            turns.append(turn)
    assert len(turns) > 5 and turns[-1].kv[0] > 300
    with pytest.raises(ValueError, match="capacity 500: the decoder has 400 positions"):
        next(infer.stream(model, tokenizer, pictures(1), capacity=500))


def test_a_stream_of_any_length_needs_the_same_slots_and_work(tokenizer, shadow):
    """A short soak: the last minute of ten is as large, and moves as little, as the third."""
    model, image = build(tokenizer, layers=1), pictures(1)[0][1]
    frames = ((s, image) for s in range(1000, 1600))      # numbers of four digits throughout
    used = [turn.kv[0] for turn in infer.stream(
        model, tokenizer, frames, [(0, "What moves?")], max_new_tokens=2, threshold=1.0)]
    assert len(used) == 600 and 100 < shadow.drops < 300        # not one in each second
    assert max(used[120:180]) == max(used[-60:])


def test_questions_come_at_any_second_also_from_elsewhere(tokenizer):
    model, questions, counts = build(tokenizer), [(2, "What moves?")], Counter()
    seen = {}
    for turn in infer.stream(model, tokenizer, pictures(40), questions, counts=counts):
        seen[turn.start] = turn.question
        if turn.start == 4:
            questions += [(0, "Describe it."), (6.5, "Later?")]
        if turn.start == 10:
            questions += [(0, "Why " * 900)]
    asked = {second: question for second, question in seen.items() if question}
    assert asked == {2: "What moves?", 5: "Describe it.", 7: "Later?"}
    assert counts["questions refused, for they were too long"] == 1


# ---- The command line

@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A checkpoint and a video of 5 s."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(50):
            picture = np.full((48, 64, 3), 5 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return folder


def run(folder, *arguments):
    return infer.main([*map(str, arguments), "--model", str(folder), "--device", "cpu"])


def test_command_line_prints_answers_and_writes_a_line_a_second(folder, capsys, tmp_path):
    code = run(folder, folder / "clip.mp4", "--ask", "What moves?", "--ask", "0:02:Describe it.",
               "--threshold", "0", "--max-new-tokens", "3", "--jsonl", tmp_path / "o.jsonl",
               "--srt", tmp_path / "o.srt", "--vtt", tmp_path / "o.vtt")
    out, err = capsys.readouterr()
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert [line[:13] for line in lines[:5]] == [f"[00:0{s}-00:0{s + 1}]" for s in range(5)]
    assert lines[5].startswith("5 s of video, 5 answers, ") and "x real time" in lines[5]
    rows = [json.loads(line) for line in open(tmp_path / "o.jsonl", encoding="utf-8")]
    assert [set(row) - {"cut"} for row in rows] == [
        {"start", "end", "state", "probs", "text", "question", "ms"}] * 5
    assert [row["question"] for row in rows] == ["What moves?", None, "Describe it.", None, None]
    cut = [" ..." * (row.get("cut") == "length") for row in rows]       # and says so
    assert any(cut) and {row["state"] for row in rows} == {"response"}
    assert [row["text"] + dots for row, dots in zip(rows, cut)] == [line[14:] for line in lines[:5]]
    assert (tmp_path / "o.srt").stat().st_size and (tmp_path / "o.vtt").stat().st_size


def test_the_default_question_asks_for_every_event(folder, capsys, tmp_path):
    assert run(folder, folder / "clip.mp4", "--quiet", "--threshold", "1",
               "--jsonl", tmp_path / "o.jsonl") == 0
    assert capsys.readouterr() == ("", "")
    first = json.loads(open(tmp_path / "o.jsonl").readline())
    assert first["question"] == "Describe every event."


def test_raw_frames_on_standard_input(folder, capsys, monkeypatch):
    raw = b"".join(image.tobytes() for _, image in pictures(3, 2))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO(raw), isatty=lambda: False))
    assert run(folder, "-", "--size", "32x32", "--fps", "2", "--threshold", "1") == 0
    assert capsys.readouterr().out.startswith("3 s of video, 0 answers")
    sys.stdin.buffer = BytesIO(raw[:-7])
    assert run(folder, "-", "--size", "32x32", "--fps", "2") == 2
    assert "frame 5" in capsys.readouterr().err


@pytest.mark.parametrize("text, expected", [
    ("What moves?", (0, "What moves?")), ("12:What moves?", (12, "What moves?")),
    ("1:05: Why?", (65, "Why?")), ("1:00:05:Why?", (3605, "Why?")),
    ("Note: why?", (0, "Note: why?"))])
def test_ask(text, expected):
    assert arguments.ask(text) == expected


def spoil(folder, tmp_path, change):
    from safetensors.torch import load_file, save_file
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def test_a_model_that_knows_little_says_so_once(folder, tmp_path, capsys):
    """By its own config: one line on stderr, none of another model, none with --quiet."""
    little = spoil(folder, tmp_path, lambda tensors: None)
    config = json.loads((little / "config.json").read_text())
    assert config["knows"] == ""
    (little / "config.json").write_text(json.dumps(config | {"knows": "two films"}))
    assert run(little, folder / "clip.mp4") == 0
    assert capsys.readouterr().err == f"infer.py: {little}: this model knows two films only\n"
    assert run(little, folder / "clip.mp4", "--quiet") == 0 == run(folder, folder / "clip.mp4")
    assert capsys.readouterr().err == ""


NORM = "language_model.model.norm.weight"
BAD = {
    "missing.mp4: no such file": ["missing.mp4"],
    "file://: no such file": ["file://"],
    "empty.mp4: ": ["{tmp}/empty.mp4"],
    "text.mp4: ": ["{tmp}/text.mp4"],
    "cut.mp4: ": ["{tmp}/cut.mp4"],
    "{tmp}: no picture": ["{tmp}"],
    "'12:' is not": ["{clip}", "--ask", "12:"],
    "':What?' is not": ["{clip}", "--ask", ":What?"],
    "'-3'": ["{clip}", "--ask=-3:What?"],
    "--ask 'Too late?'": ["{clip}", "--ask", "7:Too late?"],
    "--ask: expected one argument": ["{clip}", "--ask"],
    "asks.txt": ["{clip}", "--ask-file", "{tmp}/asks.txt"],
    "--fps 0": ["{clip}", "--fps", "0"],
    "--threshold nan": ["{clip}", "--threshold", "nan"],
    "--window -1": ["{clip}", "--window", "-1"],
    "--prune 0": ["{clip}", "--prune", "0"],
    "--dtype": ["{clip}", "--dtype", "int8"],
    "--colour": ["{clip}", "--colour", "red"],
    "no such folder": ["{clip}", "--jsonl", "{tmp}/none/o.jsonl"],
    "--render": ["{clip}", "--render", "{tmp}/o.doc"],
    "--size WIDTHxHEIGHT": ["-"],
    "--size 99999x99999": ["-", "--size", "99999x99999"],
    "--size 8x8: of raw frames": ["{clip}", "--size", "8x8"],
    "slots): less --fps, or": ["{clip}", "--fps", "1000"],
    "o.jpg: a .png": ["{clip}", "--timeline", "{tmp}/o.jpg"],
    "{clip}: each source once": ["{tmp}/text.mp4", "{clip}", "{clip}"],
    "text.mp4: each source once": ["{tmp}/text.mp4", "{tmp}/../{tmp.name}/text.mp4"],
    "asks-2.txt: line 2: '5:' is not": ["{clip}", "--ask-file", "{tmp}/asks-2.txt"],
    "video9": ["camera:97"],
    "--reconnect 5: no source is live": ["{clip}", "--reconnect", "5"],
    "--every 2: how often an offline model": ["{clip}", "--every", "2"],
    "--every 0": ["{clip}", "--every", "0"],
    "--no-sound: of --render": ["{clip}", "--no-sound"],
    "--threshold 5.0: a number, from 0 to 1": ["{clip}", "--threshold", "5"],
    "--fps 1000000000: a whole number, from 1 to 1000": ["{clip}", "--fps", "1000000000"],
    "--jsonl: a name is wanted": ["{clip}", "--jsonl", ""],
    "--ask-file: a name is wanted": ["{clip}", "--ask-file", ""],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_and_code_2(folder, tmp_path, capsys, message):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "asks-2.txt").write_text("What?\n5:\n")
    (tmp_path / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:900])
    names = {"tmp": tmp_path, "clip": folder / "clip.mp4"}
    assert run(folder, *(word.format(**names) for word in BAD[message])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message.format(**names) in err, err


def test_a_source_that_fails_costs_the_others_none_of_their_files(folder, tmp_path, monkeypatch):
    """And a folder may be named by its address."""
    (tmp_path / "images").mkdir()
    for k in range(3):
        Image.new("RGB", (32, 32), (80 * k,) * 3).save(tmp_path / "images" / f"{k}.png")
    real = video.frames

    def failing(source, *args, **more):
        for n, entry in enumerate(real(source, *args, **more)):
            if n == 2 and str(source).endswith("clip.mp4"):
                raise ValueError("clip.mp4: cut short")
            yield entry
    monkeypatch.setattr(video, "frames", failing)
    assert run(folder, f"file://{tmp_path}/images", folder / "clip.mp4", "--threshold", "0",
               "--max-new-tokens", "2", "--srt", tmp_path / "o.srt", "--render",
               tmp_path / "o.mp4") == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "images", "o.images.srt", "o.images.mp4", "o.clip.srt"}


def test_what_cannot_be_read_twice_is_not_rendered(folder, tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(sources, "open_source", lambda *_: (iter(()), None, False))
    assert run(folder, tmp_path / "pipe", "--render", tmp_path / "o.mp4") == 2
    assert "pipe cannot be read twice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1"])
def test_what_goes_to_standard_output_loses_nothing(folder, tmp_path, name):
    """Also where it is a file, which had something in it."""
    with open(tmp_path / "out", "w") as out:
        out.write("before\n")
        out.flush()
        subprocess.run([sys.executable, ROOT / "infer.py", folder / "clip.mp4", "--model", folder,
                        "--threshold", "0", "--max-new-tokens", "2", "--jsonl", name,
                        "--device", "cpu"], stdin=subprocess.DEVNULL,
                       stdout=out, stderr=subprocess.DEVNULL, check=True)
    lines = (tmp_path / "out").read_text().splitlines()
    seconds = [json.loads(line)["start"] for line in lines if line.startswith("{")]
    told = [line for line in lines if line.startswith("[")]
    assert lines[0] == "before" and seconds == [*range(len(seconds))] and len(told) == len(seconds)
    assert "s of video" in lines[-1]


def test_a_line_for_later_than_the_end_is_told(folder):
    words = [ROOT / "infer.py", folder / "clip.mp4", "--model", folder, "--device", "cpu"]
    done = subprocess.run([sys.executable, *words], input="99:late?\n", capture_output=True,
                          text=True)
    assert done.returncode == 0 and "'late?': never asked" in done.stderr, done.stderr


def test_what_stands_on_standard_input_holds_no_questions(folder):
    """By whatever name: a film there was taken for lines."""
    film = folder / "clip.mp4"
    with open(film, "rb") as file:
        asked = subprocess.run(
            [sys.executable, "-c", "import sys; from parts.sources import is_stdin; "
             "print([is_stdin(name) for name in sys.argv[1:]])",
             "-", "/dev/stdin", film, "gone", "live:/dev/stdin"],
            stdin=file, capture_output=True, text=True, cwd=ROOT)
    assert asked.stdout == "[True, True, True, False, True]\n", asked.stderr


def test_a_question_that_no_cache_holds_is_bad_input(folder, capsys):
    long = "word " * 5000
    assert run(folder, folder / "clip.mp4", "--ask", long, "--quiet") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--ask 'word word" in said and "refused, too long" in said and len(said) < 300
    assert run(folder, folder / "clip.mp4", "--ask", long, "--ask", "What?", "--quiet") == 2


@pytest.mark.parametrize("change", [
    lambda t: t.pop(NORM), lambda t: t.update({NORM: t[NORM][:5].clone()})],
    ids=["missing", "shape"])
def test_a_broken_checkpoint_names_the_tensor(folder, tmp_path, capsys, change):
    assert run(spoil(folder, tmp_path, change), folder / "clip.mp4") == 2
    err = capsys.readouterr().err
    assert NORM in err and err.count("\n") == 1
    assert run(tmp_path / "nothing", folder / "clip.mp4") == 2
    assert "nothing" in capsys.readouterr().err
