"""The attention that runs: what streamo.attention computes, in the ways that are fast.

tests/test_streamo.py holds each of them to the textbook form.
"""
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BLOCK = 1 << 17     # scores of a head at a time: they stay in the CPU's cache
# cuDNN's kernel is left out: it plans anew for each length, and every second has a new one
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def full_attention(q, k, v):
    """q, k, v (B, H, N, D): each looks at all, as in the vision encoder -> (B, N, H*D)."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # on the CPU the backward of the fused attention takes half of a training step
        y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    else:
        y = sdpa(q, k, v)
    return y.transpose(1, 2).flatten(2)


def causal_attention(q, k, v, mask=None):
    """q (B, H, T, D), k and v (B, K, S, D): the T last of S positions look back -> (B, T, H*D).
    mask: chunk_mask(T, S, H // K), where one is needed."""
    # measured: on CPUs plain products win in training (2.5 times) and for bfloat16 chunks (twice)
    chunk = q.dtype == torch.bfloat16 and q.shape[2] > 1
    plain = q.device.type == "cpu" and (torch.is_grad_enabled() or chunk)
    y = blocked_attention(q, k, v) if plain else fused_attention(q, k, v, mask)
    return y.transpose(1, 2).flatten(2)


def chunk_mask(T, S, groups, device):
    """Which of S keys the T last positions see, (groups*T, S) bool: query i sees keys 0 .. S-T+i,
    and each of its `groups` heads the same. None where nothing is to be hidden (T is 1) or torch's
    own causal mask does it (T is S)."""
    if T in (1, S):
        return None
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T).repeat(groups, 1)


def sdpa(q, *args, **more):
    with sdpa_kernel(KERNELS) if q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(q, *args, **more)


def fused_attention(q, k, v, mask):
    """torch's kernel. Beside a cache the query heads of a key head become more queries, which
    spares the kernel the copying of keys."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    if T == S:
        if q.is_cuda and q.dtype == torch.float32:      # its kernel knows no shared key heads
            k, v = (x.repeat_interleave(H // K, 1) for x in (k, v))
        return sdpa(q, k, v, is_causal=True, enable_gqa=K != H)
    y = sdpa(q.reshape(B, K, H // K * T, D), k, v, attn_mask=mask)
    return y.view(B, H, T, D)


def blocked_attention(q, k, v):
    """Plain products over blocks of queries: a block never meets the scores of its future, and
    what the backward keeps of it is half as much."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    q = (q * D ** -0.5).reshape(B * K, H // K, T, D)
    k, v = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)         # (B*K, D, S), (B*K, S, D)
    out, block = [], max(16, BLOCK // S)
    for i in range(0, T, block):
        n = min(block, T - i)
        end = S - T + i + n                             # the block's last query sees keys [0, end)
        future = torch.full((n, end), -torch.inf, dtype=q.dtype, device=q.device)
        future = future.triu(end - n + 1).repeat(H // K, 1)                  # (H/K*n, end)
        queries = q[:, :, i:i + n].reshape(B * K, -1, D)                     # (B*K, H/K*n, D)
        scores = torch.baddbmm(future, queries, k[:, :, :end])               # future + q @ k
        out.append((scores.softmax(-1) @ v[:, :end]).view(B, H, n, D))
    return torch.cat(out, 2)
