"""Watch a video or a live stream with Streamo: every second it is silent, stands by, or answers.

    python infer.py assets/demo.mp4                                  describes every event
    python infer.py video.mp4 --ask "What is happening?" --ask "1:05:What did the man do?"
    python infer.py video.mp4 --jsonl out.jsonl --srt out.srt --render out.mp4 --timeline out.png
    python infer.py camera:0                                         type questions while it runs
    python infer.py rtsp://host/stream --window 120 --prune 30 --compress
    ffmpeg -i in.mp4 -r 1 -s 64x64 -pix_fmt rgb24 -f rawvideo - | python infer.py - --size 64x64

As a library:

    for turn in stream(model, tokenizer, video.frames("video.mp4"), [(0, "Describe every event.")]):
        print(turn.start, turn.end, turn.state, turn.probs, turn.text)
"""
import argparse
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import data
from parts import render, sources, video
from parts.annotations import parse_time
from streamo import KVCache, Streamo, Tokenizer, normalised

STATES = ("silence", "standby", "response")              # in the order of streamo.STATES
SILENCE, STANDBY, RESPONSE = range(3)
TEXT, FRAME, PINNED = range(3)          # slots that leave with their turn, may leave before, never


@dataclass
class StreamTurn:
    """What the model said about one second of a stream."""
    start: int                                           # seconds
    end: int
    state: str                                           # one of STATES
    probs: tuple[float, float, float]                    # of STATES, adding up to 1
    text: str                                            # of a response, else ""
    question: str | None                                 # asked in this turn
    ms: float                                            # from the frames at hand to the last word
    kv: tuple[int, int] = (0, 0)                         # slots of the cache: in use, in all


# ---- One second

def by_second(frames, fps):
    """(seconds, image), ... -> (second, [at most fps images]), ...

    A second is yielded at its last frame, not when the next one begins: nothing live waits."""
    for second, group in groupby(frames, lambda frame: int(frame[0] + 1e-6)):
        yield second, [image for _, image in islice(group, fps)]


def due(questions, asked, second):
    """What is to be asked at `second`, a line each, or None. asked: indices, updated."""
    now = [i for i, (when, _) in enumerate(questions) if when <= second and i not in asked]
    asked.update(now)
    return "\n".join(questions[i][1] for i in now) or None


def see(model, images, compressor=None):
    """F images -> (tokens of each, features (N, hidden) of all), in one vision forward."""
    weight = next(model.parameters())
    if torch.is_tensor(images[0]):                       # encoded before: (tokens, hidden) each
        if compressor:
            raise ValueError("compress needs pictures, not encoded frames")
        return [len(image) for image in images], torch.cat(images).to(weight)
    images = [np.asarray(i.convert("RGB") if isinstance(i, Image.Image) else i) for i in images]
    images = [video.resized(image, model.config.vision.image_size) for image in images]
    grids = [compressor(image) if compressor else model.config.grid for image in images]
    pixels = normalised(torch.from_numpy(np.stack(images)).to(weight.device)).to(weight.dtype)
    features = model.features(pixels, torch.arange(len(grids)), torch.tensor(grids))
    return [side ** 2 for side in grids], features


def decide(logits, state_ids, threshold):
    """Logits (V,) at the end of a user part -> (index into STATES, probabilities of the three)."""
    probs = logits[list(state_ids)].float().softmax(-1).tolist()
    if threshold is None:
        return probs.index(max(probs)), probs
    quiet = probs.index(max(probs[:RESPONSE]))
    return RESPONSE if probs[RESPONSE] >= threshold else quiet, probs


def unspoken(model, tokenizer):
    """A bias (V,) of -inf on what no answer may hold: added tokens but <|im_end|>, spare rows."""
    bias = next(model.parameters()).new_zeros(model.config.decoder.vocab_size)
    bias[list(tokenizer.added.values())] = bias[len(tokenizer):] = -torch.inf
    bias[tokenizer.id("<|im_end|>")] = 0
    return bias


# ---- What is in the cache

class Memory:
    """The KV cache, with the second and the kind (TEXT, FRAME or PINNED) of each of its slots.

    A policy says which slots leave; what stays moves together (KVCache.drop). The frames of a turn
    that was not silent count as text."""
    ANSWER, QUESTIONS = 16, 256      # slots of a default cache for each second's answer, for pins

    def __init__(self, model, tokenizer, fps, reserve, window, prune, capacity, counts):
        self.model, self.tokenizer, self.reserve = model, tokenizer, reserve
        self.prune, self.counts, self.pending = prune, counts, []
        self.window = model.config.window if window is None else window
        limit, system = model.config.decoder.max_position_embeddings, data.system_part(tokenizer)
        turn = len(data.user_part(tokenizer, 99_999, [model.config.grid ** 2] * fps)) + self.ANSWER
        needed = len(system) + self.QUESTIONS + (self.window + 1) * turn + reserve
        self.capacity = capacity or (min(limit, needed) if self.window else limit)
        if self.capacity > limit:
            raise ValueError(f"capacity {capacity}: the decoder has {limit} positions")
        self.most_pinned = len(system) + (self.capacity - len(system)) // 4
        weight = next(model.parameters())
        self.cache = KVCache(model.config.decoder, 1, self.capacity, weight.dtype, weight.device)
        self.second, self.kind = np.zeros((2, self.capacity), int)
        self.read(system, 0, PINNED)

    def read(self, ids, second, kind, features=None):
        """One decoder forward: append ids to the cache -> logits (V,) after the last of them."""
        new = slice(self.cache.length, self.cache.length + len(ids))
        ids = torch.tensor([ids], device=self.cache.keys.device)
        logits = self.model(ids, features, cache=self.cache, select="last")[0]
        self.second[new], self.kind[new] = second, kind
        return logits

    def listen(self, second, tokens, features, question):
        """Append what is pending and the user part -> (logits (V,) at its last token, question or
        None where the open questions would fill over a quarter of the cache)."""
        pins = len(data.pinned_part(self.tokenizer, question)) if question else 0
        if pins + (self.kind[:self.cache.length] == PINNED).sum() > self.most_pinned:
            self.counts["questions refused: too many are open"] += 1
            pins, question = 0, None
        user = data.user_part(self.tokenizer, second, tokens, question)
        kinds = np.where(np.equal(user, self.tokenizer.frame_id), FRAME, TEXT)
        if question:            # pin what data.pinned_part writes: the head of the turn, and the
            after = np.flatnonzero(kinds == FRAME)[-1] + 1       # <|im_end|>\n after its frames,
            kinds[:pins - 2] = kinds[after:after + 2] = PINNED   # which is two tokens
        self.make_room(second, len(self.pending) + len(user) + self.reserve)
        # only now: the turn that is pending may just have been dropped
        n, last = len(self.pending), self.second[self.cache.length - 1]
        return self.read(self.pending + user, np.append([last] * n, [second] * len(user)),
                         np.append([TEXT] * n, kinds), features), question

    def make_room(self, second, need):
        """Before a turn of `need` slots: old frames leave, then old turns. A drop moves all later
        keys, so it goes an eighth further than it must, and is needed the less often."""
        for kinds, most in (((FRAME,), self.prune), ((TEXT, FRAME), self.window)):
            held = self.seconds(kinds)
            if most and len(held) and held[0] <= second - most:
                self.drop(kinds, second - most + most // 8)
        while self.cache.length + need > self.capacity:
            held = self.seconds((TEXT, FRAME))
            if not self.window or not len(held):
                raise ValueError(f"second {second}: the cache is full ({self.cache.length} + {need}"
                                 f" of {self.capacity} slots): a --window, fewer questions, or less"
                                 " --max-new-tokens")
            self.counts["times the cache was full before the window"] += 1
            self.drop((TEXT, FRAME), held[len(held) // 8])

    def keep_frames(self, second):
        """The frames of this turn, which was not silent, stay as long as its text."""
        n = self.cache.length
        self.kind[:n][(self.second[:n] == second) & (self.kind[:n] == FRAME)] = TEXT

    def seconds(self, kinds):
        """The seconds of the slots of these kinds, in order."""
        n = self.cache.length
        return np.unique(self.second[:n][np.isin(self.kind[:n], kinds)])

    def drop(self, kinds, second):
        """Slots of these kinds leave, of every turn up to and with `second`."""
        n = self.cache.length
        gone = np.isin(self.kind[:n], kinds) & (self.second[:n] <= second)
        edges = np.flatnonzero(np.diff(gone, prepend=False, append=False))      # start, end, ...
        self.cache.drop(edges[::2], edges[1::2])
        what = "turns dropped" if TEXT in kinds else "turns without their frames"
        self.counts[what] += len(np.unique(self.second[:n][gone]))
        for array in (self.second, self.kind):
            array[:self.cache.length] = array[:n][~gone]
        if not len(self.seconds((TEXT, FRAME))):
            self.pending = []                            # the turn that it ends has left


# ---- The loop

@torch.inference_mode()
def stream(model, tokenizer, frames, questions=(), *, fps=1, threshold=None, max_new_tokens=64,
           window=None, prune=None, compress=None, capacity=None, counts=None):
    """Yield a StreamTurn a second; a silent one costs one vision and one decoder forward.

    frames: (seconds, image), fps a second; an image is uint8 (H, W, 3), PIL, or (tokens, hidden).
    questions: (second, text) pairs; each joins the first turn with start >= second. They are read
        anew every second, so another thread may append. A question stays open, and in the cache,
        until the stream ends; what would take over a quarter of the cache is refused and counted.
    threshold: respond when P(response) reaches it; None: when it is the likeliest state.
    window: seconds that stay (at times an eighth less), as far as the decoder's positions reach.
        None: config.window. 0: all, and ValueError when the cache is full.
    prune: seconds that keep their frames (at times an eighth less); of older ones that were silent
        only the text stays. None: all.
    compress: a frame that differs less from the last kept one is coarse (data.Compressor).
    capacity: slots of the cache, never exceeded: the oldest turns leave. None: as the window needs.
    counts: a Counter of what was dropped, compressed and refused."""
    counts = Counter() if counts is None else counts
    memory = Memory(model, tokenizer, fps, max_new_tokens, window, prune, capacity, counts)
    full, coarse = model.config.grid, model.config.coarse_grid
    compressor = None if compress is None else data.Compressor(full, coarse, compress)
    asked, bias, close = set(), unspoken(model, tokenizer), tokenizer.encode("<|im_end|>\n")
    end = close[0]
    for second, images in by_second(frames, fps):
        began = time.perf_counter()
        tokens, features = see(model, images, compressor)
        counts["frames compressed"] += sum(n < full ** 2 for n in tokens) if compressor else 0
        question = due(questions, asked, second)
        logits, question = memory.listen(second, tokens, features, question)
        state, probs = decide(logits, tokenizer.state_ids, threshold)
        if state != SILENCE:
            memory.keep_frames(second)
        answer, token = [], tokenizer.state_ids[state]   # token: chosen, not yet in the cache
        while state == RESPONSE and token != end and len(answer) < max_new_tokens:
            token = int((memory.read([token], second, TEXT) + bias).argmax())
            answer += [token] if token != end else []
        memory.pending = close if token == end else [token, *close]
        yield StreamTurn(second, second + 1, STATES[state], tuple(probs),
                         tokenizer.decode(answer).strip(), question,
                         1000 * (time.perf_counter() - began),
                         (memory.cache.length, memory.capacity))


# ---- The command line

LEAST = {"fps": 1, "threshold": 0, "max_new_tokens": 1, "window": 0, "prune": 1, "compress": 0}


def ask(text):
    """ "What?", "12:What?" or "1:05:What?" -> (second, question)."""
    when, question = re.fullmatch(r"(?:([-\d.:]*):)?\s*(.*?)\s*", text, re.DOTALL).groups()
    if when == "" or not question:
        raise ValueError(f'{text!r} is not "[second:]question"')
    return parse_time(when, most=10**7) or 0, question


def parse(argv):
    """The arguments; ValueError for a bad one, before anything starts."""
    def error(message):
        raise ValueError(message)
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error, add = error, parser.add_argument
    add("source", help="video file, GIF, folder of images, URL, camera:0, or - for raw frames")
    add("--ask", action="append", default=[], metavar="[SECOND:]QUESTION", help="or MM:SS:QUESTION")
    add("--ask-file", metavar="FILE", help="questions, one a line, each as --ask takes it")
    add("--model", metavar="FOLDER", default=Path(__file__).parent / "assets/tiny")
    add("--device", choices=devices, default=devices[0])
    add("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, else float32")
    add("--fps", type=int, default=1, help="frames a second")
    add("--size", default="", metavar="WxH", help="of raw frames: rgb24, --fps of them a second")
    add("--threshold", type=float, help="respond when P(response) reaches this")
    add("--max-new-tokens", type=int, default=64, help="of one answer")
    add("--window", type=int, help="seconds that stay, if the cache can; 0: all, until it is full")
    add("--prune", type=int, help="seconds that keep their frames; older silent ones only text")
    add("--compress", type=float, nargs="?", const=3.0, metavar="LEVELS",
        help="fewer tokens for frames that differ less (of 255; 3) from the last one kept")
    add("--realtime", action="store_true", help="play a file at its own speed, like a live source")
    for flag, what in (("jsonl", "a line for each second, as it happens"), ("srt", "subtitles"),
                       ("vtt", "subtitles"), ("timeline", "the whole stream as one picture, .png"),
                       ("render", "the video with its answers, .mp4 or .gif")):
        add(f"--{flag}", metavar="FILE", help=what)
    add("--quiet", action="store_true", help="answers only")
    args = parser.parse_args(argv)
    args.options = {name: getattr(args, name) for name in LEAST}            # those of stream()
    for name, value in args.options.items():
        if value is not None and not value >= LEAST[name]:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least {LEAST[name]}")
    if args.source == "-" and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", args.size):
        raise ValueError("raw frames on standard input need --size WIDTHxHEIGHT")
    again = Path(args.source).is_file() or Path(args.source).is_dir()
    if args.render and not (again and args.render.endswith((".mp4", ".gif"))):
        raise ValueError(f"--render {args.render}: an .mp4 or .gif, of a source that is a file")
    for path in filter(None, (args.jsonl, args.srt, args.vtt, args.render, args.timeline)):
        if not Path(path).absolute().parent.is_dir():
            raise ValueError(f"{path}: no such folder")
    lines = Path(args.ask_file).read_text("utf-8").splitlines() if args.ask_file else []
    args.ask = [ask(text) for text in args.ask + [line for line in lines if line.strip()]]
    args.ask = args.ask or [(0, "Describe every event.")]
    return args


def typed(questions):
    """Lines typed on the terminal are questions for the next second."""
    with suppress(OSError):                              # of a job in the background
        while line := os.read(sys.stdin.fileno(), 4096):
            questions += [(0, line.decode(errors="replace").strip())] if line.strip() else []


def status(turn, speed, frames):
    """The state, its three probabilities as bars, x real time, lag, share of the cache in use."""
    bars = "".join(" ▁▂▃▄▅▆▇█"[round(8 * p)] for p in turn.probs)
    lag = time.monotonic() - frames.came if isinstance(frames, sources.Live) else 0.0
    return (f"{render.clock(turn.start)} {turn.state:8} |{bars}| {speed:.1f} x real time, "
            f"lag {lag:.1f} s, KV {turn.kv[0] / turn.kv[1]:.0%}")


def watch(args):
    """Stream the source, show what is said, write the files: all but --render also when it is cut
    short."""
    frames, seconds, live = sources.open_source(args.source, args.fps, args.size)
    late = [text for when, text in args.ask if seconds and when > math.ceil(seconds) - 1]
    if late:
        raise ValueError(f"--ask {late[0]!r}: the video ends after {seconds:.1f} s")
    tokenizer = Tokenizer.from_pretrained(args.model)
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    model = Streamo.from_pretrained(args.model, getattr(torch, dtype), args.device)
    if args.source != "-" and sys.stdin and sys.stdin.isatty():
        threading.Thread(target=typed, args=(args.ask,), daemon=True).start()
    if live or args.realtime:
        frames = sources.Live(frames, sources.patience(args.source) * args.fps, args.realtime)
    kept, counts, said, n, worst, began = [], Counter(), 0, 0, 0.0, time.monotonic()
    try:
        with open(args.jsonl or os.devnull, "w", encoding="utf-8") as jsonl, tqdm(
                total=seconds and round(seconds), disable=args.quiet or not sys.stderr.isatty(),
                bar_format="{desc} {bar:10} {percentage:3.0f}%" if seconds else "{desc}") as bar:
            for turn in stream(model, tokenizer, frames, args.ask, counts=counts, **args.options):
                n, worst = n + 1, max(worst, turn.ms)
                row = {key: value for key, value in asdict(turn).items() if key != "kv"}
                print(json.dumps(row, ensure_ascii=False), file=jsonl, flush=True)
                if args.srt or args.vtt or args.timeline or args.render:
                    kept.append(turn)
                if turn.state == "response":
                    said += 1
                    times = f"[{render.clock(turn.start)}-{render.clock(turn.end)}]"
                    tqdm.write(f"{times} {turn.text}")
                    sys.stdout.flush()
                bar.set_description_str(status(turn, n / (time.monotonic() - began), frames))
                bar.update()
    finally:
        counts["frames dropped, for they came too fast"] = getattr(frames, "dropped", 0)
        notes = "".join(f", {count} {what}" for what, count in counts.items() if count)
        if n and not args.quiet:
            print(f"{n} s of video, {said} answers, {n / (time.monotonic() - began):.1f} x real "
                  f"time, slowest second {worst:.0f} ms{notes}", flush=True)
        for path, write in ((args.srt, render.write_srt), (args.vtt, render.write_vtt),
                            (args.timeline, render.timeline)):
            if path and kept:
                write(kept, path)
    if args.render:
        again = video.frames(args.source, args.fps) if Path(args.source).is_dir() else args.source
        render.captioned_video(again, kept, args.render)
    unasked = [text for when, text in args.ask if not n or when > turn.start]
    if unasked:
        raise ValueError(f"--ask {unasked[0]!r}: never asked, the stream ended after {n} s")


def main(argv=None):
    """Exit code: 0; 2 for bad input, with one line on stderr; 130 after Ctrl-C or SIGTERM.

    A question later than the end is bad input: before the start where the length is known, else
    when the end has come. A live source that is silent for 5 s (30 over http) has ended; one that
    fails is 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)        # which stops a job in the background
    try:
        watch(parse(argv))
        return 0
    except KeyboardInterrupt:
        print("infer.py: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, av.FFmpegError) as error:
        print("infer.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
