"""Exams of train.py: the gradient of a step, however it is split."""
from collections import Counter

import numpy as np
import torch

import data
import train
from course.exams import exam
from course.exams.stream import a_world
from parts.tokenizer import RESPONSE, STATES

CHECKS, check = exam()


def a_sample(rng, tokenizer, seconds, states=STATES):
    """A dialogue with random frames, as data.collate takes it."""
    turns = []
    for now in range(seconds):
        state = rng.choice(states)
        turns.append(data.Turn(now, state, "A red star." if state == RESPONSE else "",
                               "Where is it?" if now == 0 else None))
    ids, labels = data.render(tokenizer, turns, [[4]] * seconds)
    made = np.random.default_rng(rng.randrange(2 ** 31))
    return {"input_ids": ids, "labels": labels, "length": len(ids), "frames": list(range(seconds)),
            "pixels": made.integers(0, 256, (seconds, 16, 16, 3), dtype=np.uint8),
            "grids": [2] * seconds, "name": "a", "counts": Counter()}


def of_other_ranks(tensor):
    """In place of Learner.total: other ranks have 40, 3 and 9 states, 77 supervised positions."""
    others = torch.tensor([40, 3, 9, 77])
    if tensor.is_floating_point():
        return tensor.mul_(2)
    return tensor.add_({1: others[3], 3: others[:3]}.get(tensor.numel(), others))


def gradients(model, tokenizer, groups, world=1, own=False):
    """The log and the gradients, a thousandfold, of a step with these micro-batches; world: as if
    there were so many ranks."""
    options = train.parse(["--no-autocast", "--train", "all", "--steps", "1"])
    learner = train.Learner(options, tokenizer, model)
    learner.world = world
    if world > 1:
        learner.total = of_other_ranks
    batches = [data.collate(group, tokenizer.pad_id) for group in groups]
    log = learner.backward(batches, own)
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    small = [1000 * g for name, g in found.items() if g is not None and g.numel() < 300]
    large = {name: None if g is None else [1000 * g.norm(), 1000 * g.flatten()[::97]]
             for name, g in found.items()}
    return log, [small, large]


def a_step(rng, sizes=(3, 5, 2, 6)):
    model, tokenizer = a_world(rng)
    return model, tokenizer, [a_sample(rng, tokenizer, seconds) for seconds in sizes]


@check("split", 2, "backward: the gradient of a step of one micro-batch", close=2e-3)
def one(rng):
    model, tokenizer, samples = a_step(rng)
    return gradients(model, tokenizer, [samples])[1]


@check("split", 2, "backward: the gradient of the same step in several micro-batches", close=2e-3)
def several(rng):
    model, tokenizer, samples = a_step(rng)
    return [gradients(model, tokenizer, groups)[1]
            for groups in ([samples[:2], samples[2:]], [[sample] for sample in samples])]


@check("split", 2, "backward: micro-batches that differ in states and length", close=2e-3)
def unlike(rng):
    model, tokenizer, samples = a_step(rng, (2, 7))
    silent = a_sample(rng, tokenizer, 9, STATES[:1])
    return gradients(model, tokenizer, [[silent], samples])[1]


@check("split", 2, "backward: the gradient of a step that several ranks share", close=2e-3)
def ranks(rng):
    model, tokenizer, samples = a_step(rng)
    return gradients(model, tokenizer, [samples[:1], samples[1:]], world=rng.choice((2, 4)))[1]


@check("split", 1, "backward: own=True, past states as the model would have said them", close=2e-3)
def own_past(rng):
    model, tokenizer, samples = a_step(rng)
    return gradients(model, tokenizer, [samples[:2], samples[2:]], own=True)[1]


@check("split", 1, "backward: what the log is told", close=2e-3)
def told(rng):
    model, tokenizer, samples = a_step(rng)
    return gradients(model, tokenizer, [samples[:3], samples[3:]])[0]
