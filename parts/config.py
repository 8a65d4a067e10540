"""The three configs, and what fills them from the config.json of public checkpoints."""
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import get_args

from parts.files import check, model_folder, only, read_json, reading
from parts.tokenizer import FRAME, STATES, Tokenizer

ACTIVATIONS = "gelu_pytorch_tanh", "gelu"
# What a number of a config.json may be: by its name, else 1 to MOST. The largest vocabularies have
# some 2^18 rows, the longest context 10^7 tokens, Llama 3.1 405B 126 layers; a model is built, a
# millisecond a layer, before its weights are compared.
MOST = 1 << 24
RANGES = {"num_hidden_layers": (1, 1000), "vision_feature_layer": (-2, -1), "window": (0, MOST),
          "frame_token_id": (0, MOST), "threshold": (0, 1), "rope_theta": (1, 1e12),
          "rms_norm_eps": (0, 1), "layer_norm_eps": (0, 1)}


def checked(config, path):
    """The config, or a ValueError that names the file and what no model can have."""
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        kinds = get_args(field.type) or (field.type,)                        # of float | None
        known = type(value) in kinds or float in kinds and type(value) is int
        check(known, f"{path}: {name} = {value!r}, wanted {' or '.join(k.__name__ for k in kinds)}")
        if is_dataclass(value):
            checked(value, path)
        elif type(value) in (int, float):
            least, most = RANGES.get(name, (1, MOST))
            check(least <= value <= most, f"{path}: {name} = {value}, wanted {least} to {most}")
    config.check(path)
    return config


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

    def check(self, path):
        check(self.hidden_act in ACTIVATIONS,
              f"{path}: hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
        check(self.num_channels == 3, f"{path}: num_channels {self.num_channels}, wanted 3")
        check(self.hidden_size % self.num_attention_heads == 0,
              f"{path}: hidden_size {self.hidden_size} is no multiple of num_attention_heads "
              f"{self.num_attention_heads}")
        check(1 <= self.side <= 1024, f"{path}: image_size {self.image_size} of patch_size "
              f"{self.patch_size}: {self.side} patches a row, wanted 1 to 1024")

    @classmethod
    def from_hf(cls, data, path):
        """From a SigLIP config.json. ValueError names the setting that is not supported."""
        kind = str(data.get("model_type"))
        if kind == "siglip":
            kind, data = "siglip_vision_model", data.get("vision_config") or {}
        check(not kind.startswith("siglip2"), f"{path}: model_type {kind} is SigLIP2 NaFlex, "
              "which is not supported; use SigLIP or a SigLIP2 of fixed resolution")
        only({**data, "model_type": kind}, path, model_type="siglip_vision_model",
             hidden_act=ACTIVATIONS, attention_dropout=0)
        return checked(cls(**{f.name: data[f.name] for f in fields(cls) if f.name in data}), path)


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

    def check(self, path):
        heads, shared, size = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        check(heads % shared == 0,
              f"{path}: num_attention_heads {heads} is no multiple of num_key_value_heads {shared}")
        check(heads * size <= MOST, f"{path}: {heads} heads of head_dim {size} are too wide")
        check(size % 2 == 0, f"{path}: head_dim {size} is odd, but its numbers turn in pairs")

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
        return checked(cls(**{f.name: data[f.name] for f in fields(cls)}), path)

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
    of a frame, and of a compressed frame. window: seconds of stream the model was trained for.
    knows: all that it was ever shown, in words for people, where that is little."""
    vision: VisionConfig
    decoder: DecoderConfig
    frame_token_id: int
    vision_feature_layer: int = -2
    pooling: str = "bilinear"                           # or "average"
    grid: int = 7
    coarse_grid: int = 3
    window: int = 60
    threshold: float | None = None
    knows: str = ""

    def check(self, path):
        rows, side = self.decoder.vocab_size, self.vision.side
        check(self.frame_token_id < rows,
              f"{path}: frame_token_id {self.frame_token_id}, but the embedding has {rows} rows")
        check(self.pooling in ("average", "bilinear"),
              f"{path}: pooling {self.pooling!r}, wanted average or bilinear")
        check(max(self.grid, self.coarse_grid) <= side, f"{path}: grid {self.grid}, coarse_grid "
              f"{self.coarse_grid}, but a picture has {side} patches a row")

    def tokens(self, grid):
        """How many visual tokens a frame has at this grid: what streamo.Connector makes of it.
        All that counts them (renderer, cache, stream, estimate) asks here."""
        return grid * grid

    def to_dict(self):
        return {"model_type": "streamo", **asdict(self)}

    @classmethod
    def from_dict(cls, data, path="config.json"):
        data = {key: value for key, value in data.items() if key != "model_type"}
        for part in ("vision", "decoder"):
            check(isinstance(data.get(part), dict), f"{path}: {part} is missing, or no object")
        optional = {"threshold", "knows"}               # checkpoints older than these lack them
        for config, part in ((cls, data), (VisionConfig, data["vision"]),
                             (DecoderConfig, data["decoder"])):
            wrong = (set(part) ^ {f.name for f in fields(config)}) - optional
            check(not wrong, f"{path}: {config.__name__} keys missing or unknown: {sorted(wrong)}")
        return checked(cls(**{**data, "vision": VisionConfig(**data["vision"]),
                              "decoder": DecoderConfig(**data["decoder"])}), path)

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


def hf_config(cls, folder):
    path = model_folder(folder) / "config.json"
    with reading(path):
        return cls.from_hf(read_json(path), path)


def whole_config(folder):
    """Of a folder that from_pretrained reads: the config and, for load_weights, new_rows."""
    path = model_folder(folder) / "config.json"
    with reading(path):
        data = read_json(path)
        kind = data.get("model_type")
        if kind == "streamo":
            config = StreamoConfig.from_dict(data, path)
        else:
            check(kind == "llava_onevision" or "mm_projector_type" in data,
                  f"{path}: model_type {kind!r} is not supported, only streamo and "
                  "llava_onevision; for a vision folder and a decoder folder use from_parts")
            config = StreamoConfig.from_llava(data, -1, path)
    if kind != "streamo":
        return with_stream_tokens(config, folder)
    if (path.parent / "tokenizer.json").exists():
        check_tokenizer(path.parent / "tokenizer.json", config)
    return config, None


def check_tokenizer(path, config):
    """Refuse the tokenizer of another model: only its ids are read, as a start should be quick."""
    with reading(path):
        data = read_json(path)
        added = {token["content"]: token["id"] for token in data["added_tokens"]}
        last = max([*data["model"]["vocab"].values(), *added.values()])
        rows, lacking = config.decoder.vocab_size, [t for t in (*STATES, FRAME) if t not in added]
        check(last < rows, f"{path}: has ids up to {last}, but the embedding has {rows} rows")
        check(not lacking, f"{path}: {', '.join(lacking)} are lacking")
        check(added[FRAME] == config.frame_token_id, f"{path}: {FRAME} is {added[FRAME]}, but "
              f"frame_token_id in config.json is {config.frame_token_id}")


def has_tokenizer(folder):
    return any((Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.json"))


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
    if has_tokenizer(folder):
        tokenizer = Tokenizer.from_pretrained(folder)
        old = len(tokenizer)
        check(old <= rows, f"{folder}: the tokenizer has ids up to {old - 1}, the embedding {rows} "
              "rows: they are not of one model")
        tokenizer.add_tokens([*STATES, FRAME])
        ids = [*tokenizer.state_ids, tokenizer.frame_id]
    decoder = replace(config.decoder, vocab_size=max(rows, 1 + max(ids)))
    config = replace(config, decoder=decoder, frame_token_id=ids[-1])
    return checked(config, folder), (rows, [i for i in ids if i >= old])
