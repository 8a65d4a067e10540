"""Exams of attention: its textbook form, and the one that runs (parts/attention.py)."""
import torch

from course.exams import exam
from course.exams.model import a_config, a_model, seeded
from parts.attention import causal_attention, chunk_mask, full_attention
from streamo import Decoder, KVCache, attention

CHECKS, check = exam()


def heads(rng, T, S, H=4, K=2, D=8, B=2):
    """Queries, keys and values that differ enough for a wrong place to be seen."""
    seeded(rng)
    return 2 * torch.randn(B, H, T, D), torch.randn(B, K, S, D), torch.randn(B, K, S, D)


@check("attention", 1, "attention: with causal=False, as many keys as queries")
def all_see_all(rng):
    return attention(*heads(rng, 7, 7, H=2), causal=False)


@check("attention", 1, "attention: with causal=True, as many keys as queries")
def causal(rng):
    return attention(*heads(rng, 9, 9, H=2), causal=True)


@check("attention", 1, "attention: more query heads than key heads")
def grouped(rng):
    return [attention(*heads(rng, 5, 5, H=6, K=rng.choice((2, 3))), causal=False),
            attention(*heads(rng, 5, 5, H=6, K=1), causal=True)]


@check("attention", 2, "attention: a chunk of several queries behind keys that were there before")
def chunk(rng):
    return [attention(*heads(rng, T, rng.randrange(T + 1, 15)), causal=True) for T in (2, 3, 6)]


@check("attention", 1, "causal_attention: a whole sequence")
def runs_whole(rng):
    q, k, v = heads(rng, 9, 9)
    with torch.no_grad():
        return [causal_attention(q, k, v), causal_attention(q, k, v, chunk_mask(9, 9, 2, "cpu"))]


@check("attention", 2, "causal_attention: with the mask of chunk_mask, a chunk behind a cache")
def runs_chunk(rng):
    out = []
    for T in (1, 2, 5):
        S = rng.randrange(T + 1, 15)
        with torch.no_grad():
            out.append(causal_attention(*heads(rng, T, S), chunk_mask(T, S, 2, "cpu")))
    return out


@check("attention", 1, "causal_attention: its gradient")
def gradient(rng):
    parts = [part.requires_grad_() for part in heads(rng, 9, 9)]
    causal_attention(*parts).square().sum().backward()
    return [part.grad for part in parts]


@check("attention", 1, "with them the model reads text, chunks of it or pictures otherwise")
@torch.no_grad()
def the_model(rng):
    streamo = a_model(rng)
    decoder, ids, cut = Decoder(a_config()), torch.randint(0, 31, (2, 14)), rng.randrange(2, 12)
    cache = KVCache(decoder.config, 2, 14)
    return [full_attention(*heads(rng, 6, 6, H=2)), decoder(ids),
            *(decoder(part, cache=cache) for part in ids.split([cut, 14 - cut], 1)),
            streamo.encode_frames(torch.randn(1, 3, 16, 16))]
