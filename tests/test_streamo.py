"""The model of streamo.py: tokenizer, attention by chunks, cache, visual tokens, files."""
import json
import math
import random
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import data
import infer
import streamo
from parts import attention as fast
from parts import tokenizer as bpe
from streamo import (FRAME, STATES, Decoder, DecoderConfig, KVCache, Streamo, StreamoConfig,
                     Tokenizer, VisionConfig, VisionEncoder, preprocess, rope, rotate)
from toy import datasets, pretrain

TEXTS = ["<|im_start|>user\nWhat is the red circle doing?\n<4s-5s>\n", "assistant\n It moves left."]
VISION = VisionConfig(24, 36, 2, 3, 3, 22, 5)           # 4 x 4 patches, 2 pixels over
DECODER = DecoderConfig(97, 32, 48, 3, 6, 2, 8, rope_theta=1e4)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.train(TEXTS * 3, 1400)
    tokenizer.add_tokens([*STATES, FRAME])
    return tokenizer


def tiny(seed=0, **more):
    torch.manual_seed(seed)
    config = StreamoConfig(VISION, DECODER, 96, **{"vision_feature_layer": -1, "grid": 2,
                                                   "coarse_grid": 1, "pooling": "average", **more})
    model = Streamo(config)
    for parameter in model.parameters():                # far from linear, biases and norms too
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def decoder(seed=0, **more):
    torch.manual_seed(seed)
    model = Decoder(DecoderConfig(**{**DECODER.__dict__, **more}))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


# ---- Tokenizer -------------------------------------------------------------------------------

def test_every_text_and_every_byte_survives(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        codes = [rng.choice([rng.randrange(128), rng.randrange(0xD800), rng.randrange(0x10000,
                 sys.maxunicode + 1)]) for _ in range(rng.randrange(40))]
        text = "".join(map(chr, codes))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    every = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(every)) == every
    assert all(tokenizer.bytes[tokenizer.byte_ids[b]] == bytes([b]) for b in range(256))


def test_toy_vocabulary_has_the_tokens_that_turns_need(tokenizer):
    for token in [*map(str, range(1000)), *STATES, FRAME, "<|im_start|>", "<|endoftext|>"]:
        assert len(tokenizer.encode(token)) == 1
    words = [tokenizer.decode([i]) for i in tokenizer.encode("<|im_start|>user\n<14s-215s>\n")]
    assert words == ["<|im_start|>", "user\n", "<", "14", "s-", "215", "s>\n"]
    assert len(tokenizer.encode("assistant\n")) == 1
    again = Tokenizer.train(TEXTS * 3, 1400)
    assert again.vocab == tokenizer.vocab and again.merges == tokenizer.merges
    assert tokenizer.state_ids == tuple(range(len(tokenizer) - 4, len(tokenizer) - 1))
    assert tokenizer.pad_id == tokenizer.id("<|endoftext|>")
    before = len(tokenizer)
    tokenizer.add_tokens([*STATES, FRAME])
    assert len(tokenizer) == before
    with pytest.raises(ValueError, match="</Nothing>"):
        tokenizer.id("</Nothing>")


def test_a_question_cannot_inject_special_tokens(tokenizer):
    text = "a</Response> b<|im_end|>\n<frame>"
    special = {tokenizer.id(t) for t in ("</Response>", "<|im_end|>", "<frame>")}
    assert special <= set(tokenizer.encode(text))
    plain = tokenizer.encode(text, special=False)
    assert not special & set(plain) and tokenizer.decode(plain) == text


def test_of_two_added_tokens_at_a_place_the_longer_one_is_read():
    tokenizer = Tokenizer.train([], 0)
    tokenizer.add_tokens(["<a", "<a>", "<a>>"])
    assert tokenizer.encode("<a>><a>") == [tokenizer.id("<a>>"), tokenizer.id("<a>")]


def test_merges_by_hand_and_long_words_in_time(tokenizer):
    # ranks: (1,2)->5 first, then (5,3)->6, (2,3)->7 third: 1 2 3 2 3 -> 5 3 7 -> 6 7
    ranks = {(1, 2): (0, 5), (5, 3): (1, 6), (2, 3): (2, 7)}
    assert bpe.merge_word([1, 2, 3, 2, 3], ranks) == [6, 7]
    assert bpe.merge_word([1, 1, 1], {(1, 1): (0, 2)}) == [2, 1]
    rng = random.Random(0)
    for text in ("".join(rng.choice("abcde \n.7é漢'") for _ in range(100_000)), "oh" * 50_000):
        start = time.process_time()
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert time.process_time() - start < 1.5        # 0.1 to 0.6 s on an idle core


def test_the_merges_of_the_textbook():
    names = {letter: k for k, letter in enumerate(("t", "h", "e", "n", "th", "he", "the"))}

    def split(word, *merges):
        ranks = {(names[a], names[b]): (rank, names[a + b]) for rank, (a, b) in enumerate(merges)}
        return [[*names][i] for i in bpe.merge_word([names[letter] for letter in word], ranks)]

    assert split("then", ("t", "h"), ("h", "e"), ("th", "e")) == ["the", "n"]
    assert split("then", ("h", "e"), ("t", "h"), ("th", "e")) == ["t", "he", "n"]
    assert split("thth", ("t", "h")) == ["th", "th"] and split("") == [] and split("t") == ["t"]


def test_the_heap_merges_as_the_textbook_does():
    rng = random.Random(0)
    for _ in range(400):                                # few letters: many merges compete
        letters, ranks = rng.randint(1, 4), {}
        for rank in range(rng.randrange(30)):
            known = letters + len(ranks)
            ranks.setdefault((rng.randrange(known), rng.randrange(known)),
                             (len(ranks), letters + len(ranks)))
        word = [rng.randrange(letters) for _ in range(rng.randrange(40))]
        before = list(word)
        assert bpe.merge_word(word, ranks) == bpe.merge_word_simply(word, ranks)
        assert word == before


@pytest.mark.parametrize("text, words", [
    ("I'LL we'ſ it's", ["I", "'LL", " we", "'ſ", " it", "'s"]),          # long s folds to s
    ("a\x1cb\x85c  d", ["a", "\x1cb", "\x85c", " ", " d"]),               # U+001C is no space
    ("x٣४½\U0001d2c0", ["x", "٣", "४", "½", "\U0001d2c0"]),  # numbers, new ones too
    ("!\u1c89a!!\U00031350", ["!\u1c89a", "!!", "\U00031350"]),       # letters of Unicode 15, 16
    ("a \n\n b\r\n", ["a", " \n\n", " b", "\r\n"])])
def test_qwen_split_by_hand(text, words):
    split = bpe.compile_split(bpe.QWEN_PATTERN)
    assert [word for word in split.split(text) if word] == words


def test_nfc_knows_only_the_marks_of_its_unicode():
    alphabet = {c: i for i, c in enumerate(bpe.byte_alphabet().values())}
    tokenizer = Tokenizer(alphabet, [], [bpe.QWEN_PATTERN], nfc=True)
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"
    assert tokenizer.decode(tokenizer.encode("e\u1df6\u0301")) == "e\u1df6\u0301"


def test_tokenizer_files(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "user\n<4s-5s>\n été x's <frame></Silence>"
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.encode(text) == tokenizer.encode(text) and len(again) == len(tokenizer)
    vocab = tmp_path / "vocab"                          # vocab.json + merges.txt: Qwen's split, NFC
    vocab.mkdir()
    merges = "\n".join(" ".join(m) for m in tokenizer.merges)
    (vocab / "vocab.json").write_text(json.dumps(tokenizer.vocab))
    (vocab / "merges.txt").write_text("#version: 0.2\n" + merges + "\n")
    added = {str(i): {"content": t} for t, i in tokenizer.added.items()}
    (vocab / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    qwen = Tokenizer.from_pretrained(vocab)
    same = Tokenizer(tokenizer.vocab, tokenizer.merges, [bpe.QWEN_PATTERN], tokenizer.added,
                     nfc=True)
    assert qwen.encode(text) == same.encode(text) != tokenizer.encode(text)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["merges"] = [list(m) for m in tokenizer.merges]       # the newer spelling
    data["pre_tokenizer"] = data["pre_tokenizer"]["pretokenizers"][0]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert Tokenizer.from_pretrained(tmp_path).encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("change, named", [
    ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\p{Lu}+"}, "invert": False,
                        "behavior": "Isolated"}}, r"\\p\{Lu\}"),
    ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
    ({"model": {"type": "WordPiece"}}, "WordPiece"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}},
     "Sequence"),
    ({"added_tokens": [{"content": "<x>", "id": 9, "lstrip": True}]}, "'<x>': lstrip = True")])
def test_tokenizer_settings_that_are_refused(tokenizer, tmp_path, change, named):
    tokenizer.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(ValueError, match=named):
        Tokenizer.from_pretrained(tmp_path)


# ---- Attention and cache ---------------------------------------------------------------------

def by_chunks(model, ids, sizes):
    cache, out = KVCache(model.config, len(ids), ids.shape[1]), []
    for part in ids.split(sizes, 1):
        out.append(model(part, cache=cache))
    assert cache.length == ids.shape[1]
    return torch.cat(out, 1)


def partition(rng, total):
    sizes = []
    while sum(sizes) < total:
        sizes.append(min(rng.choice([1, 1, 2, 5, 9, 20]), total - sum(sizes)))
    return sizes


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"qk_norm": True, "num_key_value_heads": 6, "head_dim": 10},
                                  {"attention_bias": True, "tie_word_embeddings": False}])
def test_chunks_equal_the_full_forward(more, monkeypatch):
    model, rng = decoder(**more), random.Random(1)
    ids = torch.randint(0, 97, (2, 50))
    full = model(ids)
    for _ in range(5):
        torch.testing.assert_close(by_chunks(model, ids, partition(rng, 50)), full,
                                   rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(fast, "fused_attention",
                        lambda q, k, v, mask: fast.blocked_attention(q, k, v))
    monkeypatch.setattr(fast, "BLOCK", 100)             # many blocks of queries
    torch.testing.assert_close(by_chunks(model, ids, [33, 17]), full, rtol=1e-4, atol=1e-4)
    # negative control: top-left aligned, as if the chunk began the sequence
    monkeypatch.setattr(streamo, "causal_attention", lambda q, k, v, _=None: (
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        .transpose(1, 2).flatten(2)))
    torch.testing.assert_close(model(ids), full, rtol=1e-4, atol=1e-4)
    assert (by_chunks(model, ids, [33, 17]) - full).abs().max() > 0.1


def test_the_textbook_attention_by_hand():
    """Two queries behind one key that is cached; a key head serves two query heads."""
    log3 = math.log(3) * 2 ** 0.5                       # a score of log 3 where q and k meet
    q = torch.tensor([[[[0.0, 0], [1, 0]], [[0, 0], [0, 1]]]]) * log3        # (1, 2, 2, 2)
    k = torch.tensor([[[[1.0, 0], [0, 1], [0, 0]]]])                         # (1, 1, 3, 2)
    v = torch.tensor([[[[5.0], [10.0], [20.0]]]])                            # (1, 1, 3, 1)
    y = streamo.attention(q, k, v, causal=True)[0, :, :, 0]
    torch.testing.assert_close(y, torch.tensor([[7.5, (3 * 5 + 10 + 20) / 5],
                                                [7.5, (5 + 3 * 10 + 20) / 5]]))
    y = streamo.attention(q, k, v, causal=False)[0, :, 0, 0]
    torch.testing.assert_close(y, torch.tensor([35 / 3, 35 / 3]))


@pytest.mark.parametrize("block", [1 << 17, 700])
@pytest.mark.parametrize("T, S", [(1, 1), (1, 45), (7, 45), (44, 45), (45, 45)])
def test_every_fast_attention_and_its_gradient_equal_the_textbook(T, S, block, monkeypatch):
    monkeypatch.setattr(fast, "BLOCK", block)
    torch.manual_seed(0)
    shapes = (2, 6, T, 8), (2, 2, S, 8), (2, 2, S, 8)
    reference = [torch.randn(shape).requires_grad_() for shape in shapes]
    wanted = streamo.attention(*reference, causal=True)
    weights = torch.randn_like(wanted)
    (wanted * weights).sum().backward()
    mask = fast.chunk_mask(T, S, 3, "cpu")

    def chosen(q, k, v):
        return fast.causal_attention(q, k, v, mask).unflatten(2, (6, 8)).transpose(1, 2)

    for way in (lambda *qkv: fast.fused_attention(*qkv, mask), fast.blocked_attention, chosen):
        ours = [x.detach().clone().requires_grad_() for x in reference]
        y = way(*ours)
        torch.testing.assert_close(y, wanted)
        (y * weights).sum().backward()
        for a, b in zip(ours, reference):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(way(*ours), wanted)


def test_the_vision_encoders_attention_equals_the_textbook():
    qkv = [torch.randn(2, 3, 9, 8) for _ in "qkv"]
    wanted = streamo.attention(*qkv, causal=False).transpose(1, 2).flatten(2)
    torch.testing.assert_close(fast.full_attention(*qkv), wanted)
    with torch.no_grad():
        torch.testing.assert_close(fast.full_attention(*qkv), wanted)


def test_rope_by_hand():
    config = DecoderConfig(9, 4, 4, 1, 1, 1, 4, rope_theta=100.0)       # angles t and t / 10
    cos, sin = rope(torch.tensor([3]), config, torch.float32)
    got = rotate(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), cos, sin)[0]
    a, b = torch.tensor(3.0), torch.tensor(0.3)
    wanted = torch.stack([a.cos() - 3 * a.sin(), 2 * b.cos() - 4 * b.sin(),
                          3 * a.cos() + a.sin(), 4 * b.cos() + 2 * b.sin()])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_keys_after_drops_equal_keys_rotated_to_their_new_places(dtype, close):
    torch.manual_seed(0)
    rng, cache = random.Random(0), KVCache(DECODER, 2, 60, dtype)
    raw, spans = torch.zeros(DECODER.num_hidden_layers, 2, 2, 0, 8), set()     # un-rotated keys
    for _ in range(60):
        n = rng.randrange(1, 12)
        new = torch.randn(DECODER.num_hidden_layers, 2, 2, n, 8)
        if cache.length + n > 60:                       # a span, or two or three at once
            cuts = sorted(rng.sample(range(cache.length), rng.choice([2, 4, 6])))
            cache.drop(*cuts) if len(cuts) == 2 else cache.drop(cuts[::2], cuts[1::2])
            gone = [i for a, b in zip(cuts[::2], cuts[1::2]) for i in range(a, b)]
            spans.add(len(cuts) // 2)
            raw = torch.from_numpy(np.delete(raw.numpy(), gone, -2))
            continue
        cos, sin = rope(torch.arange(cache.length, cache.length + n), DECODER, torch.float32)
        for layer in range(DECODER.num_hidden_layers):
            cache.update(layer, rotate(new[layer], cos, sin).to(dtype), new[layer].to(dtype))
        cache.length += n
        raw = torch.cat([raw, new], -2)
    kept = slice(0, cache.length)
    assert cache.length == raw.shape[-2] > 5 and spans == {1, 2, 3}
    cos, sin = rope(torch.arange(cache.length), DECODER, torch.float32)
    torch.testing.assert_close(cache.keys[..., kept, :].float(), rotate(raw, cos, sin),
                               rtol=0, atol=close)
    torch.testing.assert_close(cache.values[..., kept, :], raw.to(dtype), rtol=0, atol=0)
    with pytest.raises(AssertionError):                 # negative control: keys one place off
        cos, sin = rope(torch.arange(cache.length) + 1, DECODER, torch.float32)
        torch.testing.assert_close(cache.keys[..., kept, :].float(), rotate(raw, cos, sin),
                                   rtol=0, atol=close)


def live_together(model, rng, streams, forward, forwards=25):
    """Random lives of some streams: in each forward some of them read a chunk, now and then one
    drops spans, ends and begins anew, or is stored and goes on in another cache. forward(chunks)
    reads all of a forward; each stream's chunk is also read alone, in a cache of its own.
    Returns the largest difference of the logits, and of what the caches hold in the end."""
    together, alone = ([KVCache(model.config, 1, 60) for _ in range(streams)] for _ in "ab")
    worst, seen = 0.0, set()
    for _ in range(forwards):
        chunks = []
        for i in rng.sample(range(streams), rng.randint(1, streams)):
            ids = torch.randint(0, 97, (1, rng.choice([1, 1, 3, 8, 20])))
            length = together[i].length
            if length + ids.shape[1] > 60 or rng.random() < 0.1:
                cuts = sorted(rng.sample(range(length + 1), 4)) if length > 3 else [0, 0, 0, length]
                together[i].drop(cuts[::2], cuts[1::2])
                alone[i].drop(cuts[::2], cuts[1::2])
                seen.add("drop")
            if together[i].length + ids.shape[1] > 60 or rng.random() < 0.05:
                together[i], alone[i] = (KVCache(model.config, 1, 60) for _ in "ab")
                seen.add("new")
            if rng.random() < 0.1:
                moved = KVCache(model.config, 1, 64)
                moved.fill(*(part.clone() for part in together[i].filled()))
                together[i], _ = moved, seen.add("stored")
            chunks.append((together[i], ids, alone[i]))
        got = forward([(cache, ids) for cache, ids, _ in chunks])
        for logits, (_, ids, own) in zip(got, chunks, strict=True):
            worst = max(worst, (model(ids, cache=own)[0] - logits).abs().max().item())
        seen |= {(len(chunks) > 1, ids.shape[1] == 1) for _, ids, _ in chunks}
    assert len(seen) == 7 and len({cache.length for cache in together}) == streams
    held = [(a - b).abs().max().item() for one, other in zip(together, alone)
            for a, b in zip(one.filled(), other.filled())]
    return worst, max(held)


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"qk_norm": True, "num_key_value_heads": 6, "head_dim": 10}])
def test_many_streams_in_one_forward_equal_each_alone(more):
    model = decoder(**more)

    def one_forward(chunks):
        ids = torch.cat([ids for _, ids in chunks], 1)
        sizes = [ids.shape[1] for _, ids in chunks]
        before = [cache.length for cache, _ in chunks]
        logits = model(ids, cache=[(cache, n) for (cache, _), n in zip(chunks, sizes)])
        assert [c.length - b for (c, _), b in zip(chunks, before)] == sizes
        return logits[0].split(sizes)

    logits, held = live_together(model, random.Random(0), 4, one_forward)
    assert logits < 1e-4 and held < 1e-5                # logits of a size of 10

    def positions_of_the_first(chunks):                 # negative control: one start for all
        first = chunks[0][0].length
        ids = torch.cat([ids for _, ids in chunks], 1)
        real, streamo.rope = streamo.rope, lambda positions, *args: real(
            first + torch.arange(len(positions)), *args)
        try:
            return model(ids, cache=[(c, ids.shape[1]) for c, ids in chunks])[0].split(
                [ids.shape[1] for _, ids in chunks])
        finally:
            streamo.rope = real
    assert live_together(model, random.Random(0), 4, positions_of_the_first)[0] > 0.1


@torch.no_grad()
def test_chunks_of_streams_and_their_tokens_agree():
    model, ids = tiny(), torch.randint(0, 96, (1, 9))
    a, b = (KVCache(DECODER, 1, 20) for _ in "ab")
    ids[0, 2:6] = ids[0, 7] = 96                        # <frame> of both, one behind another
    features = torch.randn(5, 32)
    last = model(ids, features, cache=[(a, 6), (b, 3)], select="last")
    assert last.shape == (2, 97) and (a.length, b.length) == (6, 3)
    for chunk, seen, got in ((ids[:, :6], features[:4], last[0]),
                             (ids[:, 6:], features[4:], last[1])):
        wanted = model(chunk, seen, cache=KVCache(DECODER, 1, 20), select="last")[0]
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    for cache, named in (([(a, 6), (b, 2)], r"9 tokens are given, \[6, 2\]"),
                         ([(a, 9), (b, 0)], r"\[9, 0\]"), ([(a, 6), (a, 3)], "one cache")):
        with pytest.raises(ValueError, match=named):
            model(ids, features, cache=cache)
    assert (a.length, b.length) == (6, 3)
    for keys, values in ((a.filled()[0][:1], a.filled()[1]), [part.double() for part in a.filled()],
                         (torch.zeros(3, 1, 2, 21, 8),) * 2, (torch.zeros(3),) * 2):
        with pytest.raises(ValueError, match="the KV cache takes torch.float32"):
            b.fill(keys, values)


@torch.no_grad()
def test_after_a_drop_a_model_of_one_layer_equals_a_fresh_run(monkeypatch):
    """The keys and values of one layer hold nothing of other turns, so forgetting is exact."""
    model, ids = decoder(num_hidden_layers=1), torch.randint(0, 97, (2, 40))
    rest = torch.cat([ids[:, :4], ids[:, 19:]], 1)      # the pinned start, then the later turns

    def streamed(model, turned=True):
        cache = KVCache(model.config, 2, 40)
        model(ids[:, :30], cache=cache)
        with monkeypatch.context() as patch:
            if not turned:                              # the keys that move
                patch.setattr(streamo, "rotate", lambda x, *_: x)
            cache.drop(4, 19)
        return model(ids[:, 30:], cache=cache)

    torch.testing.assert_close(streamed(model), model(rest)[:, -10:], rtol=1e-4, atol=1e-4)
    deep = decoder(num_hidden_layers=3)
    assert (streamed(deep) - deep(rest)[:, -10:]).abs().max() > 0.01
    for layer in deep.model.layers:                     # no token hears another
        layer.self_attn.o_proj.weight.zero_()
    torch.testing.assert_close(streamed(deep), deep(rest)[:, -10:], rtol=1e-4, atol=1e-4)
    # negative control: where nothing is turned, it shows
    assert (streamed(model, turned=False) - model(rest)[:, -10:]).abs().max() > 0.01


@torch.no_grad()
def test_cache_limits():
    model = decoder()
    cache = KVCache(model.config, 1, 8)
    assert cache.keys.nbytes == cache.values.nbytes == 3 * 1 * 2 * 8 * 8 * 4
    model(torch.zeros(1, 5, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="holds 8 tokens: 5 are filled and 4 more"):
        model(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match=r"drop\(3, 6\)"):
        cache.drop(3, 6)
    with pytest.raises(ValueError, match=r"drop\(4, 7\)"):
        cache.drop([1, 4], [2, 7])
    cache.drop(2, 2)
    assert cache.length == 5
    short = decoder(max_position_embeddings=6)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        short(torch.zeros(1, 7, dtype=torch.long))


# ---- Streamo ---------------------------------------------------------------------------------

def test_patches_equal_the_convolution():
    torch.manual_seed(0)
    model, pixels = VisionEncoder(VISION), torch.randn(2, 3, 22, 22)
    embeddings = model.vision_model.embeddings
    wanted = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.embed(pixels), wanted + embeddings.position_embedding.weight)
    with pytest.raises(ValueError, match=r"\(3, 23, 22\)"):
        VisionEncoder(VISION)(torch.zeros(1, 3, 23, 22))


@torch.no_grad()
@pytest.mark.parametrize("pooling, layer", [("average", -1), ("bilinear", -2)])
def test_features_are_the_frames_tokens_in_order(pooling, layer):
    model = tiny(pooling=pooling, vision_feature_layer=layer)
    pixels = torch.rand(5, 3, 22, 22) * 2 - 1
    full = model.multi_modal_projector(model.vision_tower(pixels))
    square = full.transpose(1, 2).unflatten(2, (4, 4))
    for grid in (1, 2, 3):
        pooled = (F.adaptive_avg_pool2d(square, grid) if pooling == "average" else
                  F.interpolate(square, size=(grid, grid), mode="bilinear"))
        torch.testing.assert_close(model.encode_frames(pixels, grid),
                                   pooled.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)
    frames, grids = torch.tensor([4, 0, 0, 2, 3]), torch.tensor([2, 1, 3, 2, 1])
    wanted = torch.cat([model.encode_frames(pixels[f:f + 1], int(g))[0]
                        for f, g in zip(frames, grids)])
    torch.testing.assert_close(model.features(pixels, frames, grids), wanted, rtol=1e-4, atol=1e-5)


def test_placeholders_and_features_agree():
    model = tiny()
    ids = torch.randint(0, 96, (2, 20))
    ids[0, 4:8] = ids[1, 2:3] = 96
    pixels, frames, grids = torch.randn(2, 3, 22, 22), torch.tensor([1, 0]), torch.tensor([2, 1])
    features = model.features(pixels, frames, grids)
    logits = model(ids, features)
    torch.testing.assert_close(model(ids, pixels=pixels, frames=frames, grids=grids), logits)
    embeds = model.language_model.model.embed_tokens(ids)
    embeds[ids == 96] = features                        # row by row
    torch.testing.assert_close(model.language_model(embeds=embeds), logits)
    mask = torch.rand(2, 20) < 0.3
    torch.testing.assert_close(model(ids, features, select=mask), logits[mask])
    torch.testing.assert_close(model(ids, features, select="last"), logits[:, -1])
    for wrong in (features[:4], torch.cat([features, features[:1]])):
        with pytest.raises(ValueError, match=f"5 <frame> placeholders, {len(wrong)} visual"):
            model(ids, wrong)
    with pytest.raises(ValueError, match="5 <frame> placeholders, 0 visual"):
        model(ids)


@pytest.mark.parametrize("layer", [-1, -2])
def test_every_parameter_learns_and_bfloat16_runs(layer):
    model = tiny(vision_feature_layer=layer)
    ids = torch.randint(0, 96, (1, 12))
    ids[0, 3:7] = 96
    batch = dict(pixels=torch.randn(1, 3, 22, 22), frames=torch.tensor([0]),
                 grids=torch.tensor([2]))
    exact = model(ids, **batch)
    with torch.autocast("cpu", torch.bfloat16):
        auto = model(ids, **batch)
    auto.float().logsumexp(-1).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    low = model.to(torch.bfloat16)(ids, **{**batch, "pixels": batch["pixels"].bfloat16()})
    for other in (auto, low):
        assert (other.float() - exact).norm() < 0.1 * exact.norm()


class Perceiver(torch.nn.Module):
    """Another connector: 8 queries look at the patches of a frame, 3 at those of a coarse one."""

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.decoder.hidden_size
        self.queries = torch.nn.Parameter(torch.randn(1, 8, width))
        self.keys, self.values = (torch.nn.Linear(config.vision.hidden_size, width) for _ in "kv")

    def forward(self, x):
        queries = self.queries.expand(len(x), -1, -1)
        return F.scaled_dot_product_attention(queries, self.keys(x), self.values(x))

    def pool(self, x, grid):
        return x[:, :self.config.tokens(grid)]


def test_another_connector_with_tokens_that_are_no_square(tokenizer, tmp_path, monkeypatch):
    """The renderer, the batch, the stream and the cache ask the config for the number of tokens."""
    monkeypatch.setattr(streamo, "Connector", Perceiver)
    monkeypatch.setattr(StreamoConfig, "tokens", lambda config, grid: 8 if grid == 2 else 3)
    decoder = replace(DECODER, vocab_size=len(tokenizer), max_position_embeddings=4096)
    config = StreamoConfig(replace(VISION, image_size=32, patch_size=8), decoder,
                           tokenizer.frame_id, grid=2, coarse_grid=1, window=4)
    torch.manual_seed(0)
    model, often = Streamo(config), data.Augment(compress=1)
    items = [datasets.ToyDataset(tokenizer, config, 0, augment=often)[i] for i in range(2)]
    batch = data.collate(items, tokenizer.pad_id)
    assert set(batch["grids"].tolist()) == {1, 2}
    model(**data.model_inputs(batch, "cpu")).logsumexp(-1).sum().backward()
    assert all(p.grad is not None for p in model.multi_modal_projector.parameters())
    model.save_pretrained(tmp_path)
    model = Streamo.from_pretrained(tmp_path)
    with torch.no_grad():
        assert model.encode_frames(torch.zeros(2, 3, 32, 32)).shape == (2, 8, 32)
    frames = [(s, np.full((32, 32, 3), 9 * (s // 2), np.uint8)) for s in range(9)]
    for compress, used in ((None, [8] * 9), (1.0, [8, 3] * 4 + [8])):
        seen, user_part = [], data.user_part
        with monkeypatch.context() as patch:
            patch.setattr(data, "user_part", lambda tok, s, tokens, *args: (
                seen.append((s, *tokens)), user_part(tok, s, tokens, *args))[1])
            turns = list(infer.stream(model, tokenizer, frames, compress=compress,
                                      max_new_tokens=2))
        assert len(turns) == 9 and seen[-9:] == [*enumerate(used)]


def test_preprocess_is_siglips():
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((22, 22), resample=Image.BICUBIC)
    wanted = (torch.from_numpy(np.asarray(resized) / 255).permute(2, 0, 1).float() - 0.5) / 0.5
    torch.testing.assert_close(preprocess(image, 22), wanted)
    torch.testing.assert_close(preprocess(Image.fromarray(image), 22), wanted)


# ---- Files -----------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_load_are_bit_exact(tmp_path, dtype):
    model = tiny().to(dtype)
    model.save_pretrained(tmp_path)
    again = Streamo.from_pretrained(tmp_path)
    assert again.config == model.config
    assert [*again.state_dict()] == [*model.state_dict()]
    for a, b in zip(again.state_dict().values(), model.state_dict().values()):
        assert a.dtype == dtype and torch.equal(a, b)
    wide = Streamo.from_pretrained(tmp_path, dtype=torch.float64)
    assert next(wide.parameters()).dtype == torch.float64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_two_half_precisions_in_a_folder_load_without_loss(tmp_path):
    model = tiny()
    for k, parameter in enumerate(model.parameters()):
        parameter.data = parameter.data.to((torch.float16, torch.bfloat16)[k % 2])
    model.save_pretrained(tmp_path)
    again = Streamo.from_pretrained(tmp_path)
    for a, b in zip(again.parameters(), model.parameters()):
        assert a.dtype == torch.float32 and torch.equal(a, b.float())


def test_copying_attention_looks_at_what_is_like_it_and_passes_it_on():
    torch.manual_seed(0)
    config = DecoderConfig(vocab_size=64, hidden_size=192, num_attention_heads=6, head_dim=32,
                           num_key_value_heads=3, intermediate_size=64, num_hidden_layers=2)
    plain, copying = Decoder(config).model.layers
    pretrain.start_copying([copying])
    x = torch.nn.functional.normalize(torch.randn(200, 192), dim=1) * 192 ** 0.5

    def of(layer):
        """How much more a key like the query counts, and how like a value's effect is to it."""
        attn = layer.self_attn
        q = attn.q_proj(x).view(200, 6, 32)
        k, v = (proj(x).view(200, 3, 1, 32).expand(-1, -1, 2, -1).flatten(1, 2)
                for proj in (attn.k_proj, attn.v_proj))
        scores = torch.einsum("ihd,jhd->hij", q, k) / 32 ** 0.5
        same = scores.diagonal(dim1=1, dim2=2).mean() - scores.mean()
        return same.item(), torch.cosine_similarity(attn.o_proj(v.flatten(1)), x).mean().item()

    (alike, passed), (alike_plain, passed_plain) = of(copying), of(plain)
    assert alike > 3 and passed > 0.5
    assert abs(alike_plain) < 1 and abs(passed_plain) < 0.1


def damage(folder, how):
    from safetensors.torch import load_file, save_file
    file, name = folder / "model.safetensors", "language_model.model.layers.1.mlp.up_proj.weight"
    tensors = load_file(file)
    if how == "missing":
        del tensors[name]
    elif how == "misshapen":
        tensors[name] = tensors[name][:-1].clone()
    elif how == "unexpected":
        tensors["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
    elif how == "nan":
        tensors[name][3, 5] = float("nan")
    elif how == "infinite":
        tensors[name][-1, -1] = -float("inf")
    elif how == "twice":
        save_file({name: tensors[name]}, folder / "b.safetensors")
    elif how == "integer":
        tensors[name] = tensors[name].long()
    if how in ("outside", "absolute", "twice"):
        save_file(tensors, folder / "a.safetensors")
        file.rename(folder.parent / "outside.safetensors")
        second = {"outside": "../outside.safetensors", "twice": "b.safetensors",
                  "absolute": str(folder.parent / "outside.safetensors")}[how]
        index = {"weight_map": {"a": "a.safetensors", "b": second}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif how in ("overlap", "negative", "duplicate", "wrong bytes"):
        content = file.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8:8 + size])
        offsets = header[name]["data_offsets"]
        if how == "wrong bytes":
            header[name]["shape"][0] += 1
        elif how != "duplicate":
            header[name]["data_offsets"] = ([offset - 4 for offset in offsets]
                                            if how == "overlap" else [-8, 0])
        text = json.dumps(header)
        if how == "duplicate":                          # the same twice: nothing else is amiss
            last = max((n for n in header if n != "__metadata__"),
                       key=lambda n: header[n]["data_offsets"][1])
            text = text[:-1] + f", {json.dumps(last)}: {json.dumps(header[last])}}}"
        file.write_bytes(len(text).to_bytes(8, "little") + text.encode() + content[8 + size:])
    elif how == "larger tokenizer":
        words = Tokenizer.train(["a"], 0)
        words.add_tokens([*STATES, FRAME])
        words.save_pretrained(folder)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "garbage":
        file.write_bytes(b"\x08" + 7 * b"\0" + 20 * b"x")
    elif how == "no weights":
        file.unlink()
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "no json":
        (folder / "config.json").write_text("{")
    elif how == "unknown key":
        data = json.loads((folder / "config.json").read_text())
        data["decoder"]["dropout"] = 0.1
        (folder / "config.json").write_text(json.dumps(data))
    elif how == "incomplete":
        data = json.loads((folder / "config.json").read_text())
        del data["decoder"]["vocab_size"]
        (folder / "config.json").write_text(json.dumps(data))
    else:
        save_file(tensors, file)


@pytest.mark.parametrize("how, named", [
    ("missing", r"layers\.1\.mlp\.up_proj\.weight is missing"),
    ("misshapen", r"layers\.1\.mlp\.up_proj\.weight is F32 \(47, 32\), wanted \(48, 32\)"),
    ("unexpected", r"unexpected tensor language_model\.model\.layers\.9"),
    ("integer", r"up_proj\.weight is I64"), ("truncated", r"model\.safetensors: damaged"),
    ("empty", r"model\.safetensors: damaged"), ("no weights", r"model\.safetensors: no such"),
    ("nan", r"layers\.1\.mlp\.up_proj\.weight holds numbers that are not finite"),
    ("infinite", r"layers\.1\.mlp\.up_proj\.weight holds numbers that are not finite"),
    ("twice", r"b\.safetensors: tensor .*up_proj\.weight is in another shard, too"),
    ("outside", r"index\.json: '\.\./outside\.safetensors' is not the name"),
    ("absolute", r"index\.json: '/.*outside\.safetensors' is not the name"),
    ("overlap", r"model\.safetensors: damaged"), ("negative", r"model\.safetensors: damaged"),
    ("wrong bytes", r"model\.safetensors: damaged"), ("duplicate", "have one name"),
    ("larger tokenizer", r"tokenizer\.json: has ids up to .* embedding has 97 rows"),
    ("garbage", r"model\.safetensors: damaged"), ("no config", r"config\.json"),
    ("no json", r"config\.json: not JSON"),
    ("unknown key", "DecoderConfig keys missing or unknown: .*dropout"),
    ("incomplete", "DecoderConfig keys missing or unknown: .*vocab_size")])
def test_a_damaged_folder_is_named(tmp_path, how, named):
    tiny().save_pretrained(tmp_path)
    damage(tmp_path, how)
    with pytest.raises((ValueError, OSError), match=named):
        Streamo.from_pretrained(tmp_path)
