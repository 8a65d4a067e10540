"""What projects C and D are measured by; A and B have commands already (README.md)."""
import json
import random
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from course.assignments import ROOT
from parts.config import whole_config
from parts.files import check, check_folder, read_json, write_json
from streamo import Streamo, Tokenizer
from toy.__main__ import write_film
from toy.dialogues import TASKS
from toy.telling import Dialogue
from toy.world import Clip

TINY, OWN = ROOT / "assets/tiny", "multi_modal_projector."
SHOWN = ("average", "response_f1", "response_precision", "response_recall", "text_exact",
         "state_f1", "stream_seconds_per_compute_second")


def run(*words):
    """One of our programs, in a process of its own; ValueError where it fails."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT)
    check(done.returncode == 0, f"{' '.join(map(str, words))}: ended with {done.returncode}")


def shown(path, what):
    scores = json.loads(Path(path).read_text(encoding="utf-8"))
    print(what, *(f"  {name:34}{scores[name]:8.2f}" for name in SHOWN if name in scores), sep="\n")


def own_folder(out, project):
    """Make the folder of a project's measurement. ValueError where it is there and not one."""
    mark = out / "project.json"
    strange = out.exists() and (not out.is_dir() or any(out.iterdir()))
    check(not strange or mark.exists() and read_json(mark) == {"project": project},
          f"--out {out}: there is something else, name another folder")
    check(not any(out.glob("scores.*")) and not (out / "run").exists(),
          f"--out {out}: there is a measurement in it, name another folder for the next one")
    check_folder("--out", out)
    write_json(mark, {"project": project})


def connector(out, steps, videos):
    """Train streamo.Connector anew between the shipped model's frozen encoder and decoder, then
    stream unseen films with it. Another connector has config.tokens(grid) tokens of its own."""
    own_folder(out, "connector")
    torch.manual_seed(0)
    config, _ = whole_config(TINY)
    model, weights = Streamo(config), load_file(TINY / "model.safetensors")
    rest = {name: weight for name, weight in weights.items() if not name.startswith(OWN)}
    fresh = model.load_state_dict(rest, strict=False)
    check(not fresh.unexpected_keys and all(name.startswith(OWN) for name in fresh.missing_keys),
          "encoder and decoder are not the shipped model's")
    model.save_pretrained(out / "start")
    Tokenizer.from_pretrained(TINY).save_pretrained(out / "start")
    run("train.py", "--model", out / "start", "--train", "connector", "--steps", steps,
        "--out", out / "run", "--save-every", steps)
    run("eval.py", "toy", "--model", out / "run/model", "--videos", videos, "--out",
        out / "scores.json")
    size = sum(p.numel() for p in model.multi_modal_projector.parameters())
    shown(out / "scores.json", f"{steps} steps, {size:,} weights, {config.tokens(config.grid)} "
          "tokens a frame")


def task(name, model, out, films):
    """Ask a task of the toy world (an entry of toy/dialogues.py) of a model, on unseen films."""
    check(name in TASKS, f"no task is called {name!r}; there are {', '.join(TASKS)}")
    own_folder(out, "task")
    records, number = [], 0
    while len(records) < films:
        check(number < 20 * films, f"{name}: nearly no film has matter for it")
        rng = random.Random(f"course/{number}")
        clip, number = Clip(rng, rng.randint(16, 30)), number + 1
        dialogue = Dialogue(clip, rng)
        TASKS[name](dialogue)
        if dialogue.questions:
            records.append(dialogue.record(number))
            write_film(out / records[-1]["video_name"], clip, 128, 5)
    write_json(out / "raw.json", records)
    run("eval.py", "toy", "--model", model, "--data", out / "raw.json", "--videos-folder", out,
        "--out", out / "scores.json")
    shown(out / "scores.json", f"{name}, {films} films, {model}")
