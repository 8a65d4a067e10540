"""What the measurements share: shapes with random weights, a stopwatch, what the machine can do, a
plot of milliseconds against stream age."""
import ctypes
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import streamo
from parts.files import replacing
from parts.render import FAINT, INK, PAPER
from streamo import Streamo, Tokenizer
from toy.pretrain import tiny_config

SHAPES = {                  # vision, decoder, grid, window in seconds: SigLIP and Qwen2.5 shapes
    "tiny": None,
    "0.5b": (dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                  num_attention_heads=12, image_size=224, patch_size=16),
             dict(vocab_size=151936, hidden_size=896, intermediate_size=4864,
                  num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, head_dim=64,
                  tie_word_embeddings=True, attention_bias=True), 7, 60),
    "7b": (dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
                num_attention_heads=16, image_size=384, patch_size=14),
           dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944,
                num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, head_dim=128,
                tie_word_embeddings=False, attention_bias=True), 14, 120)}


def build(args):
    """(tokenizer, model of the shape with random weights). All have the shipped tokenizer."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_pretrained(Path(__file__).parent.parent / "assets/tiny")
    config = tiny_config(tokenizer)
    if SHAPES[args.shape]:
        vision, decoder, grid, window = SHAPES[args.shape]
        config = replace(config, vision=streamo.VisionConfig(**vision), pooling="bilinear",
                         decoder=streamo.DecoderConfig(**decoder, rope_theta=1e6, rms_norm_eps=1e-6,
                                                       max_position_embeddings=32768),
                         grid=grid, coarse_grid=(grid + 1) // 2, window=window)
    torch.set_default_dtype(args.torch_dtype)                # made in place: no float32 copy of 7B
    with torch.device(args.device):
        model = Streamo(config)
    torch.set_default_dtype(torch.float32)
    return tokenizer, model.eval()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def stopwatch(device, times):
    """Appends the milliseconds that the block took to `times`."""
    synchronize(device)
    began = time.perf_counter()
    yield
    synchronize(device)
    times.append(1000 * (time.perf_counter() - began))


def noise(seconds, size):
    """(second, image) for each of `seconds`: 16 pictures in turn, none like the one before."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (16, size, size, 3), np.uint8)
    for second in seconds:
        yield second, pictures[second % 16]


def p(values, share):
    """The `share` quantile of the values; nan for none."""
    return float(np.quantile(values, share)) if values else math.nan


def machine(device, dtype):
    """(bytes/s, operations/s) that this machine reaches: copying memory, a large product."""
    n, size = (8192, 2 ** 30) if device == "cuda" else (1536, 2 ** 27)
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    source, target = torch.ones(2, size, dtype=torch.uint8, device=device)
    copies, products = [], []
    for _ in range(8):
        with stopwatch(device, copies):
            target.copy_(source)
        with stopwatch(device, products):
            a @ b
    return 2 * size / min(copies) * 1000, 2 * n ** 3 / min(products) * 1000


def cache_bytes(model):
    """Bytes of keys and values of one token."""
    c = model.config.decoder
    return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * \
        next(model.parameters()).element_size()


def plot(path, series, title):
    """(name, colour, [(second, ms)]) series as dots on two logarithmic axes -> PNG."""
    width, height, left, top, right, bottom = 1200, 640, 90, 70, 30, 60
    font = ImageFont.load_default(20)
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    points = [point for *_, many in series for point in many]
    low, high = (math.log10(f(ms for _, ms in points)) for f in (min, max))
    low, high = low - 0.1, high + 0.1
    ends = math.log10(max(s for s, _ in points) + 1) * 1.02

    def place(second, ms):
        return (left + (width - left - right) * math.log10(second + 1) / ends,
                height - bottom - (height - top - bottom) * (math.log10(ms) - low) / (high - low))
    draw.text((left, 18), title, INK, font)
    for ms in (digit * 10 ** power for power in range(-2, 6) for digit in (1, 2, 5)):
        if low <= math.log10(ms) <= high:
            _, y = place(0, ms)
            draw.line((left, y, width - right, y), (225, 229, 234))
            draw.text((left - 10, y), f"{ms:g}", FAINT, font, anchor="rm")
    for second, name in ((0, "1 s"), (9, "10 s"), (59, "1 min"), (599, "10 min"), (3599, "1 h")):
        if math.log10(second + 1) <= ends:
            x, _ = place(second, 1)
            draw.line((x, height - bottom, x, height - bottom + 8), FAINT)
            draw.text((x, height - bottom + 12), name, FAINT, font, anchor="ma")
    x = width - right
    for name, colour, many in reversed(series):
        for second, ms in many:
            u, v = place(second, ms)
            draw.ellipse((u - 3, v - 3, u + 3, v + 3), colour)
        if many:
            draw.text((x, 18), name, colour, font, anchor="ra")
            x -= 30 + font.getlength(name)
    with replacing(path) as partial:
        image.save(partial, "PNG")


def peak_memory(device):
    """Forgets the highest memory so far, and returns a function: MiB above what is in use now, NaN
    where the system does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: (torch.cuda.max_memory_allocated() - before) / 2 ** 20

    if not sys.platform.startswith("linux"):
        return lambda: math.nan

    def status(key):
        text = Path("/proc/self/status").read_text()
        return int(text.split(key + ":")[1].split()[0]) / 1024
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")           # Linux: VmHWM starts again from here
    before = status("VmRSS")
    return lambda: status("VmHWM") - before
