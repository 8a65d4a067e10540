"""What moves the weights: AdamW and, where it is wanted, Muon for the matrices of hidden layers.

A step of Muon is as long in every direction of a matrix. M is the gradient's running mean. Its
singular values differ by orders of magnitude, so that a plain step moves along few directions;
U V^T of M = U S V^T moves along all alike. Five rounds of a polynomial in M bring S near 1, without
a decomposition (Jordan et al., "Muon: An optimizer for hidden layers", 2024). torch.optim.Muon does
the same in bfloat16 alone, one matrix at a time: on CPUs that emulate it an update of the demo's
decoder takes longer than its forward and backward. tests/test_optimizers.py holds the two together.
"""
from collections import defaultdict

import torch

from parts.engine import part_of, whole

ROUNDS, A, B, C = 5, 3.4445, -4.7750, 2.0315        # a X + b (X X^T) X + c (X X^T)^2 X, five times
TOGETHER = 1 << 24      # numbers that are moved together; their products take 7 times as much


def orthogonal(m):
    """Matrices (n, rows, columns) whose singular values, but for the very small, are near 1."""
    if m.shape[1] > m.shape[2]:
        return orthogonal(m.mT).mT                          # the products are smaller
    x = m / m.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """For matrices of hidden layers; embeddings, heads, biases and norms want AdamW. The rate
    is AdamW's too: a step is as long as one of its, 0.2 of lr for each weight, root mean square
    (Liu et al., "Muon is Scalable for LLM Training", 2025). dtype: of the five rounds' products.
    ValueError for what is no matrix."""

    def __init__(self, params, lr=1e-3, momentum=0.95, weight_decay=0.05, dtype=torch.float32):
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.ndim != 2:
                raise ValueError(f"Muon moves matrices, not a parameter of shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure=None):
        """closure: as torch.optim calls it; none is used."""
        for group in self.param_groups:
            alike = defaultdict(list)                       # by shape: one product for all of them
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, params in alike.items():
                most = max(1, TOGETHER // shape.numel())
                for k in range(0, len(params), most):
                    self.move(params[k:k + most], group)

    def move(self, params, group):
        """A step of matrices of one shape."""
        ahead = torch.stack([whole(self.ahead(p, group["momentum"])) for p in params])
        length = 0.2 * max(ahead.shape[1:]) ** 0.5
        for p, direction in zip(params, orthogonal(ahead.to(self.dtype)).to(ahead.dtype)):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(part_of(direction, p), alpha=group["lr"] * length)

    def ahead(self, p, momentum):
        """The running mean of p's gradients, one more step towards the newest (Nesterov's)."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        mean = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(mean, momentum)


def layer_matrices(model):
    """The matrices of a decoder's layers, those that learn."""
    layers = model.language_model.model.layers.parameters()
    return [p for p in layers if p.requires_grad and p.ndim == 2]


def others(parameters, matrices):
    """The (name, parameter) pairs of what learns and is none of the matrices."""
    known = {id(p) for p in matrices}
    return [(name, p) for name, p in parameters if p.requires_grad and id(p) not in known]


def own_optimizers(model, lr, weight_decay, muon, dtype=torch.float32):
    """[AdamW] of what learns of a model or, unless muon is 0, [AdamW, Muon], Muon for the matrices
    of the decoder's layers, with products in dtype. group["scale"]: of a group's rate, in the
    run's."""
    matrices = layer_matrices(model) if muon else []
    # weight decay is for matrices: biases, norms and embeddings are scales, not directions
    rest = [(p, p.ndim == 2 and "embed" not in name)
            for name, p in others(model.named_parameters(), matrices)]
    groups = [{"params": [p for p, matrix in rest if matrix == decays], "scale": 1.0,
               "weight_decay": weight_decay * decays} for decays in (True, False)]
    # fused: no copy of all weights in a step
    found = [torch.optim.AdamW(groups, lr=lr, fused=True)]
    if matrices:
        found.append(Muon([{"params": matrices, "scale": muon}], lr, weight_decay=weight_decay,
                          dtype=dtype))
    return found
