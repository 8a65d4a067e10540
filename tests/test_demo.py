"""The shipped checkpoint on the shipped film: what README shows is what it says."""
import re
from pathlib import Path

import pytest
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


@pytest.mark.long
def test_the_start_of_the_comparisons_has_had_its_lessons():
    """It names most things of the demo film right, second after second; it has much to learn."""
    folder = ROOT / "assets" / "lessons"
    model = Streamo.from_pretrained(folder, torch.float32)
    turns = stream(model, Tokenizer.from_pretrained(folder),
                   video.frames(ROOT / "assets" / "demo.mp4"),
                   [(0, "Name all the shapes, every second.")])
    first = ["blue star", "red cross", "green triangle", "yellow star"]     # until one turns red
    said = [turn.text for turn in list(turns)[4:7]]
    named = [name in text for text in said for name in first]
    assert len(named) == 12 and sum(named) >= 9, said
