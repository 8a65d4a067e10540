"""Golden values of tests/test_pretrained.py, computed by transformers on tiny random checkpoints.

    pip install transformers && python tests/make_golden.py     # writes tests/golden/

Weights follow from their names (weight), so only configs, shapes and outputs are kept. The sizes
of every model are unequal, so that no transposed or swapped tensor can fit by chance.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent / "golden"
VISION = dict(
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=3,
    image_size=38,
    patch_size=7,
)  # 5 x 5 patches, 3 pixels over
TEXT = dict(
    vocab_size=131,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)


def weight(name, shape):
    """The tensor of a name: reproducible anywhere, norms near 1, everything else near 0."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    norm = "norm" in name and name.endswith("weight")
    return torch.from_numpy((1 + 0.1 * noise if norm else 0.2 * noise).astype(np.float32))


def write_folder(folder, config, tensors, shards=1):
    """A hub snapshot's config.json and model.safetensors, or shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    files = {
        name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors"
        for i, name in enumerate(sorted(tensors))
    }
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    return folder


def inputs():
    rng = np.random.default_rng(7)
    return (
        torch.from_numpy(rng.uniform(-1, 1, (2, 3, 38, 38)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 131, (2, 9))),
    )


def models():
    """{case: a transformers model}; needs transformers."""
    import transformers as hf

    def llama(**more):
        return hf.LlamaForCausalLM(
            hf.LlamaConfig(**{**TEXT, "rms_norm_eps": 1e-5, "rope_theta": 5e4, **more})
        )

    vision, text = (
        hf.SiglipVisionConfig(**VISION),
        hf.SiglipTextConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=50,
            max_position_embeddings=6,
            projection_size=48,
            bos_token_id=1,
            eos_token_id=2,
        ),
    )
    qwen2 = hf.Qwen2Config(**TEXT, rope_theta=1e6, tie_word_embeddings=True)
    return {
        "siglip": hf.SiglipModel(
            hf.SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
        ),
        "siglip_vision": hf.SiglipVisionModel(vision),
        "qwen2": hf.Qwen2ForCausalLM(qwen2),
        "qwen2_untied": hf.Qwen2ForCausalLM(
            hf.Qwen2Config(
                **{**TEXT, "num_attention_heads": 5, "num_key_value_heads": 1},
                rope_theta=1e6,
                tie_word_embeddings=False,
            )
        ),
        "qwen3": hf.Qwen3ForCausalLM(
            hf.Qwen3Config(**TEXT, head_dim=12, rope_theta=1e6, tie_word_embeddings=True)
        ),
        "llama": llama(tie_word_embeddings=False),
        "llama_tied": llama(tie_word_embeddings=True, num_key_value_heads=4),
        "llava": hf.LlavaOnevisionForConditionalGeneration(
            hf.LlavaOnevisionConfig(
                vision_config={**vision.to_dict(), "vision_use_head": False},
                text_config=qwen2.to_dict(),
                image_token_index=129,
                video_token_index=130,
                tie_word_embeddings=True,
            )
        ),
    }


@torch.no_grad()
def reference(case, model, folder):
    """Save the model to folder as transformers does, with weight()'s numbers; its outputs."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    from safetensors.torch import load_file

    tensors = {
        name: weight(name, t.shape) for name, t in load_file(folder / "model.safetensors").items()
    }
    write_folder(folder, config, tensors)
    model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    pixels, ids = inputs()
    out = {}
    if case.startswith("siglip"):
        tower = model.vision_model if case == "siglip" else model
        out["hidden"] = tower(pixels).last_hidden_state
    elif case == "llava":
        tower, model = model.model.vision_tower, model
        hidden = tower.embeddings(pixels)  # all its layers, and no norm
        for layer in tower.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        out["features"] = model.model.apply_pooling(model.model.multi_modal_projector(hidden))
        out["logits"] = model.model.language_model(ids).last_hidden_state @ model.lm_head.weight.T
    else:
        out["logits"] = model(ids).logits
    shapes = {name: list(t.shape) for name, t in tensors.items()}
    return config, shapes, {f"{case}.{key}": value.numpy() for key, value in out.items()}


def main():
    import tempfile

    table, outputs = {}, {}
    for case, model in models().items():
        with tempfile.TemporaryDirectory() as folder:
            config, shapes, out = reference(case, model, Path(folder))
        table[case] = {"config": config, "shapes": shapes}
        outputs.update(out)
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "pretrained.json").write_text(json.dumps(table))
    np.savez_compressed(GOLDEN / "pretrained.npz", **outputs)


if __name__ == "__main__":
    main()
