"""What a program that trains leaves behind, how it stops, and how it says what went wrong."""
import errno
import fcntl
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from parts import checks
from parts.annotations import stated_seconds
from parts.devices import all_gather, failures, in_bfloat16, own_rank
from parts.files import check, check_folder, counted, in_words, sha256, write_json
from parts.options import SEEDS, check_bounds


def write_model(folder, model, tokenizer, about, weights=None):
    """A folder to stream from or to start from: how it was made, tokenizer, and last of all the
    weights, the model's own or these."""
    write_json(folder / "run.json", about)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, weights)


def digests(files):
    """{file: SHA-256 of its bytes}."""
    return {str(f): sha256(f) for f in files}


def about_run(o, data=()):
    """What run.json records: enough to repeat the run. data: the annotation files."""
    def git(words):                                         # nothing, where there is no git
        return subprocess.run(f"git {words}", shell=True, cwd=Path(__file__).parent,
                              capture_output=True, text=True).stdout.strip()
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else \
        f"{os.cpu_count()} CPU cores"
    return {"config": asdict(o), "command": shlex.join(sys.argv), "commit": git("rev-parse HEAD"),
            "changed_files": git("status --porcelain").splitlines(), "seed": o.seed,
            "python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__,
            "hardware": hardware, "threads": torch.get_num_threads(), "processes": own_rank()[1],
            "bfloat16": in_bfloat16(o, torch.cuda.is_available()), "data": digests(data)}


# the least value of an option, or (least, most)
BOUNDS = {"epochs": (0, 10**6), "steps": (0, 10**9), "batch": (0, 10**6), "see_steps": (0, 10**9),
          "watch_steps": (0, 10**9), "micro_tokens": 1, "own_every": 0, "max_tokens": 1,
          "fps": checks.BOUNDS["fps"], "ce_share": (0, 1), "lr": (0, 10), "warmup": (0, 1),
          "weight_decay": (0, 10), "clip": 0, "muon": (0, 1000), "workers": (0, 1024),
          "vision_chunk": 0, "save_every": 0, "keep": 1, "eval_every": 0, "eval_videos": (1, 10**6),
          "seed": SEEDS}


def check_options(parser, o, given):
    """The parser's error for options of train.py that contradict each other, or are none. given:
    those of the command line alone."""
    said = given.get
    rules = (
        (bool(o.vision) != bool(o.decoder) or o.vision and o.model,
         "start from --model alone, or from --vision and --decoder together"),
        (bool(o.data) != bool(o.videos), "--data and --videos go together"),
        (said("ce_share") and o.loss == "ce",
         "--ce-share: with --loss ce all steps are by cross entropy already"),
        (not o.data and not o.steps, "--steps is needed without --data: the toy world has no end"),
        (o.batch and not o.data and o.tasks != "all",
         "--tasks chooses among what the curriculum gives: it goes without --batch"),
        (o.data and o.tasks != "all",
         "--tasks chooses among the toy world's: it goes without --data"),
        (said("muon") and o.train in ("states", "connector"),           # not by a preset
         f"--train {o.train}: no matrix of the decoder learns, there is nothing to --muon"),
        (o.train == "states" and o.shard,
         "--train states: three rows and a norm learn, there is nothing to --shard"),
        ((o.model or o.vision) and not o.resume and (said("see_steps") or said("watch_steps")),
         "--see-steps, --watch-steps: of the lessons that make a start, where none is given"),
        (said("epochs") and said("steps") and not o.resume,
         "--epochs and --steps: one of them says how long"),
        (said("epochs") and not o.data and not o.resume,
         "--epochs: of --data, the toy world has no end: go by --steps"),
        (said("eval_videos") and not o.eval_every,
         "--eval-videos: of the evaluations of --eval-every, which is not said"),
        (said("vision_chunk") and o.train == "all",
         "--vision-chunk: of a frozen encoder, and --train all lets it learn"),
        (said("micro_tokens") and not o.data and not o.batch,
         "--micro-tokens: of --data or --batch; the toy world's curriculum has its own"),
        (said("own_every") and o.states == 2,
         "--own-every: of a past of Silence and Standby, and with --states 2 it is all Silence"),
        (said("skip_bad") and not o.data, "--skip-bad: of --data; the toy world has no bad sample"),
        (said("checkpoint_layers") and o.train == "states",
         "--train states: no gradient goes through a layer, there is nothing to recompute"))
    for wrong, message in rules:
        if wrong:
            parser.error(message)
    check_bounds(parser, o, BOUNDS)


def weighted(names):
    """(files, weights) of "FILE" and "FILE:WEIGHT"."""
    parts = [re.fullmatch(r"(.*?)(?::(\d+\.?\d*|\.\d+))?", name).groups() for name in names]
    weights = [float(weight or 1) for _, weight in parts]
    for name, weight in zip(names, weights):
        check(0 < weight <= 1000, f"--data {name}: a weight above 0, at most 1000")
    return [file for file, _ in parts], weights


def memory():
    """Peak memory in MiB, of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # KiB; on macOS bytes
    return peak >> (20 if sys.platform == "darwin" else 10)


def duration(seconds):
    """"40 seconds", "12 minutes", "3.5 hours", "2.1 days"."""
    for unit, size, below in (("second", 1, 99.5), ("minute", 60, 99.5 * 60)):
        if seconds < below:
            return counted(round(seconds / size), unit)
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


# ---- What a run says of itself

def ce_begins(o):
    """The number of steps before the last --ce-share of them, which learn by cross entropy."""
    return round((1 - o.ce_share) * o.steps)


def recipe(o, origin, model, dataset, world):
    """Four lines that a run begins with. origin: what it starts from, in words."""
    if o.data:
        records = [record for rows in dataset.files for _, _, record in rows]
        seconds = sum(map(stated_seconds, records))
        of = (f"{', '.join(o.data)}: {counted(len(records), 'record')}, {duration(seconds)} by "
              "their own times")
        passes = f" ({o.steps * o.batch / len(dataset):.3g} times the data)"
    else:
        of, passes = f"the toy world, seed {o.seed}, drawn as it is read", ""
    learns = {name: sum(p.numel() for p in part.parameters() if p.requires_grad)
              for name, part in (("vision encoder", model.vision_tower),
                                 ("connector", model.multi_modal_projector),
                                 ("decoder", model.language_model))}
    sizes = ", ".join(f"{name} ({size:,} weights)" for name, size in learns.items() if size)
    frozen = ", ".join(name for name, size in learns.items() if not size)
    each = counted(o.batch, "sample") if o.batch else f"{world} micro-batch{'es' * (world > 1)}"
    first = ce_begins(o) + 1
    by_ce = f"; from step {first} on by cross entropy" * (o.loss != "ce" and first <= o.steps)
    return (f"start   {origin}\n"
            f"data    {of}\n"
            f"learns  {sizes}{'; frozen: ' * bool(frozen)}{frozen}\n"
            f"recipe  {counted(o.steps, 'step')} of {each}{passes}, rate {o.lr:g}, a checkpoint "
            f"every {counted(o.save_every, 'step')}{by_ce}")


def evaluate(folder, videos, log):
    """Score a checkpoint that streams unseen toy clips, by eval.py in a process of its own, which
    has one rank. A line of the log, or one on stderr where that fails."""
    out, step = folder / "eval.json", int(folder.name[5:])
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run([sys.executable, Path(__file__).parent.with_name("eval.py"), "toy",
                           "--model", folder, "--videos", str(videos), "--seed", "7", "--out", out],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        print(f"train.py: step {step} is not evaluated: {said}", file=sys.stderr)
        return
    scores = json.loads(out.read_text())
    scores = {f"eval_{k}": scores[k] for k in ("state_f1", "response_f1", "average")}
    print(json.dumps({"step": step, **scores}), file=log, flush=True)


# ---- One run in a folder, and how it stops

def locked(path):
    """A file, open and locked, which ends with this process and no child inherits; None: another
    process holds it."""
    while True:
        file = open(path, "a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:                            # some network disks have no locks
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()                                        # its holder has just removed it: again


@contextmanager
def alone_in(folder):
    """Hold the folder of a run, on rank 0, against a second run, which would write over the first
    one's checkpoints; where nothing was written, a new folder goes again."""
    if own_rank()[0]:
        yield
        return
    folder = Path(folder)
    check_folder("--out", folder)
    new, path = not folder.exists(), folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    file = locked(path)
    check(file, f"--out {folder}: another run is at work there; stop it, or name another folder")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        with suppress(OSError):                             # there is something in it
            if new:
                folder.rmdir()


class Stopped(Exception):
    """A run was asked to stop, and is saved. number: of the signal."""

    def __init__(self, number):
        self.number = number


def command(words, world):
    """A command line of ours, of these words, begun as this one was."""
    ranks = ["-m", "parts.torchrun", f"--nproc_per_node={world}"] if world > 1 else []
    return shlex.join(["python", *ranks, *words])


@contextmanager
def asked_to_stop(name, out, again):
    """Within this context Ctrl-C and SIGTERM end a run after its step, and a second one ends it at
    once. Gives the function that tells, on all ranks alike, the signal that one of them got, or 0.

    A thread hears them: the main one may be in a backward of minutes, where no handler of Python's
    would run. name: of the program; out: folder of the run; again: the command that goes on."""
    got, (reader, writer) = [], os.pipe()
    rank, _ = own_rank()

    def tell(words):
        if rank == 0:
            print(f"\n{name}: {words}", file=sys.stderr, flush=True)

    def hear():
        heard = 0
        while number := os.read(reader, 1)[0]:
            now = time.monotonic()
            if number not in (signal.SIGTERM, signal.SIGINT) or now - heard < 0.3:
                continue                        # a program and its group may be sent one each
            heard = now
            if failures():                      # another rank has said why: nothing to be saved
                os._exit(2)
            if got:
                tell(f"ended at once; the last whole checkpoint stands, go on with: {again}")
                for path in Path(out).glob("*.partial") if rank == 0 else ():
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)
                os._exit(128 + number)
            got.append(number)
            tell("stopping after this step; again: at once")

    os.set_blocking(writer, False)
    former = {number: signal.signal(number, lambda *_: None)
              for number in (signal.SIGTERM, signal.SIGINT)}
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=hear, daemon=True)
    thread.start()
    try:
        yield lambda: max(all_gather(got[0] if got else 0))
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.write(writer, bytes(1))              # ends the thread
        thread.join()
        os.close(reader)
        os.close(writer)


# ---- How it ends when something is wrong

def end_with(parent):
    """End this process when its parent has: what outlives a killed torchrun or bench.claims would
    write into the folder of the run that goes on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def join_ranks():
    """Make this process one of torchrun's ranks, if it is."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    # of parts.torchrun or bench.claims; not for the processes that this one begins
    parent = int(os.environ.pop("STREAMO_PARENT_PID", os.getppid() if several else 0))
    if parent:
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    if several:
        # ranks wait while one saves, evaluates
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo",
                                timeout=timedelta(hours=4))


def in_a_line(error):
    """What an error says to who runs the program, or None for a fault of the program itself."""
    words = str(error).strip() or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory is full: see --estimate; less --micro-tokens, or --shard"
    if isinstance(error, RuntimeError) and "DataLoader worker" in words:
        return "a process that reads ahead was ended from outside (memory?): fewer --workers"
    if isinstance(error, OSError) and error.filename:
        return in_words(error)
    if isinstance(error, (ValueError, OSError)):            # of a worker: the last line of a page
        return re.sub(r"^\w+Error: ", "", words.splitlines()[-1])
    if isinstance(error, RuntimeError) and own_rank()[1] > 1 and "onnection" in words:
        return "another process of the run has gone; go on with --resume"
    return None


@contextmanager
def to_the_end(name, kept="nothing is written"):
    """Ctrl-C, SIGTERM or what a measurement lacks ends the program in a line, with its code."""
    got = []

    def interrupt(number, _):
        got.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)
    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(f"{name}: interrupted, {kept}", file=sys.stderr)
        raise SystemExit(128 + (got or [signal.SIGINT])[0]) from None
    except (ValueError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"{name}: {in_words(error) or 'out of memory'}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        signal.signal(signal.SIGTERM, former)


def program(name, work):
    """Run work() as one rank of a command. Exit code 2 and one line, of one rank, when something is
    wrong; 128 + its number for a signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        join_ranks()
        work()
        if dist.is_initialized():           # not after an error: it would wait for the other ranks
            dist.destroy_process_group()
    except Stopped as stopped:
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print(f"\n{name}: stopped before its first step", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except (ValueError, OSError, RuntimeError) as error:
        line, first = in_a_line(error), failures(add=1) == 1
        if line is None and first:
            raise
        if first:
            print(f"{name}: {line}", file=sys.stderr)
        sys.exit(2)
