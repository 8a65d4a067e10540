"""Public checkpoints through streamo.py: equal to transformers, and refused with a name."""
import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_golden import GOLDEN, inputs, models, reference, weight, write_folder

import streamo
from parts import config as configs
from parts import tokenizer as bpe
from parts import weights
from streamo import (FRAME, STATES, DecoderConfig, Streamo, StreamoConfig, Tokenizer, VisionConfig,
                     load_decoder, load_vision)

TABLE = json.loads((GOLDEN / "pretrained.json").read_text())
OUTPUTS = np.load(GOLDEN / "pretrained.npz")
PIXELS, IDS = inputs()


def snapshot(folder, case, shards=1, naming=lambda name: name, extra=None, **changes):
    """A hub folder of a golden case, its tensors renamed and its config changed (... drops)."""
    config = {**TABLE[case]["config"], **changes}
    config = {key: value for key, value in config.items() if value is not ...}
    tensors = {naming(name): weight(name, shape) for name, shape in TABLE[case]["shapes"].items()}
    return write_folder(folder, config, {**tensors, **(extra or {})}, shards)


def assert_equal(ours, golden):
    golden = torch.as_tensor(golden)
    assert ours.shape == golden.shape and (ours - golden).abs().max() < 1e-5 * golden.abs().max()


@torch.no_grad()
def assert_case(folder, case, golden=OUTPUTS):
    if case.startswith("siglip"):
        assert_equal(load_vision(folder)(PIXELS), golden[f"{case}.hidden"])
    elif case == "llava":
        model = Streamo.from_pretrained(folder)
        assert_equal(model.encode_frames(PIXELS), golden["llava.features"])
        assert_equal(model(IDS)[..., :131], golden["llava.logits"])
        return model
    else:
        assert_equal(load_decoder(folder)(IDS), golden[f"{case}.logits"])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("case", TABLE)
def test_equal_to_the_golden_values(tmp_path, case, shards):
    assert_case(snapshot(tmp_path, case, shards), case)
    with pytest.raises(AssertionError):                 # the comparison sees a change of one part
        assert_case(snapshot(tmp_path / "off", case, naming=lambda name: name.replace(
            "layers.0", "layers.x").replace("layers.1", "layers.0").replace("layers.x",
                                                                            "layers.1")), case)


@pytest.mark.parametrize("case", TABLE)
def test_equal_to_transformers_live(tmp_path, case):
    pytest.importorskip("transformers")
    _, _, golden = reference(case, models()[case], tmp_path)
    assert_case(tmp_path, case, golden)


def test_other_spellings_of_the_same_checkpoints(tmp_path):
    prefixed = snapshot(tmp_path / "a", "siglip_vision", naming=lambda n: "vision_model." + n,
                        num_channels=..., layer_norm_eps=..., hidden_act=...)
    assert_case(prefixed, "siglip_vision")              # the usual names, and a sparse config
    theta = snapshot(tmp_path / "b", "qwen2", rope_parameters=..., rope_theta=1e6, extra={
        "lm_head.weight": torch.zeros(131, 40),         # stray, although tied
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(5)})
    assert_case(theta, "qwen2")
    assert VisionConfig.from_hf({"model_type": "siglip"}, "") == VisionConfig()
    sparse = {"model_type": "siglip", "vision_config": {"image_size": 384}}
    assert VisionConfig.from_hf(sparse, "") == VisionConfig(image_size=384)
    old = {"model_type": "llama", "vocab_size": 9, "hidden_size": 12, "num_attention_heads": 3,
           "intermediate_size": 7, "num_hidden_layers": 1}
    config = DecoderConfig.from_hf(old, "")
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (3, 4, 1e4)


def original(name):
    """The hub's names of LLaVA-OneVision -> the original release's."""
    for new, old in [("language_model.lm_head.", "lm_head."), ("language_model.model.", "model."),
                     ("multi_modal_projector.linear_", "model.mm_projector."),
                     ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
                     ("image_newline", "model.image_newline")]:
        if name.startswith(new):
            name = old + name[len(new):]
            return name.replace("projector.1", "projector.0")
    raise AssertionError(name)


def in_memory(name):
    return "model." + name.replace("language_model.model.", "language_model.").replace(
        "vision_tower.", "vision_tower.vision_model.")


def hub(name):
    return name.replace("vision_tower.", "vision_tower.vision_model.")


@pytest.mark.parametrize("naming", [original, in_memory, hub])
def test_llava_onevision_in_its_three_namings(tmp_path, naming):
    changes = {}
    if naming is original:                              # Qwen2's keys, and the tower's 4 layers
        shapes = TABLE["llava"]["shapes"]
        config = TABLE["llava"]["config"]
        changes = {**{key: ... for key in config}, **config["text_config"], "model_type": "llava",
                   "architectures": ["LlavaQwenForCausalLM"], "mm_projector_type": "mlp2x_gelu",
                   "mm_vision_tower": "google/siglip-so400m-patch14-384",
                   "mm_spatial_pool_mode": "bilinear",
                   "vision_config": {**config["vision_config"], "num_hidden_layers": 4}}
        assert any("post_layernorm" in name for name in shapes)         # stored, never applied
    model = assert_case(snapshot(tmp_path, "llava", 2, naming, **changes), "llava")
    assert model.config.grid == 3 and model.config.pooling == "bilinear"
    assert model.config.frame_token_id == 134           # no tokenizer here: after the last row
    embedding = model.language_model.model.embed_tokens.weight
    assert embedding.shape == (135, 40)
    torch.testing.assert_close(embedding[131:], embedding[:131].mean(0).expand(4, 40))


def test_the_original_llava_without_sizes_is_so400m(tmp_path):
    text = TABLE["llava"]["config"]["text_config"]
    data = {**text, "model_type": "llava", "mm_projector_type": "mlp2x_gelu",
            "mm_vision_tower": "google/siglip-so400m-patch14-384"}
    config = StreamoConfig.from_llava(data, 5, "")
    assert config.vision == VisionConfig(1152, 4304, 27, 16, 3, 384, 14)
    assert (config.vision.side, config.grid, config.vision_feature_layer) == (27, 14, -2)
    with pytest.raises(ValueError, match="mm_vision_tower openai/clip"):
        StreamoConfig.from_llava({**data, "mm_vision_tower": "openai/clip"}, 5, "")


@pytest.mark.parametrize("case, changes, named", [
    ("siglip", {"model_type": "siglip2"}, "siglip2 is SigLIP2 NaFlex"),
    ("siglip", {"model_type": "clip"}, "model_type = 'clip' is not supported, only 'siglip"),
    ("siglip_vision", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
    ("qwen2", {"model_type": "mistral"}, "model_type = 'mistral' is not supported, only 'qwen2'"),
    ("qwen2", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
    ("llama", {"mlp_bias": True}, "mlp_bias = True"),
    ("llama", {"attention_bias": True}, "attention_bias = True"),
    ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llava", {"model_type": "qwen2_vl"}, "model_type 'qwen2_vl' is not supported"),
    ("llava", {"projector_hidden_act": "relu"}, "projector_hidden_act = 'relu'"),
    ("llava", {"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy")])
def test_a_setting_that_changes_the_maths_is_refused(tmp_path, case, changes, named):
    load = (load_vision if case.startswith("siglip") else
            Streamo.from_pretrained if case == "llava" else load_decoder)
    with pytest.raises(ValueError, match=f"config.json.*{named}"):
        load(snapshot(tmp_path, case, **changes))


def test_missing_files_are_named(tmp_path):
    folder = snapshot(tmp_path / "a", "qwen2", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(OSError, match="model-00002-of-00003.safetensors: no such file"):
        load_decoder(folder)
    folder = snapshot(tmp_path / "b", "qwen2", num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"unexpected tensor model\.layers\.2"):
        load_decoder(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="only safetensors are read, not pytorch_model.bin"):
        load_decoder(folder)
    with pytest.raises(ValueError, match=r"lm_head\.weight is missing"):
        load_decoder(snapshot(tmp_path / "c", "qwen2", tie_word_embeddings=False))


def tokenizer_of(size):
    tokenizer = Tokenizer.train(["one two three"], 0)
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(size - len(tokenizer))])
    return tokenizer


@torch.no_grad()
@pytest.mark.parametrize("vocabulary, spare, tied", [(1300, 30, True), (1300, 2, False)])
def test_from_parts(tmp_path, vocabulary, spare, tied):
    """Spare rows of the embedding are used; where they do not suffice, it grows."""
    vision = snapshot(tmp_path / "v", "siglip")
    table = TABLE["qwen2" if tied else "qwen2_untied"]
    rows = vocabulary + spare
    tensors = {name: weight(name, [rows if n == 131 else n for n in shape])
               for name, shape in table["shapes"].items()}
    decoder = write_folder(tmp_path / "d", {**table["config"], "vocab_size": rows}, tensors)
    tokenizer_of(vocabulary).save_pretrained(decoder)
    model = Streamo.from_parts(vision, decoder, grid=3)
    assert model.config.decoder.vocab_size == max(rows, vocabulary + 4)
    tokenizer = Tokenizer.from_pretrained(decoder)
    tokenizer.add_tokens([*STATES, FRAME])
    assert model.config.frame_token_id == tokenizer.frame_id == vocabulary + 3
    heads = [model.language_model.model.embed_tokens.weight]
    heads += [] if tied else [model.language_model.lm_head.weight]
    for table, name in zip(heads, ["model.embed_tokens.weight", "lm_head.weight"]):
        old = tensors[name][:vocabulary]
        torch.testing.assert_close(table[:vocabulary], old, rtol=0, atol=0)
        torch.testing.assert_close(table[vocabulary:vocabulary + 4], old.mean(0).expand(4, 40))
    full = load_vision(vision)                          # the penultimate layer, without the norm
    x = full.embed(PIXELS)
    for layer in full.vision_model.encoder.layers[:-1]:
        x = layer(x)
    torch.testing.assert_close(model.vision_tower(PIXELS), x, rtol=0, atol=0)
    assert model.encode_frames(PIXELS).shape == (2, 9, 40)
    model.save_pretrained(tmp_path / "s")
    tokenizer.save_pretrained(tmp_path / "s")
    again = Streamo.from_pretrained(tmp_path / "s")
    torch.testing.assert_close(again.encode_frames(PIXELS), model.encode_frames(PIXELS),
                               rtol=0, atol=0)
    assert Tokenizer.from_pretrained(tmp_path / "s").state_ids == tokenizer.state_ids


@torch.no_grad()
def test_a_trained_streamo_keeps_its_state_rows(tmp_path):
    """Tokens that the folder's tokenizer already has are trained: their rows stay."""
    folder = snapshot(tmp_path, "llava")
    tokenizer = tokenizer_of(1300)
    tokenizer.add_tokens([*STATES, FRAME])
    ids = [*tokenizer.state_ids, tokenizer.frame_id]
    config = StreamoConfig.from_llava(TABLE["llava"]["config"], -1, "")
    config = replace(config, decoder=replace(config.decoder, vocab_size=1304))
    tokenizer.save_pretrained(folder)
    _, (rows, new) = configs.with_stream_tokens(config, folder)
    assert (rows, new, ids) == (1304, [], [1300, 1301, 1302, 1303])


PEAK = """
import sys, torch, streamo
def peak():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
model = streamo.load_decoder(sys.argv[1], dtype=torch.bfloat16)
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_loading_peaks_near_the_models_size(tmp_path):
    """float32 files to bfloat16, one big embedding among them: no second copy at any time."""
    config = {**TABLE["qwen2"]["config"], "vocab_size": 300_000, "hidden_size": 200,
              "num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 1}
    model = weights.on_meta(streamo.Decoder, DecoderConfig.from_hf(config, ""))
    tensors = {n: torch.zeros(t.shape) for n, t in model.state_dict().items()}
    write_folder(tmp_path, config, tensors)
    out = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True,
                         text=True, check=True, cwd=Path(streamo.__file__).parent)
    assert 0.8 < float(out.stdout) < 1.2


def test_a_vocabulary_is_learnt_as_in_the_textbook():
    """Every pair counted anew for every merge; ties go to the lower ids."""
    rng = random.Random(0)
    for _ in range(20):
        text = " ".join("".join(rng.choices("aab", k=rng.randint(1, 9))) for _ in range(12))
        size = 1246 + rng.randint(0, 40)                    # 256 bytes, 990 numbers, and merges
        made = Tokenizer.train([text], size)
        names = {id: name for name, id in made.vocab.items()}
        letters = bpe.byte_alphabet()                       # the blank has another name
        words = [[made.vocab[letters[byte]] for byte in word.encode()]
                 for word in re.findall(r" ?[ab]+", text)]
        for new in range(1246, size):
            pairs = Counter(pair for ids in words for pair in zip(ids, ids[1:]))
            if not pairs:
                assert len(made.merges) == new - 256
                break
            a, b = min(pairs, key=lambda pair: (-pairs[pair], pair))
            assert made.merges[new - 256] == (names[a], names[b])
            for ids in words:
                for k in range(len(ids) - 1):
                    if ids[k:k + 2] == [a, b]:
                        ids[k:k + 2] = [new]


def test_tokenizer_equals_the_library_live(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = ["Hello world", " don't", "naïve", "\n\n  ", "漢字", "<|im_end|>", "e\u0301\u0327",
             "👩‍👧",
             "It'S", "'ſ", "12٣½", "\x1c\x85", "!?", " \t",
              "क़", "\u1df6\u0301", "\U00031350"]
    trained = Tokenizer.train(words * 2, 1400, bpe.QWEN_PATTERN)
    for nfc in (False, True):
        ours = Tokenizer(trained.vocab, trained.merges, trained.patterns, trained.added, nfc)
        ours.save_pretrained(tmp_path)
        theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        rng = random.Random(0)
        for _ in range(2000):
            codes = [rng.randrange(0x3000), rng.randrange(0xE000, sys.maxunicode + 1)]
            parts = [*rng.choices(words, k=rng.randrange(6)), *map(chr, codes)]
            rng.shuffle(parts)
            text = "".join(part for part in parts if not 0xD800 <= ord(part[0]) < 0xE000)
            ids = ours.encode(text)
            assert ids == theirs.encode(text, add_special_tokens=False).ids, text
            cut = ids[:rng.randrange(len(ids) + 1)]
            assert ours.decode(cut) == theirs.decode(cut, skip_special_tokens=False)
