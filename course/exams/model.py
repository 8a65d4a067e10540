"""Exams of parts/tokenizer.py and streamo.py."""
import torch

from course.exams import exam, taken_or_refused
from parts.config import DecoderConfig, StreamoConfig, VisionConfig
from parts.tokenizer import merge_word
from streamo import Decoder, KVCache, Streamo, pooling_matrix, rope, rotate

CHECKS, check = exam()


# ---- Byte-pair merges

def a_table(rng, letters, merges):
    """Ranks {(a, b): (rank, new)}: random pairs of what is there so far become a new id."""
    ranks, ids = {}, list(range(letters))
    while len(ranks) < merges:
        pair = rng.choice(ids), rng.choice(ids)
        if pair not in ranks:
            ranks[pair] = len(ranks), letters + len(ranks)
            ids.append(letters + ranks[pair][0])
    return ranks


def words(rng, letters, lengths):
    return [[rng.randrange(letters) for _ in range(n)] for n in lengths]


@check("bpe", 2, "merge_word: a word of one pair, of no pair, of one letter or of none")
def short_words(rng):
    ranks = {(1, 2): (0, 7), (7, 3): (1, 8)}
    letter = rng.randrange(4, 6)
    return [merge_word(word, ranks) for word in ([1, 2], [2, 1], [1, 2, 3], [letter], [],
                                                 [letter, 1, 2, letter])]


@check("bpe", 3, "merge_word: not the pair of the lowest rank in the whole word is merged first")
def ranks_decide(rng):
    tables = [a_table(rng, 4, 12) for _ in range(30)]
    return [merge_word(word, ranks) for ranks in tables for word in words(rng, 4, [3, 5, 9, 14])]


@check("bpe", 2, "merge_word: of equal pairs that overlap the leftmost is not the first merged")
def overlaps(rng):
    a, b = rng.sample(range(5), 2)
    ranks = {(a, a): (0, 9), (9, 9): (1, 10), (9, a): (2, 11), (b, 9): (3, 12)}
    return [merge_word(word, ranks) for word in (
        [a] * 2, [a] * 3, [a] * 5, [a] * 7, [b, a, a, a], [b, *[a] * 6, b, a, a, a])]


@check("bpe", 1, "merge_word: long words of many merges")
def long_words(rng):
    tables = [a_table(rng, 3, 40) for _ in range(10)]
    return [merge_word(word, ranks) for ranks in tables for word in words(rng, 3, [200])]


@check("bpe", 1, "merge_word: its arguments are changed")
def untouched(rng):
    ranks, word = a_table(rng, 4, 12), words(rng, 4, [12])[0]
    made = merge_word(word, ranks)
    return [made, word, [[*pair, *new] for pair, new in ranks.items()]]


@check("bpe", 1, "merge_word: a word of 12,000 letters takes more than seconds")
def in_time(rng):
    ranks = a_table(rng, 4, 30)
    made = merge_word(words(rng, 4, [12_000])[0], ranks)
    return [len(made), *made[:50], *made[-50:], sum(i * n for i, n in enumerate(made, 1)) % 99_991]


# ---- Pooling

def squares(rng):
    """(side of the patches, side of the grid): divisible, not divisible, the whole."""
    return [(6, 3), (8, 2), (rng.choice((5, 7, 9)), rng.choice((2, 3))), (4, 4), (5, 1)]


@check("pooling", 3, "pooling_matrix: \"average\", where the grid divides the patches")
def average(rng):
    return [pooling_matrix(side, grid, "average")
            for side, grid in ((6, 3), (8, 2), (4, 4), (5, 1))]


@check("pooling", 2, "pooling_matrix: \"average\", where the grid does not divide the patches")
def uneven(rng):
    return [pooling_matrix(side, grid, "average") for side, grid in (
        (rng.choice((5, 7)), 2), (rng.choice((7, 8)), 3), (14, 4))]


@check("pooling", 3, "pooling_matrix: \"bilinear\"")
def bilinear(rng):
    return [pooling_matrix(side, grid, "bilinear") for side, grid in squares(rng)]


@check("pooling", 1, "pooling_matrix: an unknown kind is not refused by a ValueError")
def refused(rng):
    return taken_or_refused(pooling_matrix, 4, 2, rng.choice(("max", "Average", "")))


@check("pooling", 1, "encode_frames: with it the visual tokens of a frame are not in their order")
def tokens_in_order(rng):
    model, pixels = a_model(rng), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        return [model.encode_frames(pixels), model.encode_frames(pixels, 1)]


# ---- A small model

def seeded(rng):
    torch.manual_seed(rng.randrange(2 ** 31))


def a_config(**more):
    return DecoderConfig(**{**dict(vocab_size=31, hidden_size=24, intermediate_size=32,
                                   num_hidden_layers=2, num_attention_heads=4,
                                   num_key_value_heads=2, head_dim=8, rope_theta=1e4,
                                   max_position_embeddings=4096), **more})


def a_model(rng, **more):
    """Streamo with 16 patches, pooled to 2 x 2 tokens; <frame> is 30."""
    seeded(rng)
    vision = VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                          num_attention_heads=2, image_size=16, patch_size=4)
    return Streamo(StreamoConfig(vision, a_config(**more), frame_token_id=30, grid=2,
                                 coarse_grid=1, pooling="average"))


# ---- RoPE

def turned(rng, positions, heads=2, dtype=torch.float32, **more):
    seeded(rng)
    config = a_config(**more)
    x = torch.randn(1, heads, len(positions), config.head_dim)
    return rotate(x, *rope(torch.tensor(positions), config, dtype))


@check("rope", 3, "rope and rotate: the first positions")
def first_positions(rng):
    return [turned(rng, [0, 1, 2, 3]), turned(rng, [0]), turned(rng, [1], head_dim=2)]


@check("rope", 2, "rope and rotate: positions that do not begin at 0, also negative ones")
def other_positions(rng):
    start = rng.randrange(5, 900)
    return [turned(rng, [start, start + 1, start + 7]), turned(rng, [-start, -3, 5])]


@check("rope", 2, "rope: another theta, another head_dim")
def thetas(rng):
    return [turned(rng, [3, 40], rope_theta=float(rng.choice((100, 500_000)))),
            turned(rng, [2, 9], head_dim=rng.choice((4, 16, 6)))]


@check("rope", 1, "rotate: after the turn queries and keys do not tell their distance")
def distances(rng):
    seeded(rng)
    config, far = a_config(), rng.randrange(1, 99)
    q, k = torch.randn(2, 8).unbind()
    return [rotate(q[None], *rope(torch.tensor([m]), config, torch.float32))
            @ rotate(k[None], *rope(torch.tensor([m - far]), config, torch.float32)).T
            for m in (far, far + 5, far + 500)]


@check("rope", 1, "rope: at far positions its angles are too coarse when bfloat16 is asked for",
       close=0.03)
def far_positions(rng):
    return turned(rng, [rng.randrange(3000, 4000), 2049], dtype=torch.bfloat16).float()


@check("rope", 1, "rope: cos and sin are not of the dtype that was asked for")
def dtypes(rng):
    return [str(part.dtype) for part in rope(torch.tensor([3, 4]), a_config(), torch.bfloat16)]


# ---- The cache

def a_cache(rng, filled=0, capacity=20, dtype=torch.float32, layers=2, batch=1):
    """A cache with so many slots filled by random keys and values, written without update."""
    seeded(rng)
    cache = KVCache(a_config(num_hidden_layers=layers), batch, capacity, dtype)
    cache.keys[..., :filled, :] = torch.randn_like(cache.keys[..., :filled, :])
    cache.values[..., :filled, :] = torch.randn_like(cache.values[..., :filled, :])
    cache.length = filled
    return cache


def new_keys(n, dtype=torch.float32, batch=1):
    return torch.randn(batch, 2, n, 8).to(dtype), torch.randn(batch, 2, n, 8).to(dtype)


@check("append", 2, "update: what it returns after the first chunk")
def first_chunk(rng):
    cache = a_cache(rng)
    return [part.clone() for part in cache.update(0, *new_keys(rng.randrange(2, 9)))]


@check("append", 3, "update: what it returns after a later chunk")
def later_chunk(rng):
    cache = a_cache(rng, rng.randrange(3, 9), batch=2)
    return [part.clone() for n in (1, rng.randrange(2, 6))
            for part in cache.update(1, *new_keys(n, batch=2))]


@check("append", 2, "update: what lies in the cache afterwards, and its length")
def what_lies_there(rng):
    cache = a_cache(rng, rng.randrange(3, 9), layers=3)
    cache.update(rng.randrange(3), *new_keys(rng.randrange(2, 9)))
    return [cache.keys, cache.values, cache.length]


@check("append", 1, "update: a chunk that just fits, or one that does not fit")
def full(rng):
    filled = rng.randrange(5, 15)
    cache = a_cache(rng, filled)
    return [taken_or_refused(cache.update, 0, *new_keys(n)) for n in (20 - filled, 21 - filled)]


@check("append", 1, "update: the decoder reads a sequence in chunks otherwise than in one piece")
def in_chunks(rng):
    seeded(rng)
    model, ids, cut = Decoder(a_config()), torch.randint(0, 31, (2, 14)), rng.randrange(2, 12)
    cache = KVCache(model.config, 2, 14)
    with torch.no_grad():
        return [model(part, cache=cache) for part in ids.split([cut, 1, 13 - cut], 1)]


@check("append", 1, "update: keys of another dtype than the cache's")
def half(rng):
    cache = a_cache(rng, 4, dtype=torch.bfloat16)
    return [part.float() for part in cache.update(0, *new_keys(3))]


def left(cache):
    """What a cache holds; what lies behind its length does not matter."""
    return [cache.length, cache.keys[..., :cache.length, :].float(),
            cache.values[..., :cache.length, :].float()]


@check("drop", 1, "drop: how many slots are left, and the values in them")
def dropped_values(rng):
    cache = a_cache(rng, rng.randrange(12, 20), batch=2)
    cache.drop(2, rng.randrange(4, 9))
    return [cache.length, cache.values[..., :cache.length, :]]


@check("drop", 3, "drop: the keys that are left after a span in the middle is gone")
def dropped_keys(rng):
    cache = a_cache(rng, rng.randrange(12, 20))
    cache.drop(rng.randrange(1, 4), rng.randrange(5, 9))
    return left(cache)


@check("drop", 1, "drop: a span at the beginning, at the end, of nothing, of everything")
def edges(rng):
    out = []
    for start, end in ((0, 4), (7, 10), (5, 5), (0, 10), (10, 10)):
        cache = a_cache(rng, 10)
        cache.drop(start, end)
        out.append(left(cache))
    return out


@check("drop", 2, "drop: several spans at once")
def several(rng):
    cuts = sorted(rng.sample(range(1, 18), 6))
    cache = a_cache(rng, 18)
    cache.drop(cuts[::2], cuts[1::2])
    return left(cache)


@check("drop", 1, "drop: one after another")
def again(rng):
    cache = a_cache(rng, 18)
    for _ in range(3):
        start = rng.randrange(cache.length - 3)
        cache.drop(start, start + rng.randrange(1, 4))
    return left(cache)


@check("drop", 1, "drop: a span that is not inside of what is filled")
def outside(rng):
    caches = [a_cache(rng, 10) for _ in range(4)]
    spans = (3, 11), (5, 4), (-1, 3), ([1, 8], [3, 12])
    return [taken_or_refused(cache.drop, *span) for cache, span in zip(caches, spans)]


@check("drop", 1, "drop: in bfloat16", close=0.03)
def half_drop(rng):
    cache = a_cache(rng, 18, dtype=torch.bfloat16)
    cache.drop(2, rng.randrange(5, 9))
    return [left(cache), str(cache.keys.dtype)]


# ---- Visual tokens among words

def a_dialogue(rng, frames, batch=1, length=16):
    """Ids (batch, length), <frame> is 30, and as many features as there are of them."""
    seeded(rng)
    ids = torch.randint(0, 30, (batch, length))
    for row in range(batch):
        ids[row, sorted(rng.sample(range(length), frames))] = 30
    return ids, torch.randn(batch * frames, 24)


@check("placing", 3, "forward: one dialogue with visual tokens")
@torch.no_grad()
def placed(rng):
    model, (ids, features) = a_model(rng), a_dialogue(rng, 5)
    return model(ids, features)


@check("placing", 2, "forward: two dialogues in a batch, each with its own visual tokens")
@torch.no_grad()
def placed_in_rows(rng):
    model, (ids, features) = a_model(rng), a_dialogue(rng, 4, batch=2)
    return model(ids, features)


@check("placing", 1, "forward: a dialogue of words alone")
@torch.no_grad()
def words_alone(rng):
    model, (ids, _) = a_model(rng), a_dialogue(rng, 0)
    return [model(ids), model(ids, torch.zeros(0, 24))]


@check("placing", 1, "forward: fewer or more visual tokens than <frame>, or none")
@torch.no_grad()
def unequal(rng):
    model, (ids, features) = a_model(rng), a_dialogue(rng, 5)
    return [taken_or_refused(model, ids, given)
            for given in (features[:-1], torch.cat([features, features]), None)]


@check("placing", 1, "forward: the gradient does not reach the visual tokens and the words")
def gradients(rng):
    model, (ids, features) = a_model(rng), a_dialogue(rng, 4)
    features.requires_grad_()
    model(ids, features).square().mean().backward()
    return [features.grad * 100, model.language_model.model.embed_tokens.weight.grad * 100]


@check("placing", 1, "forward: pixels, frames and grids in place of features")
@torch.no_grad()
def from_pixels(rng):
    model, (ids, _) = a_model(rng), a_dialogue(rng, 9)
    return model(ids, pixels=torch.randn(2, 3, 16, 16), frames=torch.tensor([0, 1, 0]),
                 grids=torch.tensor([2, 1, 2]))


@check("placing", 1, "forward: cache and select are not handed on")
@torch.no_grad()
def handed_on(rng):
    model, (ids, features) = a_model(rng), a_dialogue(rng, 5)
    cache, n = KVCache(model.config.decoder, 1, 16), int((ids[0, :9] == 30).sum())
    return [model(ids[:, :9], features[:n], cache=cache, select="last"),
            model(ids[:, 9:], features[n:], cache=cache, select="last"), cache.length]
