"""The state-focal loss against numbers worked by hand, plain CE and finite differences."""
import pytest
import torch
import torch.nn.functional as F

import loss
from loss import state_alpha, state_counts, state_focal_loss

STATES = torch.tensor([0, 1, 2])                        # Silence, Standby, Response; 3, 4 are words


def random_step(n=41, vocabulary=7, seed=0):
    """Logits and targets of one optimiser step, with every state and some words among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocabulary, generator=generator) * 2
    targets = torch.randint(vocabulary, (n,), generator=generator)
    targets[:5] = torch.arange(5)
    return logits, targets


def gradient(logits, *args, **kwargs):
    logits = logits.clone().requires_grad_()
    state_focal_loss(logits, *args, **kwargs).backward()
    return logits.grad


def test_the_docstrings_example():
    rows = [[0.8, 0.05, 0.05, 0.05, 0.05], [0.5, 0.1, 0.2, 0.1, 0.1],
            [0.3, 0.1, 0.2, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1, 0.4]]
    logits, targets = torch.tensor(rows).log(), torch.tensor([0, 0, 1, 4])
    counts = state_counts(targets, STATES)
    assert counts.tolist() == [2, 1, 0]
    assert state_alpha(counts).tolist() == [0.5, 1.0, 0.0]
    by_hand = (0.5 * 0.04 * 0.22314, 0.5 * 0.25 * 0.69315, 1.0 * 0.81 * 2.30259, 0.91629)
    assert [round(part, 5) for part in by_hand] == [0.00446, 0.08664, 1.86510, 0.91629]
    value = state_focal_loss(logits, targets, STATES, counts, num_items=4).item()
    assert value == pytest.approx(sum(by_hand) / 4, abs=1e-5) == pytest.approx(0.71812, abs=1e-5)
    assert "loss 2.87249 / 4 = 0.71812" in loss.__doc__
    shifted = state_focal_loss(logits + 3, targets, STATES, counts, num_items=4).item()
    assert shifted == pytest.approx(value, abs=1e-6)    # logits, not probabilities, are read


def test_no_focus_and_equal_counts_are_plain_cross_entropy():
    logits, _ = random_step(30)
    targets = torch.arange(30) % 5                      # 6 of each state, 12 words: alpha = 1
    counts = state_counts(targets, STATES)
    assert state_alpha(counts).tolist() == [1, 1, 1]
    value = state_focal_loss(logits, targets, STATES, counts, num_items=30, gamma=0.0)
    torch.testing.assert_close(value, F.cross_entropy(logits, targets))
    focused = state_focal_loss(logits, targets, STATES, counts, num_items=30)
    assert focused < value - 0.01                       # the default gamma does something


@pytest.mark.parametrize("absent", [{0}, {1}, {2}, {0, 2}, {0, 1, 2}])
def test_an_absent_state_has_no_weight_and_makes_no_nan(absent):
    logits, targets = random_step()
    keep = torch.tensor([target not in absent for target in targets.tolist()])
    logits, targets = logits[keep], targets[keep]
    counts = state_counts(targets, STATES)
    alpha = state_alpha(counts)
    assert {k for k in range(3) if alpha[k] == 0} == absent
    for k in set(range(3)) - absent:                    # equation 4: over three states, also then
        assert alpha[k].item() == pytest.approx(counts.sum().item() / 3 / counts[k].item())
    value = state_focal_loss(logits, targets, STATES, counts, num_items=len(targets))
    grad = gradient(logits, targets, STATES, counts, len(targets))
    assert value.isfinite() and grad.isfinite().all() and (grad != 0).any()


def test_a_certain_answer_makes_no_nan():
    logits, targets = torch.tensor([[200.0, 0, 0], [-200.0, 0, 200.0]]), torch.tensor([0, 0])
    counts = state_counts(targets, STATES)              # p is exactly 1, and exactly 0
    value = state_focal_loss(logits, targets, STATES, counts, num_items=2)
    assert value.isfinite() and gradient(logits, targets, STATES, counts, 2).isfinite().all()


def test_the_gradient_flows_through_the_focal_factor():
    logits, targets = random_step(9)
    counts = state_counts(targets, STATES)
    args = targets, STATES, counts, 9
    grad = gradient(logits, *args)
    step, slopes = 1e-2, torch.zeros_like(logits)
    for i in range(logits.shape[0]):
        for j in range(logits.shape[1]):
            nudge = torch.zeros_like(logits)
            nudge[i, j] = step
            slopes[i, j] = (state_focal_loss(logits + nudge, *args)
                            - state_focal_loss(logits - nudge, *args)) / (2 * step)
    torch.testing.assert_close(grad, slopes, rtol=2e-3, atol=2e-4)
    probability = logits.softmax(dim=-1)
    p = probability.gather(1, targets[:, None])[:, 0]
    known = targets < 3
    weight = torch.where(known, state_alpha(counts)[targets.clamp(max=2)] * (1 - p) ** 2, 1.0)
    frozen = weight[:, None] * (probability - F.one_hot(targets, logits.shape[1])) / 9
    assert (frozen - slopes).abs().max() > 0.02         # what a detached factor would give


def test_any_split_into_micro_batches_gives_the_gradient_of_the_whole():
    logits, targets = random_step()
    counts, n = state_counts(targets, STATES), len(targets)
    whole = gradient(logits, targets, STATES, counts, n)
    value = state_focal_loss(logits, targets, STATES, counts, n)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        cuts = 1 + torch.randperm(n - 1, generator=generator)
        bounds = [0, *sorted(cuts[:1 + int(cuts[-1]) % 8].tolist()), n]
        pieces = [(logits[a:b], targets[a:b]) for a, b in zip(bounds, bounds[1:])]
        parts = [gradient(*piece, STATES, counts, n) for piece in pieces]
        assert torch.equal(torch.cat(parts), whole)
        total = sum(state_focal_loss(*piece, STATES, counts, n) for piece in pieces)
        torch.testing.assert_close(total, value)
        summed = sum(state_counts(piece[1], STATES) for piece in pieces)
        assert torch.equal(summed, counts)
    alone = [gradient(*piece, STATES, state_counts(piece[1], STATES), n) for piece in pieces]
    assert not torch.allclose(torch.cat(alone), whole)  # counts of a micro-batch would not do


def test_the_papers_two_baselines():
    logits, targets = random_step()
    n, counts = len(targets), state_counts(targets, STATES)
    plain = state_focal_loss(logits, targets, STATES, counts, n, kind="ce")
    torch.testing.assert_close(plain, F.cross_entropy(logits, targets))
    weights = torch.tensor([0.3, 1.3, 2.0, 1, 1, 1, 1])[targets]
    by_hand = (weights * F.cross_entropy(logits, targets, reduction="none")).sum() / n
    fixed = state_focal_loss(logits, targets, STATES, counts, n, kind="fixed")
    torch.testing.assert_close(fixed, by_hand)


def test_the_two_halves_of_the_focal_loss():
    """alpha alone is gamma 0; gamma alone is alpha 1: by hand on the positions of one state."""
    logits, targets = random_step()
    n, counts = len(targets), state_counts(targets, STATES)
    alpha = state_focal_loss(logits, targets, STATES, counts, n, kind="alpha")
    torch.testing.assert_close(
        alpha, state_focal_loss(logits, targets, STATES, counts, n, gamma=0))
    losses = F.cross_entropy(logits, targets, reduction="none")
    by_hand = torch.where(targets < 3, losses * (1 - (-losses).exp()) ** 2, losses).sum() / n
    gamma = state_focal_loss(logits, targets, STATES, counts, n, kind="gamma")
    torch.testing.assert_close(gamma, by_hand)
    assert len({round(float(x), 4) for x in (
        alpha, gamma, state_focal_loss(logits, targets, STATES, counts, n))}) == 3


def test_the_fixed_weights_belong_to_the_states_not_to_their_order(monkeypatch):
    logits, targets = random_step()
    args = state_counts(targets, STATES), len(targets), "fixed"
    value = state_focal_loss(logits, targets, STATES, *args)
    monkeypatch.setattr(loss, "STATES", loss.STATES[::-1])
    turned = state_focal_loss(logits, targets, STATES.flip(0), *args)
    torch.testing.assert_close(turned, value)
    assert abs(state_focal_loss(logits, targets, STATES, *args) - value) > 0.01


def test_the_docstrings_numbers():
    alpha = state_alpha(torch.tensor([50, 8, 2]))
    torch.testing.assert_close(alpha, torch.tensor([0.4, 2.5, 10]))
    faded = [f"{(1 - p) ** 2:.4g}" for p in (0.1, 0.5, 0.9, 0.99)]
    assert f"(1 - p)^2   {'   '.join(faded)}" in loss.__doc__


def test_state_tokens_may_stand_anywhere_in_the_vocabulary():
    logits, targets = random_step()
    counts = state_counts(targets, STATES)
    value = state_focal_loss(logits, targets, STATES, counts, len(targets))
    turn = torch.tensor([4, 6, 1, 0, 2, 5, 3])          # token k is now called turn[k]
    renamed = torch.empty_like(logits)
    renamed[:, turn] = logits
    moved = state_focal_loss(renamed, turn[targets], turn[:3], counts, len(targets))
    torch.testing.assert_close(moved, value)


def test_half_precision_logits_are_weighed_in_float32():
    logits, targets = random_step()
    logits = logits.bfloat16()
    args = targets, STATES, state_counts(targets, STATES), len(targets)
    value = state_focal_loss(logits, *args)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, state_focal_loss(logits.float(), *args))


def test_an_unknown_kind_is_named():
    logits, targets = random_step()
    with pytest.raises(ValueError, match="'focall'.*focal, alpha, gamma, fixed, ce"):
        state_focal_loss(logits, targets, STATES, state_counts(targets, STATES), 1, kind="focall")
