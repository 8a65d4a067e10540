"""Training Streamo: one loop, from the demo model on two CPU cores to a 7B model on many GPUs.

    python train.py                                      a model of the toy world, within an hour
    torchrun --nproc_per_node=2 train.py --preset demo   the shipped one, in two hours
    python train.py --resume                             go on after a stop, a crash or a kill -9
    python train.py --estimate                           tokens, steps and memory; nothing is run
    torchrun --nproc_per_node=8 train.py --preset paper --vision SIGLIP --decoder QWEN \\
        --data raw_data.json more.jsonl:0.5 --videos FOLDER --out runs/streamo
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \\
        train.py ...                                     the same on two machines
    python train.py --preset paper --model LLAVA_ONEVISION --data FILE --videos FOLDER

Every rank (process, GPU) holds the whole model and takes some micro-batches of each step. States
and supervised tokens are counted over all of them and all ranks before the first backward, so the
gradient is the same however a step is split; then the ranks add up their gradients. Which samples a
step holds is a function of the options, the number of ranks and the step: a run that was stopped
goes on as if it had not been, on a CPU to the last bit.
"""
import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from data import RawDataset, Steps, loaded, model_inputs, silent_second
from loss import KINDS, state_counts, state_focal_loss
from parts.config import parts_config, whole_config
from parts.devices import add_up, autocast, gathered, own_device, own_rank, share_weights
from parts.files import read_json, sync
from parts.runs import Stopped, about_run, asked_to_stop, memory, weighted, write_model, write_state
from parts.tokenizer import FRAME, STATES, Tokenizer
from parts.weights import on_meta
from streamo import Streamo
from toy.datasets import CURRICULUM, ToyDataset
from toy.pretrain import learn_to_see, learn_to_watch, new_model, new_tokenizer, tiny_config


def option(default, reason, **more):
    shown = "" if default in ("", ()) else f" [{default}]"
    return field(default=default, metadata={"help": reason + shown, **more})


@dataclass
class Options:
    out: str = option("runs/demo", "folder of the run")
    preset: str = option("", "defaults of a recipe; without it hour, or paper with --data",
                         choices=("hour", "demo", "paper"))
    model: str = option("", "start from this folder: Streamo or LLaVA-OneVision")
    vision: str = option("", "start from this SigLIP folder (with --decoder)")
    decoder: str = option("", "start from this Qwen or Llama folder (with --vision)")
    data: tuple = option((), "annotations, FILE or FILE:WEIGHT; none: the toy world", nargs="+")
    videos: str = option("", "folder that the videos of --data lie in")
    train: str = option("connector+decoder", "which parts learn",
                        choices=("connector", "connector+decoder", "all"))
    loss: str = option("focal", "loss on the state tokens", choices=KINDS)
    states: int = option(3, "2: no Standby, only when to speak", choices=(2, 3))
    tasks: str = option("all", "toy tasks", choices=("all", "grounding+caption"))
    steps: int = option(0, "optimiser steps; 0: one epoch of --data")
    batch: int = option(0, "samples in a step; 0: one micro-batch on each rank")
    see_steps: int = option(0, "steps in which a new vision encoder learns to see, before all else")
    watch_steps: int = option(0, "steps in which a new decoder then learns to watch")
    micro_tokens: int = option(8192, "padded tokens in a micro-batch of --data")
    own_every: int = option(0, "each so many steps, past states are the model's guesses; 0: never")
    max_tokens: int = option(32768, "longer dialogues are cut, by whole turns")
    fps: int = option(1, "frames in a second of stream")
    lr: float = option(1e-3, "peak learning rate")
    warmup: float = option(0.01, "share of the steps in which the rate rises, to fall as a cosine")
    weight_decay: float = option(0.05, "of matrices")
    clip: float = option(1.0, "largest norm of the gradient")
    seed: int = option(0, "of the weights, the data and their order")
    workers: int = option(1, "processes that decode and draw ahead, on each rank")
    vision_chunk: int = option(0, "frames that a frozen encoder takes at once; 0: all")
    checkpoint_layers: bool = option(False, "recompute activations in the backward: less memory")
    autocast: bool = option(True, "multiply matrices in bfloat16 where the hardware does it; "
                                 "the weights stay float32")
    zero: bool = option(False, "shard the optimiser's state over the ranks")
    skip_bad: bool = option(False, "list unreadable samples in bad.txt and go on with the next")
    save_every: int = option(500, "steps from checkpoint to checkpoint")
    keep: int = option(2, "checkpoints kept")
    eval_every: int = option(0, "steps between evaluations that stream unseen toy clips")
    eval_videos: int = option(4, "clips of such an evaluation")
    resume: bool = option(False, "go on from the last checkpoint in --out")
    estimate: bool = option(False, "say how long and how large the run would be, and end")

PRESETS = {"hour": dict(steps=2000, see_steps=1500, watch_steps=5000, own_every=4),
           "demo": dict(steps=5000, see_steps=2200, watch_steps=3800, own_every=4),
           "paper": dict(batch=512, micro_tokens=16384, lr=1e-5,
                         warmup=0.05, weight_decay=0.0, vision_chunk=256, checkpoint_layers=True,
                         workers=4, save_every=50)}
SHOWN = ("loss", "recall_silence", "recall_standby", "recall_response", "text_accuracy", "waited")
NAMES = ("silence", "standby", "response")
LEAST = {"steps": 0, "batch": 0, "see_steps": 0, "watch_steps": 0, "micro_tokens": 1,
         "own_every": 0, "max_tokens": 1, "fps": 1, "workers": 0, "vision_chunk": 0,
         "save_every": 1, "keep": 1, "eval_every": 0, "eval_videos": 1}
# on --resume: of what else differs from the run so far, a line tells
MAY_DIFFER = {"out", "resume", "workers", "save_every", "keep", "eval_every", "eval_videos"}


def parse(argv=None):
    """Options from the command line, over the preset's, over the class's defaults."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Options):
        kind = {"action": argparse.BooleanOptionalAction} if f.type is bool else \
            {"type": str if f.type is tuple else f.type}
        parser.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS,
                            **kind, **f.metadata)
    given = vars(parser.parse_args(argv))
    given.setdefault("preset", "paper" if given.get("data") else "hour")
    o = Options(**{**PRESETS[given["preset"]], **given})
    if bool(o.vision) != bool(o.decoder) or o.vision and o.model:
        parser.error("start from --model alone, or from --vision and --decoder together")
    if bool(o.data) != bool(o.videos):
        parser.error("--data and --videos go together")
    if not o.data and not o.steps:
        parser.error("--steps is needed without --data: the toy world has no end")
    if o.batch and not o.data and o.tasks != "all":
        parser.error("--tasks chooses among what the curriculum gives: it goes without --batch")
    for name, least in LEAST.items():
        if getattr(o, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(o, name)}: at least {least}")
    return o


# ---- The start -------------------------------------------------------------------------------

def start(o):
    """(tokenizer, model) in float32: from the last checkpoint, from nothing, from a folder, or from
    two parts. With --estimate the model has shapes and no weights."""
    torch.manual_seed(o.seed)
    folder = (o.resume and last_checkpoint(o)) or o.model
    known = folder or o.decoder
    tokenizer = Tokenizer.from_pretrained(known) if known else new_tokenizer()
    tokenizer.add_tokens([*STATES, FRAME])
    if o.estimate:
        config = whole_config(folder)[0] if folder else \
            parts_config(o.vision, o.decoder)[0] if o.vision else tiny_config(tokenizer)
        return tokenizer, on_meta(Streamo, config)
    if folder:
        return tokenizer, Streamo.from_pretrained(folder, torch.float32, own_device())
    if o.vision:
        return tokenizer, Streamo.from_parts(o.vision, o.decoder, dtype=torch.float32,
                                             device=own_device())
    return tokenizer, new_model(tokenizer)


def choose(o, model):
    """Let the parts that --train names learn, and no others."""
    learns = {"connector": ("multi_modal_projector",), "all": ("",),
              "connector+decoder": ("multi_modal_projector", "language_model")}[o.train]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(learns))


def read_data(o, tokenizer, config, world):
    """The dataset of the run; gives --steps, where it is one epoch of --data."""
    if o.data and not o.batch or o.batch % world:
        raise ValueError(f"--batch {o.batch}: wanted a multiple of the number of ranks, {world}")
    o.max_tokens = min(o.max_tokens, config.decoder.max_position_embeddings)
    if not o.data:
        return ToyDataset(tokenizer, config, o.seed, fps=o.fps)
    files, weights = weighted(o.data)
    dataset = RawDataset(tokenizer, config, files, o.videos, weights, o.seed, o.fps,
                         longest=max(1, int(0.8 * o.max_tokens)         # a fifth is for words
                                     // silent_second(tokenizer, config, o.fps)))
    o.steps = o.steps or -(-len(dataset) // o.batch)
    return dataset


# ---- One step --------------------------------------------------------------------------------

class Learner:
    """The model as it is trained: its ranks, what is frozen, autocast, and one step of the loss."""

    def __init__(self, o, tokenizer, model):
        self.o, self.device, (self.rank, self.world) = o, own_device(), own_rank()
        self.model = model.to(self.device)
        self.state_ids = torch.tensor(tokenizer.state_ids, device=self.device)
        self.end_id = tokenizer.id("<|im_end|>")
        choose(o, model)
        if o.train != "all":
            model.vision_tower.forward = partial(frozen, model.vision_tower.forward, o.vision_chunk)
        if o.checkpoint_layers:
            for layer in model.language_model.model.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        share_weights(model)
        learnt = [(p, p.ndim == 2 and "embed" not in name)
                  for name, p in model.named_parameters() if p.requires_grad]
        self.learnt = [p for p, _ in learnt]
        groups = [{"params": [p for p, matrix in learnt if matrix == decays],
                   "weight_decay": o.weight_decay * decays} for decays in (True, False)]
        if o.zero and self.world > 1:
            from torch.distributed.optim import ZeroRedundancyOptimizer  # takes 2 s to import
            self.optimizer = ZeroRedundancyOptimizer(groups, torch.optim.AdamW, lr=o.lr)
        else:                                   # fused: no copy of all weights in a step
            self.optimizer = torch.optim.AdamW(groups, lr=o.lr, fused=True)

    def reduce(self, tensor):
        """The sum over ranks."""
        add_up([tensor])
        return tensor

    @torch.no_grad()
    def own_past(self, inputs, mask):
        """Input ids (B, T) whose past Silence and Standby are the model's own guesses, right or
        wrong: what it will read when it streams (scheduled sampling, Bengio et al., 2015). mask
        (B, T): the next id is supervised."""
        ids, quiet = inputs["input_ids"].roll(-1, 1), self.state_ids[:self.o.states - 1]
        mask = mask & torch.isin(ids, quiet)
        logits = self.model(**inputs, select=mask)                                     # (n, V)
        ids[mask] = quiet[logits[:, quiet].argmax(1)]
        return ids.roll(1, 1)

    def backward(self, batches, own=False):
        """The gradients of one step from this rank's micro-batches; returns what the log shows of
        all ranks: the loss, recall by state, rates and sizes. own: see own_past."""
        # logits are made only where the next position is supervised
        masks = [F.pad(b["labels"][:, 1:] != -100, (0, 1)) for b in batches]           # (B, T)
        targets = [b["labels"][:, 1:][m[:, :-1]].to(self.device) for b, m in zip(batches, masks)]
        counts = self.reduce(sum(state_counts(t, self.state_ids) for t in targets))
        items = self.reduce(torch.tensor(sum(map(len, targets)), device=self.device))
        seen = torch.zeros(10, device=self.device, dtype=torch.float64)
        for batch, mask, target in zip(batches, masks, targets):
            inputs, mask = model_inputs(batch, self.device), mask.to(self.device)
            # no cache: each weight is read once, and a recomputed layer's copies can go
            with autocast(self.o, self.device, cache_enabled=False):
                if own:
                    inputs["input_ids"] = self.own_past(inputs, mask)
                logits = self.model(**inputs, select=mask)                             # (n, V)
            loss = state_focal_loss(logits, target, self.state_ids, counts, items, self.o.loss)
            loss.backward()
            with torch.no_grad():
                guess = logits.argmax(1)
                right = guess == target
                words = ~torch.isin(target, self.state_ids)
                text_loss = F.cross_entropy(logits[words].float(), target[words], reduction="sum")
                text = words & (target != self.end_id)
                seen += torch.stack([
                    loss, text_loss / items, *state_counts(target[right], self.state_ids),
                    (guess == self.state_ids[2]).sum(), right[text].sum(), text.sum(),
                    *target.new_tensor([batch["input_ids"].numel(), len(batch["names"])])]).double()
        add_up([p.grad for p in self.learnt])
        seen = self.reduce(seen).tolist()
        n = counts.tolist()
        recall = {f"recall_{s}": r / m for s, r, m in zip(NAMES, seen[2:5], n) if m}
        return {"loss": seen[0], "loss_states": seen[0] - seen[1], "loss_text": seen[1],
                "state_accuracy": sum(seen[2:5]) / sum(n), **recall,
                "response_rate": seen[5] / sum(n), "text_accuracy": seen[6] / max(seen[7], 1),
                "tokens": int(seen[8]), "samples": int(seen[9])}

    def step(self, batches, rate, own=False):
        """One optimiser step; ValueError names a loss or gradient that is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        log = self.backward(batches, own)
        total = torch.nn.utils.get_total_norm([p.grad for p in self.learnt])
        norm = total.item()
        if not math.isfinite(norm + log["loss"]):           # before the norm spoils all gradients
            bad = next((n for n, p in self.model.named_parameters()
                        if p.grad is not None and not p.grad.isfinite().all()), "none")
            samples = ", ".join(name for b in batches for name in b["names"])
            raise ValueError(f"loss {log['loss']}, gradient norm {norm}; first bad parameter: "
                             f"{bad}; samples of rank {self.rank}: {samples}")
        torch.nn.utils.clip_grads_with_norm_(self.learnt, self.o.clip, total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**log, "lr": rate, "gradient_norm": norm}


@torch.no_grad()
def frozen(forward, chunk, pixels):
    """A vision encoder that does not learn: no graph, and at most `chunk` frames at a time."""
    return torch.cat([forward(part) for part in pixels.split(chunk or len(pixels))])


def learning_rate(o, step):
    """A linear rise over the warm-up, then half a cosine down to a fiftieth, by the tokens spent
    so far: the demo's later steps have more."""
    progress, start, spent, whole = step / o.steps, 0, 0, 0
    for end, tokens, _ in CURRICULUM:
        spent += tokens * min(max(progress - start, 0), end - start)
        whole += tokens * (end - start)
        start = end
    progress = progress if o.data or o.batch else spent / whole
    return o.lr * min(1, progress / o.warmup if o.warmup else 1) * (
        0.02 + 0.49 * (1 + math.cos(math.pi * progress)))


# ---- Checkpoints -----------------------------------------------------------------------------

def save(o, step, learner, tokenizer, about):
    """out/step-N: the model in our own format, state.pt to go on from. Written under another name,
    synced, then renamed: a folder called step-N is always whole. The last --keep are kept."""
    optimizer = whole_state(learner.optimizer)
    if learner.rank == 0:
        final = Path(o.out) / f"step-{step:06d}"
        partial_ = final.with_suffix(".partial")
        shutil.rmtree(partial_, ignore_errors=True)
        write_model(partial_, learner.model, tokenizer, {**about, "step": step})
        write_state(partial_ / "state.pt", {"step": step, "optimizer": optimizer})
        for path in [*partial_.iterdir(), partial_]:
            sync(path)
        os.rename(partial_, final)
        sync(final.parent)
        for old in checkpoints(o)[:-o.keep]:
            shutil.rmtree(old)
    if learner.world > 1:
        dist.barrier()


def checkpoints(o):
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in Path(o.out).glob("step-*") if p.suffix != ".partial")


def lesson_checkpoints(o):
    """Those of lessons, from their first until the first whole checkpoint."""
    return [path for path in (Path(o.out) / "see.pt", Path(o.out) / "watch.pt") if path.exists()]


def last_checkpoint(o):
    """What --resume goes on from; None for a run that was stopped before its first."""
    if not Path(o.out).exists():
        raise ValueError(f"--resume: there is no run in {o.out}")
    return next(reversed(checkpoints(o)), None)


def whole_state(optimizer):
    """An optimiser's state_dict, on rank 0. A sharded one is gathered tensor by tensor (by its own
    consolidate_state_dict it takes an hour for 7 billion weights, and 14 GiB of every GPU)."""
    if not hasattr(optimizer, "optim"):                     # a ZeroRedundancyOptimizer's shard
        return optimizer.state_dict()
    rank, _ = own_rank()
    shard, state = optimizer.optim.state, {}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for owner, steps in enumerate(gathered({i: shard[p]["step"].item()
                                            for i, p in enumerate(params) if p in shard})):
        for i, step in steps.items():
            found = {"step": torch.tensor(step)}
            for key in ("exp_avg", "exp_avg_sq"):
                tensor = shard[params[i]][key] if owner == rank else torch.empty_like(params[i])
                dist.broadcast(tensor, owner)
                found[key] = tensor.cpu() if rank == 0 else None
            state[i] = found
    return {**torch.optim.Optimizer.state_dict(optimizer), "state": dict(sorted(state.items()))}


def load(folder, learner):
    """The optimiser's state from a checkpoint, of a sharded one or not. Returns the steps done."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True, mmap=True)
    optimizer = learner.optimizer
    for saved, group in zip(state["optimizer"]["param_groups"], optimizer.param_groups):
        saved["fused"] = group.get("fused")
    optimizer.load_state_dict(state["optimizer"])
    if hasattr(optimizer, "optim"):                         # it keeps what it loads twice
        optimizer.state.clear()
    return state["step"]


def tell_changes(o, folder):
    """A line for each option that is not what it was when this checkpoint was made."""
    was, now = read_json(folder / "run.json")["config"], json.loads(json.dumps(asdict(o)))
    for name in sorted(was.keys() & now.keys() - MAY_DIFFER):
        if was[name] != now[name]:
            print(f"train.py: --resume: {name} was {was[name]!r}, is {now[name]!r}",
                  file=sys.stderr)


# ---- The loop --------------------------------------------------------------------------------

def open_log(out, first):
    """log.jsonl without the lines of steps that a resumed run does again."""
    path, shorter = out / "log.jsonl", out / "log.partial"
    with open(path, "a+") as old, open(shorter, "w") as new:
        old.seek(0)                                         # a line without its end is a torn one
        new.writelines(takewhile(lambda line: line[-1] == "\n"
                                 and json.loads(line)["step"] <= first, old))
    os.replace(shorter, path)
    return open(path, "a")


def evaluate(o, folder):
    """Scores of a checkpoint that streams unseen toy clips, by eval.py in a process of its own."""
    out = Path(folder) / "eval.json"                        # all clips in this one process
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    subprocess.run([sys.executable, Path(__file__).with_name("eval.py"), "toy", "--model", folder,
                    "--videos", str(o.eval_videos), "--seed", "7", "--out", out], check=True,
                   stdout=subprocess.DEVNULL, env=env)
    scores = json.loads(out.read_text())
    return {f"eval_{k}": scores[k] for k in ("state_f1", "response_f1", "average")}


def run(o):
    """The whole training run on this rank."""
    if (checkpoints(o) or lesson_checkpoints(o)) and not o.resume:
        raise ValueError(f"{o.out} holds the checkpoints of a run: --resume it, or name another")
    tokenizer, model = start(o)
    if o.data:                                  # what the start knew is not all it will know
        model.config = replace(model.config, knows="")
    resumed, out = o.resume and last_checkpoint(o), Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    rank, world = own_rank()
    if len(set(gathered(f"{resumed} {lesson_checkpoints(o)}"))) > 1:
        raise ValueError(f"--out {o.out}: not one folder that all machines share")
    dataset, about = read_data(o, tokenizer, model.config, world), about_run(o)
    if resumed and rank == 0:
        tell_changes(o, resumed)
    stop, fresh = asked_to_stop(), not (resumed or o.model or o.vision)
    if fresh and o.see_steps:
        learn_to_see(o, model, stop)
    if fresh and o.watch_steps:
        learn_to_watch(o, tokenizer, model, stop)
    learner = Learner(o, tokenizer, model)
    first = load(resumed, learner) if resumed else 0
    if fresh and (o.see_steps or o.watch_steps):
        save(o, 0, learner, tokenizer, about)
        for path in lesson_checkpoints(o) if rank == 0 else ():
            path.unlink()
    steps = Steps(o, dataset, rank, world, CURRICULUM)
    batches = iter(loaded(o, dataset, tokenizer, steps.batches(first)))
    bar = tqdm(range(first, o.steps), initial=first, total=o.steps, disable=rank > 0)
    log, done = open_log(out, first) if rank == 0 else None, first
    for step in bar:
        began = time.perf_counter()
        micro = [next(batches)]
        micro += [next(batches) for _ in range(steps.sizes.popleft() - 1)]
        waited = time.perf_counter() - began
        try:
            line = learner.step(micro, learning_rate(o, step),
                                own=o.own_every and step % o.own_every == 0)
        except ValueError as error:
            raise ValueError(f"step {step + 1}: {error}") from error
        took = time.perf_counter() - began
        stopping, done = stop(), step + 1
        scored = o.eval_every and done % o.eval_every == 0
        mended = sum(gathered(sum((Counter(b["counts"]) for b in micro), Counter())), Counter())
        if rank == 0:                                       # a saved step is always in the log
            speed = {f"{k}_per_second": line[k] / took for k in ("tokens", "samples")}
            line = {"step": done, **line, "seconds": took, "waited": waited, "memory_MiB": memory(),
                    **speed, "mended": dict(mended)}
            print(json.dumps(line), file=log, flush=True)
            bar.set_postfix({k: f"{line[k]:.3f}" for k in SHOWN if k in line})
        if done % o.save_every == 0 or done == o.steps or stopping or scored:
            save(o, done, learner, tokenizer, about)
        if rank == 0 and scored:
            scores = evaluate(o, checkpoints(o)[-1])
            print(json.dumps({"step": done, **scores}), file=log, flush=True)
        if stopping:
            break
    if rank == 0 and done == o.steps:                       # what infer.py and eval.py read
        write_model(out / "model", learner.model.bfloat16(), tokenizer, about)
    gathered(None)                                          # the others wait until it is there


def main(argv=None):
    o = parse(argv)
    try:
        if o.estimate:                          # by a program that imports this one
            words = sys.argv[1:] if argv is None else argv
            path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run([sys.executable, "-m", "bench.estimate", *words],
                                  env={**os.environ, "PYTHONPATH": path})
            return done.returncode and sys.exit(done.returncode)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:        # ranks wait while one saves, evaluates
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo",
                                    timeout=timedelta(hours=4))
        with suppress(Stopped):
            run(o)
        if dist.is_initialized():       # not after an error: it would wait for the other ranks
            dist.destroy_process_group()
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"train.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
