"""Mutated checkpoints: each loads, or is refused in one line that names a file; nothing else.

    FUZZ=20000 FUZZ_SEED=1 python -m pytest -q tests/test_fuzz_model.py       # a long run
"""
import copy
import json
import os
import random
import shutil
import time
import warnings

import numpy as np
import pytest
import torch
from make_golden import write_folder

from streamo import (FRAME, STATES, DecoderConfig, Streamo, StreamoConfig, Tokenizer, VisionConfig,
                     load_decoder, load_vision)

N, SEED = int(os.environ.get("FUZZ", 300)), int(os.environ.get("FUZZ_SEED", 0))
SLOWEST = 5                                 # seconds of computing; a hang is a failure, too
VISION = dict(model_type="siglip_vision_model", hidden_size=8, intermediate_size=12,
              num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
DECODER = dict(model_type="qwen2", hidden_size=12, intermediate_size=12, num_hidden_layers=1,
               num_attention_heads=2, num_key_value_heads=1, vocab_size=1310,
               tie_word_embeddings=True, layer_types=["full_attention"],
               rope_scaling={"rope_type": "default"})


def deep(n, inside=1):
    for _ in range(n):
        inside = [inside]
    return inside


HOSTILE = [None, True, False, 0, 1, -1, 2, 3, 7, 2 ** 31, 2 ** 63, 10 ** 12, -10 ** 12, 10 ** 400,
           0.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf"), "", "x", "a\nb", "\ud800",
           "../x", "/etc/passwd", "\0", "x" * 300, "(", "(a+)+", "[", r"\p{Lu}", "{9999999999}",
           [], {}, [[]], {"a": {}}, [1, 2], ["a", "b"], deep(50), {"": None}]


def places(data, at=()):
    """The paths of all values inside a JSON value."""
    items = (data.items() if isinstance(data, dict) else
             enumerate(data) if isinstance(data, list) else ())
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


def mutated_json(rng, data):
    """JSON text with one to three places changed, doubled or left out, or its bytes damaged."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.02 or not data:
            data = copy.deepcopy(rng.choice(HOSTILE))
            break
        known = list(places(data))
        top = [place for place in known if len(place) < 3]      # else all would be merges and ids
        *way, last = rng.choice(top if rng.random() < 0.6 else known)
        inside = data
        for key in way:
            inside = inside[key]
        how = rng.random()
        if how < 0.65:
            inside[last] = copy.deepcopy(rng.choice(HOSTILE))
        elif how < 0.85:
            del inside[last]
        else:
            other = copy.deepcopy(rng.choice(known[:200]))
            inside[last] = list(map(str, other))
    text = json.dumps(data).encode()
    if rng.random() < 0.03:
        text = b'{"model_type": ' + b"[" * 10 ** rng.randrange(2, 6)
    return damaged(rng, text) if rng.random() < 0.15 else text


def damaged(rng, content):
    """Some bytes changed, cut off, put in or doubled."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        i = rng.randrange(len(content) + 1)
        how = rng.randrange(4)
        if how == 0:
            content[i:i + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            content = content[:i]
        elif how == 2:
            content[i:i] = rng.choice((b"\0", b"\xff", b"{", b'"', b",", b"9" * 30))
        else:
            content[i:i] = content[i:i + rng.randrange(1, 40)]
    return bytes(content)


def mutated_weights(rng, content):
    """A safetensors file with another header, another length of it, or other bytes."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:8 + size]), content[8 + size:]
    how = rng.randrange(6)
    if how == 0:
        return damaged(rng, content)
    if how == 1:                                        # the length alone
        return rng.choice((0, 1, size - 1, size + 1, 2 ** 40, 2 ** 63)).to_bytes(8, "little") \
            + content[8:]
    if how == 2:                                        # a number that is none
        i = 4 * rng.randrange(len(body) // 4)
        bad = np.float32(rng.choice((np.nan, np.inf, -np.inf))).tobytes()
        return content[:8 + size] + body[:i] + bad + body[i + 4:]
    if how == 3:                                        # one name twice
        name = rng.choice([*header])
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
        return len(text).to_bytes(8, "little") + text.encode() + body
    if how == 4:                                        # two tensors change places, or overlap
        a, b = rng.sample([name for name in header if name != "__metadata__"], 2)
        key = rng.choice(("data_offsets", "shape", "dtype"))
        header[a][key] = header[b][key]
        text = json.dumps(header).encode()
    else:
        text = mutated_json(rng, header)
    return len(text).to_bytes(8, "little") + text + body


def refusal(load, folder):
    """None where it loads; else the line of a ValueError or OSError. Anything else is raised."""
    began = time.process_time()
    try:
        load(folder)
        line = None
    except (ValueError, OSError) as error:
        line = str(error)
        assert "\n" not in line and len(line) < 2000 and str(folder) in line, line
    assert time.process_time() - began < SLOWEST
    return line


@torch.no_grad()
def whole(folder):
    """What infer.py does first: a tokenizer and a model that fit each other, and one forward."""
    tokenizer, model = Tokenizer.from_pretrained(folder), Streamo.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode("<|im_start|>user\n What? 12")])
    assert model(ids[:, :20]).isfinite().all()


def words(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*STATES, FRAME])
    tokenizer.decode(tokenizer.encode("What does the man do? It's 4711 \n\n été <frame>" * 3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: (a folder that loads, how, the files that are mutated)}"""
    root = tmp_path_factory.mktemp("fuzz")
    tokenizer = Tokenizer.train(["What does the man do?\n"] * 3, 0)
    tokenizer.add_tokens([*STATES, FRAME])
    torch.manual_seed(0)
    decoder = DecoderConfig.from_hf(DECODER, "")
    streamo = Streamo(StreamoConfig(VisionConfig.from_hf(VISION, ""), decoder, tokenizer.frame_id,
                                    grid=2, coarse_grid=1))
    streamo.save_pretrained(root / "streamo")
    tokenizer.save_pretrained(root / "streamo")
    parts = {}
    for kind, config, prefix in (("siglip", VISION, "vision_tower."),
                                 ("qwen", DECODER, "language_model.")):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in
                   streamo.state_dict().items() if name.startswith(prefix)}
        if kind == "siglip":
            config = {**config, "num_hidden_layers": 1}
            tensors = {**tensors, "vision_model.post_layernorm.weight": torch.ones(8),
                       "vision_model.post_layernorm.bias": torch.zeros(8)}
        parts[kind] = write_folder(root / kind, config, tensors, 1 if kind == "siglip" else 2)
    vocab = root / "vocab"
    vocab.mkdir()
    (vocab / "vocab.json").write_text(json.dumps(tokenizer.vocab))
    merges = "\n".join(" ".join(merge) for merge in tokenizer.merges)
    (vocab / "merges.txt").write_text("#version: 0.2\n" + merges + "\n")
    added = {str(i): {"content": token} for token, i in tokenizer.added.items()}
    (vocab / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}))
    return {"streamo": (root / "streamo", whole, ["config.json", "config.json", "tokenizer.json",
                                                  "model.safetensors", "model.safetensors"]),
            "siglip": (root / "siglip", load_vision, ["config.json", "model.safetensors"]),
            "qwen": (root / "qwen", load_decoder, [
                "config.json", "model.safetensors.index.json", "model-00002-of-00002.safetensors"]),
            "words": (root / "streamo", words, ["tokenizer.json"]),
            "vocab": (vocab, words, ["vocab.json", "merges.txt", "tokenizer_config.json"])}


@pytest.mark.parametrize("kind", ["streamo", "siglip", "qwen", "words", "vocab"])
def test_a_mutated_checkpoint_loads_or_is_refused_in_one_line(kind, folders, tmp_path):
    folder, load, files = folders[kind]
    assert refusal(load, folder) is None
    rng, refused = random.Random(f"{SEED}/{kind}"), 0
    contents = {name: (folder / name).read_bytes() for name in files}
    mine = shutil.copytree(folder, tmp_path / "mutant")
    for k in range(N // 5):
        name = rng.choice(files)
        if name.endswith(".json"):
            content = mutated_json(rng, json.loads(contents[name]))
        elif name.endswith(".txt"):
            content = damaged(rng, contents[name])
        else:
            content = mutated_weights(rng, contents[name])
        (mine / name).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)      # of a mutated regular expression
            try:
                refused += refusal(load, mine) is not None
            except BaseException as error:
                kept = tmp_path / f"{k}-{name}"
                kept.write_bytes(content)
                raise AssertionError(f"mutant {k} of {kind}: {kept}") from error
        (mine / name).write_bytes(contents[name])
    assert refused > N // 15                            # the mutants are not harmless
