"""The state-focal loss of Streamo: equations 3-7 of "Streaming Video Instruction Tuning".

Most seconds of a stream are silent, so plain cross entropy learns to say nothing. On the three
state tokens, and only there, the loss is weighted twice: alpha_k makes rare states count as much as
common ones, and (1 - p)^gamma lets the seconds that the model already gets right fade.

    L_i = alpha_k * (1 - p_i)^gamma * -log(p_i)     where the target i is state token k
    L_i = -log(p_i)                                 elsewhere (the words of an answer, <|im_end|>)
    L   = sum_i L_i / number of supervised positions

p_i is the probability of the right token in the softmax over the whole vocabulary, and the gradient
flows through it. (Not over the three states alone, though a stream compares only those: words must
be pushed below the states here, and states below the words inside an answer, where each word is
learnt in the same softmax.)

alpha_k = (1/3) * (n_silence + n_standby + n_response) / n_k: of 60 seconds 50 silent, 8 standing by
and 2 answers, it is 0.4, 2.5 and 10, and each state weighs 20 in all. gamma = 2 leaves of a second

    p           0.1    0.5    0.9    0.99
    (1 - p)^2   0.81   0.25   0.01   0.0001

A worked example of four positions. Silence is a target twice, Standby once, Response never, so that
alpha = (1/3) * 3/2, (1/3) * 3/1, 0 = 0.5, 1, 0, an absent state being given 0:

    target      p      alpha * (1 - p)^2 * -log p
    Silence     0.8    0.5 * 0.2^2 * -log 0.8 = 0.5 * 0.04 * 0.22314 = 0.00446
    Silence     0.5    0.5 * 0.5^2 * -log 0.5 = 0.5 * 0.25 * 0.69315 = 0.08664
    Standby     0.1    1.0 * 0.9^2 * -log 0.1 = 1.0 * 0.81 * 2.30259 = 1.86509
    a word      0.4                  -log 0.4                        = 0.91629
                                             sum 2.87249, loss 2.87249 / 4 = 0.71812
"""
import torch
import torch.nn.functional as F

from parts.tokenizer import RESPONSE, SILENCE, STANDBY, STATES

KINDS = ("focal", "alpha", "gamma", "fixed", "ce")
FIXED = {SILENCE: 0.3, STANDBY: 1.3, RESPONSE: 2.0}     # the paper's baseline, in place of alpha


def state_counts(targets, state_ids):
    """How often each state token is a target: targets (n,), state_ids (3,) -> (3,)."""
    return (targets[:, None] == state_ids).sum(dim=0)                                     # (3,)


def state_alpha(counts):
    """Equation 4: the weight of each state from its count, (3,) -> (3,). An absent state gets 0."""
    alpha = counts.sum() / (3.0 * counts.clamp(min=1))  # clamped: 0/0 would be nan
    return torch.where(counts > 0, alpha, 0.0)


def state_focal_loss(logits, targets, state_ids, counts, num_items, kind="focal", gamma=2.0):
    """The loss of one micro-batch: a scalar, to be summed over micro-batches and ranks.

    logits (n, V) at the supervised positions, targets (n,) their tokens.
    state_ids (3,): the ids of STATES, in their order (tokenizer.state_ids).
    counts (3,), num_items: state_counts, and the number of supervised positions, of the WHOLE
        optimiser step. A step is a sum over micro-batches, on several ranks: whoever runs it
        counts all of them before the first backward. With the counts of this micro-batch alone,
        alpha and the divisor, and so the gradient, would depend on how the step was split.
    kind: "focal"; the paper's baselines, "fixed" weights (FIXED) and "ce", plain cross entropy; or
        one half of focal: "alpha" alone (gamma is 0), "gamma" alone (alpha is 1). Else ValueError.
    """
    if kind not in KINDS:
        raise ValueError(f"loss {kind!r} is none of {', '.join(KINDS)}")
    losses = F.cross_entropy(logits.float(), targets, reduction="none")                   # (n,)
    if kind != "ce":
        is_state = targets[:, None] == state_ids                                          # (n, 3)
        alpha = state_alpha(counts)                                                       # (3,)
        if kind == "fixed":
            alpha = losses.new_tensor([FIXED[state] for state in STATES])
        if kind == "gamma":
            alpha = torch.ones_like(alpha)
        weight = (is_state * alpha).sum(dim=1)                                            # (n,)
        if kind in ("focal", "gamma"):
            weight = weight * (1 - torch.exp(-losses)) ** gamma      # p of the target: exp(-CE)
        # only here do the states differ from plain cross entropy; words keep it
        losses = torch.where(is_state.any(dim=1), weight * losses, losses)
    return losses.sum() / num_items                     # a sum: micro-batches add up to the step
