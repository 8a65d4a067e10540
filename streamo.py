"""Streamo's model, from pixels and ids to logits: vision encoder, connector, decoder, KV cache.

    tokenizer = Tokenizer.from_pretrained("assets/tiny")
    model = Streamo.from_pretrained("assets/tiny", dtype=torch.float32)
    features = model.encode_frames(preprocess(image, 64)[None]).flatten(0, 1)     # (N, hidden)
    logits = model(input_ids, features)          # (B, T, V); N <frame> placeholders in input_ids

Submodules carry the names of the public checkpoints: one loads by prefix rules, strictly.
"""
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from parts.config import (DecoderConfig, StreamoConfig, VisionConfig, hf_config, parts_config,
                          whole_config)
from parts.files import check, write_json
from parts.tokenizer import FRAME, RESPONSE, SILENCE, STANDBY, STATES, Tokenizer  # noqa: F401
from parts.weights import load_weights, on_meta

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


def causal_attention(q, k, v, mask=None):
    """q (B, H, T, D), k and v (B, K, S, D): the T last of S positions look back -> (B, T, H*D).
    mask: chunk_mask(T, S, H // K), where one is needed."""
    # measured: on CPUs plain products win in training (2.5 times) and for bfloat16 chunks (twice)
    chunk = q.dtype == torch.bfloat16 and q.shape[2] > 1
    plain = q.device.type == "cpu" and (torch.is_grad_enabled() or chunk)
    y = blocked_attention(q, k, v) if plain else fused_attention(q, k, v, mask)
    return y.transpose(1, 2).flatten(2)


torch.backends.cuda.enable_cudnn_sdp(False)     # it plans for each new length; flash does not

def chunk_mask(T, S, groups, device):
    """Which of S keys the T last positions see, (groups*T, S) bool: query i sees keys 0 .. S-T+i,
    and each of its `groups` heads the same. None where nothing is to be hidden (T is 1) or torch's
    own causal mask does it (T is S)."""
    if T in (1, S):
        return None
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T).repeat(groups, 1)


def fused_attention(q, k, v, mask):
    """torch's kernel. Beside a cache the query heads of a key head become more queries, which
    spares the kernel the copying of keys."""
    (B, H, T, D), (K, S) = q.shape, k.shape[1:3]
    if T == S:
        if q.is_cuda and q.dtype == torch.float32:      # its kernel knows no shared key heads
            k, v = (x.repeat_interleave(H // K, 1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=K != H)
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
    length, which Decoder advances. drop() is the one primitive that makes streams endless.

    Streams of unlike age have a cache each, of batch 1: Decoder reads a chunk of every one of
    them in one forward, and they come, leave and are stored one by one."""

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

    def filled(self):
        """Views of what the cache holds, keys and values (layers, batch, kv_heads, length,
        head_dim): with the length all that fill() needs to go on with the same bits."""
        return self.keys[..., :self.length, :], self.values[..., :self.length, :]

    def fill(self, keys, values):
        """Hold a copy of these, as filled() gave them, in place of whatever is held."""
        length = keys.shape[-2] if keys.dim() == 5 else 0
        layers, batch, heads, capacity, size = self.keys.shape
        for name, given in (("keys", keys), ("values", values)):
            check(given.shape == (layers, batch, heads, length, size) and length <= capacity
                  and given.dtype == self.keys.dtype, f"{name} {given.dtype} {tuple(given.shape)}: "
                  f"the KV cache takes {self.keys.dtype} {tuple(self.keys.shape)} or fewer slots")
        self.length = length
        for own, given in zip(self.filled(), (keys, values)):
            own.copy_(given)

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


class Chunk(NamedTuple):
    """What one stream adds in a forward."""
    cache: KVCache | None
    start: int                                          # how much the cache holds already
    tokens: int
    mask: torch.Tensor | None                           # made once for all layers


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

    def forward(self, x, cos, sin, chunks, layer):
        (B, T, _), attn, mlp, h = x.shape, self.self_attn, self.mlp, self.input_layernorm(x)
        q, k, v = (proj(h).view(B, T, -1, self.head_dim).transpose(1, 2)
                   for proj in (attn.q_proj, attn.k_proj, attn.v_proj))      # (B, heads, T, D)
        if self.qk_norm:
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if chunks is None:
            y = causal_attention(q, k, v)                                    # (B, T, H*D)
        else:           # all else is one product for all streams; here each looks at its own past
            sizes, y = [chunk.tokens for chunk in chunks], []
            for chunk, q, k, v in zip(chunks, *(part.split(sizes, 2) for part in (q, k, v))):
                y.append(causal_attention(q, *chunk.cache.update(layer, k, v), chunk.mask))
            y = torch.cat(y, 1)
        x = x + attn.o_proj(y)
        h = self.post_attention_layernorm(x)
        return x + mlp.down_proj(F.silu(mlp.gate_proj(h)) * mlp.up_proj(h))


class Decoder(nn.Module):
    """Token ids (B, T), or embeddings (B, T, D) in their place -> logits.

    select: None, all positions (B, T, V); "last" (B, V); a bool mask (B, T) -> (n, V).
    With a cache the T tokens are appended at positions cache.length, ...
    cache [(a, 3), (b, 2)]: of T = 5 tokens (B is 1) the first 3 are appended to cache a, the next
    2 to cache b, each at its own positions; "last" then gives a row for each cache, (2, V)."""

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
        """A Chunk for each stream of x (B, T, D)."""
        streams, config = cache if isinstance(cache, list) else [(cache, x.shape[1])], self.config
        sizes = [tokens for _, tokens in streams]
        check(sum(sizes) == x.shape[1] and min(sizes) > 0,
              f"{x.shape[1]} tokens are given, {sizes} are to be read")
        check(len({id(cache) for cache, _ in streams}) == len(streams), "one cache, two chunks")
        groups, chunks = config.num_attention_heads // config.num_key_value_heads, []
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
        cos, sin = rope(torch.cat(positions), config, dtype)                 # (T, head_dim)
        for i, layer in enumerate(model.layers):
            x = layer(x, cos, sin, chunks if cache else None, i)
        for chunk in chunks if cache else ():
            chunk.cache.length += chunk.tokens
        if isinstance(select, str):                     # the head is wide: only where it is read
            sizes = [chunk.tokens for chunk in chunks]
            x = torch.cat([part[:, -1] for part in x.split(sizes, 1)])       # (B or streams, D)
        elif select is not None:
            x = x[select]                                                    # (n, D)
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

    def new_cache(self, capacity):
        """An empty cache for one stream of this model."""
        weight = self.language_model.model.embed_tokens.weight
        return KVCache(self.config.decoder, 1, capacity, weight.dtype, weight.device)

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


def preprocess(image, size):
    """A PIL image or uint8 (H, W, 3) array -> float32 (3, size, size) in [-1, 1], as SigLIP's
    processor does it: bicubic to the exact square."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return normalised(np.array(image)[None])[0]


def normalised(images):
    """uint8 (F, S, S, 3), an array or a tensor -> float32 (F, 3, S, S) in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
