"""Streamo's model, from pixels and ids to logits: vision encoder, connector, decoder, KV cache.

    tokenizer = Tokenizer.from_pretrained("assets/tiny")
    model = Streamo.from_pretrained("assets/tiny", dtype=torch.float32)
    features = model.encode_frames(preprocess(image, 64)[None]).flatten(0, 1)     # (N, hidden)
    logits = model(input_ids, features)          # (B, T, V); N <frame> placeholders in input_ids

What a second of video becomes:

    picture -> VisionEncoder: N patches of D numbers -> Connector: as wide as the decoder's tokens
            -> pooling: grid * grid visual tokens -> in the places of <frame> among the text
            -> Decoder, behind all that its KVCache holds -> logits of the next token

Submodules carry the names of the public checkpoints: one loads by prefix rules, strictly.
Shapes: B rows, T tokens, V vocabulary, F frames, U distinct ones, N patches, and of a batch all
its visual tokens, D numbers of a token or of a head, H query heads, K key heads, S positions seen.
"""
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from parts.attention import causal_attention, chunk_mask, full_attention
from parts.config import (DecoderConfig, StreamoConfig, VisionConfig, hf_config, parts_config,
                          whole_config)
from parts.files import check, write_json
from parts.tokenizer import FRAME, RESPONSE, SILENCE, STANDBY, STATES, Tokenizer  # noqa: F401
from parts.weights import load_weights, on_meta, write_tensors

# ---- Attention, the textbook form -----------------------------------------------------------

def attention(q, k, v, causal):
    """q (B, H, T, D), k and v (B, K, S, D), H/K query heads to a key head -> (B, H, T, D).
    causal: the T queries are the last of the S positions, and none sees what comes after it.

    What runs is parts/attention.py: the same, faster. Tests hold the two together."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))   # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5                       # (B, H, T, S)
    if causal:                                          # query i is at position S - T + i
        T, S = scores.shape[-2:]
        future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ v


# ---- Vision encoder (SigLIP) and connector --------------------------------------------------

ACTIVATIONS = {"gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu}


class VisionLayer(nn.Module):
    """A transformer layer in which every patch sees every other: x (B, N, D) -> (B, N, D)."""

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
        (B, N, _), attn, h = x.shape, self.self_attn, self.layer_norm1(x)
        q, k, v = (proj(h).view(B, N, self.heads, -1).transpose(1, 2)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))      # (B, H, N, D/H)
        x = x + attn.out_proj(full_attention(q, k, v))
        return x + self.mlp.fc2(self.act(self.mlp.fc1(self.layer_norm2(x))))  # (B, N, D)


def embedding(rows, size):
    # nn.Embedding(rows, size) on the meta device imports 75 MB of code; init_weights fills ours
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False)


def init_weights(model):
    """Normal weights of variance 1/inputs, a quarter of that deviation where a branch joins the
    residual stream or the text; embeddings as large as what the first layers add to them."""
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
        # -2, as LLaVA-OneVision has it: the last layer is not even computed
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
        x = self.embed(pixels)                                               # (B, N, D)
        for layer in self.vision_model.encoder.layers:
            x = layer(x)
        return self.vision_model.post_layernorm(x)

    def embed(self, pixels):
        """Cut pixels (B, C, H, W) into n * n patches of p * p, make D numbers of each, and add
        what tells its place. The convolution's stride is its width: it is one matrix product."""
        conv, n = self.vision_model.embeddings.patch_embedding, self.config.side
        B, C, p = *pixels.shape[:2], self.config.patch_size
        x = pixels[:, :, :n * p, :n * p].to(conv.weight.dtype)      # pixels over are not looked at
        x = x.reshape(B, C, n, p, n, p).permute(0, 2, 4, 1, 3, 5)            # (B, n, n, C, p, p)
        x = x.reshape(B, n * n, C * p * p)
        x = F.linear(x, conv.weight.flatten(1), conv.bias)                   # (B, N, D)
        return x + self.vision_model.embeddings.position_embedding.weight


class Connector(nn.Module):
    """Between the two: what the vision encoder sees in a frame becomes tokens of the decoder.
    Another connector has these two methods, and its number of tokens in config.tokens(grid)."""

    def __init__(self, config):
        super().__init__()
        size, self.config = config.decoder.hidden_size, config
        self.linear_1 = nn.Linear(config.vision.hidden_size, size)
        self.linear_2 = nn.Linear(size, size)
        init_weights(self)

    def forward(self, x):
        """Patches (F, N, D) -> as wide as the decoder's tokens (F, N, hidden)."""
        return self.linear_2(F.gelu(self.linear_1(x)))

    def pool(self, x, grid):
        """What forward made -> the visual tokens (F, config.tokens(grid), hidden), row by row."""
        # in the features' dtype: in bfloat16 the shares of a cell are exact where it averages 2^n
        # patches, and add up to 1 within 0.4% elsewhere
        matrix = pooling_matrix(self.config.vision.side, grid, self.config.pooling)
        return matrix.to(x.device, x.dtype) @ x


@lru_cache
@torch.inference_mode(False)                # made while streaming, it serves training too
def pooling_matrix(side, grid, pooling):
    """(grid*grid, side*side): pooling a square of features is linear, so it is one matrix. Its
    columns are what becomes of a square with a single 1."""
    check(pooling in ("average", "bilinear"), f"pooling {pooling!r}: average or bilinear wanted")
    eye = torch.eye(side * side).view(1, side * side, side, side)            # as channels
    pooled = (F.adaptive_avg_pool2d(eye, grid) if pooling == "average" else
              F.interpolate(eye, size=(grid, grid), mode="bilinear", align_corners=False))
    return pooled.flatten(2)[0].T.contiguous()


# ---- Decoder (LLaMA-style) and its KV cache -------------------------------------------------

def rope(positions, config, dtype):
    """cos and sin, (T, head_dim/2) each, of the angles of RoPE at these positions (T,).

    Pair i of a head's numbers turns by position * theta^(-2i/head_dim): the first pair by a radian
    a token, the last so slowly that it tells far from near. The angles are made in float32."""
    D = config.head_dim
    inv_freq = config.rope_theta ** -(torch.arange(0, D, 2, device=positions.device).float() / D)
    angles = positions[:, None].float() * inv_freq                           # (T, D/2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, cos, sin):
    """Turn each pair of x (..., T, D) by its angle. Pair i is numbers i and i + D/2 (NEOX)."""
    x1, x2 = x.chunk(2, -1)                                                  # (..., T, D/2)
    # addcmul(a, b, c) is a + b * c, rounded once
    return torch.cat([torch.addcmul(x1 * cos, x2, sin, value=-1),            # x1 cos - x2 sin
                      torch.addcmul(x2 * cos, x1, sin)], -1)                 # x2 cos + x1 sin


class KVCache:
    """Keys and values of every layer, (layers, batch, kv_heads, capacity, head_dim), and how many
    slots of them are filled. Decoder writes a chunk's keys behind them and advances the length.

    Streams of unlike age have a cache each, of batch 1: Decoder reads a chunk of every one of
    them in one forward, and they come, leave and are stored one by one."""

    def __init__(self, config, batch=1, capacity=4096, dtype=torch.float32, device="cpu"):
        self.config, self.capacity = config, capacity
        self.length = 0                                 # the next token's slot, and its position
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity,
                 config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def update(self, layer, k, v):
        """Write k, v (B, K, T, D) after the filled slots; return all keys and values so far."""
        end = self.length + k.shape[2]
        check(end <= self.capacity, f"the KV cache holds {self.capacity} tokens: {self.length} are "
              f"filled and {k.shape[2]} more do not fit")
        # the length stays: the other layers write to the same slots
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]  # (B, K, S, D)

    def drop(self, start, end):
        """Remove slots [start, end), or several such spans at once, by their starts and ends.
        ValueError names one that is not among the filled slots.

        This is what makes streams endless. What is later moves left, and its keys are turned back
        by as many positions: RoPE is a rotation, so all positions are exactly those of a shorter
        dialogue. Not undone is what later tokens, when they were read, took from the dropped ones:
        that is in their values (and in the keys of all layers but the first)."""
        kept = torch.ones(self.length, dtype=torch.bool)
        first = int(np.min(start))                      # slots before it do not move
        for a, b in zip(np.atleast_1d(start), np.atleast_1d(end)):
            check(0 <= a <= b <= self.length,
                  f"drop({a}, {b}): the cache holds slots 0 to {self.length}")
            kept[a:b] = False
        old = (first + kept[first:].nonzero()[:, 0]).to(self.keys.device)    # where they were
        self.length = first + len(old)
        new = torch.arange(first, self.length, device=old.device)            # where they go
        cos, sin = rope(new - old, self.config, torch.float32)
        for keys, values in zip(self.keys, self.values):    # layer by layer: a small temporary
            keys[:, :, first:self.length] = rotate(keys[:, :, old].float(), cos, sin)
            values[:, :, first:self.length] = values[:, :, old]

    def filled(self):
        """Views of what the cache holds, keys and values (layers, batch, kv_heads, length,
        head_dim): all that fill() needs to go on with the same bits."""
        return self.keys[..., :self.length, :], self.values[..., :self.length, :]

    def fill(self, keys, values):
        """Hold a copy of these, as filled() gave them, in place of whatever is held."""
        length = keys.shape[-2] if keys.dim() == 5 else 0                    # else refused below
        layers, batch, heads, capacity, size = self.keys.shape
        for name, given in (("keys", keys), ("values", values)):
            check(given.shape == (layers, batch, heads, length, size) and length <= capacity
                  and given.dtype == self.keys.dtype, f"{name} {given.dtype} {tuple(given.shape)}: "
                  f"the KV cache takes {self.keys.dtype} {tuple(self.keys.shape)} or fewer slots")
        self.length = length
        for own, given in zip(self.filled(), (keys, values)):
            own.copy_(given)


class Chunk(NamedTuple):
    """What one stream adds in a forward: `tokens` of them, behind `start` slots of its cache."""
    cache: KVCache | None
    start: int
    tokens: int
    mask: torch.Tensor | None                           # made once for all layers


class DecoderLayer(nn.Module):
    """x (B, T, D) -> (B, T, D), each token behind those before it and behind what `layer` of the
    chunks' caches holds. chunks None: there is no cache, as in training."""

    def __init__(self, config):
        super().__init__()
        size, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        D, H, K = config.head_dim, config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.qk_norm, bias = D, config.qk_norm, config.attention_bias
        # K key heads serve H query heads: the cache is H/K times smaller
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

    def forward(self, x, cos, sin, chunks, layer):
        (B, T, _), attn, mlp, h = x.shape, self.self_attn, self.mlp, self.input_layernorm(x)
        q, k, v = (proj(h).view(B, T, -1, self.head_dim).transpose(1, 2)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))      # (B, heads, T, D)
        if self.qk_norm:
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if chunks is None:
            y = causal_attention(q, k, v)                                    # (B, T, H*D)
        else:
            y = self.look_back(q, k, v, chunks, layer)
        x = x + attn.o_proj(y)
        h = self.post_attention_layernorm(x)
        # SwiGLU: one half says what, the other how much of it
        return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))  # (B, T, D)

    @staticmethod
    def look_back(q, k, v, chunks, layer):
        """Each chunk's queries look at its own stream. All else of a layer is one product for the
        tokens of all streams. q (B, H, T, D), k and v (B, K, T, D) -> (B, T, H*D)."""
        sizes, out = [chunk.tokens for chunk in chunks], []
        for chunk, q, k, v in zip(chunks, q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2)):
            k, v = chunk.cache.update(layer, k, v)      # with all that came before: (B, K, S, D)
            out.append(causal_attention(q, k, v, chunk.mask))
        return torch.cat(out, 1)


class Decoder(nn.Module):
    """Token ids (B, T), or embeddings (B, T, D) in their place -> logits.

    select: None, all positions (B, T, V); "last" (B, V); a bool mask (B, T) -> (n, V).
    cache: a KVCache, to which the T tokens are appended at positions cache.length, ...; or, for
    many streams in one forward, [(a, 3), (b, 2)]: of T = 5 tokens (B is 1) the first 3 go to cache
    a, the next 2 to cache b, each at its own positions; "last" then gives a row for each, (2, V).
    So nothing is padded, and streams of any age go together."""

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

    def chunks(self, x, cache):
        """A Chunk for each stream of x (B, T, D); without a cache all of x is one."""
        config, streams = self.config, cache if isinstance(cache, list) else [(cache, x.shape[1])]
        sizes = [tokens for _, tokens in streams]
        check(sum(sizes) == x.shape[1] and min(sizes) > 0,
              f"{x.shape[1]} tokens are given, {sizes} are to be read")
        check(len({id(cache) for cache, _ in streams}) == len(streams), "one cache, two chunks")
        groups, chunks = config.num_attention_heads // config.num_key_value_heads, []     # H/K
        for cache, tokens in streams:
            start = cache.length if cache else 0
            end = start + tokens
            check(end <= config.max_position_embeddings, f"{end} positions, but the decoder's "
                  f"max_position_embeddings is {config.max_position_embeddings}")
            chunks.append(Chunk(cache, start, tokens, chunk_mask(tokens, end, groups, x.device)))
        return chunks

    def forward(self, input_ids=None, embeds=None, cache=None, select=None):
        config, model = self.config, self.model
        x = model.embed_tokens(input_ids) if embeds is None else embeds
        chunks = self.chunks(x, cache)
        positions = [torch.arange(c.start, c.start + c.tokens, device=x.device) for c in chunks]
        dtype = (torch.get_autocast_dtype(x.device.type)
                 if torch.is_autocast_enabled(x.device.type) else x.dtype)
        cos, sin = rope(torch.cat(positions), config, dtype)                 # (T, head_dim/2)
        # every layer has keys and values of its own, at the same slots
        for i, layer in enumerate(model.layers):
            x = layer(x, cos, sin, chunks if cache else None, i)             # (B, T, D)
        for chunk in chunks if cache else ():           # now all layers have written to the slots
            chunk.cache.length += chunk.tokens
        if isinstance(select, str):                     # the head is wide: only where it is read
            sizes = [chunk.tokens for chunk in chunks]
            x = torch.cat([part[:, -1] for part in x.split(sizes, 1)])       # (B or streams, D)
        elif select is not None:
            x = x[select]                                                    # (n, D)
        x = model.norm(x)                               # of these alone, too
        # tied: a token is as likely as its embedding is like x
        head = model.embed_tokens if config.tie_word_embeddings else self.lm_head
        return F.linear(x, head.weight)


# ---- Streamo --------------------------------------------------------------------------------

class Streamo(nn.Module):
    """Vision tower, connector and language model, and the placing of visual tokens in the text."""

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
        self.multi_modal_projector = Connector(config)
        self.language_model = Decoder(config.decoder)
        self.unused = ["image_newline"]                 # it ends a whole video: a stream has no end
        for part in ("vision_tower", "language_model"):
            self.unused += [f"{part}.{name}" for name in getattr(self, part).unused]

    def encode_frames(self, pixels, grid=None):
        """pixels (F, 3, H, W) in [-1, 1] -> (F, config.tokens(grid), hidden_size)."""
        connector = self.multi_modal_projector
        return connector.pool(connector(self.vision_tower(pixels)), grid or self.config.grid)

    def features(self, pixels, frames, grids):
        """The visual tokens of a batch: for each of its frames f in order, those of
        pixels[frames[f]] at grids[f]. pixels (U, 3, H, W), frames and grids (F,) -> (N, hidden)."""
        connector, grids = self.multi_modal_projector, grids.tolist()
        x = connector(self.vision_tower(pixels))                             # (U, patches, hidden)
        pooled = {grid: connector.pool(x, grid).unbind() for grid in set(grids)}
        return torch.cat([pooled[grid][i] for i, grid in zip(frames.tolist(), grids)])

    def forward(self, input_ids, features=None, cache=None, select=None, *,
                pixels=None, frames=None, grids=None):
        """input_ids (B, T) -> logits as Decoder gives them. The <frame> placeholders, row by row,
        take the rows of features (N, hidden_size), or of features(pixels, frames, grids)."""
        if pixels is not None:
            features = self.features(pixels, frames, grids)
        embeds = self.language_model.model.embed_tokens(input_ids)           # (B, T, D)
        places = (input_ids == self.config.frame_token_id).flatten().nonzero()[:, 0]
        given = 0 if features is None else len(features)
        check(len(places) == given, f"{len(places)} <frame> placeholders, {given} visual tokens")
        if given:                                       # they take the places of <frame>, in order
            flat = embeds.flatten(0, 1).index_copy(0, places, features.to(embeds.dtype))
            embeds = flat.view_as(embeds)
        return self.language_model(embeds=embeds, cache=cache, select=select)

    def new_cache(self, capacity):
        """An empty cache for one stream of this model."""
        weight = self.language_model.model.embed_tokens.weight
        return KVCache(self.config.decoder, 1, capacity, weight.dtype, weight.device)

    def save_pretrained(self, folder, weights=None):
        """Write config.json and model.safetensors: the weights in their own dtype, or the ones
        given, {name: tensor}."""
        folder, weights = Path(folder), self.state_dict() if weights is None else weights
        write_json(folder / "config.json", self.config.to_dict())           # makes the folder
        write_tensors(folder / "model.safetensors", weights, {"format": "pt"})

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


def preprocess(image, size):
    """A PIL image or uint8 (H, W, 3) array -> float32 (3, size, size) in [-1, 1], as SigLIP's
    processor does it: bicubic to the exact square."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return normalised(np.array(image)[None])[0]


def normalised(images):
    """uint8 (F, S, S, 3), an array or a tensor -> float32 (F, 3, S, S) in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
