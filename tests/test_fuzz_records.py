"""Annotation files, broken by dice: check, show, convert and the data set end well, or in one line.

FUZZ_RECORDS=5000 runs as many; a failure prints its seed: FUZZ_SEED=that FUZZ_RECORDS=1."""

import contextlib
import copy
import io
import json
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_data import CONFIG, film, record, tokenizer  # noqa: F401

import data
import records
from parts.annotations import faults
from parts.converters import SOURCES

ROUNDS, SEED = (int(os.environ.get(key, default)) for key, default in (
    ("FUZZ_RECORDS", 300), ("FUZZ_SEED", 0)))
ODD = [
    None, True, 0, -1, 7, 1e-9, 1e9, 9_999_999, 10**400, float("nan"), float("inf"), "", " ", "x",
    "nan", "-5", "1:-30", "1:2:3:4", "99:99", "5,6,7", "\ud83d", "\0", "/etc/passwd", "../../a.mp4",
    "http://a/b.mp4", "concat:a|b", "img%03d.png", "a" * 5000, "</Response>", "<|im_end|>", "<vid>",
    "</delegation>", "<0.0 seconds>\n<image>", [], {}, [[]], [None], {"content": 7}, [1, 2],
    [[3, 1]],
]


def conversation(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


SPANS = {"duration": 9.5, "timestamps": [[1, 3.5], [2, 8]], "sentences": ["a", "b"]}
ITEMS = {
    "activitynet": {"v_a": SPANS}, "youcook2": {"v_a": SPANS},
    "hacs": {"a": {"duration": "9.5", "annotations": [{"label": "Run", "segment": [1, 5]}]}},
    "coin": {"a": {"duration": 9, "class": "RunFar", "annotation": [
        {"segment": [1, 3], "label": "a"}, {"segment": [4, 6], "label": "b"}]}},
    "qvhighlights": [{"vid": "a", "duration": 9, "query": "q", "relevant_windows": [[1, 4]]}],
    "egotimeqa": [{"video_id": "a", "question": "q?", "answer": "a", "moment_start_frame": 30,
                   "moment_end_frame": 90, "end_sec": 4.0}],
    "didemo": [{"video": "a.mov", "description": "d", "times": [[0, 1]], "num_segments": 6}],
    "llava-video": [{"video": "a.mp4", "conversations": conversation("<image>\nq?", "a")}],
    "koala": [{"videoID": "a", "timestamp": "['0:00:01', '0:00:04.5']", "caption": "c"}],
    "et-instruct": [{"task": "tvg", "video": "a.mp4", "duration": 9, "src": [1], "tgt": [1, 3],
                     "conversations": conversation("<image>\nq <vid>?", "<vid> - <vid> s, a.")},
                    {"task": "dvc", "video": "a.mp4", "duration": 9, "tgt": [1, 3, 4, 6],
                     "conversations": conversation("q?", "1.0 - 3.0 s, a. 4 - 6, b.")}],
    "joyai": [{"video_name": "a.mp4", "video_path": "/d/a.mp4", "task_type": "chat", "source": "s",
               "question": [{"content": "q", "time": "1"}],
               "response": [{"content": "a", "time": "3,4"}]}],
}


def places(value, at=()):
    """The paths to all values inside a JSON value, itself not."""
    pairs = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ())
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


def broken(value, rng):
    """A copy of a JSON value in which one to three things are odd, gone or twice there."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        if not (found := list(places(value))):
            break
        *way, key = rng.choice(found)
        inner = value
        for step in way:
            inner = inner[step]
        how = rng.random()
        if how < 0.2:
            del inner[key]
        elif how < 0.3 and isinstance(inner, list):
            inner.append(inner[key])
        else:
            inner[key] = copy.deepcopy(rng.choice(ODD))
    return value


def text_of(value, rng):
    """JSON as a file has it, sometimes cut or with a byte changed."""
    text = json.dumps(value).encode()
    if rng.random() < 0.1:
        text = text[:rng.randrange(len(text))]
    if rng.random() < 0.1 and text:
        k = rng.randrange(len(text))
        text = text[:k] + bytes([rng.randrange(256)]) + text[k + 1:]
    return text


def ends_well(run):
    """Whether it ends with 0 or 2; else by an error of one line, as the command line prints it."""
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), \
            contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())):
        try:
            return run() in (0, 2)
        except (OSError, ValueError) as error:
            line = " ".join(str(error).split())
            line.encode(errors="backslashreplace")
            return bool(line)


@pytest.fixture
def folder(tmp_path):
    film(tmp_path / "a.mp4", [0, 1, 2, 3, 4, 5])
    (tmp_path / "images").mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8, 3), 60 * k, np.uint8)).save(tmp_path / "images" / f"{k}.png")
    return tmp_path


def test_broken_annotation_files(folder, tokenizer, monkeypatch):  # noqa: F811
    sound = record([("Q?", "1")], [("A", 2, 3), ("B", "5")])
    stream = data.stream_record(sound, data.turns_from_record(sound, 6))
    images = {**sound, "video_path": "images", "fps": 2, "duration": 2}
    file, old = folder / "a.json", folder / "out.jsonl"
    monkeypatch.setattr(records.Tokenizer, "from_pretrained", lambda _: tokenizer)
    monkeypatch.setattr(records.StreamoConfig, "from_dict",
                        lambda _: SimpleNamespace(**vars(CONFIG)))
    commands = [["check"], ["check"], ["show"], ["convert", "stream"]]
    for seed in range(SEED, SEED + ROUNDS):
        rng = random.Random(seed)
        source = rng.choice([*SOURCES, "joyai"])
        if rng.random() < 0.5:                      # records in ours, or items of a source
            command, whole = rng.choice(commands), [rng.choice([sound, stream, images])]
        else:
            command, whole = ["convert", source], ITEMS[source]
        file.write_bytes(text_of(broken(whole, rng), rng))
        before = file.read_bytes()                  # no source is converted by its videos
        videos = ["--videos", str(folder)] if command != ["convert", source] else []
        old.write_text("old")
        out = ["--out", str(old)] if command[0] == "convert" else []
        args = [*command[:1], *command[1:], str(file), *videos, *out]
        assert ends_well(lambda args=args: records.main(args)), f"FUZZ_SEED={seed}: {args}"
        assert file.read_bytes() == before and not list(folder.glob("*.partial")), seed
        if out and old.read_text() != "old":        # what was written is sound
            made = [json.loads(line) for line in old.read_text().splitlines()]
            assert made and not any(faults(row) for row in made), f"FUZZ_SEED={seed}: {made}"
