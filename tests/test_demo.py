"""The shipped checkpoint on the shipped film: what README shows is what it says."""
import json
import re
from pathlib import Path

import torch

from infer import stream
from parts import video
from streamo import Streamo, Tokenizer

ROOT = Path(__file__).parent.parent


def test_the_demo_says_what_readme_shows():
    folder = ROOT / "assets" / "tiny"
    model = Streamo.from_pretrained(folder, torch.float32)
    turns = stream(model, Tokenizer.from_pretrained(folder),
                   video.frames(ROOT / "assets" / "demo.mp4"), [(0, "Describe every event.")])
    said = [f"[00:{turn.start:02}-00:{turn.end:02}] {turn.text}" for turn in turns
            if turn.state == "response"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = readme.split("## What it prints")[1].split("\n## ")[0]
    assert said == re.findall(r"^ *(\[\d\d:\d\d-\d\d:\d\d\] .*)$", readme, re.MULTILINE)


def test_the_checkpoint_is_small():
    assert sum(path.stat().st_size for path in (ROOT / "assets" / "tiny").iterdir()) < 12e6


def test_the_start_of_the_comparisons_is_a_model_after_its_lessons():
    """It sees as the demo model does, and its words are the same kind: python -m toy.pretrain."""
    about = json.loads((ROOT / "assets/lessons/run.json").read_text(encoding="utf-8"))
    assert about["config"]["watch_steps"] == 5000 and about["config"]["model"] == ""
    model = Streamo.from_pretrained(ROOT / "assets/lessons", torch.float32)
    tokenizer = Tokenizer.from_pretrained(ROOT / "assets/lessons")
    assert model.config.decoder.vocab_size >= len(tokenizer) and model.config.threshold is None
    question = [(0, "Name all the shapes, every second.")]
    turns = stream(model, tokenizer, video.frames(ROOT / "assets" / "demo.mp4"), question)
    (said,) = {turn.text for turn in list(turns)[8:9]}
    names = "blue star", "red cross", "red triangle", "yellow star"
    assert sum(name in said for name in names) >= 3, said          # of four; it has much to learn
