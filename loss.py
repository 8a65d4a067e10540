"""The state-focal loss of Streamo: equations 3-7 of "Streaming Video Instruction Tuning".

Most seconds of a stream are silent, so plain cross entropy learns to say nothing. On the three
state tokens, and only there, the loss is weighted twice: alpha_k makes rare states count as much as
common ones, and (1 - p)^gamma lets the seconds that the model already gets right fade.

    L_i = alpha_k * (1 - p_i)^gamma * -log(p_i)     where the target i is state token k
    L_i = -log(p_i)                                 elsewhere (the words of an answer, <|im_end|>)
    L   = sum_i L_i / number of supervised positions

p_i is the probability of the right token among the whole vocabulary, and the gradient flows through
it. alpha_k = (1/3) * (n_silence + n_standby + n_response) / n_k, counted over the optimiser step.

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

KINDS = ("focal", "fixed", "ce")


def state_counts(targets, state_ids):
    """How often each state token is a target: targets (n,), state_ids (3,) -> (3,)."""
    return (targets[:, None] == state_ids).sum(dim=0)                                     # (3,)


def state_alpha(counts):
    """Equation 4: the weight of each state from its count, (3,) -> (3,). An absent state gets 0."""
    return torch.where(counts > 0, counts.sum() / (3.0 * counts.clamp(min=1)), 0.0)


def state_focal_loss(logits, targets, state_ids, counts, num_items, kind="focal", gamma=2.0):
    """The loss of one micro-batch: a scalar, to be summed over micro-batches and ranks.

    logits (n, V) at the supervised positions, targets (n,) their tokens, state_ids (3,) tensor.
    counts (3,) and num_items: states and supervised positions of the whole optimiser step, all
    micro-batches of all ranks, so that the gradient does not depend on how the step is split.
    kind: "focal", or the paper's baselines: "fixed" weights 0.3/1.3/2.0, "ce" plain cross entropy.
    """
    if kind not in KINDS:
        raise ValueError(f"loss {kind!r} is none of {', '.join(KINDS)}")
    losses = F.cross_entropy(logits.float(), targets, reduction="none")                   # (n,)
    if kind != "ce":
        is_state = targets[:, None] == state_ids                                          # (n, 3)
        fixed = losses.new_tensor((0.3, 1.3, 2.0))                   # Silence, Standby, Response
        alpha = state_alpha(counts) if kind == "focal" else fixed
        weight = (is_state * alpha).sum(dim=1)                                            # (n,)
        if kind == "focal":
            weight = weight * (1 - torch.exp(-losses)) ** gamma      # p of the target: exp(-CE)
        losses = torch.where(is_state.any(dim=1), weight * losses, losses)
    return losses.sum() / num_items
