"""How fast Streamo is, beside what one would write otherwise, on the same random weights.

    python -m bench.speed stream                          the tiny shape: an hour of stream, whole
    python -m bench.speed stream --shape 0.5b --dtype bfloat16 --png speed.png
    python -m bench.speed train                           tokens/s and memory of a training step
    python -m bench.speed stream --shape 7b               on a GPU: bfloat16, 196 tokens a frame
    python -m bench.speed train --shape 7b
    python -m bench.speed streams --shape 0.5b            8 streams in one forward, beside one

stream: milliseconds per silent second and per token of an answer, at stream ages of 1, 10 and 60
minutes. The weights are random, so a script decides: silence, and every tenth second an answer.
Beside it, with the same weights and frames:
  transformers   (when it can be imported) its cache kept from second to second, the user turn
                 prefilled, state and end of turn decoded greedily. It has no window; it is measured
                 with as many seconds in its cache as our window holds, which is its best case.
  released       the windowed conversation prefilled anew each second; of the vision only the new
                 frame is counted, and no decoded token.
With the larger shapes the streams of 10 and 60 minutes begin a window and a half before their age,
at the right second: by then nothing older would be in the cache. (--whole runs every second.)
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import ctypes
import math
import statistics
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F

import data
import infer
import streamo
from bench.measuring import (SHAPES, build, cache_bytes, machine, noise, p, peak_memory, plot,
                             stopwatch)
from loss import state_counts, state_focal_loss
from parts.devices import autocast, check_device, in_bfloat16
from parts.files import check, check_outputs
from parts.options import LineParser, a_path, check_bounds
from parts.render import COLOURS, FAINT
from parts.runs import to_the_end
from streamo import RESPONSE, SILENCE
from train import Options

ANSWER, EVERY = 16, 10      # tokens of a scripted answer, seconds from one answer to the next
QUESTION = "Describe every event."
M_MMAP_THRESHOLD = -3       # of glibc's malloc.h
# ---- stream

def ours(args, tokenizer, model, seconds):
    """Our loop over `seconds`: {second: ms of a silent one}, {second: [ms of each token]}, MiB."""
    silent, tokens, now = {}, {}, [0]
    state, forward = infer.Decision.state, model.language_model.forward

    def scripted(decision, probs):                          # the true work, then the script's word
        state(decision, probs)
        return 2 * (now[0] % EVERY == EVERY - 1)

    def timed(input_ids=None, embeds=None, cache=None, select=None):
        one = embeds.shape[1] == 1
        with stopwatch(args.device, tokens.setdefault(now[0], [])) if one else nullcontext():
            return forward(input_ids, embeds, cache, select)

    def watched():
        for now[0], image in noise(seconds, model.config.vision.image_size):
            yield now[0], image
    infer.Decision.state, model.language_model.forward = scripted, timed
    try:
        for turn in infer.stream(model, tokenizer, watched(), [(0, QUESTION)],
                                 max_new_tokens=ANSWER, window=args.window):
            if turn.state != "response":
                silent[turn.start] = turn.ms                # its probabilities were waited for
    finally:
        infer.Decision.state, model.language_model.forward = state, forward
    return silent, tokens, turn.kv[1] * cache_bytes(model) / 2 ** 20


def reference(model):
    """The same weights in transformers: (vision tower, decoder)."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        SiglipVisionConfig,
        SiglipVisionModel,
    )
    config, weight = model.config, next(model.parameters())
    options = {key: value for key, value in asdict(config.decoder).items()
               if key not in ("attention_bias", "qk_norm", "rope_theta")}
    options["rope_parameters"] = {"rope_type": "default", "rope_theta": config.decoder.rope_theta}
    kind = (Qwen2Config, Qwen2ForCausalLM) if config.decoder.attention_bias \
        else (LlamaConfig, LlamaForCausalLM)
    decoder = kind[1](kind[0](**options)).to(weight.device, weight.dtype).eval()
    weights = model.language_model.state_dict()
    if config.decoder.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    decoder.load_state_dict(weights)
    vision = SiglipVisionModel(SiglipVisionConfig(**asdict(config.vision), vision_use_head=False))
    weights = model.vision_tower.state_dict()
    if not next(iter(vision.state_dict())).startswith("vision_model."):    # transformers 5
        weights = {name.removeprefix("vision_model."): value for name, value in weights.items()}
    vision.load_state_dict(weights)
    return vision.to(weight.device, weight.dtype).eval(), decoder


@torch.inference_mode()
def theirs(args, tokenizer, model, seconds):
    """The loop with transformers: a dict of lists of ms, one entry a second: vision, prefill and
    token (each token that is decoded goes into the cache), and all of a silent second."""
    from transformers import DynamicCache
    vision, decoder = reference(model)
    connector, grid = model.multi_modal_projector, model.config.grid
    cache, weight = DynamicCache(), next(model.parameters())
    times = {"vision": [], "prefill": [], "token": [], "silent": []}

    def forward(embeds):
        return decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=True,
                       logits_to_keep=1).logits[0, -1]

    def embed(ids):
        return decoder.get_input_embeddings()(torch.tensor([ids], device=weight.device))
    n, newline = model.config.tokens(grid), tokenizer.encode("\n")
    begin = data.system_part(tokenizer)
    for second, image in noise(seconds, model.config.vision.image_size):
        with stopwatch(args.device, times["silent"]):
            with stopwatch(args.device, times["vision"]):
                pixels = streamo.preprocess(image, len(image))[None].to(weight)
                patches = vision(pixel_values=pixels).last_hidden_state
                features = connector.pool(connector(patches), grid)[0]
            with stopwatch(args.device, times["prefill"]):
                ids = begin + data.user_part(tokenizer, second, [n], None if second else QUESTION)
                x = embed(ids)
                at = ids.index(tokenizer.frame_id)
                x[0, at:at + n] = features
                forward(x).argmax().item()
            for token in (tokenizer.id(SILENCE), tokenizer.id("<|im_end|>")):
                with stopwatch(args.device, times["token"]):
                    forward(embed([token])).argmax().item()
        begin = newline
    times["MiB"] = cache.get_seq_length() * cache_bytes(model) / 2 ** 20
    return times


def dialogue(tokenizer, model, seconds):
    """(ids, labels) of so many seconds, answers as scripted."""
    texts = " ".join(["A red circle appears on the left"] * 2)
    turns = [data.Turn(s, RESPONSE if s % EVERY == EVERY - 1 else SILENCE,
                       texts if s % EVERY == EVERY - 1 else "", None if s else QUESTION)
             for s in range(seconds)]
    return data.render(tokenizer, turns, [[model.config.tokens(model.config.grid)]] * seconds)


@torch.inference_mode()
def released(args, tokenizer, model, window, runs=3):
    """ms of one second when `window` seconds are prefilled anew; vision for the new frame only."""
    ids = torch.tensor([dialogue(tokenizer, model, window)[0]], device=args.device)
    weight, times = next(model.parameters()), []
    size = model.config.vision.image_size
    pixels = torch.zeros(1, 3, size, size).to(weight)
    old = model.encode_frames(pixels).expand(window - 1, -1, -1).flatten(0, 1)
    for _ in range(runs):
        with stopwatch(args.device, times):
            new = model.encode_frames(pixels)[0]
            model(ids, torch.cat([old, new]), select="last").argmax().item()
    return statistics.median(times)


def stream(args):
    tokenizer, model = build(args)
    window = args.window = args.window or model.config.window
    ages, measured = [60 * minutes for minutes in args.ages], min(30, window)
    whole, silent, tokens, rows = args.whole or args.shape == "tiny", {}, {}, []
    starts = [0] if whole else [max(0, age - window * 3 // 2 - measured) for age in ages]
    for start, age in zip(starts, [max(ages)] if whole else ages):
        *parts, mib = ours(args, tokenizer, model, range(start, age))
        silent, tokens = silent | parts[0], tokens | parts[1]
        print(f"ours: streamed from second {start} to {age}", flush=True)
    for age in ages:                                        # the seconds just before each age
        last = [silent[s] for s in range(age - measured, age) if s in silent]
        each = [ms for s in range(age - measured, age) for ms in tokens.get(s, [])]
        rows.append((f"ours, {age // 60} min", last, each, mib))
    mine, token = (statistics.median(values) for values in rows[0][1:3])
    try:
        times = theirs(args, tokenizer, model, range(window))
        rows.append((f"transformers, {window} s in its cache", times["silent"][-measured:],
                     times["token"][-2 * measured:], times["MiB"]))
    except ModuleNotFoundError as error:
        print(f"the transformers loop is left out: {error}")
        times = {"silent": []}
    anew = {n: released(args, tokenizer, model, n) for n in (window // 6, window // 2, window)}
    rows.append((f"released method, window {window} s", [anew[window]], [], math.nan))
    print(f"\n{args.shape}, {args.torch_dtype}, {args.device}, {torch.get_num_threads()} threads, "
          f"window {window} s, {model.config.tokens(model.config.grid)} tokens a frame; ms\n")
    print("| | silent second p50 | p95 | worst | answer's token p50 | p95 | KV MiB | ours / this |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, last, each, mib in rows:
        numbers = [p(last, 0.5), p(last, 0.95), p(last, 1), p(each, 0.5), p(each, 0.95), mib]
        cells = ["" if math.isnan(x) else f"{x:.2f}" for x in numbers]
        print(f"| {name} | {' | '.join(cells)} | {mine / numbers[0]:.3f} |")
    if times["silent"]:
        parts = [f"{key} {p(times[key][-measured:], 0.5):.1f}"
                 for key in ("vision", "prefill", "token")]
        one = p([a - b for a, b in zip(times["silent"], times["token"][1::2])][-measured:], 0.5)
        slots = times["MiB"] * 2 ** 20 / cache_bytes(model) / window     # of a second
        trained = model.config.decoder.max_position_embeddings / slots
        print(f"\ntransformers: {', '.join(parts)} ms. Were it to decode one token a second, not "
              f"two, ours / this would be {mine / one:.3f}. It has no window: it passes the "
              f"decoder's positions after {trained:.0f} s.")
    if args.shape != "tiny":                                # its weights fit the processor's caches
        floors(args, model, mine, token, rows[0][-1])
    if args.png:
        later = [(age, anew[window]) for age in ages if age > window]
        plot(args.png, [("ours", COLOURS[2], list(silent.items())),
                        ("transformers", COLOURS[1], list(enumerate(times["silent"]))),
                        ("released method", FAINT, [*anew.items(), *later])],
             f"ms per silent second against stream age, {args.shape}")


def floors(args, model, silent, token, mib):
    """What the machine's memory and arithmetic allow, and the share of it that is reached."""
    bandwidth, peak = machine(args.device, args.torch_dtype)
    config, size = model.config, next(model.parameters()).element_size()
    body = sum(w.numel() for w in model.language_model.model.layers.parameters())
    head = config.decoder.vocab_size * config.decoder.hidden_size
    eye = sum(w.numel() for module in (model.vision_tower, model.multi_modal_projector)
              for w in module.parameters())
    read = (body + head) * size + mib * 2 ** 20             # of a decoded token: all of it, once
    chunk = config.tokens(config.grid) + 20                 # tokens of a second
    work = 2 * (body * chunk + head + eye * config.vision.side ** 2)
    floor = max(work / peak, (read + eye * size) / bandwidth) * 1000
    print(f"\nThis machine: {bandwidth / 1e9:.0f} GB/s, {peak / 1e12:.2f} TFLOP/s. A silent second "
          f"cannot take less than {floor:.2f} ms ({floor / silent:.0%} reached), a token "
          f"{read / bandwidth * 1000:.2f} ms ({read / bandwidth * 1000 / token:.0%}).")


# ---- streams

def full_session(args, tokenizer, model):
    """A session whose window is full; what its slots hold does not matter to the time."""
    session = infer.Session(model, tokenizer, window=args.window, max_new_tokens=ANSWER)
    second = [0] * data.silent_second(tokenizer, model.config, 1)
    check(session.window * len(second) < session.capacity,
          f"--window {session.window}: {session.window} seconds of {len(second)} tokens are more "
          f"than the {session.capacity} slots of the cache")
    infer.read([session], [[infer.Piece(session.system, -1, infer.PINNED)]])
    for session.last in range(session.window - 1):
        session.slots.note([infer.Piece(second, session.last)])
        session.cache.length += len(second)
    return session


def streams(args):
    """A second of many streams together, beside that of one: silent, and with an answer."""
    tokenizer, model = build(args)
    pictures = noise(range(10 ** 9), model.config.vision.image_size)
    speak, state, times = [False], infer.Decision.state, {}

    def scripted(decision, probs):                          # the true work, then the script's word
        state(decision, probs)
        return 2 * speak[0]
    infer.Decision.state = scripted
    try:
        sessions = [full_session(args, tokenizer, model) for _ in range(args.streams)]
        for n in (1, args.streams):
            for speak[0] in (False, True):
                for _ in range(args.steps + 1):             # the first one warms up
                    images = [[next(pictures)[1]] for _ in range(n)]
                    with stopwatch(args.device, times.setdefault((n, speak[0]), [])):
                        turns = infer.step(sessions[:n], images)
                    assert all(bool(turn.text) == speak[0] for turn in turns)
    finally:
        infer.Decision.state = state
    silent = {n: p(times[n, False][1:], 0.5) for n in (1, args.streams)}
    token = {n: (p(times[n, True][1:], 0.5) - silent[n]) / ANSWER for n in silent}
    print(f"{args.shape}, {args.torch_dtype}, {args.device}, {torch.get_num_threads()} threads; "
          f"medians of {args.steps}, ms\n\n| | one | {args.streams} together | share of "
          f"{args.streams} times one |\n|---|---:|---:|---:|")
    for what, ms in (("a silent second", silent), ("a token of an answer", token)):
        print(f"| {what} | {ms[1]:.1f} | {ms[args.streams]:.1f} | "
              f"{ms[args.streams] / args.streams / ms[1]:.2f} |")


# ---- train

def batch(args, tokenizer, model):
    """Dialogues of unequal length, padded, with noise for frames; a dict as data.collate's."""
    size, rng = model.config.vision.image_size, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (max(EVERY, args.seconds), size, size, 3), np.uint8)
    samples = []
    for i in range(args.batch):
        seconds = max(EVERY, args.seconds * (args.batch - i) // args.batch)
        ids, labels = dialogue(tokenizer, model, seconds)
        samples.append(dict(input_ids=ids, labels=labels, pixels=pixels[:seconds],
                            frames=list(range(seconds)), grids=[model.config.grid] * seconds,
                            name=str(i), counts=Counter()))
    found = data.collate(samples, tokenizer.pad_id)
    return {**data.model_inputs(found, args.device), "labels": found["labels"].to(args.device)}


@contextmanager
def padded_mask(attention_mask):
    """The common way, in place of our attention: an explicit (B, 1, T, T) mask to SDPA."""
    ours, T = streamo.causal_attention, attention_mask.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=attention_mask.device).tril()
    mask = causal & attention_mask[:, None, None, :]

    def attention(q, k, v, _=None):
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return y.transpose(1, 2).flatten(2)
    streamo.causal_attention = attention
    try:
        yield
    finally:
        streamo.causal_attention = ours


def objective(args, tokenizer, model, inputs, full):
    """-> (loss from hidden states, a whole forward and loss), two functions without arguments.

    full: logits at every position and a padded mask; else at supervised positions, causal."""
    ids, labels = inputs["input_ids"], inputs["labels"]
    state_ids = torch.tensor(tokenizer.state_ids, device=args.device)
    select = F.pad(labels[:, 1:] != -100, (0, 1))           # position i predicts token i + 1
    targets = labels[:, 1:][select[:, :-1]]
    everything = F.pad(labels[:, 1:], (0, 1), value=-100).flatten()
    counts = state_counts(targets, state_ids)
    lengths = (labels != -100).int().cumsum(1).argmax(1) + 1
    mask = torch.arange(ids.shape[1], device=args.device) < lengths[:, None]
    decoder = model.language_model
    head = decoder.model.embed_tokens if decoder.config.tie_word_embeddings else decoder.lm_head

    def loss(logits):
        if full:
            return F.cross_entropy(logits.float().flatten(0, 1), everything, ignore_index=-100)
        return state_focal_loss(logits, targets, state_ids, counts, len(targets), "ce")

    def alone():
        hidden = torch.ones(*ids.shape, decoder.config.hidden_size, device=args.device)
        hidden.requires_grad_()
        with autocast(Options(), torch.device(args.device)):
            return loss(F.linear(hidden if full else hidden[select], head.weight))

    def whole():
        attention = padded_mask(mask) if full else nullcontext()
        with autocast(Options(), torch.device(args.device)), attention:
            with torch.no_grad():                           # the vision encoder is frozen
                patches = model.vision_tower(inputs["pixels"])
            connector = model.multi_modal_projector
            x = connector.pool(connector(patches), model.config.grid)
            features = x[inputs["frames"]].flatten(0, 1)
            return loss(model(ids, features, select=None if full else select))
    return alone, whole


def train(args):
    tokenizer, model = build(args)
    model.train()
    model.vision_tower.requires_grad_(False)
    inputs = batch(args, tokenizer, model)
    tokens = int((inputs["input_ids"] != tokenizer.pad_id).sum())
    rows = {"ours": objective(args, tokenizer, model, inputs, False),
            "full logits, padded mask": objective(args, tokenizer, model, inputs, True)}
    results = {}
    for name, (_, whole) in rows.items():
        times = []
        for _ in range(args.steps + 1):
            model.zero_grad()
            with stopwatch(args.device, times):
                loss = whole()
                loss.backward()
        results[name] = [statistics.median(times[1:])]      # the first warms up
    if args.device == "cpu" and sys.platform.startswith("linux"):   # from here on each tensor is
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)  # given back at once: slower, measurable

    def memory(function):
        model.zero_grad()
        function().backward()                               # allocates the gradients of all weights
        measured = peak_memory(args.device)
        function().backward()
        return measured()

    for name, functions in rows.items():
        results[name] += [memory(function) for function in functions[::-1]]
    single = {**inputs, "labels": torch.full_like(inputs["labels"], -100)}
    first = (inputs["labels"][0] != -100).nonzero()[0]
    single["labels"][0, first] = inputs["labels"][0, first]
    head = memory(objective(args, tokenizer, model, single, False)[0])
    half = in_bfloat16(Options(), args.device == "cuda")
    _, peak = machine(args.device, torch.bfloat16 if half else torch.float32)
    body = sum(w.numel() for w in model.language_model.model.layers.parameters())
    eye = sum(w.numel() for w in model.vision_tower.parameters())
    work = 6 * body * tokens + 2 * eye * model.config.vision.side ** 2 * len(inputs["pixels"])
    print(f"\n{args.shape}, {'bfloat16 autocast' if half else 'float32'}, {args.device}, "
          f"{torch.get_num_threads()} threads, {args.batch} dialogues of at most {args.seconds} s, "
          f"{tokens} tokens; vision frozen\n")
    print("| | ms a step | tokens/s | peak MiB | peak MiB of the loss | share of peak arithmetic |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, (ms, memory, alone) in results.items():
        print(f"| {name} | {ms:.0f} | {1000 * tokens / ms:.0f} | {memory:.0f} | {alone:.1f} | "
              f"{work / ms * 1000 / peak:.0%} |")
    mine, other = results.values()
    print(f"| ours / that | {mine[0] / other[0]:.3f} | {other[0] / mine[0]:.3f} | "
          f"{mine[1] / other[1]:.3f} | {mine[2] / other[2]:.3f} | |")
    print(f"\nA single supervised position takes {head:.1f} MiB: the head's gradient and its copy. "
          f"Beyond that, ours / that: {(mine[2] - head) / (other[2] - head):.3f}")


# which measurements take an option, and its default
USES = {"window": (("stream", "streams"), None), "ages": (("stream",), [1, 10, 60]),
        "whole": (("stream",), False), "png": (("stream",), None), "batch": (("train",), 4),
        "seconds": (("train",), 60), "steps": (("train", "streams"), 3),
        "streams": (("streams",), 8)}


def main(argv=None):
    parser = LineParser("bench.speed", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("stream", "streams", "train"))
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"),
                        default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=None,
                        help="of the weights; default float32, bfloat16 for 7b")
    parser.add_argument("--threads", type=int, default=None, help="of the CPU; default: torch's")
    parser.add_argument("--window", type=int, default=None,
                        help="stream, streams: seconds; default: the shape's")
    parser.add_argument("--ages", type=int, nargs="+", help="stream: minutes (1 10 60)")
    parser.add_argument("--whole", action="store_true",
                        help="stream: stream every second up to the ages")
    parser.add_argument("--png", type=a_path, help="stream: a plot of ms against stream age")
    parser.add_argument("--batch", type=int, help="train: dialogues of a step (4)")
    parser.add_argument("--seconds", type=int, help="train: of the longest dialogue (60)")
    parser.add_argument("--steps", type=int, help="train, streams: timed, after one (3)")
    parser.add_argument("--streams", type=int, help="streams: how many (8)")
    args = parser.parse_args(argv)
    for name, (kinds, default) in USES.items():
        value = getattr(args, name)
        if value and args.what not in kinds:
            parser.error(f"--{name}: of {' and '.join(kinds)}, not of {args.what}")
        setattr(args, name, default if value is None else value)
    check_bounds(parser, args, {"threads": (1, 1024), "window": (1, 3600), "batch": (1, 1024),
                                "seconds": (EVERY, 3600), "steps": (1, 10**6),
                                "streams": (1, 1024)})
    if args.what == "stream" and args.window and args.window < 6:
        parser.error(f"--window {args.window}: of stream at least 6")
    if args.png and args.png.suffix.lower() != ".png":
        parser.error(f"--png {args.png}: a .png is wanted")
    if not 1 <= min(args.ages) <= max(args.ages) <= 10**6:
        parser.error(f"--ages {' '.join(map(str, args.ages))}: minutes, 1 or more")
    torch.set_num_threads(args.threads or torch.get_num_threads())
    args.dtype = args.dtype or ("bfloat16" if args.shape == "7b" else "float32")
    args.torch_dtype = getattr(torch, args.dtype)
    with to_the_end("bench.speed"):
        check_device(args.device)
        check_outputs({"--png": args.png})                  # before minutes of measuring
        {"stream": stream, "streams": streams, "train": train}[args.what](args)


if __name__ == "__main__":
    main()
