"""The checkpoints of a run, its log, and the options that it goes on with.

A checkpoint is a folder OUT/step-000500: a model to stream from (config.json, model.safetensors in
float32, tokenizer.json, run.json) and optimizer.safetensors. It is written under another name and
renamed: a folder of that name is always whole.
"""
import json
import os
import re
import shutil
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path

import torch.distributed as dist

from parts.devices import all_gather, own_rank
from parts.engine import (
    flat,
    load_moments,
    moments,
    read_state,
    whole_moments,
    whole_weights,
    write_state,
)
from parts.files import MISSHAPEN, check, read_json, same_file, sync, write_json
from parts.runs import about_run, digests, write_model

NAME = re.compile(r"step-\d{6,}")
MOMENTS = "optimizer.safetensors"
# what a run writes, beside its checkpoints
OWN_FILES = ("run.json", "log.jsonl", "bad.txt", "model/run.json", "model/config.json",
             "model/tokenizer.json")


def checkpoints(out):
    """The whole checkpoints of a run, oldest first. Other folders, as "step-best", are none."""
    found = [path for path in Path(out).glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def last_checkpoint(out):
    """What a run goes on from; None where it was stopped before its first."""
    return next(reversed(checkpoints(out)), None)


def save_checkpoint(o, step, model, optimizer, tokenizer, about):
    """Write OUT/step-N, on rank 0 from what all ranks hold; then the oldest beyond --keep go."""
    weights, state = whole_weights(model), flat(whole_moments(model, optimizer))
    if own_rank()[0] == 0:
        final = Path(o.out) / f"step-{step:06d}"
        partial = final.with_name(final.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)          # of a run that was killed
        try:
            write_model(partial, model, tokenizer, {**about, "step": step}, weights)
            write_state(partial / MOMENTS, state, step)
            for path in [*partial.iterdir(), partial]:
                sync(path)
            os.rename(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync(final.parent)
        for old in checkpoints(o.out)[:-o.keep]:
            shutil.rmtree(old)
    if dist.is_initialized():
        dist.barrier()                                      # nobody goes on before it is there


def load_checkpoint(folder, model, optimizer):
    """Set the optimizer's state to a checkpoint's, of shards or not. Returns the steps done."""
    tensors, step = read_state(folder / MOMENTS, flat(moments(model, optimizer)))
    check(step == int(folder.name[5:]), f"{folder / MOMENTS}: of step {step}, not of its folder's")
    load_moments(tensors, model, optimizer)
    return step


# ---- The options of a run that goes on

def run_options(cls, given, may_change):
    """The options of the run in given["out"], as its run.json has them, with those of `given` that
    cannot change what has been done. ValueError names any other that is not as it was."""
    path = Path(given["out"]) / "run.json"
    check(path.exists(), f"--resume: there is no run in {given['out']}")
    known, about = {f.name: f.type for f in fields(cls)}, read_json(path)
    try:
        check(isinstance(about.get("data", {}), dict), "data is no object")
        was = {name: tuple(value) if known[name] is tuple else value
               for name, value in about["config"].items()}
        found = cls(**was)
        for f in fields(cls):
            value, choices = getattr(found, f.name), f.metadata.get("choices")
            good = type(value) is f.type or f.type is float and type(value) is int
            good &= not choices or value in choices
            if f.type is tuple:
                good &= all(isinstance(file, str) for file in value)
            check(good or type(value) is type(f.default) and value == f.default,
                  f"{f.name} is {value!r}")
    except MISSHAPEN as error:
        raise ValueError(f"{path}: not the options of a run of this version ({error})") from error
    for name, value in given.items():
        value = tuple(value) if known[name] is tuple else value
        flag = f"--{name.replace('_', '-')}"
        before = getattr(found, name)                       # also of what the run did not know yet
        check(name in may_change or value == before, f"--resume: {flag} was {before!r}, and "
              f"the run goes on with it; only {', '.join(sorted(may_change))} may be given anew")
    return cls(**{**was, **given})


def check_unchanged(o, files, world):
    """Refuse, by name, to go on with other data or, on the toy world, with other ranks: there a
    step is a micro-batch for each."""
    about = read_json(Path(o.out) / "run.json")
    for file, digest in digests(files).items():
        check(about.get("data", {}).get(file) == digest, f"--resume: {file} has changed since the "
              "run began: begin another --out with it")
    check(o.data or o.batch or about.get("processes") == world,
          f"--resume: the run has {about.get('processes')} processes, not {world}: begin it "
          "with as many")


def enter(o, files):
    """(last checkpoint or None, what run.json records) of a run in --out that begins or goes on.
    Refuses what would spoil one that is there, and ranks that see different folders."""
    (rank, world), path = own_rank(), Path(o.out) / "run.json"
    for flag in ("model", "vision", "decoder"):
        read = getattr(o, flag)
        check(not read or Path(read).resolve() != Path(o.out).resolve(),
              f"--out {o.out}: would write over --{flag}, name another folder")
    for file, name in product(files, OWN_FILES):
        check(not same_file(Path(o.out, name).resolve(), Path(file).resolve()),
              f"--out {o.out}: the run would write over --data {file}, name another folder")
    check(o.resume or not checkpoints(o.out),
          f"{o.out} holds the checkpoints of a run: --resume it, or name another --out")
    for folder in (Path(o.out), Path(o.out) / "model"):
        check(checkpoints(o.out) or not (folder / "model.safetensors").exists(),
              f"{folder} holds a trained model: name another --out")
    if o.resume:
        check_unchanged(o, files, world)
    about = about_run(o, files)
    if rank == 0 and not o.resume:
        write_json(path, about)                             # what --resume goes on with
    all_gather(None)
    seen = f"{last_checkpoint(o.out)} {path.read_text() if path.exists() else ''}"
    check(len(set(all_gather(seen))) == 1, f"--out {o.out}: not one folder that all machines share")
    return (last_checkpoint(o.out) if o.resume else None), about


# ---- log.jsonl

def open_log(out, first):
    """log.jsonl without the lines of steps that a resumed run does again, and without broken ones:
    a torn last line is what kill -9 leaves, of others a line tells."""
    path, kept, broken = Path(out) / "log.jsonl", [], []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            keep = line.endswith("\n") and json.loads(line)["step"] <= first
        except MISSHAPEN:
            keep, broken = False, [*broken, number]
        kept += [line] * keep
    if broken and broken != [len(lines)]:
        print(f"train.py: {path}: line {broken[0]} is broken and left out", file=sys.stderr)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
    return open(path, "a", encoding="utf-8")
