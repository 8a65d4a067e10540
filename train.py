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
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import (PLAIN, RawDataset, ToyDataset, ToyFilms, ToyStills, collate, make_item,
                  silent_second, stated_seconds, toy_texts, turns_from_record)
from loss import KINDS, state_counts, state_focal_loss
from streamo import (BLOCK, FRAME, STATES, DecoderConfig, Streamo, StreamoConfig,
                     Tokenizer, VisionConfig, normalised, on_meta, parts_config, pooling_matrix,
                     read_json, start_copying, whole_config)


# ------------------------------------------------------------------------------------------ options

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


# ---------------------------------------------------------------------------------------- the start

def tiny_config(tokenizer):
    """The demo model: 64-pixel frames in 8-pixel patches, 9 visual tokens a frame, 3.4M weights."""
    return StreamoConfig(
        vision=VisionConfig(hidden_size=128, intermediate_size=384, num_hidden_layers=3,
                            num_attention_heads=4, image_size=64, patch_size=8),
        decoder=DecoderConfig(vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=192,
                              intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
                              num_key_value_heads=3, head_dim=32, rope_theta=1e5,
                              rms_norm_eps=1e-6, max_position_embeddings=4096,
                              tie_word_embeddings=True, attention_bias=True, qk_norm=False),
        frame_token_id=tokenizer.frame_id, vision_feature_layer=-1, pooling="average",
        grid=3, coarse_grid=2, window=60)


def start(o):
    """(tokenizer, model) in float32: from the last checkpoint, from nothing, from a folder, or from
    two parts. With --estimate the model has shapes and no weights."""
    torch.manual_seed(o.seed)
    folder = (o.resume and last_checkpoint(o)) or o.model
    known = folder or o.decoder
    tokenizer = Tokenizer.from_pretrained(known) if known else Tokenizer.train(toy_texts(), 1800)
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
    model = Streamo(tiny_config(tokenizer))
    start_copying(model.language_model.model.layers[2:])        # the first two compare frames
    number_waves(model.language_model.model.embed_tokens.weight, tokenizer)
    return tokenizer, model


def choose(o, model):
    """Let the parts that --train names learn, and no others."""
    learns = {"connector": ("multi_modal_projector",), "all": ("",),
              "connector+decoder": ("multi_modal_projector", "language_model")}[o.train]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(learns))


# ------------------------------------------------------------------------------- devices and ranks

def own_device():
    """The GPU of this process (see main), or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_bfloat16(o, gpu):
    """Whether matrices are multiplied in bfloat16: by --autocast, where the hardware can. Where it
    is emulated, as on CPUs without AMX or AVX-512 for it, float32 is up to a hundred times faster.
    Without a GPU, one that can is meant."""
    if gpu:
        can = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(False)   # no emulation
    else:
        known = torch.cpu.get_capabilities()
        can = known.get("amx_bf16", False) or known.get("avx512_bf16", False)
    return o.autocast and can


def autocast(o, device, **more):
    """The context of a forward on this device, in bfloat16 where in_bfloat16() says so."""
    enabled = in_bfloat16(o, device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, **more)


def own_rank():
    """(rank, world) of this process; (0, 1) where it is the only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gathered(value):
    """[the value of each rank], on every rank."""
    values = [value] * own_rank()[1]
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def add_up(tensors, most=1 << 24):
    """Replace each tensor by its sum over the ranks. Small ones travel together, in messages of at
    most so many numbers. (torch's DistributedDataParallel would keep all gradients twice while a
    step accumulates: 28 GiB more for 7 billion weights.)"""
    if not dist.is_initialized():
        return
    messages = [[]]
    for tensor in tensors:
        if messages[-1] and sum(t.numel() for t in messages[-1]) + tensor.numel() > most:
            messages.append([])
        messages[-1].append(tensor)
    for parts in messages:
        whole = torch.cat([t.flatten() for t in parts]) if len(parts) > 1 else parts[0]
        dist.all_reduce(whole)
        if len(parts) > 1:
            for t, total in zip(parts, whole.split([t.numel() for t in parts])):
                t.copy_(total.view_as(t))


def share_weights(module):
    """Give all ranks the weights of the first."""
    for p in module.parameters() if dist.is_initialized() else ():
        dist.broadcast(p.data, 0)


def model_inputs(batch, device):
    """What a model reads of a batch of data.collate, as the arguments of its forward."""
    inputs = {key: batch[key].to(device, non_blocking=True)
              for key in ("input_ids", "pixels", "frames", "grids")}
    return {**inputs, "pixels": normalised(inputs["pixels"])}


# ----------------------------------------------------------------------------------------- the data

# The toy curriculum: until this part of the steps, so many tokens a step, this mix of samples.
CURRICULUM = ((0.30, 2304, {"one": 0.02, "busy": 0.14, "frame": 0.1, "short": 0.44, "long": 0.15,
                            "full": 0.15}),
              (1.00, 3072, {"one": 0.02, "busy": 0.08, "frame": 0.06, "short": 0.34, "long": 0.16,
                            "full": 0.34}))
GROUNDING_AND_CAPTION = ("Naming", "Placing", "Acting", "Since", "Dating", "Frame QA",
                         "Timed Caption", "Event Caption", "Event Grounding", "Backward Grounding")
POOL = 8                                       # steps whose samples are sorted by length together


class Steps:
    """What every step reads, a function of the options, the ranks and the step. A step is so many
    micro-batches for each rank; a micro-batch is a list of the dataset's keys of like length."""

    def __init__(self, o, dataset, rank, world, curriculum=None):
        self.o, self.dataset, self.rank, self.world = o, dataset, rank, world
        self.curriculum = curriculum or CURRICULUM
        self.sizes = deque()                                   # micro-batches of the steps to come

    def cut(self, keys, tokens):
        """Groups of (length, key), shortest first, each within so many tokens when padded."""
        groups = [[]]
        for length, key in sorted(keys):
            if groups[-1] and (len(groups[-1]) + 1) * length > tokens:
                groups.append([])
            groups[-1].append(key)
        return groups

    def epoch_step(self, step):
        """--batch samples in the data's order; as many micro-batches for one rank as another."""
        first, o = step * self.o.batch, self.o
        groups = self.cut([(self.dataset.estimate(i), i) for i in range(first, first + o.batch)],
                          o.micro_tokens)
        while len(groups) % self.world:
            large = max(groups, key=len)              # --batch is a multiple of world: it ends
            groups.remove(large)
            groups += [large[::2], large[1::2]]
        return groups

    def toy_pool(self, pool):
        """POOL steps of one micro-batch for each rank, drawn by the curriculum."""
        o, rng, keys, total = self.o, random.Random(f"{self.o.seed}/pool/{pool}"), [], 0
        tokens, kinds = next(rest for end, *rest in self.curriculum if pool * POOL / o.steps < end)
        while total < (POOL * self.world + 1.5) * tokens:
            key = rng.choices(list(kinds), list(kinds.values()))[0], rng.randrange(10**9)
            if o.tasks == "all" or self.dataset.task(key) in GROUNDING_AND_CAPTION:
                keys.append((self.dataset.estimate(key), key))
                total += min(keys[-1][0], tokens)       # a longer one is a group of its own
        groups = self.cut(keys, tokens)
        rng.shuffle(groups)
        return [groups[k * self.world:][:self.world] for k in range(POOL)]

    def batches(self, first):
        """The micro-batches of this rank from step `first` on."""
        for step in range(first, self.o.steps):
            if self.o.batch:
                groups = self.epoch_step(step)
            else:
                if step == first or step % POOL == 0:
                    pool = self.toy_pool(step // POOL)
                groups = pool[step % POOL]
            mine = groups[self.rank::self.world]
            self.sizes.append(len(mine))
            yield from mine


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


def weighted(names):
    """(files, weights) of "FILE" and "FILE:WEIGHT"."""
    parts = [re.fullmatch(r"(.*?)(?::([0-9.]+))?", name).groups() for name in names]
    return [file for file, _ in parts], [float(weight or 1) for _, weight in parts]


class Loader(torch.utils.data.Dataset):
    """The dataset as the workers see it: a sample that cannot be read is named, and either stops
    the run or, with --skip-bad, is written to a list and the next one stands in for it."""

    def __init__(self, dataset, o, tokenizer):
        self.dataset, self.o = dataset, o
        self.silence, self.standby, _ = tokenizer.state_ids

    def __getitem__(self, key):
        *kind, first = key if isinstance(key, tuple) else (key,)    # ("short", 5), or 5
        for number in range(first, first + 100):
            try:
                item = self.dataset[(*kind, number) if kind else number]
                if item["length"] > self.o.max_tokens:
                    raise ValueError(f"{item['name']}: {item['length']} tokens, more than "
                                     f"--max-tokens {self.o.max_tokens}")
                if self.o.states == 2:
                    for ids in (item["input_ids"], item["labels"]):
                        ids[:] = [self.silence if i == self.standby else i for i in ids]
                return item
            except (ValueError, OSError) as error:
                if not self.o.skip_bad:
                    raise
                with open(Path(self.o.out) / "bad.txt", "a", encoding="utf-8") as file:
                    file.write(f"{error}\n")
        raise ValueError("--skip-bad: 100 samples on end are unreadable, the last is number "
                         f"{number}")


def loaded(o, dataset, tokenizer, batches):
    """The micro-batches of these lists of keys, decoded ahead by --workers processes."""
    return DataLoader(Loader(dataset, o, tokenizer), batch_sampler=batches, num_workers=o.workers,
                      collate_fn=partial(collate, pad_id=tokenizer.pad_id),
                      worker_init_fn=own_group, prefetch_factor=4 if o.workers else None,
                      pin_memory=torch.cuda.is_available())


def own_group(_):
    """For a loader's process: signals to the run's group of processes are not meant for it."""
    os.setpgrp()


# ----------------------------------------------------------------------------------------- one step

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
            from torch.distributed.optim import ZeroRedundancyOptimizer     # takes 2 s to import
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


# -------------------------------------------------------------------------------------- checkpoints

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


def sync(path):
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


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


# ----------------------------------------------------------------------------------------- the loop

def open_log(out, first):
    """log.jsonl without the lines of steps that a resumed run does again."""
    path, shorter = out / "log.jsonl", out / "log.partial"
    with open(path, "a+") as old, open(shorter, "w") as new:
        old.seek(0)                                         # a line without its end is a torn one
        new.writelines(takewhile(lambda line: line[-1] == "\n"
                                 and json.loads(line)["step"] <= first, old))
    os.replace(shorter, path)
    return open(path, "a")


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
    steps = Steps(o, dataset, rank, world)
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


# ------------------------------------------------------------------------------- the demo's lessons

# As CURRICULUM. Words are bound to things on single pictures, verbs and numbers are learnt where
# everything does something every second, looking back on pictures that change every second (by
# practice of little else), time from short clips, memory from long ones; all of it goes on, in
# smaller parts.
WATCHING = ((0.10, 1536, {"one": 0.3, "busy": 0.6, "frame": 0.1}),
            (0.30, 2304, {"one": 0.05, "busy": 0.6, "frame": 0.15, "short": 0.2}),
            (0.45, 2304, {"busy": 0.2, "frame": 0.8}),
            (1.00, 2304, {"one": 0.03, "busy": 0.3, "frame": 0.12, "short": 0.3, "long": 0.2,
                          "full": 0.05}))


@torch.no_grad()
def number_waves(words, tokenizer):
    """Let the numbers 0 to 999 begin, in the embeddings (V, D), as waves of 14 periods, of length
    1, as in pretrained models (Zhou et al., "Pre-trained Large Language Models Use Fourier Features
    to Compute Addition", 2024): what learns to copy some numbers can then copy all."""
    angles = 2 * math.pi * torch.arange(1000)[:, None] / (2.1 * 1.3 ** torch.arange(14))
    waves = torch.cat([angles.cos(), angles.sin()], 1) / 14 ** 0.5                  # (1000, 28)
    turn = torch.linalg.qr(torch.randn(words.shape[1], waves.shape[1])).Q           # (D, 28)
    words[[tokenizer.id(str(n)) for n in range(1000)]] = waves @ turn.T


def learn_to_see(o, model, stop):
    """The paper starts from a vision encoder and a connector that were pretrained; the demo's learn
    here, in minutes, from stills. A patch, and a visual token of either grid, tells the colour and
    shape of the thing that covers most of it, where its centre lies and how large it is. The heads
    that tell it are thrown away, and the connector's output is whitened."""
    config, device = model.config, own_device()
    vision, connector = model.vision_tower.to(device), model.multi_modal_projector.to(device)
    stills = ToyStills(config)
    pools = [pooling_matrix(config.vision.side, grid, config.pooling).to(device)
             for grid in (config.grid, config.coarse_grid)]
    heads = torch.nn.ModuleList(torch.nn.Linear(size, sum(ToyStills.parts)) for size in
                                (config.vision.hidden_size, config.decoder.hidden_size)).to(device)
    learnt = [*vision.parameters(), *connector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.95), weight_decay=0.01)
    rank, world = own_rank()
    share = max(1, 64 // world)
    whole = share * world                                               # of a step

    def batches(first):
        return DataLoader(stills, batch_size=share, num_workers=o.workers, worker_init_fn=own_group,
                          sampler=range(whole * first + rank, whole * o.see_steps, world))

    for step, (images, *labels), bar in lesson(o, "see", o.see_steps, stop, batches,
                                               optimizer, vision, connector, heads):
        with autocast(o, device):
            patches = vision(normalised(images.to(device)))                         # (B, N, D)
            tokens = connector(patches)
            told = heads[0](patches), *(heads[1](pool @ tokens) for pool in pools)  # (B, cells, 25)
        loss = sum(weight * shown_loss(parts, label.to(device))
                   for weight, label, parts in zip((0.5, 1, 0.5), labels, told))
        descend(optimizer, loss, 2e-3 * min(1, (step + 1) / 50, 2.02 - 2 * step / o.see_steps))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")
    images = torch.tensor(np.stack([stills[-1 - i][0] for i in range(256)]), device=device)
    with torch.no_grad():
        whiten(connector, model.encode_frames(normalised(images)))
    share_weights(connector)                                # another machine may round otherwise


def lesson(o, name, steps, stop, batches, optimizer, *modules):
    """Yield (step, batch, progress bar) of a lesson, "see" or "watch", whose caller steps by
    descend. batches(first): those from step `first` on. --out/NAME.pt is its checkpoint. Raises
    Stopped, its step saved, when stop() says so (see asked_to_stop)."""
    path, learnt, first = Path(o.out) / f"{name}.pt", torch.nn.ModuleList(modules), 0
    if o.resume and path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        learnt.load_state_dict(state["learnt"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    rank, _ = own_rank()
    bar = tqdm(batches(first), f"learning to {name}", steps, initial=first, disable=rank > 0)
    for step, batch in enumerate(bar, first):
        yield step, batch, bar
        stopping = stop()
        if rank == 0 and ((step + 1) % o.save_every == 0 or step + 1 == steps or stopping):
            write_state(path, {"step": step + 1, "learnt": learnt.state_dict(),
                               "optimizer": optimizer.state_dict()})
        if stopping:
            raise Stopped


def descend(optimizer, loss, rate):
    """One step of a lesson at this learning rate, by the mean of the ranks' gradients."""
    (loss / own_rank()[1]).backward()
    (group,) = optimizer.param_groups
    add_up([p.grad for p in group["params"]])
    group["lr"] = rate
    torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def shown_loss(told, labels):
    """The loss of numbers (..., sum(ToyStills.parts)) that tell toy.labels (..., 8), all but the
    names before: a scalar."""
    labels = labels.flatten(0, -2)
    colour, shape, place, change = told.float().flatten(0, -2).split(ToyStills.parts, -1)
    there, rare = labels[:, 0] > 0, change.new_tensor([0.15] + [1.0] * (change.shape[1] - 1))
    return (F.cross_entropy(colour, labels[:, 0].long())
            + F.cross_entropy(shape[there], labels[there][:, 1].long())
            + 10 * F.l1_loss(place[there], labels[there][:, 2:5])
            + 3 * F.cross_entropy(change, labels[:, 5].long(), weight=rare))


def learn_to_watch(o, tokenizer, model, stop):
    """The paper starts from a pretrained language model. The demo's decoder has its first lessons
    here: beside the answers, heads that are thrown away tell of every visual token, two layers up,
    what it shows and how that differs from the second before; four layers up, whether it is what
    was asked about. With words alone to learn from, a decoder compares no two frames for an hour.
    Two layers up, tokens also come near the words for what is seen or named (see said_targets)."""
    device, decoder = own_device(), model.language_model.model
    choose(o, model.to(device))
    mine = replace(o, steps=o.watch_steps, batch=0, seed=o.seed + 10**6)        # clips of its own
    films, size = ToyFilms(tokenizer, model.config, mine.seed), model.config.decoder.hidden_size
    low, high = (torch.nn.Sequential(torch.nn.RMSNorm(size), torch.nn.Linear(size, n)).to(device)
                 for n in (sum(ToyStills.parts), 3))
    words = torch.tensor(films.words, device=device)
    indices = word_indices(words, model.config.decoder.vocab_size)                     # (V, 3)
    learnt = [p for module in (model, low, high) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, weight_decay=0.01)
    state_ids, hidden = torch.tensor(tokenizer.state_ids, device=device), {}
    early, middle = decoder.layers[1], decoder.layers[len(decoder.layers) // 2]
    hooks = [layer.register_forward_hook(lambda layer, _, output: hidden.update({layer: output}))
             for layer in (early, middle)]
    rare = torch.tensor([0.2, 1, 1], device=device)

    def batches(first):
        steps = Steps(mine, films, *own_rank(), WATCHING)
        return loaded(mine, films, tokenizer, steps.batches(first))

    for step, batch, bar in lesson(o, "watch", o.watch_steps, stop, batches,
                                   optimizer, model, low, high):
        mask = F.pad(batch["labels"][:, 1:] != -100, (0, 1)).to(device)                # (B, T)
        targets = batch["labels"].to(device).roll(-1, 1)[mask]                         # (n,)
        inputs = model_inputs(batch, device)
        visual = inputs["input_ids"] == tokenizer.frame_id                  # (B, T), N are True
        shown = batch["shown"].to(device)                                              # (N, 10)
        with autocast(o, device):
            logits = model(**inputs, select=mask)                                      # (n, V)
            shown_logits = low(hidden[early][visual])                                  # (N, 25)
            said_logits = F.linear(F.rms_norm(hidden[early], (size,)),
                                   decoder.embed_tokens.weight[words])                 # (B, T, W)
            asked_logits = high(hidden[middle][visual])                                # (N, 3)
        said = said_targets(inputs["input_ids"], indices, visual, shown)               # (B, T, 4)
        renamed = torch.zeros_like(visual).masked_scatter(visual, shown[:, 6] != shown[:, 0])
        counts = state_counts(targets, state_ids)
        loss = state_focal_loss(logits, targets, state_ids, counts, len(targets), o.loss) \
            + 0.5 * shown_loss(shown_logits, shown[:, :8]) \
            + F.cross_entropy(asked_logits.float(), shown[:, 8].long(), weight=rare) \
            + said_loss(said_logits, said) + said_loss(said_logits[renamed], said[renamed])
        descend(optimizer, loss, o.lr * min(1, (step + 1) / 20))
        if step % 50 == 0:
            right = (logits.argmax(1) == targets).float().mean()
            bar.set_postfix(loss=f"{loss.item():.2f}", tokens_right=f"{right.item():.2f}")
    for hook in hooks:
        hook.remove()


def word_indices(words, size):
    """words of ToyFilms -> (size, 3): for every token id which colour, shape and change it is; -1:
    none."""
    indices = torch.full((size, 3), -1, device=words.device)
    for k, part in enumerate(words.split(ToyFilms.said)[:3]):
        indices[part, k] = torch.arange(len(part), device=words.device)
    return indices


def said_targets(ids, indices, visual, shown):
    """ids and visual (B, T), indices (V, 3), shown (N, 10) of ToyFilms -> what each token is to
    say, (B, T, 4): the index of a colour, shape, change and number; -1: nothing. A visual token
    says by its name of the second before what it shows, or showed then, and when. The end of a name
    ("red circle") and the 8 tokens after it, those of the next turn included, say that name and, in
    a caption, from the verb on what the thing does ("moves left", not "is moving left")."""
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)                # (B, T)
    colour, shape, change = indices[ids].unbind(-1)
    colour = colour.roll(1, 1)                                          # of the token before
    name = (place * ((colour >= 0) & (shape >= 0))).cummax(1).values    # where the last one ends
    verb = (place * ((change >= 0) & (place - name <= 2))).cummax(1).values     # not "on the left"
    near = (name > 0) & (place - name <= 8)
    told = [torch.where(where, which.gather(1, at), -1) for where, which, at in (
        (near, colour, name), (near, shape, name), (near & (verb > name), change, verb))]
    targets = torch.stack([*told, torch.full_like(ids, -1)], -1)
    *_, change, colour, shape, _, number = shown.long().unbind(1)
    targets[visual] = torch.stack([colour - 1, torch.where(colour > 0, shape, -1), change - 1,
                                   number], -1)
    return targets


def said_loss(logits, targets):
    """Cross entropy of logits (..., sum(ToyFilms.said)), products of hidden states with the words'
    embeddings, against targets (..., 4): the sum of the four means. A name in a question and the
    visual tokens of its thing become alike, so that attention finds one from the other."""
    return sum(F.cross_entropy(part.flatten(0, -2), target.flatten(), ignore_index=-1,
                               reduction="sum") / (target >= 0).sum().clamp(min=1)
               for part, target in zip(logits.float().split(ToyFilms.said, -1), targets.unbind(-1)))


def whiten(connector, tokens):
    """Give the visual tokens (F, N, D) mean 0 and like variance in all directions, within the
    connector's last layer: what they share would otherwise outweigh what tells them apart, and a
    decoder whose text embeddings are much shorter would not get to read them."""
    tokens, layer = tokens.flatten(0, 1), connector.linear_2
    values, vectors = torch.linalg.eigh(torch.cov(tokens.T))
    scales = (values.clamp(min=0) + 0.02 * values.mean()) ** -0.5 * tokens.shape[1] ** -0.5
    matrix = vectors @ torch.diag(scales) @ vectors.T
    layer.bias.copy_(matrix @ (layer.bias - tokens.mean(0)))
    layer.weight.copy_(matrix @ layer.weight)


# ------------------------------------------------------------------------------------- the estimate

def activations(o, model, batch, gpu):
    """Bytes that a micro-batch takes at its peak, on a GPU or on the CPU, by counting tensors.

    Of each token a layer keeps for its backward: what enters its two norms, in float32; what its
    matrix products read, which autocast rounds anew for each of them; queries, keys, values and
    the attention's result; the inner tensors of the MLP. The CPU also keeps the attention's
    probabilities and the result of an RMSNorm before its weight; GPU kernels make them anew.
    """
    c, eye, parts = model.config.decoder, model.config.vision, model.language_model.model
    (B, T), patches = batch["input_ids"].shape, len(batch["pixels"]) * eye.side ** 2
    half = in_bfloat16(o, gpu)
    a, learns = 2 if half else 4, o.train != "connector"    # what weights read is theirs alone

    def rounded(*modules):                          # the weights, as autocast multiplies them
        return 2 * half * sum(p.numel() for m in modules for p in m.parameters())

    token = (8 + learns * (8 + 2 * half + 8 * (not gpu))) * c.hidden_size + a * (
        2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        + (3 + learns) * c.intermediate_size)
    patch = 16 * eye.hidden_size + a * (4 * eye.hidden_size + 2 * eye.intermediate_size)
    # on their way: the logits' float32 copy and gradient; then the gradient of the head, which
    # waits for the embedding's, if they are one matrix; then the gradients of an MLP, or of the
    # attention's scores when the tensors of its MLP are gone. (The head's rounded copy goes first.)
    logits = int((batch["labels"][:, 1:] != -100).sum()) * c.vocab_size
    head = c.vocab_size * c.hidden_size
    waiting, inner = 4 * head * learns * c.tie_word_embeddings, a * B * T * c.intermediate_size
    later = waiting - 2 * head * half
    passing = max(8 * logits, a * logits + 4 * head * learns, later + 2 * inner
                  + 4 * c.hidden_size * (B * T + learns * c.intermediate_size))
    if not gpu:
        block = min(T, max(16, BLOCK // T))         # see streamo.blocked_attention
        seen = sum(min(block, T - i) * min(T, i + block) for i in range(0, T, block)) / T
        token += a * c.num_attention_heads * seen
        patch += a * eye.num_attention_heads * eye.side ** 2
        passing = max(passing, later + 2 * a * B * c.num_attention_heads * block * T - 4 * inner)
    kept = B * T * token + rounded(parts.layers[0])
    if o.checkpoint_layers:                         # all layers' inputs, and one layer's insides
        kept += 4 * B * T * c.hidden_size * c.num_hidden_layers
    else:
        kept *= c.num_hidden_layers
    kept += a * patches * (eye.hidden_size + 2 * c.hidden_size)             # the connector
    kept += rounded(model.multi_modal_projector, getattr(model.language_model, "lm_head",
                                                         parts.embed_tokens))
    seeing = 0
    if o.train == "all":
        tower = model.vision_tower
        kept += patches * patch * len(tower.vision_model.encoder.layers) + rounded(tower)
    else:                                           # frozen: a chunk of it, before all the others
        chunk = min(o.vision_chunk or len(batch["pixels"]), len(batch["pixels"])) * eye.side ** 2
        seeing = 4 * patches * eye.hidden_size + chunk * (
            (8 + 2 * half) * eye.hidden_size + 2 * a * eye.intermediate_size)
    return max(seeing, kept + a * logits + passing, 3 * waiting)    # 3: two gradients, their sum


def foretold(dataset, i):
    """Item i of a RawDataset by its annotations alone: its frames are single, different pixels."""
    name, _, record = dataset.pick(i)
    seconds = stated_seconds(record)
    return make_item(dataset.tokenizer, dataset.config, turns_from_record(record, seconds),
                     record["task_type"], lambda j: np.full((1, 1, 3), j % 256, np.uint8),
                     seconds * dataset.fps, dataset.fps, name, random.Random(0), PLAIN,
                     dataset.longest)


def estimate(o):
    """Print what a run would be, from configs and annotations: no weights, no videos, no step.
    Returns {part: bytes} of a process on a GPU and of one on the CPU."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    tokenizer, model = start(o)
    choose(o, model)
    dataset = read_data(o, tokenizer, model.config, world)
    steps = Steps(o, dataset, 0, world)                     # the toy world's end is its largest
    groups = list(takewhile(lambda _: len(steps.sizes) <= POOL,
                            steps.batches(0 if o.data else max(0, o.steps - POOL))))
    lengths = {key: dataset.estimate(key) for group in groups for key in group}
    # the micro-batch with the most tokens, and the one whose attention takes most
    largest = [max(groups, key=lambda group: len(group) * max(lengths[key] for key in group) ** n)
               for n in (1, 2)]
    batches = [collate([foretold(dataset, key) if o.data else dataset[key] for key in group],
                       tokenizer.pad_id) for group in largest]
    each = o.batch or round(len(lengths) * world / min(POOL, o.steps))
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    learnt, weights = sum(sizes), sum(p.numel() for p in model.parameters())
    shard = max(learnt / world, *sizes) if o.zero else learnt       # a tensor is not divided
    parts = [{"weights": 4 * weights, "gradients": 4 * learnt, "optimizer": 8 * shard,
              "activations": max(activations(o, model, batch, gpu) for batch in batches)}
             for gpu in (True, False)]
    about = "" if o.batch else "about "
    lessons = (0, 0) if o.model or o.vision else (o.see_steps, o.watch_steps)
    print(f"tokens      about {sum(lengths.values()) / len(lengths):.0f} a sample, "
          f"at most {max(lengths.values())}\n"
          f"steps       {o.steps} of {about}{each} samples: {about}{o.steps * each} samples\n"
          f"lessons     {lessons[0]} steps on stills and {lessons[1]} on busy films, before these\n"
          f"parameters  {learnt} learn, {weights - learnt} are frozen\n"
          f"micro-batch {' x '.join(map(str, batches[0]['input_ids'].shape))} tokens, "
          f"{len(batches[0]['pixels'])} frames\n\n"
          f"MiB of each of {world} processes  on a GPU  on the CPU")
    for part in parts[0]:
        print(f"{part:27}", *(f"{p[part] / 2 ** 20:10.0f}" for p in parts))
    print(f"{'total':27}", *(f"{sum(p.values()) / 2 ** 20:10.0f}" for p in parts))
    return parts


# --------------------------------------------------------------------------------- the command line

def main(argv=None):
    o = parse(argv)
    try:
        if o.estimate:
            return estimate(o) if os.environ.get("RANK", "0") == "0" else None
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
