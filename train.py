"""Training Streamo: one loop, from the demo model on two CPU cores to a 7B model on many GPUs.

    python train.py                                      a model of the toy world, 1 to 3 hours
    python train.py --model assets/tiny --data my.json --videos FOLDER --out runs/own
    python train.py --resume --out runs/own              go on after a stop, a crash or a kill -9
    python train.py --estimate ...                       tokens, steps, memory and time; no run
    python -m parts.torchrun --nproc_per_node=2 train.py --preset demo    longer: 2 hours and more
    torchrun --nproc_per_node=8 train.py --preset paper --shard --vision SIGLIP --decoder QWEN \\
        --data raw_data.json more.jsonl:0.5 --videos FOLDER --out runs/streamo
    torchrun --nnodes=2 --nproc_per_node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \\
        train.py ...                                     the same on two machines
    python train.py --preset paper --model LLAVA_ONEVISION --data FILE --videos FOLDER

Every rank (process, GPU) takes some micro-batches of each step. States and supervised tokens are
counted over all of them and all ranks before the first backward, so the gradient is the same
however a step is split. Which samples a step holds is a function of the options, the number of
ranks and the step: a run that was stopped goes on as if it had not been, on a CPU to the last bit.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import json
import math
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from data import EpochSteps, RawDataset, Readable, loaded, model_inputs
from loss import KINDS, state_counts, state_focal_loss
from parts.checkpoints import (enter, last_checkpoint, load_checkpoint, open_log, run_options,
                               save_checkpoint)
from parts.config import parts_config, whole_config
from parts.decision import STATES as NAMES
from parts.devices import (all_gather, all_reduce, autocast, own_device, own_rank,
                           product_dtype)
from parts.engine import (distribute, gradient_sync, only_states, state_parts, whole,
                          whole_weights)
from parts.files import check, write_json
from parts.optimizers import own_optimizers
from parts.options import option, parser_of
from parts.runs import (Stopped, alone_in, asked_to_stop, ce_begins, check_options, command,
                        duration, evaluate, memory, program, recipe, weighted, write_model)
from parts.tokenizer import FRAME, STATES, Tokenizer
from parts.weights import on_meta
from streamo import Streamo
from toy import pretrain
from toy.datasets import CURRICULUM, LEFT_OUT, ToyDataset
from toy.steps import ToySteps


@dataclass
class Options:
    # where it begins, and from what
    out: str = option("runs/demo", "folder of the run")
    preset: str = option("", "defaults of a recipe; without it own with --data, else hour",
                         choices=("hour", "demo", "own", "paper"))
    model: str = option("", "start from this folder: Streamo or LLaVA-OneVision")
    vision: str = option("", "start from this SigLIP folder (with --decoder)")
    decoder: str = option("", "start from this Qwen or Llama folder (with --vision)")
    data: tuple = option((), "annotations, FILE or FILE:WEIGHT; none: the toy world", nargs="+")
    videos: str = option("", "folder that the videos of --data lie in")
    # what learns, and what
    train: str = option("connector+decoder", "which parts learn",
                        choices=("states", "connector", "connector+decoder", "all"))
    loss: str = option("focal", "loss on the state tokens", choices=KINDS)
    ce_share: float = option(0.0, "share of the steps, the last, with cross entropy for --loss")
    states: int = option(3, "2: no Standby, only when to speak", choices=(2, 3))
    tasks: str = option("all", "toy tasks", choices=("all", "grounding+caption", *LEFT_OUT))
    # how much of it: what is 0 is filled in by fit()
    epochs: float = option(0, "passes over --data; 0: what fits its size")
    steps: int = option(0, "optimiser steps; 0: --epochs of --data")
    batch: int = option(0, "samples in a step; 0: what fits --data, or, on the toy world, one "
                           "micro-batch on each rank")
    see_steps: int = option(1500, "steps of the lessons that make a start where none is given: "
                                  "a vision encoder learns to see")
    watch_steps: int = option(5000, "then a decoder learns to watch")
    # what a step looks like
    micro_tokens: int = option(8192, "padded tokens in a micro-batch of --data")
    own_every: int = option(0, "each so many steps, past states are the model's guesses; 0: never")
    max_tokens: int = option(32768, "longer dialogues are cut, by whole turns")
    fps: int = option(1, "frames in a second of stream")
    # the optimiser
    lr: float = option(0.0, "peak learning rate; 0: what fits the size of the model")
    muon: float = option(0.0, "rate of Muon, which moves the decoder's matrices, in --lr; 0: AdamW "
                              "moves all")
    warmup: float = option(0.05, "share of the run's tokens with a rising rate, times a cosine")
    weight_decay: float = option(0.0, "of matrices, in the rate that moves them")
    clip: float = option(1.0, "largest norm of the gradient; 0: any")
    seed: int = option(0, "of the weights, the data and their order")
    # time and memory
    workers: int = option(1, "processes that decode and draw ahead, on each rank")
    vision_chunk: int = option(256, "frames that a frozen encoder takes at once; 0: all")
    checkpoint_layers: bool = option(None, "recompute activations in the backward: less memory; "
                                           "not said: from 100 million weights on")
    autocast: bool = option(True, "multiply matrices in bfloat16 where the hardware does it; "
                                 "the weights stay float32")
    shard: bool = option(False, "weights, gradients and moments in parts on the ranks, for what "
                                "does not fit one")
    skip_bad: bool = option(False, "list unreadable samples in bad.txt and go on with the next")
    # what it leaves behind
    save_every: int = option(0, "steps from checkpoint to checkpoint; 0: a quarter, at most 500")
    keep: int = option(2, "checkpoints kept")
    eval_every: int = option(0, "steps between evaluations that stream unseen toy clips")
    eval_videos: int = option(4, "clips of such an evaluation")
    resume: bool = option(False, "go on from the last checkpoint in --out, with its options")
    estimate: bool = option(False, "say how long and how large the run would be, and end")

# of the toy world: small, quickly drawn, and the past is the model's own in each fourth step
TOY = dict(ce_share=0.3, lr=1e-3, muon=2.0, warmup=0.01, weight_decay=0.05, vision_chunk=0,
           checkpoint_layers=False, own_every=4, save_every=500)
# "own" is empty: fit() looks at the data; "paper" is section 5 of the paper
PRESETS = {"hour": dict(TOY, steps=2000), "demo": dict(TOY, steps=3000), "own": {},
           "paper": dict(epochs=1, batch=512, micro_tokens=16384, lr=1e-5, checkpoint_layers=True,
                         workers=4, save_every=50)}
# with --resume these alone may be other than they were: they change nothing that has been done
MAY_CHANGE = {"out", "resume", "estimate", "steps", "shard", "workers", "save_every", "keep",
              "eval_every", "eval_videos"}
GUESSES = 3         # times that a dialogue is read for a past of the model's own


def parse(argv=None):
    """Options from the command line, over the preset's, over the class's defaults; with --resume
    over those of the run."""
    parser = parser_of(Options, __doc__)
    given = vars(parser.parse_args(argv))                   # and nothing that was not said
    if given.get("resume"):
        o = run_options(Options, {"out": Options.out, **given}, MAY_CHANGE)
    else:
        given.setdefault("preset", "own" if given.get("data") else "hour")
        o = Options(**{**PRESETS[given["preset"]], **given})
    check_options(parser, o, given)
    return o


# ---- The start, the data, the recipe ---------------------------------------------------------

def own_start(o):
    """The options of toy.pretrain for a run without a start: it is made in OUT/start."""
    shared = "see_steps", "watch_steps", "tasks", "muon", "seed", "workers", "autocast"
    return pretrain.Lessons(out=str(Path(o.out) / "start"),
                            **{name: getattr(o, name) for name in shared})


def start(o):
    """(tokenizer, model) in float32: from the last checkpoint of a run that goes on, else from its
    folder or two parts, else from its own start. With --estimate a model without weights."""
    torch.manual_seed(o.seed)                               # of a fresh connector
    folder = (o.resume and last_checkpoint(o.out)) or o.model
    own = not (folder or o.vision)
    folder = own_start(o).out if own else folder
    if o.estimate and own and not pretrain.is_made(folder):             # it would be made first
        tokenizer = pretrain.new_tokenizer()
        return tokenizer, on_meta(Streamo, pretrain.tiny_config(tokenizer))
    tokenizer = Tokenizer.from_pretrained(folder or o.decoder)
    tokenizer.add_tokens([*STATES, FRAME])                  # a no-op where they are known
    if o.estimate:
        config, _ = whole_config(folder) if folder else parts_config(o.vision, o.decoder)
        return tokenizer, on_meta(Streamo, config)
    # the weights that learn are float32, whatever is stored: bfloat16 would swallow small steps
    if folder:
        model = Streamo.from_pretrained(folder, torch.float32, own_device())
    else:
        model = Streamo.from_parts(o.vision, o.decoder, dtype=torch.float32, device=own_device())
    # a threshold that was found for the old weights says nothing of the new
    model.config = replace(model.config, threshold=None)
    return tokenizer, model


def choose(o, model):
    """Let the parts that --train names learn, and no others."""
    learns = {"connector": ("multi_modal_projector",), "states": state_parts(model),
              "connector+decoder": ("multi_modal_projector", "language_model"),
              "all": ("",)}[o.train]                        # every name begins with ""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(learns))


def read_data(o, tokenizer, config):
    """The dataset of the run."""
    o.max_tokens = min(o.max_tokens, config.decoder.max_position_embeddings)
    if not o.data:
        return ToyDataset(tokenizer, config, o.seed, fps=o.fps)
    files, weights = weighted(o.data)
    return RawDataset(tokenizer, config, files, o.videos, weights, o.seed, o.fps,
                      max_tokens=o.max_tokens, there=not (o.skip_bad or o.estimate))


def fit(o, model, dataset, world):
    """Fill in the batch, the epochs, the rate and the like where they are 0: more epochs of few
    records, a lower rate for a larger model."""
    size = sum(p.numel() for p in model.parameters())
    if o.data:
        records = len(dataset)
        # a quarter of the data at most: a step that is an epoch would be one of very few
        o.batch = o.batch or world * max(1, min(32, records // 4) // world)
        # 20 times a few dozen, once some thousands
        o.epochs = o.epochs or min(20, max(1, round(3000 / records)))
        o.steps = o.steps or math.ceil(o.epochs * records / o.batch)
    check(o.batch % world == 0,
          f"--batch {o.batch}: wanted a multiple of the number of ranks, {world}")
    # 7 billion weights: the paper's rate; few weights want larger steps
    o.lr = o.lr or (5e-4 if size < 1e8 else 5e-5 if size < 2e9 else 1e-5)
    o.save_every = o.save_every or max(1, min(500, math.ceil(o.steps / 4)))
    if o.checkpoint_layers is None:
        o.checkpoint_layers = size > 1e8


def steps_of(o, dataset, world):
    """steps[n]: what step n reads, see data.EpochSteps."""
    if o.batch:
        return EpochSteps(dataset, o.batch, o.micro_tokens, world)
    return ToySteps(dataset, CURRICULUM, o.steps, o.seed, world, o.tasks)


def origin(o):
    """What a run starts from, in words; what is new there is as random as it sounds."""
    if o.vision:
        return f"{o.vision} and {o.decoder}; THE CONNECTOR BETWEEN THEM IS NEW, its weights random"
    if not o.model:
        return f"{own_start(o).out}, made by toy.pretrain"
    new_rows = whole_config(o.model)[1]
    return o.model + ("; the tokens of the three states are new" if new_rows else "")


# ---- One step --------------------------------------------------------------------------------

class Learner:
    """The model as it is trained: its ranks, what is frozen, autocast, and one step of the loss."""

    def __init__(self, o, tokenizer, model):
        self.o, self.device = o, own_device()
        self.rank, self.world = own_rank()
        self.model = model.to(self.device)
        self.state_ids = torch.tensor(tokenizer.state_ids, device=self.device)
        self.end_id = tokenizer.id("<|im_end|>")
        choose(o, model)
        # `forward` is replaced, not the module: the names of the weights stay as they are
        if o.train != "all":
            model.vision_tower.forward = partial(frozen, model.vision_tower.forward, o.vision_chunk)
        if o.train == "states":
            only_states(model, tokenizer.state_ids)
        elif o.checkpoint_layers:
            for layer in model.language_model.model.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        self.distributed = distribute(model, o.shard)       # what is called in the model's place
        self.learnt = [p for p in model.parameters() if p.requires_grad]
        # after that: the moments of shards are shards. Of --train states no other row may decay
        decay = 0.0 if o.train == "states" else o.weight_decay
        self.optimizers = own_optimizers(model, o.lr, decay, o.muon, product_dtype(o, self.device))

    def total(self, tensor):
        """The sum over ranks."""
        all_reduce([tensor])
        return tensor

    @torch.no_grad()
    def own_past(self, inputs, mask):
        """Input ids (B, T) whose past Silence and Standby are the model's own guesses, right or
        wrong: what it will read when it streams (scheduled sampling, Bengio et al., 2015). mask
        (B, T): the next id is supervised."""
        ids, quiet = inputs["input_ids"], self.state_ids[:self.o.states - 1]
        places = mask[:, :-1] & torch.isin(ids[:, 1:], quiet)       # where one is to be said
        # the model itself, not its ranks' wrapper: nothing is learnt, nothing to exchange
        seen = self.model.features(inputs["pixels"], inputs["frames"], inputs["grids"])
        past = ids.clone()
        for _ in range(GUESSES):            # a wrong guess misleads the next second's, and so on
            logits = self.model(past, seen, select=F.pad(places, (0, 1)))              # (n, V)
            guesses = quiet[logits[:, quiet].argmax(1)]                                # (n,)
            past[:, 1:][places] = guesses                           # it then stands one further on
        return past

    @torch.no_grad()
    def tally(self, logits, target, loss, items):
        """What the log counts of a micro-batch, in sums over micro-batches and ranks."""
        guess = logits.argmax(1)                                                       # (n,)
        right = guess == target                                                        # (n,)
        words = ~torch.isin(target, self.state_ids)         # the text of answers, and <|im_end|>
        text = words & (target != self.end_id)
        text_loss = F.cross_entropy(logits[words].float(), target[words], reduction="sum")
        recalled = zip(NAMES, state_counts(target[right], self.state_ids))
        return {"loss": loss.detach(), "loss_text": text_loss / items, **dict(recalled),
                "said_response": (guess == self.state_ids[2]).sum(),
                "right_text": right[text].sum(), "text": text.sum()}

    def backward(self, batches, own=False, kind=None):
        """The gradients of one step from this rank's micro-batches; returns what the log shows, see
        shown. own: past states are the model's guesses, see own_past. kind: of the loss."""
        # logits are made only where the next position is supervised
        masks = [F.pad(b["labels"][:, 1:] != -100, (0, 1)) for b in batches]           # (B, T)
        targets = [b["labels"][:, 1:][m[:, :-1]].to(self.device) for b, m in zip(batches, masks)]
        # of the whole step, before any backward: see loss.py
        counts = self.total(sum(state_counts(t, self.state_ids) for t in targets))     # (3,)
        items = self.total(torch.tensor(sum(map(len, targets)), device=self.device))
        seen = Counter()
        for number, (batch, mask, target) in enumerate(zip(batches, masks, targets), 1):
            inputs, mask = model_inputs(batch, self.device), mask.to(self.device)
            with gradient_sync(self.distributed, last=number == len(batches)):
                # no cache: each weight is read once, and a recomputed layer's copies can go
                with autocast(self.o, self.device, cache_enabled=False):
                    if own:
                        inputs["input_ids"] = self.own_past(inputs, mask)
                    logits = self.distributed(**inputs, select=mask)                   # (n, V)
                loss = state_focal_loss(logits, target, self.state_ids, counts, items,
                                        kind or self.o.loss)
                # DDP and FSDP take the mean of the ranks' gradients; we want the sum
                (loss * self.world).backward()
            for name, value in self.tally(logits, target, loss, items).items():
                seen[name] += value.double()
            seen["tokens"] += batch["input_ids"].numel()
            seen["samples"] += len(batch["names"])
        return self.shown(seen, counts)

    def shown(self, seen, counts):
        """What the log shows of all ranks, from the tallies of this rank's micro-batches."""
        # all figures in one message
        sums = torch.tensor([float(value) for value in seen.values()], dtype=torch.float64)
        s = dict(zip(seen, self.total(sums.to(self.device)).tolist()))
        n = dict(zip(NAMES, counts.tolist()))               # how often each state was the target
        recall = {f"recall_{name}": s[name] / n[name] for name in NAMES if n[name]}
        return {"loss": s["loss"], "loss_states": s["loss"] - s["loss_text"],
                "loss_text": s["loss_text"], **recall,
                "state_accuracy": sum(s[name] for name in NAMES) / sum(n.values()),
                "response_rate": s["said_response"] / sum(n.values()),
                "text_accuracy": s["right_text"] / max(s["text"], 1),
                "tokens": int(s["tokens"]), "samples": int(s["samples"])}

    def step(self, batches, rate, own=False, kind=None):
        """One optimiser step; ValueError names a loss or gradient that is not finite."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:            # of what decays, and of what does not
                group["lr"] = rate * group["scale"]         # Muon's is a multiple
        log = self.backward(batches, own, kind)
        # every rank has the same norm, for every rank has all gradients or a shard of them
        total = torch.nn.utils.get_total_norm([p.grad for p in self.learnt])
        norm = whole(total).item()
        if not math.isfinite(norm + log["loss"]):           # before the norm spoils all gradients
            bad = next((name for name, p in self.model.named_parameters()
                        if p.grad is not None and not whole(p.grad).isfinite().all()), "none")
            names = sum(all_gather([name for b in batches for name in b["names"]]), [])
            raise ValueError(f"loss {log['loss']}, gradient norm {norm}; first bad parameter: "
                             f"{bad}; samples: {', '.join(names)}")
        if self.o.clip:
            torch.nn.utils.clip_grads_with_norm_(self.learnt, self.o.clip, total)
        for optimizer in self.optimizers:
            optimizer.step()
            # replicas' gradients lie in the buffers that are sent, and stay there
            optimizer.zero_grad(set_to_none=self.distributed is self.model)
        return {**log, "lr": rate, "gradient_norm": norm}


@torch.no_grad()
def frozen(forward, chunk, pixels):
    """A vision encoder that does not learn: no graph, and at most `chunk` frames at a time."""
    return torch.cat([forward(part) for part in pixels.split(chunk or len(pixels))])


def spent(o, step):
    """The share of a run's tokens that its first `step` steps take: the toy world's later steps
    have more."""
    progress = step / o.steps
    if o.data or o.batch:                                   # steps of like size
        return progress
    begin, done, whole_run = 0, 0, 0
    for end, tokens, _ in CURRICULUM:
        done += tokens * min(max(progress - begin, 0), end - begin)
        whole_run += tokens * (end - begin)
        begin = end
    return done / whole_run


def learning_rate(o, step):
    """A linear rise over the warm-up, times half a cosine to a fiftieth. Step 0 has some rate:
    the rise is taken at a step's end, the fall at its beginning."""
    rise = min(1, spent(o, step + 1) / o.warmup) if o.warmup else 1
    return o.lr * rise * (0.02 + 0.49 * (1 + math.cos(math.pi * spent(o, step))))


def loss_kind(o, step):
    """The loss of a step. Focal weights teach the rare states soon, and leave them too likely; at
    last cross entropy lets each be as likely as it is right, and what is half an answer unsaid."""
    return "ce" if step >= ce_begins(o) else o.loss


# ---- The loop --------------------------------------------------------------------------------

def prepare(o, stop):
    """(tokenizer, learner, dataset, about, first step) of a run that begins or goes on."""
    rank, world = own_rank()
    lessons = own_start(o)
    given = o.model or o.vision or (o.resume and last_checkpoint(o.out))
    if not given:
        pretrain.check_same(lessons)                        # before anything is written
    resumed, about = enter(o, weighted(o.data)[0])
    if not (given or pretrain.is_made(lessons.out)):
        tokenizer, model = start(replace(o, estimate=True))     # without weights: what is wrong
        fit(o, model, read_data(o, tokenizer, model.config), world)     # is told before an hour
        if rank == 0:
            print(f"No --model: a start is made first, in {lessons.out}, by {o.see_steps} + "
                  f"{o.watch_steps} steps of toy.pretrain", flush=True)
        pretrain.make(lessons, stop)
    tokenizer, model = start(o)
    if o.data:                                  # what the start knew is not all it will know
        model.config = replace(model.config, knows="")
    dataset = read_data(o, tokenizer, model.config)
    fit(o, model, dataset, world)
    about["config"] = asdict(o)
    learner = Learner(o, tokenizer, model)
    first = load_checkpoint(resumed, model, learner.optimizers) if resumed else 0
    check(first <= o.steps, f"--steps {o.steps}: the run has done {first} already")
    if rank == 0:
        write_json(Path(o.out) / "run.json", about)
        print(recipe(o, resumed or origin(o), model, dataset, world), flush=True)
    return tokenizer, learner, dataset, about, first


def run(o):
    """The whole training run on this rank."""
    again = command(["train.py", "--resume", "--out", o.out], own_rank()[1])
    with alone_in(o.out), asked_to_stop("train.py", o.out, again) as stop:
        train(o, stop, again, *prepare(o, stop))


def train(o, stop, again, tokenizer, learner, dataset, about, first):
    """The loop. stop: see asked_to_stop; again: the command that goes on."""
    (rank, world), out = own_rank(), Path(o.out)
    readable = Readable(dataset, o.max_tokens, o.states, out / "bad.txt" if o.skip_bad else None)
    # the loader's processes are steps ahead; what each step holds does not depend on how far
    batches = loaded(readable, tokenizer, steps_of(o, dataset, world), range(first, o.steps),
                     o.workers, rank, world)
    log = open_log(out, first) if rank == 0 else None
    last = last_checkpoint(out)
    if rank == 0 and last and o.eval_every and first % o.eval_every == 0 \
            and not (last / "eval.json").exists():          # the run was killed in it
        evaluate(last, o.eval_videos, log)
    bar = tqdm(range(first, o.steps), initial=first, total=o.steps, disable=rank > 0)
    for step in bar:
        began = time.perf_counter()
        micro = next(batches)                               # this rank's micro-batches
        waited = time.perf_counter() - began
        try:
            line = learner.step(micro, learning_rate(o, step),
                                own=o.states == 3 and o.own_every and step % o.own_every == 0,
                                kind=loss_kind(o, step))
        except ValueError as error:
            raise ValueError(f"step {step + 1}: {error}") from error
        took = time.perf_counter() - began
        done, stopping = step + 1, stop()                   # all ranks know alike
        scored = o.eval_every and done % o.eval_every == 0
        mended = sum(all_gather(sum((Counter(b["counts"]) for b in micro), Counter())), Counter())
        if rank == 0:                                       # a saved step is always in the log
            speed = {f"{k}_per_second": line[k] / took for k in ("tokens", "samples")}
            line = {"step": done, **line, "seconds": took, "waited": waited, "memory_MiB": memory(),
                    **speed, "mended": dict(mended)}
            print(json.dumps(line), file=log, flush=True)
            bar.set_postfix({k: f"{line[k]:.3f}" for k in ("loss", "state_accuracy",
                                                           "text_accuracy", "waited")})
            if done - first == 3:                           # the first ones warm up
                bar.write(f"time    about {duration(took * (o.steps - done))} to go, "
                          f"{took:.2g} s a step", file=sys.stdout)
        if done % o.save_every == 0 or done == o.steps or stopping or scored:
            save_checkpoint(o, done, learner.model, learner.optimizers, tokenizer, about)
        if rank == 0 and scored and not stopping:
            evaluate(last_checkpoint(out), o.eval_videos, log)
        if stopping and done < o.steps:
            bar.close()
            if rank == 0:
                print(f"train.py: stopped; {last_checkpoint(out)} is saved, go on with: {again}",
                      file=sys.stderr)
            raise Stopped(stopping)
    weights = whole_weights(learner.model)                  # of shards, all ranks are asked
    if rank == 0:                                           # what infer.py and eval.py read
        weights = {name: weight.bfloat16() for name, weight in weights.items()}
        write_model(out / "model", learner.model, tokenizer, about, weights)
        watch = command(["infer.py", "FILM", "--model", str(out / "model")], 1)
        print(f"Trained. Watch a film with it: {watch}")
    all_gather(None)                                        # the others wait until it is there


def main(argv=None):
    words = sys.argv[1:] if argv is None else argv
    if "--estimate" in words:                   # by a program that imports this one
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        os.execve(sys.executable, [sys.executable, "-m", "bench.estimate", *words],
                  {**os.environ, "PYTHONPATH": path})       # in the place of this process
    program("train.py", lambda: run(parse(argv)))           # errors in a line, exit codes


if __name__ == "__main__":
    main()
