"""Streamo's model, from text and pixels to logits: tokenizer, configs, vision encoder, connector,
decoder, KV cache, loading and saving of weights.

    tokenizer = Tokenizer.from_pretrained("assets/tiny")
    model = Streamo.from_pretrained("assets/tiny", dtype=torch.float32)
    features = model.encode_frames(preprocess(image, 64)[None]).flatten(0, 1)     # (N, hidden)
    logits = model(input_ids, features)          # (B, T, V); N <frame> placeholders in input_ids

Submodules carry the names of the public checkpoints: one loads by prefix rules, strictly.
"""
import heapq
import json
import re
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

SILENCE, STANDBY, RESPONSE = STATES = ("</Silence>", "</Standby>", "</Response>")
FRAME = "<frame>"


def check(ok, message):
    if not ok:
        raise ValueError(message)


def only(data, where, **allowed):
    """Refuse, by name, a setting of a public file that we do not have. A tuple allows several."""
    for key, values in allowed.items():
        values = values if isinstance(values, tuple) else (values,)
        check(data.get(key) in (None, *values), f"{where}: {key} = {data.get(key)!r} is not "
              f"supported, only {' or '.join(map(repr, values))}")


# ---- Tokenizer: byte-level BPE in the tokenizer.json layout ----------------------------------

QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# "user\n", "s-", "s>\n" and every number below 1000 can be one token of the toy vocabulary
TOY_PATTERN = (r"s[->]\n?|\p{N}{1,3}| ?\p{L}+\n?| ?[^\s\p{L}\p{N}]+[\r\n]*|"
               r"\s*[\r\n]+|\s+(?!\S)|\s+")
# The `tokenizers` library splits by Unicode 16 and normalises by Unicode 9; Python 3.11 knows 14.
# Letters and numbers newer than 14, and the marks newer than 9, which its NFC does not know:
NEWER = {"L": "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 "
              "1123f-11240 11380-11389 1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 "
              "11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d "
              "16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed "
              "1e5f0 2b739 2ebf0-2ee5d 31350-323af",
         "N": "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 "
              "1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9 1e5f1-1e5fa",
         "M": "7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 "
              "10eab-10eac 10f46-10f50 10f82-10f85 11070 1133b 1145e 11839-1183a 11930 11935 "
              "1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 16ff0-16ff1 "
              "1e130-1e136 1e2ae 1e2ec-1e2ef"}
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # \s has others


def char_ranges(spans):
    """ "a7cb-a7cd 18cff" as the inside of a `re` class."""
    return re.sub(r"\w+", lambda code: chr(int(code[0], 16)), spans).replace(" ", "")


@lru_cache
def unicode_class(major):
    r"""All letters "L" or all numbers "N", \p{L} or \p{N}, as the inside of a `re` class."""
    # the first four planes: beyond them are marks, tags and private use
    majors = "".join(unicodedata.category(chr(c))[0] for c in range(0x40000))
    known = [f"{run.start():x}-{run.end() - 1:x}" for run in re.finditer(f"{major}+", majors)]
    return char_ranges(" ".join([*known, NEWER[major]]))


@lru_cache
def compile_split(pattern):
    r"""A Split pattern with \p{L}, \p{N}, \s, \S as a Python regex whose split() keeps all."""
    classes = {r"\s": WHITE_SPACE, r"\p{L}": unicode_class("L"), r"\p{N}": unicode_class("N")}
    out, inside = [], False
    for piece in re.findall(r"\\[pP]\{\^?\w+\}|\\.|.", pattern, re.S):
        if piece in classes:
            piece = classes[piece] if inside else f"[{classes[piece]}]"
        elif piece == r"\S" and not inside:
            piece = f"[^{WHITE_SPACE}]"
        check(piece[:2] not in (r"\p", r"\P", r"\S"), f"pattern {pattern}: {piece} unsupported")
        inside = piece == "[" or (inside and piece != "]")
        out.append(piece)
    split = re.compile(f"({''.join(out)})")
    check(split.groups == 1, f"pattern {pattern}: capturing groups unsupported")
    return split


@lru_cache
def byte_alphabet():
    """GPT-2's printable stand-in for each of the 256 bytes, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def merge_word(ids, ranks):
    """Byte-pair merges of one word, lowest rank first, leftmost first among equals.

    A heap over a linked list: n log n, so that a word of 100 KB costs no more than text."""
    after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids)))
    ids = [*ids, None]          # None past the end, which is also ids[-1], and where merged away
    heap = [(*ranks[pair], i, pair) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, new, i, pair = heapq.heappop(heap)
        j = after[i]
        if (ids[i], ids[j]) != pair:
            continue                                    # one of the two has been merged since
        ids[i], ids[j], after[i] = new, None, after[j]
        before[after[j]] = i
        for a, b in ((before[i], i), (i, after[i])):
            if (ids[a], ids[b]) in ranks:
                heapq.heappush(heap, (*ranks[ids[a], ids[b]], a, (ids[a], ids[b])))
    return [i for i in ids if i is not None]


class Tokenizer:
    """Byte-level BPE: vocab {token: id} in GPT-2's byte alphabet, merges [(a, b)], split patterns
    applied one after another, added {token: id} that are never split. Equal to the `tokenizers`
    library with add_special_tokens=False."""

    def __init__(self, vocab, merges, patterns, added=None, nfc=False, ignore_merges=False):
        self.vocab, self.merges, self.patterns = vocab, [tuple(m) for m in merges], tuple(patterns)
        self.nfc, self.ignore_merges, self.added = nfc, ignore_merges, dict(added or {})
        self.ranks = {(vocab[a], vocab[b]): (rank, vocab[a + b])
                      for rank, (a, b) in enumerate(self.merges)}
        self.splits = [compile_split(pattern) for pattern in self.patterns]
        self.unknown_marks = re.compile(f"([{char_ranges(NEWER['M'])}])")
        # the library drops a byte that has no token (SmolLM2 lacks some control characters)
        self.byte_ids = {b: vocab[char] for b, char in byte_alphabet().items() if char in vocab}
        to_byte = {char: b for b, char in byte_alphabet().items()}
        self.bytes = {i: bytes(to_byte[c] for c in token) for token, i in vocab.items()
                      if all(c in to_byte for c in token)}
        # word -> ids: text repeats its words. With ignore_merges every token is such a word
        self.words = {token: [i] for i, token in self.bytes.items()} if ignore_merges else {}
        self.add_tokens([])

    def add_tokens(self, tokens):
        """Give each absent token the next id after the last."""
        for token in tokens:
            if token not in self.added:
                self.added[token] = self.vocab.get(token, len(self))
        self.bytes.update({i: token.encode() for token, i in self.added.items()})
        longest_first = sorted(self.added, key=len, reverse=True)
        self.added_split = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def __len__(self):
        return 1 + max([*self.vocab.values(), *self.added.values()])

    def id(self, token):
        if token not in self.added and token not in self.vocab:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return self.added[token] if token in self.added else self.vocab[token]

    state_ids = property(lambda self: tuple(self.id(token) for token in STATES))
    frame_id = property(lambda self: self.id(FRAME))
    pad_id = property(lambda self: self.id("<|endoftext|>"))

    def _encode_plain(self, text):
        if self.nfc and not text.isascii():
            text = "".join(unicodedata.normalize("NFC", part)
                           for part in self.unknown_marks.split(text))
        words, ids = [text], []
        for split in self.splits:                       # split() gives the gaps and the matches
            words = [part for word in words for part in split.split(word) if part]
        for word in words:
            word = word.encode()
            known = self.words.get(word)
            if known is None:
                known = merge_word([self.byte_ids[b] for b in word if b in self.byte_ids],
                                   self.ranks)
                if len(self.words) < 300_000 and len(word) < 100:
                    self.words[word] = known
            ids += known
        return ids

    def encode(self, text, special=True):
        """Token ids of text. special=False reads added tokens inside the text as plain text, so
        that a user cannot inject them."""
        ids = []
        for i, part in enumerate(self.added_split.split(text) if special else [text]):
            ids += [self.added[part]] if i % 2 else self._encode_plain(part)
        return ids

    def decode(self, ids):
        """The text of ids, added tokens too; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.bytes[int(i)] for i in ids).decode("utf-8", errors="replace")

    @classmethod
    def train(cls, texts, vocab_size, pattern=TOY_PATTERN):
        """A small vocabulary learnt from texts: 256 bytes, a token for each number below 1000,
        then the most frequent pair again and again (ties: the lower ids) up to vocab_size, then
        the three ChatML tokens."""
        names, merges, ranks = list(byte_alphabet().values()), [], {}
        byte_ids = {b: i for i, b in enumerate(byte_alphabet())}

        def merge(a, b):
            ranks[a, b] = (len(merges), len(names))
            merges.append((names[a], names[b]))
            names.append(names[a] + names[b])

        for number in range(10, 1000):
            merge(*merge_word([byte_ids[b] for b in str(number).encode()], ranks))
        counts = Counter(w for text in texts for w in compile_split(pattern).split(text) if w)
        words = [[merge_word([byte_ids[b] for b in word.encode()], ranks), n]
                 for word, n in sorted(counts.items())]
        while len(names) < vocab_size:
            pairs = Counter()
            for ids, n in words:
                for pair in zip(ids, ids[1:]):
                    pairs[pair] += n
            if not pairs:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            merge(*best)
            for word in words:
                if best in zip(word[0], word[0][1:]):
                    word[0] = merge_word(word[0], {best: ranks[best]})
        tokenizer = cls({name: i for i, name in enumerate(names)}, merges, [pattern])
        tokenizer.add_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        return tokenizer

    @classmethod
    def from_pretrained(cls, folder):
        """Read folder/tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json of Qwen.
        ValueError names the file and the setting that is not supported."""
        path = Path(folder) / "tokenizer.json"
        if not path.exists() and path.with_name("vocab.json").exists():
            return cls._from_vocab(Path(folder))
        data = read_json(path)
        check({"model", "added_tokens"} <= set(data), f"{path}: not a tokenizer.json")
        model = data["model"]
        only(model, path, type="BPE", dropout=None, byte_fallback=False,
             continuing_subword_prefix="", end_of_word_suffix="")
        nfc = data.get("normalizer")
        only(nfc or {}, f"{path}: normalizer", type="NFC")
        steps = data.get("pre_tokenizer") or {"type": None}
        patterns = [split_pattern(step, path) for step in steps.get("pretokenizers", [steps])]
        for token in data["added_tokens"]:
            only(token, f"{path}: {token['content']}", lstrip=False, rstrip=False,
                 single_word=False)
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return cls(model["vocab"], merges, [pattern for pattern in patterns if pattern],
                   {t["content"]: t["id"] for t in data["added_tokens"]}, bool(nfc),
                   model.get("ignore_merges", False))

    @classmethod
    def _from_vocab(cls, folder):
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.exists() else {}
        only(config, path, tokenizer_class=("Qwen2Tokenizer", "Qwen2TokenizerFast"))
        added = {t["content"]: int(i) for i, t in config.get("added_tokens_decoder", {}).items()}
        return cls(read_json(folder / "vocab.json"), merges, [QWEN_PATTERN], added, nfc=True)

    def save_pretrained(self, folder):
        """Write folder/tokenizer.json, which the `tokenizers` library reads too."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [{"id": i, "content": token, **plain, "special": True}
                 for token, i in sorted(self.added.items(), key=lambda item: item[1])]
        splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                   "invert": False} for pattern in self.patterns]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                      "use_regex": False}
        write_json(Path(folder) / "tokenizer.json", {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"} if self.nfc else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "ignore_merges": self.ignore_merges, "vocab": self.vocab,
                      "merges": [" ".join(merge) for merge in self.merges]}})


def split_pattern(step, path):
    """The regex of one pre-tokenizer of a tokenizer.json; None where it does not split."""
    kind, pattern = step["type"], step.get("pattern", {})
    if kind == "Split" and "Regex" in pattern:
        only(step, path, behavior="Isolated", invert=False)
        return pattern["Regex"]
    if kind == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    check(kind == "ByteLevel", f"{path}: pre_tokenizer {step} is not supported")
    only(step, path, add_prefix_space=False)
    return GPT2_PATTERN if step.get("use_regex", True) else None


# ---- Configs --------------------------------------------------------------------------------

@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP vision tower; the defaults are what the public config.json files leave out."""
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"

    side = property(lambda self: self.image_size // self.patch_size)    # patches per row, whole

    @classmethod
    def from_hf(cls, data, path):
        """From a SigLIP config.json. ValueError names the setting that is not supported."""
        kind = str(data.get("model_type"))
        if kind == "siglip":
            kind, data = "siglip_vision_model", data.get("vision_config") or {}
        check(not kind.startswith("siglip2"), f"{path}: model_type {kind} is SigLIP2 NaFlex, "
              "which is not supported; use SigLIP or a SigLIP2 of fixed resolution")
        only({**data, "model_type": kind}, path, model_type="siglip_vision_model",
             hidden_act=tuple(ACTIVATIONS), attention_dropout=0)
        return cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data})


@dataclass(frozen=True)
class DecoderConfig:
    """A Qwen2 / Qwen2.5 / Qwen3 / Llama-family decoder."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    attention_bias: bool = False                        # on q, k, v (Qwen2); o_proj has none
    qk_norm: bool = False                               # RMSNorm of each query and key head (Qwen3)

    @classmethod
    def from_hf(cls, data, path):
        """From a Qwen2, Qwen3 or Llama config.json; absent keys take that family's defaults.
        ValueError names the setting that would change the maths and is not supported."""
        kind = str(data.get("model_type"))
        only({"model_type": kind}, path, model_type=tuple(FAMILIES))
        data = {**FAMILIES[kind], **data}
        layers = {*(data.get("layer_types") or ["full_attention"])}
        only({**data, "layer_types": layers}, path, layer_types={"full_attention"},
             hidden_act="silu", use_sliding_window=False, mlp_bias=False, attention_dropout=0,
             quantization_config=None, attention_bias=kind == "qwen2")
        for key in ("rope_scaling", "rope_parameters"):
            rope = data.get(key) or {}
            only(rope, f"{path}: {key}", type="default", rope_type="default",
                 partial_rotary_factor=1)
            data["rope_theta"] = rope.get("rope_theta", data["rope_theta"])
        heads = data["num_attention_heads"]
        data["head_dim"] = data.get("head_dim") or data["hidden_size"] // heads
        data["num_key_value_heads"] = data.get("num_key_value_heads") or heads
        data.update(attention_bias=kind == "qwen2", qk_norm=kind == "qwen3")
        return cls(**{f.name: data[f.name] for f in fields(cls)})


QWEN = dict(vocab_size=151936, hidden_size=4096, intermediate_size=22016, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=32768,
            rope_theta=1e4, rms_norm_eps=1e-6, tie_word_embeddings=False)
FAMILIES = {"qwen2": QWEN, "qwen3": {**QWEN, "head_dim": 128},
            "llama": {**QWEN, "vocab_size": 32000, "intermediate_size": 11008,
                      "num_key_value_heads": None, "max_position_embeddings": 2048}}
SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
              num_attention_heads=16, image_size=384, patch_size=14)


@dataclass(frozen=True)
class StreamoConfig:
    """frame_token_id: the id of <frame>. vision_feature_layer -1: the last layer with its norm;
    -2: the layer before it, without norm. grid, coarse_grid: side of the square of visual tokens
    of a frame, and of a compressed frame. window: seconds of stream the model was trained for."""
    vision: VisionConfig
    decoder: DecoderConfig
    frame_token_id: int
    vision_feature_layer: int = -2
    pooling: str = "bilinear"                           # or "average"
    grid: int = 7
    coarse_grid: int = 3
    window: int = 60

    def to_dict(self):
        return {"model_type": "streamo", **asdict(self)}

    @classmethod
    def from_dict(cls, data, path="config.json"):
        data = {key: value for key, value in data.items() if key != "model_type"}
        for config, part in ((cls, data), (VisionConfig, data.get("vision", {})),
                             (DecoderConfig, data.get("decoder", {}))):
            wrong = set(part) ^ {f.name for f in fields(config)}
            check(not wrong, f"{path}: {config.__name__} keys missing or unknown: {sorted(wrong)}")
        return cls(**{**data, "vision": VisionConfig(**data["vision"]),
                      "decoder": DecoderConfig(**data["decoder"])})

    @classmethod
    def from_llava(cls, data, frame_token_id, path):
        """From the config.json of LLaVA-OneVision, the original one or the hub's converted one.
        Its features are the last layer but one of the whole tower, before the norm."""
        vision, text = data.get("vision_config"), data.get("text_config")
        if text is None:                                # the original: Qwen2's keys at the top
            tower = str(data.get("mm_vision_tower"))
            check(vision or tower.endswith("siglip-so400m-patch14-384"),
                  f"{path}: mm_vision_tower {tower}: only siglip-so400m-patch14-384 is known")
            only(data, path, mm_projector_type="mlp2x_gelu", mm_spatial_pool_mode="bilinear")
            vision, text, layer = vision or SO400M, {**data, "model_type": "qwen2"}, -2
        else:
            only(data, path, vision_feature_select_strategy="full", projector_hidden_act="gelu",
                 multimodal_projector_bias=True)
            text = {"model_type": "qwen2",
                    "tie_word_embeddings": data.get("tie_word_embeddings", False), **text}
            layer = data.get("vision_feature_layer", -1)    # of a tower already cut by one
        vision = VisionConfig.from_hf({"model_type": "siglip_vision_model", **vision}, path)
        vision = replace(vision, num_hidden_layers=vision.num_hidden_layers + 2 + layer)
        grid = (vision.side + 1) // 2
        return cls(vision, DecoderConfig.from_hf(text, path), frame_token_id, grid=grid,
                   coarse_grid=(grid + 1) // 2)


# ---- Vision encoder (SigLIP) and connector --------------------------------------------------

ACTIVATIONS = {"gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu}


class VisionLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        D, self.heads = config.hidden_size, config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.self_attn = nn.ModuleDict({name: nn.Linear(D, D) for name in
                                        ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.layer_norm2 = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(D, config.intermediate_size),
                                  "fc2": nn.Linear(config.intermediate_size, D)})
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x):
        (B, N, D), attn, h = x.shape, self.self_attn, self.layer_norm1(x)
        q, k, v = (proj(h).view(B, N, self.heads, -1).transpose(1, 2)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))      # (B, H, N, D/H)
        if x.device.type == "cpu" and torch.is_grad_enabled():
            # on the CPU the backward of the fused attention takes half of a training step
            y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = x + attn.out_proj(y.transpose(1, 2).reshape(B, N, D))
        return x + self.mlp.fc2(self.act(self.mlp.fc1(self.layer_norm2(x))))


@torch.no_grad()
def start_copying(layers):
    """Attention that begins by looking at what is like it and passing that on, as attention in
    trained models does (Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers",
    2023): names and numbers are then copied, not learnt one by one, early in a short training."""
    for layer in layers:
        attn, D = layer.self_attn, layer.head_dim
        share = attn.q_proj.out_features // attn.k_proj.out_features    # query heads of a key head
        k, v = (proj.weight.unflatten(0, (-1, D)).repeat_interleave(share, 0).flatten(0, 1)
                for proj in (attn.k_proj, attn.v_proj))                 # (H*D, hidden_size)
        attn.q_proj.weight.mul_(0.7).add_(0.7 * k)
        attn.o_proj.weight.copy_(0.5 * v.T)


def embedding(rows, size):
    # torch's own start of an nn.Embedding imports 75 MB of code on the meta device
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False)


def init_weights(model):
    """Normal weights of variance 1/inputs, a quarter of that deviation where a branch joins the
    residual stream; embeddings as large as what the first layers add to them."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta:                           # loading fills it
            continue
        module, _, kind = name.rpartition(".")
        if kind == "bias":
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:                       # a norm's ones stay
            branch = module.endswith(("o_proj", "down_proj", "out_proj", "fc2", "linear_2"))
            std = parameter[0].numel() ** -0.5 * (0.25 if branch else 1)
            nn.init.normal_(parameter, std=0.3 if module.endswith("position_embedding") else std)


class VisionEncoder(nn.Module):
    """SigLIP: pixels (B, 3, H, W) in [-1, 1] -> (B, N, D), the last hidden state; with
    feature_layer=-2 the output of the layer before the last, without the final norm."""

    # transformers 5 leaves "vision_model." out
    public_names = [("(?=embeddings|encoder|post_layernorm|head)", "vision_model.")]

    def __init__(self, config, feature_layer=-1):
        super().__init__()
        check(feature_layer in (-1, -2), f"vision_feature_layer {feature_layer}: -1 or -2 wanted")
        self.config, D, p = config, config.hidden_size, config.patch_size
        kept = config.num_hidden_layers + 1 + feature_layer
        norm = nn.LayerNorm if feature_layer == -1 else nn.Identity
        self.vision_model = nn.ModuleDict({
            "embeddings": nn.ModuleDict({
                "patch_embedding": nn.Conv2d(config.num_channels, D, p, stride=p),
                "position_embedding": embedding(config.side ** 2, D)}),
            "encoder": nn.ModuleDict({
                "layers": nn.ModuleList(VisionLayer(config) for _ in range(kept))}),
            "post_layernorm": norm(D, eps=config.layer_norm_eps)})
        self.unused = ["vision_model.head.", "text_model.", "logit_"]   # in files, not computed
        if feature_layer == -2:
            self.unused += [f"vision_model.encoder.layers.{kept}.", "vision_model.post_layernorm."]
        init_weights(self)

    def forward(self, pixels):
        wanted = (self.config.num_channels, self.config.image_size, self.config.image_size)
        check(pixels.shape[1:] == wanted,
              f"pixels are {tuple(pixels.shape[1:])}, the encoder reads {wanted}")
        x = self.embed(pixels)
        for layer in self.vision_model.encoder.layers:
            x = layer(x)
        return self.vision_model.post_layernorm(x)

    def embed(self, pixels):
        # the convolution's stride is its width, so it is one matrix product over cut patches
        conv, n = self.vision_model.embeddings.patch_embedding, self.config.side
        B, C, p = *pixels.shape[:2], self.config.patch_size
        x = pixels[:, :, :n * p, :n * p].to(conv.weight.dtype).reshape(B, C, n, p, n, p)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(B, n * n, C * p * p)         # (B, N, C*p*p)
        x = F.linear(x, conv.weight.flatten(1), conv.bias)
        return x + self.vision_model.embeddings.position_embedding.weight


class Connector(nn.Module):
    def __init__(self, vision_size, hidden_size):
        super().__init__()
        self.linear_1 = nn.Linear(vision_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)
        init_weights(self)

    def forward(self, x):
        return self.linear_2(F.gelu(self.linear_1(x)))


@lru_cache
@torch.inference_mode(False)                # made while streaming, it serves training too
def pooling_matrix(side, grid, pooling):
    """(grid*grid, side*side): pooling a square of features is linear, so it is one matrix."""
    check(pooling in ("average", "bilinear"), f"pooling {pooling!r}: average or bilinear wanted")
    eye = torch.eye(side * side).view(1, side * side, side, side)
    pooled = (F.adaptive_avg_pool2d(eye, grid) if pooling == "average" else
              F.interpolate(eye, size=(grid, grid), mode="bilinear", align_corners=False))
    return pooled.flatten(2)[0].T.contiguous()


# ---- Decoder (LLaMA-style) and its KV cache -------------------------------------------------

BLOCK = 1 << 17     # scores of a head at a time: they stay in the CPU's cache


def rope(positions, config, dtype):
    """cos and sin (T, head_dim) of RoPE angles, made in float32; sin carries rotate-half's sign."""
    D = config.head_dim
    inv_freq = config.rope_theta ** -(torch.arange(0, D, 2, device=positions.device).float() / D)
    angles = positions[:, None].float() * inv_freq                           # (T, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype)


def rotate(x, cos, sin):
    """Rotate-half (NEOX) RoPE over the last dimension: x1 cos - x2 sin, x2 cos + x1 sin."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def causal_attention(q, k, v):
    """q (B, H, T, D), k and v (B, K, S, D): the T last of S positions look back -> (B, T, H*D)."""
    # measured: on CPUs plain products win in training (2.5 times) and for bfloat16 chunks (twice)
    chunk = q.dtype == torch.bfloat16 and q.shape[2] > 1
    plain = q.device.type == "cpu" and (torch.is_grad_enabled() or chunk)
    y = blocked_attention(q, k, v) if plain else fused_attention(q, k, v)
    return y.transpose(1, 2).flatten(2)


torch.backends.cuda.enable_cudnn_sdp(False)     # it plans for each new length; flash does not


def fused_attention(q, k, v):
    """torch's kernel. Beside a cache the query heads of a key head become more queries, which
    spares the kernel the copying of keys."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    if T == S:
        if q.is_cuda and q.dtype == torch.float32:      # its kernel knows no shared key heads
            k, v = (x.repeat_interleave(H // K, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=K != H)
    mask = None
    if T > 1:                                           # query i of T sees keys 0 .. S-T+i
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T).repeat(H // K, 1)
    y = F.scaled_dot_product_attention(q.reshape(B, K, H // K * T, D), k, v, attn_mask=mask)
    return y.view(B, H, T, D)


def blocked_attention(q, k, v):
    """The same in plain products over blocks of queries, which never see scores of their future."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    q = (q * D ** -0.5).reshape(B * K, H // K, T, D)
    k, v = k.flatten(0, 1).transpose(1, 2), v.flatten(0, 1)         # (B*K, D, S), (B*K, S, D)
    out, block = [], max(16, BLOCK // S)
    for i in range(0, T, block):
        n = min(block, T - i)
        end = S - T + i + n                             # the block's last query sees keys [0, end)
        scores = q[:, :, i:i + n].reshape(B * K, -1, D) @ k[:, :, :end]      # (B*K, G*n, end)
        if n > 1:
            # detached: where the weight is 0 so is the gradient, and no copy is made for it
            future = torch.full((n, n), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
            scores.detach().view(B * K, -1, n, end)[..., -n:] += future
        out.append((scores.softmax(-1) @ v[:, :end]).view(B, H, n, D))
    return torch.cat(out, 2)


class KVCache:
    """Keys and values of every layer, (layers, batch, kv_heads, capacity, head_dim), and one
    length, which Decoder advances. drop() is the one primitive that makes streams endless."""

    def __init__(self, config, batch=1, capacity=4096, dtype=torch.float32, device="cpu"):
        self.config, self.capacity, self.length = config, capacity, 0
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity,
                 config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in "kv")

    def update(self, layer, k, v):
        """Write k, v (B, K, T, D) after the filled slots; return all keys and values so far."""
        end = self.length + k.shape[2]
        check(end <= self.capacity, f"the KV cache holds {self.capacity} tokens: {self.length} are "
              f"filled and {k.shape[2]} more do not fit")
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def drop(self, start, end):
        """Remove slots [start, end), or several such spans at once, by their starts and ends.
        What is later moves left and its keys turn back as far: exact, for RoPE is a rotation."""
        kept, first = np.ones(self.length, bool), int(np.min(start))
        for a, b in zip(np.atleast_1d(start), np.atleast_1d(end)):
            check(0 <= a <= b <= self.length,
                  f"drop({a}, {b}): the cache holds slots 0 to {self.length}")
            kept[a:b] = False
        old = torch.from_numpy(np.flatnonzero(kept)[first:]).to(self.keys.device)
        self.length = first + len(old)
        moved = torch.arange(first, self.length, device=old.device) - old
        cos, sin = rope(moved, self.config, torch.float32)
        for keys, values in zip(self.keys, self.values):    # layer by layer: a small temporary
            keys[:, :, first:self.length] = rotate(keys[:, :, old].float(), cos, sin)
            values[:, :, first:self.length] = values[:, :, old]


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        size, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        D, H, K = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.qk_norm, bias = D, config.qk_norm, config.attention_bias
        self.input_layernorm = nn.RMSNorm(size, eps)
        self.self_attn = nn.ModuleDict({
            "q_proj": nn.Linear(size, H * D, bias), "k_proj": nn.Linear(size, K * D, bias),
            "v_proj": nn.Linear(size, K * D, bias), "o_proj": nn.Linear(H * D, size, False)})
        if self.qk_norm:
            self.self_attn.update({"q_norm": nn.RMSNorm(D, eps), "k_norm": nn.RMSNorm(D, eps)})
        self.post_attention_layernorm = nn.RMSNorm(size, eps)
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(size, inner, False),
                                  "up_proj": nn.Linear(size, inner, False),
                                  "down_proj": nn.Linear(inner, size, False)})

    def forward(self, x, cos, sin, cache, layer):
        (B, T, _), attn, mlp, h = x.shape, self.self_attn, self.mlp, self.input_layernorm(x)
        q, k, v = (proj(h).view(B, T, -1, self.head_dim).transpose(1, 2)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))      # (B, heads, T, D)
        if self.qk_norm:
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(layer, k, v)                                 # (B, K, S, D)
        x = x + attn.o_proj(causal_attention(q, k, v))
        h = self.post_attention_layernorm(x)
        return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))


class Decoder(nn.Module):
    """Token ids (B, T), or embeddings (B, T, D) in their place -> logits.

    select: None, all positions (B, T, V); "last" (B, V); a bool mask (B, T) -> (n, V).
    With a cache the T tokens are appended at positions cache.length, ..."""

    public_names = []

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({
            "embed_tokens": embedding(config.vocab_size, config.hidden_size),
            "layers": nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers)),
            "norm": nn.RMSNorm(config.hidden_size, config.rms_norm_eps)})
        self.unused = ["lm_head."] if config.tie_word_embeddings else []
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weights(self)

    def forward(self, input_ids=None, embeds=None, cache=None, select=None):
        config, model = self.config, self.model
        x = model.embed_tokens(input_ids) if embeds is None else embeds
        T, start = x.shape[1], cache.length if cache else 0
        check(start + T <= config.max_position_embeddings, f"{start + T} positions, but the "
              f"decoder's max_position_embeddings is {config.max_position_embeddings}")
        dtype = (torch.get_autocast_dtype(x.device.type)
                 if torch.is_autocast_enabled(x.device.type) else x.dtype)
        cos, sin = rope(torch.arange(start, start + T, device=x.device), config, dtype)
        for i, layer in enumerate(model.layers):
            x = layer(x, cos, sin, cache, i)
        if cache is not None:
            cache.length += T
        if select is not None:                          # the head is wide: only where it is read
            x = x[:, -1] if isinstance(select, str) else x[select]
        x = model.norm(x)
        head = model.embed_tokens if config.tie_word_embeddings else self.lm_head
        return F.linear(x, head.weight)


# ---- Streamo --------------------------------------------------------------------------------

class Streamo(nn.Module):
    # LLaVA-OneVision's three namings: the original, the newer in-memory one, the hub's (ours)
    public_names = [(r"(model\.)?(vision_tower\.)+(vision_model\.)?", "vision_tower.vision_model."),
                    (r"model\.mm_projector\.0", "multi_modal_projector.linear_1"),
                    (r"model\.mm_projector\.2", "multi_modal_projector.linear_2"),
                    (r"model\.(?=multi_modal_projector|image_newline)", ""),
                    (r"model\.(language_model\.)?", "language_model.model."),
                    (r"lm_head", "language_model.lm_head")]

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.vision_tower = VisionEncoder(config.vision, config.vision_feature_layer)
        self.multi_modal_projector = Connector(config.vision.hidden_size,
                                               config.decoder.hidden_size)
        self.language_model = Decoder(config.decoder)
        self.unused = ["image_newline"]                 # it ends a whole video: a stream has no end
        for part in ("vision_tower", "language_model"):
            self.unused += [f"{part}.{name}" for name in getattr(self, part).unused]

    def _pool(self, x, grid):
        # the matrix takes the features' dtype: every entry of an average of 2^n is exact
        matrix = pooling_matrix(self.config.vision.side, grid, self.config.pooling)
        return matrix.to(x.device, x.dtype) @ x                              # (U, grid*grid, D)

    def encode_frames(self, pixels, grid=None):
        """pixels (F, 3, H, W) in [-1, 1] -> (F, grid*grid, hidden_size), rows of the grid first."""
        x = self.multi_modal_projector(self.vision_tower(pixels))            # (F, N, D)
        return self._pool(x, grid or self.config.grid)

    def features(self, pixels, frames, grids):
        """The visual tokens of a batch: for each of its frames f in order, the grids[f]**2 tokens
        of pixels[frames[f]]. pixels (U, 3, H, W), frames and grids (F,) -> (N, hidden_size)."""
        x = self.multi_modal_projector(self.vision_tower(pixels))            # (U, N, D)
        grids = grids.tolist()
        pooled = {grid: self._pool(x, grid).unbind() for grid in set(grids)}
        return torch.cat([pooled[grid][i] for i, grid in zip(frames.tolist(), grids)])

    def forward(self, input_ids, features=None, cache=None, select=None, *,
                pixels=None, frames=None, grids=None):
        """input_ids (B, T) -> logits as Decoder gives them. The <frame> placeholders, row by row,
        take the rows of features (N, hidden_size), or of features(pixels, frames, grids)."""
        if pixels is not None:
            features = self.features(pixels, frames, grids)
        embeds = self.language_model.model.embed_tokens(input_ids)
        places = (input_ids == self.config.frame_token_id).flatten().nonzero()[:, 0]
        given = 0 if features is None else len(features)
        check(len(places) == given, f"{len(places)} <frame> placeholders, {given} visual tokens")
        if given:
            flat = embeds.flatten(0, 1).index_copy(0, places, features.to(embeds.dtype))
            embeds = flat.view_as(embeds)
        return self.language_model(embeds=embeds, cache=cache, select=select)

    def save_pretrained(self, folder):
        """Write config.json and model.safetensors in the dtype of the parameters."""
        folder = Path(folder)
        write_json(folder / "config.json", self.config.to_dict())           # makes the folder
        partial = folder / "model.safetensors.partial"
        try:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, partial,
                      metadata={"format": "pt"})
        except SafetensorError as error:                    # what it makes of a full disk
            raise OSError(f"{partial}: {error}") from error
        partial.replace(folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder, dtype=None, device=None):
        """Our own folder, or LLaVA-OneVision's in any of its three namings, to which the state
        tokens and <frame> are added. dtype None keeps the file's."""
        config, new_rows = whole_config(folder)
        return load_weights(on_meta(cls, config), folder, dtype, device, new_rows)

    @classmethod
    def from_parts(cls, vision_folder, decoder_folder, *, dtype=None, device=None, **settings):
        """A SigLIP folder and a decoder folder, with a fresh connector between them. settings:
        StreamoConfig's (grid, coarse_grid, window, ...); by its defaults the features are the
        penultimate layer's, as LLaVA-OneVision takes them. dtype None keeps the decoder's."""
        config, new_rows = parts_config(vision_folder, decoder_folder, **settings)
        model = on_meta(cls, config)
        load_weights(model.language_model, decoder_folder, dtype, device, new_rows)
        embedding = model.language_model.model.embed_tokens.weight
        load_weights(model.vision_tower, vision_folder, embedding.dtype, device)
        model.multi_modal_projector.to_empty(device=embedding.device).to(embedding.dtype)
        init_weights(model.multi_modal_projector)
        return model


def load_vision(folder, dtype=None, device=None):
    """SigLIP from a hub folder, of a whole model or of the vision tower alone."""
    model = on_meta(VisionEncoder, hf_config(VisionConfig, folder))
    return load_weights(model, folder, dtype, device)


def load_decoder(folder, dtype=None, device=None):
    """A Qwen2, Qwen2.5, Qwen3 or Llama-family decoder from a hub folder."""
    model = on_meta(Decoder, hf_config(DecoderConfig, folder))
    return load_weights(model, folder, dtype, device)


def hf_config(cls, folder):
    path = Path(folder) / "config.json"
    return cls.from_hf(read_json(path), path)


def whole_config(folder):
    """Of a folder that from_pretrained reads: the config and, for load_weights, new_rows."""
    path = Path(folder) / "config.json"
    data = read_json(path)
    kind = data.get("model_type")
    if kind == "streamo":
        return StreamoConfig.from_dict(data, path), None
    check(kind == "llava_onevision" or "mm_projector_type" in data,
          f"{path}: model_type {kind!r} is not supported, only streamo and llava_onevision; "
          "for a vision folder and a decoder folder use from_parts")
    return with_stream_tokens(StreamoConfig.from_llava(data, -1, path), folder)


def parts_config(vision_folder, decoder_folder, **settings):
    """The same of two folders, as from_parts reads them."""
    config = StreamoConfig(hf_config(VisionConfig, vision_folder),
                           hf_config(DecoderConfig, decoder_folder), -1, **settings)
    return with_stream_tokens(config, decoder_folder)


def with_stream_tokens(config, folder):
    """The state tokens and <frame> take the ids after the last of folder's tokenizer (of the
    embedding, where the folder has none): spare rows, or more rows. Returns the config and, for
    load_weights, (rows stored, new ids)."""
    rows = old = config.decoder.vocab_size
    ids = [*range(rows, rows + 4)]
    if any((Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.json")):
        tokenizer = Tokenizer.from_pretrained(folder)
        old = len(tokenizer)
        tokenizer.add_tokens([*STATES, FRAME])
        ids = [*tokenizer.state_ids, tokenizer.frame_id]
    decoder = replace(config.decoder, vocab_size=max(rows, 1 + max(ids)))
    return (replace(config, decoder=decoder, frame_token_id=ids[-1]),
            (rows, [i for i in ids if i >= old]))


def on_meta(cls, *args):
    with torch.device("meta"):                          # shapes only: loading fills them
        return cls(*args)


def preprocess(image, size):
    """A PIL image or uint8 (H, W, 3) array -> float32 (3, size, size) in [-1, 1], as SigLIP's
    processor does it: bicubic to the exact square."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return normalised(np.array(image)[None])[0]


def normalised(images):
    """uint8 (F, S, S, 3), an array or a tensor -> float32 (F, 3, S, S) in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- Files ----------------------------------------------------------------------------------

def parse_json(text, path):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def read_json(path):
    return parse_json(Path(path).read_bytes(), path)


def write_json(path, data):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_headers(folder):
    """The tensors of a folder's safetensors, one file or shards: {name: (path, dtype, shape,
    first byte, bytes)}. Errors name the missing or truncated file."""
    folder = Path(folder)
    index, paths = folder / "model.safetensors.index.json", [folder / "model.safetensors"]
    if index.exists() and not paths[0].exists():
        paths = [folder / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
    tensors = {}
    for path in paths:
        if not path.exists():
            pickles = ", ".join(file.name for file in folder.glob("*.bin"))
            raise FileNotFoundError(f"{path}: no such file" + (
                f" (only safetensors are read, not {pickles})" if pickles else ""))
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            check(8 <= start <= size, f"{path}: truncated, or not a safetensors file")
            header = parse_json(file.read(start - 8), path)
        header.pop("__metadata__", None)
        for name, info in header.items():
            begin, end = (start + offset for offset in info["data_offsets"])
            check(end <= size, f"{path}: truncated, tensor {name} ends at byte {end} of {size}")
            tensors[name] = (path, info["dtype"], tuple(info["shape"]), begin, end - begin)
    return tensors


def read_tensor(entry, shape, dtype, device):
    """Read one tensor in blocks straight to its dtype and device: there is no second copy. The
    shape may have more rows than are stored."""
    path, kind, _, start, size = entry
    out, width = torch.empty(shape, dtype=dtype, device=device), DTYPES[kind].itemsize
    for part in out.view(-1)[:size // width].split(1 << 20):
        block = np.fromfile(path, np.uint8, len(part) * width, offset=start)
        part.copy_(torch.from_numpy(block).view(DTYPES[kind]))
        start += len(block)
    return out


EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
NOT_WEIGHTS = ("rotary_emb.inv_freq", "position_ids")   # tables that older files stored


def start_rows(weight, rows, new):
    """Rows that no file holds, and the rows of new tokens, start at the mean of the old ones."""
    new = sorted({*new, *range(rows, len(weight))})
    old = min([rows, *new])
    total = sum(block.float().sum(0) for block in weight[:old].split(4096))  # no float copy of all
    weight[new] = (total / old).to(weight.dtype)


def load_weights(model, folder, dtype=None, device=None, new_rows=None):
    """Fill a model that was built on the meta device from folder's safetensors, strictly: a
    missing, misshapen or unexpected tensor is a ValueError that names it. model.public_names:
    (prefix in public files, ours); what then begins with one of model.unused is skipped.
    new_rows (n, ids): embeddings of n rows are stored, the rest, and the rows ids, start at their
    mean. dtype None: the narrowest that holds all that are stored."""
    found, wanted, state = {}, model.state_dict(), {}
    for stored, entry in read_headers(folder).items():
        name = stored
        for prefix, ours in model.public_names:
            name = re.sub("^" + prefix, ours, name)
        check(name in wanted or name.startswith(tuple(model.unused)) or name.endswith(NOT_WEIGHTS),
              f"{entry[0]}: unexpected tensor {stored}")
        found[name] = entry
    for name, tensor in wanted.items():
        check(name in found, f"{folder}: tensor {name} is missing")
        shape, (path, kind, stored, *_) = tuple(tensor.shape), found[name]
        if new_rows and name.endswith(EMBEDDINGS):
            shape = (new_rows[0], *shape[1:])
        check(stored == shape and kind in DTYPES, f"{path}: tensor {name} is {kind} {stored}, "
              f"wanted {shape} in one of {', '.join(DTYPES)}")
    kinds = {DTYPES[found[name][1]] for name in wanted}
    dtype = dtype or reduce(torch.promote_types, kinds)
    for name, tensor in wanted.items():
        state[name] = read_tensor(found[name], tensor.shape, dtype, device)
        if new_rows and name.endswith(EMBEDDINGS):
            start_rows(state[name], *new_rows)
    model.load_state_dict(state, assign=True)
    return model
