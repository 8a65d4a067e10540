"""Exams of loss.py."""
import torch

from course.exams import exam
from loss import state_alpha, state_counts, state_focal_loss

CHECKS, check = exam()


def a_step(rng, absent=(), words=4, scale=2.0):
    """Logits, targets and state ids of an optimiser step; state tokens stand anywhere."""
    vocabulary, n = rng.randrange(9, 15), rng.randrange(40, 60)
    ids = rng.sample(range(vocabulary), 3)
    others = [token for token in range(vocabulary) if token not in ids][:words]
    present = [token for k, token in enumerate(ids) if k not in absent]
    targets = present + rng.choices(present + present[:1] * 6 + others, k=n - len(present))
    rng.shuffle(targets)
    torch.manual_seed(rng.randrange(2**31))
    return torch.randn(n, vocabulary) * scale, torch.tensor(targets), torch.tensor(ids)


def loss_and_gradient(logits, *args, **more):
    logits = logits.clone().requires_grad_()
    value = state_focal_loss(logits, *args, **more)
    value.backward()
    return value, logits.grad


def counts_of(targets, ids):
    """The truth, so that a check asks for one function at a time."""
    return torch.tensor([int((targets == state).sum()) for state in ids])


@check("focal", 1, "state_counts: how often each state is a target is not counted right")
def counted(rng):
    _, targets, ids = a_step(rng)
    _, without, others = a_step(rng, absent=(2,))
    return [state_counts(targets, ids), state_counts(without, others)]


@check("focal", 1, "state_alpha: the weights of three states that all occur are not equation 4's")
def alpha(rng):
    counts = rng.randrange(50, 99), rng.randrange(9, 20), rng.randrange(1, 8)
    return state_alpha(torch.tensor(counts))


@check("focal", 1, "state_alpha: the weights are wrong in a step in which a state does not occur")
def alpha_of_absent(rng):
    counts = [rng.randrange(20, 60), rng.randrange(5, 9), 0]
    rng.shuffle(counts)
    return [state_alpha(torch.tensor(counts)), state_alpha(torch.tensor([0, 0, 0]))]


@check("focal", 2, "state_focal_loss: the value is wrong for a step that is one micro-batch")
def value(rng):
    logits, targets, ids = a_step(rng)
    return state_focal_loss(logits, targets, ids, counts_of(targets, ids), len(targets))


@check("focal", 1, "state_focal_loss: the gradient is wrong, although the value may be right")
def gradient(rng):
    logits, targets, ids = a_step(rng)
    return loss_and_gradient(logits, targets, ids, counts_of(targets, ids), len(targets))


@check("focal", 2, "state_focal_loss: the micro-batches of a step do not add up to the whole step")
def micro_batches(rng):
    logits, targets, ids = a_step(rng)
    counts, cut = counts_of(targets, ids), rng.randrange(7, 25)
    return [loss_and_gradient(logits[part], targets[part], ids, counts, len(targets))
            for part in (slice(0, cut), slice(cut, None))]


@check("focal", 1, "state_focal_loss: gamma, or a kind other than \"focal\", is not as it says")
def baselines(rng):
    logits, targets, ids = a_step(rng)
    args = logits, targets, ids, counts_of(targets, ids), len(targets)
    try:
        unknown = state_focal_loss(*args, kind="cross entropy")
    except ValueError:
        unknown = "refused"
    return [*(state_focal_loss(*args, kind=kind) for kind in ("ce", "fixed", "alpha", "gamma")),
            state_focal_loss(*args, gamma=0.0), state_focal_loss(*args, gamma=3.0), unknown]


@check("focal", 1, "state_focal_loss: answers of which the model is quite sure give a wrong value")
def certain(rng):
    logits, targets, ids = a_step(rng, scale=60.0)
    half = logits.bfloat16()
    return [loss_and_gradient(logits, targets, ids, counts_of(targets, ids), len(targets)),
            state_focal_loss(half / 30, targets, ids, counts_of(targets, ids), 9)]
