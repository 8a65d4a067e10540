"""What a program that trains leaves behind, and how it stops."""
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from parts.devices import gathered, in_bfloat16, own_rank
from parts.files import sync


def write_model(folder, model, tokenizer, about):
    """A folder to stream from or to start from: weights, tokenizer, and how they were made."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps(about, indent=1))


def write_state(path, state):
    """torch.save under another name, synced, then renamed. OSError for a full disk, too."""
    partial_ = path.with_suffix(".partial")
    try:
        torch.save(state, partial_)
    except RuntimeError as error:                           # what it makes of a full disk
        raise OSError(f"{partial_}: {error}") from error
    sync(partial_)
    os.replace(partial_, path)


def about_run(o):
    """What run.json records: enough to repeat the run."""
    def git(words):                                         # nothing, where there is no git
        return subprocess.run(f"git {words}", shell=True, cwd=Path(__file__).parent,
                              capture_output=True, text=True).stdout.strip()
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else \
        f"{os.cpu_count()} CPU cores"
    return {"config": asdict(o), "command": " ".join(sys.argv), "commit": git("rev-parse HEAD"),
            "changed_files": git("status --porcelain").splitlines(), "seed": o.seed,
            "python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__,
            "hardware": hardware, "threads": torch.get_num_threads(), "processes": own_rank()[1],
            "bfloat16": in_bfloat16(o, torch.cuda.is_available()),
            "data": {f: hashlib.sha256(Path(f).read_bytes()).hexdigest()
                     for f in weighted(o.data)[0]}}


def weighted(names):
    """(files, weights) of "FILE" and "FILE:WEIGHT"."""
    parts = [re.fullmatch(r"(.*?)(?::([0-9.]+))?", name).groups() for name in names]
    return [file for file, _ in parts], [float(weight or 1) for _, weight in parts]


def memory():
    """Peak memory in MiB, of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # KiB; on macOS bytes
    return peak >> (20 if sys.platform == "darwin" else 10)


class Stopped(Exception):
    """A lesson was asked to stop, and is saved."""


def asked_to_stop():
    """From now on SIGTERM and Ctrl-C end a run after its step. Returns the function that tells,
    on all ranks alike, whether one of them got such a signal."""
    got = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: got.append(True))
    return lambda: any(gathered(bool(got)))
