"""Muon against its definition and torch's, and which optimizer moves what."""
import pytest
import torch
from small import parts

import train
from parts import optimizers
from parts.optimizers import Muon, layer_matrices, orthogonal, own_optimizers
from toy import pretrain


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (40, 40)])
def test_orthogonal_is_the_gradient_with_its_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1, 1e3])[:, None, None]
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        values = u.T @ found @ v.T                          # S' of found = U S' V^T
        large = s > 0.02 * s[0]                             # the smallest have not arrived yet
        assert (values - torch.diag(values.diag())).abs().max() < 1e-3
        assert 0.6 < values.diag()[large].min() and values.diag().max() < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (24, 24)])
def test_muon_is_torchs(shape, dtype):
    """To the digits of bfloat16, in which torch's computes, of both where ours does so, too; over
    steps of several rates."""
    torch.manual_seed(1)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = Muon([ours], lr=0.01, weight_decay=0.1, dtype=dtype)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95,
                             adjust_lr_fn="match_rms_adamw")
    for rate in (0.01, 0.03, 0.002):
        gradient = torch.randn(shape)
        for p, optimizer in ((ours, one), (theirs, other)):
            p.grad = gradient.clone()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    digits = 0.02 if dtype == torch.float32 else 0.04
    assert (ours - theirs).norm() < digits * (theirs - start).norm()


@pytest.mark.parametrize("together", [1 << 24, 1, 200])
def test_matrices_of_one_shape_move_as_if_they_were_alone(monkeypatch, together):
    """However many of them are moved at a time."""
    monkeypatch.setattr(optimizers, "TOGETHER", together)
    torch.manual_seed(2)
    starts, gradients = torch.randn(3, 8, 12), torch.randn(3, 8, 12)
    all_three, alone = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    moving = [Muon(all_three), *(Muon([p]) for p in alone)]
    for some in (all_three, alone):
        for p, gradient in zip(some, gradients):
            p.grad = gradient.clone()
    for optimizer in moving:
        optimizer.step()
    torch.testing.assert_close(all_three, alone, rtol=1e-5, atol=1e-6)


def test_products_are_in_bfloat16_where_the_forward_s_are(monkeypatch):
    """By the hardware and --autocast; the weights and the running mean stay float32."""
    seen = []

    def recording(m):
        seen.append(m.dtype)
        return orthogonal(m)

    monkeypatch.setattr(optimizers, "orthogonal", recording)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for can, words, dtype in ((True, [], torch.bfloat16), (False, [], torch.float32),
                              (True, ["--no-autocast"], torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: {"avx512_bf16": can})
        tokenizer, model = parts()
        learner = train.Learner(train.parse(["--muon", "2", *words]), tokenizer, model)
        muon = learner.optimizers[1]
        lessons = pretrain.Lessons(autocast=not words)
        for optimizer in (muon, pretrain.watching_optimizers(lessons, model)[1]):
            for p in layer_matrices(model):
                p.grad = torch.ones_like(p)
            optimizer.step()
        assert {*seen} == {dtype}, words
        seen.clear()
        assert {state["momentum_buffer"].dtype for state in muon.state.values()} | {
            p.dtype for p in layer_matrices(model)} == {torch.float32}


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"matrices.*\(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_which_optimizer_moves_what():
    """All that learns is moved once; what decays is a matrix and no embedding."""
    _, model = parts()
    model.vision_tower.requires_grad_(False)
    names = {id(p): name for name, p in model.named_parameters()}
    (adamw,), (both, muon) = (own_optimizers(model, 1e-3, 0.1, scale) for scale in (0, 2.0))
    for optimizers in ((adamw,), (both, muon)):
        moved = [id(p) for one in optimizers for g in one.param_groups for p in g["params"]]
        assert sorted(moved) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    (matrices,) = muon.param_groups
    assert {id(p) for p in matrices["params"]} == {id(p) for p in layer_matrices(model)}
    assert matrices["scale"] == 2 and matrices["weight_decay"] == 0.1
    for group in adamw.param_groups + both.param_groups:
        assert group["scale"] == 1
        for p in group["params"]:
            plain = p.ndim != 2 or "embed" in names[id(p)]
            assert group["weight_decay"] == (0 if plain else 0.1), names[id(p)]


def test_a_step_gives_each_optimizer_its_rate(tmp_path, monkeypatch):
    tokenizer, model = parts()
    learner = train.Learner(train.parse(["--out", str(tmp_path), "--muon", "3"]), tokenizer, model)
    monkeypatch.setattr(learner, "backward", lambda *_: {"loss": 1.0})
    for p in learner.learnt:
        p.grad = torch.ones_like(p)
    learner.step([], 0.25)
    adamw, muon = learner.optimizers
    assert {g["lr"] for g in adamw.param_groups} == {0.25}
    assert [g["lr"] for g in muon.param_groups] == [0.75]


@pytest.mark.parametrize("clip, norm", [("0.5", 0.5), ("0", 300)])
def test_a_step_clips_the_gradient(tmp_path, monkeypatch, clip, norm):
    """To the norm of --clip, all weights' together; 0 leaves it as it is."""
    tokenizer, model = parts()
    learner = train.Learner(train.parse(["--out", str(tmp_path), "--clip", clip]), tokenizer, model)
    monkeypatch.setattr(learner, "backward", lambda *_: {"loss": 1.0})
    size, seen = sum(p.numel() for p in learner.learnt), []
    for p in learner.learnt:
        p.grad = torch.full_like(p, 300 / size ** 0.5)
    for optimizer in learner.optimizers:
        monkeypatch.setattr(optimizer, "step", lambda: seen.append(
            torch.cat([p.grad.flatten() for p in learner.learnt]).norm().item()))
        monkeypatch.setattr(optimizer, "zero_grad", lambda **_: None)
    log = learner.step([], 0.25)
    assert seen[0] == pytest.approx(norm, rel=1e-3)
    assert log["gradient_norm"] == pytest.approx(300, rel=1e-3)
