"""Instruction data: videos and annotations in, training turns out.

    python data.py show                                             a toy sample, token by token
    python data.py show raw.json --videos FOLDER --index 3 --strip frames.png
    python data.py check raw.json --videos FOLDER                   what is wrong, what is in it
    python data.py convert coin COIN.json --out raw.jsonl           other sources -> raw records
    python data.py convert stream raw.json --videos FOLDER --out stream_format.json

Seconds everywhere. Two public formats, Streamo-Instruct's: raw records (question / response with
times) and stream records (messages, one second each); both become the same list of Turn.
"""

import argparse
import csv
import json
import math
import os
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, groupby
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset
from tqdm import tqdm

import toy
from streamo import RESPONSE, SILENCE, STANDBY, STATES, StreamoConfig, Tokenizer, read_json

SYSTEM = "Each second, say </Silence>, </Standby> or </Response> and the answer."
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
LONGEST_LINE = 1 << 26                      # bytes; a longer "line" is no record but a broken file
MISSHAPEN = ArithmeticError, AttributeError, LookupError, TypeError, ValueError    # from bad data

# ------------------------------------------------------------------------------------------ Frames

WEB = "http://", "https://"


def frames(source, fps=1, rate=None):
    """Yield (seconds, image uint8 (H, W, 3) RGB) at k/fps, k = 0, 1, ..., of a video or folder, or
    of a video's http address.

    Frame k is the first that appears in [k/fps, (k+1)/fps), or else the one still on the screen.
    rate: images per second of a folder of images, in the order of the numbers in their names
    (None: fps). Raises OSError; ValueError naming a file that is no video, empty or truncated."""
    path = Path(source)
    if not path.exists() and not str(source).startswith(WEB):
        raise FileNotFoundError(f"{source}: no such file or folder")
    k, shown, rounding = 0, None, 1e-3      # containers round presentation times to a millisecond
    for start, frame in _folder(path, rate or fps) if path.is_dir() else _video(source):
        while shown and start >= (k + 1) / fps - rounding:      # nothing new has appeared in k
            yield k / fps, rgb(shown)
            k += 1
        if frame and start >= k / fps - rounding:               # the first that appears in k
            yield k / fps, rgb(frame)
            k += 1
        shown = frame or shown
    if not shown:
        raise ValueError(f"{source}: no picture in it")


def _folder(path, rate):
    """Yield (start, image path), and last (end, None)."""
    names = [p for p in path.iterdir() if p.suffix.lower() in IMAGES]
    names.sort(key=lambda p: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", p.name)])
    for i, name in enumerate([*names, None]):
        yield i / rate, name


def _video(path):
    """Yield (seconds since the first frame, av.VideoFrame) as presented, and last (end, None)."""
    try:
        with av.open(str(path), timeout=(10, 5)) as container:
            # tty: how FFmpeg would show any text file
            if not container.streams.video or container.format.name == "tty":
                raise ValueError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            step = float(1 / (stream.average_rate or 25))
            first = end = 0.0
            for i, frame in enumerate(container.decode(stream)):
                time = i * step if frame.time is None else frame.time    # a bare H.264 has no times
                first = time if i == 0 else first
                length = float(frame.duration * frame.time_base) if frame.duration else step
                end = time - first + length
                yield time - first, frame
            declared = float((stream.duration or 0) * stream.time_base)
            if declared > end + 1:
                raise ValueError(f"{path}: truncated: {end:.1f} s of {declared:.1f} s are there")
            yield end, None
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from error


def rgb(frame):
    """An image file's path or an av.VideoFrame -> uint8 (H, W, 3), upright."""
    if isinstance(frame, Path):
        try:
            with Image.open(frame) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{frame}: not a readable image ({error})") from error
    quarter_turns = round(frame.rotation / 90) % 4      # a phone stores upright films lying
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


def resized(image, size):
    """uint8 (H, W, 3) -> uint8 (size, size, 3), the bicubic resize of streamo.preprocess."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


class Compressor:
    """The grid side of each frame of a stream: `coarse` for one like the last kept at `grid`.

    Alike: no 8 x 8 block differs by more than `threshold` levels (of 255) in the mean. So a small
    object that moves counts, and noise spread over the picture does not. Training and streaming
    share this rule."""

    def __init__(self, grid, coarse, threshold=3.0):
        self.grid, self.coarse, self.threshold, self.kept = grid, coarse, threshold, None

    def __call__(self, frame):                              # uint8 (S, S, 3), the model's size
        if self.kept is not None:
            n = frame.shape[0] // 8
            change = np.abs(frame.astype(np.int16) - self.kept)[: n * 8, : n * 8]
            if change.reshape(n, 8, n, 8, 3).mean((1, 3, 4)).max() <= self.threshold:
                return self.coarse
        self.kept = frame
        return self.grid

# -------------------------------------------------------------------------------- Records -> turns

@dataclass
class Turn:
    """One second of a dialogue: what is asked in it, the state to learn and a Response's text.

    said: the (state, text) that stands in the dialogue instead, when a history is perturbed."""
    second: int
    state: str = SILENCE
    text: str = ""
    question: str | None = None
    said: tuple[str, str] | None = None


def parse_time(value):
    """Seconds from a number, "5", "5.5", "MM:SS" or "HH:MM:SS.f"; None from None and ""."""
    if value is None or value == "":
        return None
    try:
        seconds = 0.0
        for part in str(value).split(":"):
            seconds = seconds * 60 + float(part)
    except ValueError:
        raise ValueError(f"time {value!r} is not seconds, MM:SS or HH:MM:SS") from None
    if not 0 <= seconds < 1e7:                              # false for NaN too
        raise ValueError(f"time {value!r} is negative or no time at all")
    return seconds


def read_entry(kind, entry, said):
    """Add a question or response of a raw record to `said` (see parsed), as the release means it: a
    question at second t stands in turn t-1; a span is Standby on turns start-1 .. end-1 and
    Response on turn `end`; an instant t is Response on turn t-1."""
    text = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("content is missing, empty or not text")
    text.encode()                               # half an emoji (a surrogate) is no text
    start, end, time = (parse_time(entry.get(key)) for key in ("st_time", "end_time", "time"))
    if kind == "response" and (start is None) != (end is None):
        raise ValueError("st_time without end_time, or the reverse")
    if kind == "response" and start is None and time is None:
        raise ValueError("neither st_time and end_time nor time")
    if kind == "question" or start is None:
        said[kind].append((max(int(time or 0) - 1, 0), text))
    elif end < start:
        raise ValueError(f"the span runs backwards, from {start} to {end}")
    else:
        said[kind].append((int(end), text))
        said["standby"].append(range(int(start) - 1, int(end)))


def read_messages(messages, said, counts):
    """Add what a stream record says to `said` (see parsed). A question in turn 0 that stands again
    later was only repeated by the released converter."""
    messages = messages[1:] if messages[0]["role"] == "system" else messages
    for n, (user, reply) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
        asked, _, frame = user["content"].rpartition(f"<{n}s-{n + 1}s>\n")
        state, _, text = reply["content"].partition(" ")
        (asked + text).encode()                 # half an emoji (a surrogate) is no text
        if frame != "<stream>" or [user["role"], reply["role"]] != ["user", "assistant"]:
            raise ValueError(f"turn {n} is not '[question] <{n}s-{n + 1}s> <stream>' and a reply")
        if state not in STATES or (state == RESPONSE) != bool(text):
            raise ValueError(f"turn {n}: no state, or no text: {reply['content']!r}")
        said["question"] += [(n, asked.removesuffix("\n"))] if asked else []
        said["response"] += [(n, text)] if text else []
        said["standby"] += [[n]] if state == STANDBY else []
    if said["question"] and said["question"][0] in [(0, text) for _, text in said["question"][1:]]:
        counts["repeated question of turn 0 left out"] += 1
        del said["question"][0]


def parsed(record, counts):
    """What a raw or stream record says, {"question" and "response": [(turn, text)], "standby":
    [turns of an event]}, and the list of what is wrong with it, field by field."""
    said, wrong = {"question": [], "response": [], "standby": []}, []

    def attempt(what, read, *args):
        try:
            read(*args)
        except MISSHAPEN as error:
            wrong.append(f"{what}: {error}")

    if not isinstance(record, dict):
        return said, ["not a JSON object"]
    for key in ("task_type", "source"):
        if not isinstance(record.get(key), str) or not record[key]:
            wrong.append(f"{key}: missing or not text")
    for key in ("duration", "fps"):
        attempt(key, parse_time, record.get(key))
    attempt("videos" if "messages" in record else "video_path", video_path, record, "")
    if "messages" in record:
        attempt("messages", read_messages, record["messages"], said, counts)
        return said, wrong
    for kind in ("question", "response"):
        if not isinstance(record.get(kind), list):
            wrong.append(f"{kind}: missing or not a list")
            continue
        for n, entry in enumerate(record[kind]):
            attempt(f"{kind}[{n}]", read_entry, kind, entry, said)
    return said, wrong


def faults(record):
    """What is wrong with a raw or stream record, field by field."""
    return parsed(record, Counter())[1]


def turns_from_record(record, seconds, counts=None):
    """The turns of a raw or stream record on a video of `seconds` seconds: a list of Turn.

    A Response beats a Standby; what falls after the last turn moves to it; two questions
    (responses) of a turn are joined by a newline (space). counts: a Counter of all that.
    Raises ValueError for a broken field (see faults)."""
    counts = Counter() if counts is None else counts
    said, wrong = parsed(record, counts)
    if wrong or seconds < 1:
        raise ValueError(wrong[0] if wrong else "the video has no whole second")
    turns = [Turn(n, STANDBY if any(n in span for span in said["standby"]) else SILENCE)
             for n in range(seconds)]
    for n, text in said["question"]:
        turn = turns[min(n, seconds - 1)]
        counts["question after the end moved to the last turn"] += n >= seconds
        counts["questions joined"] += turn.question is not None
        turn.question = text if turn.question is None else f"{turn.question}\n{text}"
    for n, text in said["response"]:
        turn = turns[min(n, seconds - 1)]
        counts["response after the end moved to the last turn"] += n >= seconds
        counts["response in the Standby of another event"] += n < seconds and turn.state == STANDBY
        counts["responses joined"] += turn.state == RESPONSE
        turn.text = f"{turn.text} {text}" if turn.state == RESPONSE else text
        turn.state = RESPONSE
    return turns


def stream_record(record, turns):
    """The stream record of a raw record's turns."""
    messages = [{"role": "system", "content": SYSTEM}]
    for turn in turns:
        asked = "" if turn.question is None else turn.question + "\n"
        messages += [{"role": "user",
                      "content": f"{asked}<{turn.second}s-{turn.second + 1}s>\n<stream>"},
                     {"role": "assistant",
                      "content": f"{turn.state} {turn.text}" if turn.text else turn.state}]
    return {"messages": messages, "videos": [record["video_path"]],
            **{k: record.get(k, "") for k in ("video_name", "task_type", "source")},
            **{k: record[k] for k in ("fps",) if k in record}}      # the rate of a folder's images

# --------------------------------------------------------------- Turns -> tokens: the one renderer

def system_part(tokenizer):
    return tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")


def pinned_part(tokenizer, question):
    """What stays of a question when the turn that it stood in has left the context."""
    return [*tokenizer.encode("<|im_start|>user\n"),
            *tokenizer.encode(question + "\n", special=False), *tokenizer.encode("<|im_end|>\n")]


def user_part(tokenizer, second, tokens_per_frame, question=None):
    """Ids up to and with "assistant\\n", at whose last token the state is read.

    Question, time tag and frames are separate pieces, so that a cache can be cut between them. A
    question is plain text: no user can write a token of ours."""
    return [*tokenizer.encode("<|im_start|>user\n"),
            *(tokenizer.encode(question + "\n", special=False) if question else ()),
            *tokenizer.encode(f"<{second}s-{second + 1}s>\n", special=False),
            *[tokenizer.frame_id] * sum(tokens_per_frame),
            *tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")]


def assistant_part(tokenizer, state, text=""):
    return [tokenizer.id(state), *(tokenizer.encode(" " + text, special=False) if text else ()),
            *tokenizer.encode("<|im_end|>\n")]


def silent_second(tokenizer, config, fps):
    """How many tokens a second takes in which nothing is asked or answered."""
    return len(user_part(tokenizer, 999, [config.grid ** 2] * fps)
               + assistant_part(tokenizer, SILENCE))


def render(tokenizer, turns, grids, pinned=()):
    """(input_ids, labels), two lists of one length; a label is the token AT its position, or -100.

    grids: per turn, the grid side of each of its frames (a frame takes side * side tokens). Learnt
    are state, text and <|im_end|> of a turn; where the dialogue says otherwise, the state only."""
    ids = system_part(tokenizer)
    for question in pinned:
        ids += pinned_part(tokenizer, question)
    labels = [-100] * len(ids)
    for turn, sides in zip(turns, grids, strict=True):
        user = user_part(tokenizer, turn.second, [side * side for side in sides], turn.question)
        answer = assistant_part(tokenizer, *(turn.said or (turn.state, turn.text)))
        learnt = [tokenizer.id(turn.state)] if turn.said else answer[:-1]    # no newline
        ids += user + answer
        labels += [-100] * len(user) + learnt + [-100] * (len(answer) - len(learnt))
    return ids, labels

# ----------------------------------------------------------------------- Augmentation and datasets

@dataclass(frozen=True)
class Augment:
    """Probabilities per dialogue; perturb_rate is the range of the rate per turn."""
    perturb: float = 0.5
    perturb_rate: tuple[float, float] = (0.03, 0.06)
    shift: float = 0.5
    compress: float = 0.3
    window: float = 0.15
    double_rate: float = 0.1            # of toy clips alone: two frames a second
    noise: float = 0.1                  # of toy clips alone: as a codec leaves it


PLAIN = Augment(0, (0, 0), 0, 0, 0, 0, 0)
OFFSETS = (60,) * 5 + (200, 200, 900, 100_000)      # bounds of a stream's first second: to a day
# tasks whose answers do not look back further than their event
CUTTABLE = {"Real-time Narration", "Event Caption", "Action Caption", "Event Grounding"}


def shift(turns, offset):
    """The stream began `offset` seconds earlier: so do its seconds and each "from 12s to 20s"."""
    def moved(text):
        return re.sub(r"\b(from|to|since|[Aa]t) (\d+)s\b",
                      lambda match: f"{match[1]} {int(match[2]) + offset}s", text)
    return [replace(turn, second=turn.second + offset, text=moved(turn.text)) for turn in turns]


def perturb(turns, rng, rate):
    """Turns whose history is wrong at `rate`: states swapped, answers dropped, replaced, invented.
    A model trained on perfect histories copies its own past states when it streams."""
    texts = sorted({turn.text for turn in turns if turn.state == RESPONSE})

    def wrong(turn):
        others = [text for text in texts if text != turn.text]
        if others and rng.random() < (0.5 if turn.state == RESPONSE else 0.3):
            return RESPONSE, rng.choice(others)
        return rng.choice([s for s in (SILENCE, STANDBY) if s != turn.state]), ""

    return [replace(turn, said=wrong(turn)) if rng.random() < rate else turn for turn in turns]


def make_item(tokenizer, config, turns, task, frame, n_frames, fps, name, rng, augment,
              longest=math.inf):
    """One training item, what collate makes a batch of: lists of input_ids and labels, their
    "length"; "pixels" uint8 (U, S, S, 3), the distinct frames; "frames", which of these each frame
    is; "grids", its grid side; "name"; "counts", what was left out. frame(j): one of n_frames.

    longest: seconds that an item may have; a longer dialogue loses its end (its head, too, where
    the task allows it, its questions then being pinned)."""
    chances = augment.perturb, augment.shift, augment.compress, augment.window
    perturbed, shifted, compressed, windowed = (rng.random() < chance for chance in chances)
    offset = rng.randrange(rng.choice(OFFSETS)) if shifted else 0
    beyond = max(len(turns) - longest, 0)
    last = min(beyond or len(turns), len(turns) - 2)
    cuts = [k for k in range(2, last + 1) if turns[k].state == turns[k - 1].state == SILENCE]
    start = rng.choice(cuts) if cuts and (windowed or beyond) and task in CUTTABLE else 0
    stop = start + longest if beyond else len(turns)
    pinned = [turn.question for turn in turns[:start] if turn.question]
    turns = shift(turns[start:stop], offset)
    if perturbed:
        turns = perturb(turns, rng, rng.uniform(*augment.perturb_rate))
    side = Compressor(config.grid, config.coarse_grid) if compressed else lambda _: config.grid
    pixels, index, grids = [], [], []
    for j in range(start * fps, min(stop * fps, n_frames)):
        image = frame(j)
        if not pixels or not np.array_equal(image, pixels[-1]):
            pixels.append(image)                            # a still scene is encoded once
        index.append(len(pixels) - 1)
        grids.append(side(image))
    by_turn = [grids[k:k + fps] for k in range(0, len(grids), fps)]
    ids, labels = render(tokenizer, turns, by_turn, pinned)
    return {"input_ids": ids, "labels": labels, "length": len(ids), "pixels": np.stack(pixels),
            "frames": index, "grids": grids, "name": name,
            "counts": Counter({"turns beyond `longest` left out": beyond})}


def toy_texts(n=3000):
    """What a vocabulary for the toy world is learnt from: dialogues of a seed of their own."""
    yield SYSTEM
    yield from ["<4s-5s>\n"] * n
    for i in range(n):
        _, record = toy.sample(-1, i, ("full", "short", "frame", "busy")[i % 4])
        yield from ("user\n", "assistant\n", "system\n")
        yield from (question["content"] + "\n" for question in record["question"])
        yield from (" " + response["content"] for response in record["response"])


class ToyStills(Dataset):
    """Pictures (S, S, 3) with what their patches, and the cells of both grids, show: three times
    (cells, 8), as toy.labels. Places and sizes vary as they do while things move and grow."""

    # logits of the colour; of the shape; x, y and radius; logits of the change
    parts = 1 + len(toy.COLOURS), len(toy.SHAPES), 3, len(toy.CHANGES)

    def __init__(self, config):
        self.config = config

    def __getitem__(self, i):
        rng, side = random.Random(f"still/{i}"), self.config.vision.side
        clip = toy.Clip(rng, 1, still=True)
        for thing in clip.start:
            thing.r *= rng.choice((1, 1, rng.uniform(0.55, 1), rng.uniform(1, 1.6)))
            thing.x += rng.uniform(-0.1, 0.1)
            thing.y += rng.uniform(-0.1, 0.1)
        return (clip.frame(0, self.config.vision.image_size),
                *(toy.labels(clip.start, clip.start, side, grid)
                  for grid in (side, self.config.grid, self.config.coarse_grid)))


class ToyDataset(Dataset):
    """Item i, or ("short", i), is drawn by toy.sample, augmented, and always the same: no end."""

    def __init__(self, tokenizer, config, seed, fps=1, augment=Augment()):
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.fps, self.augment = fps, augment

    @staticmethod
    def split(key):
        return key[::-1] if isinstance(key, tuple) else (key, "full")

    def task(self, key):
        return toy.sample(self.seed, *self.split(key))[1]["task_type"]

    def estimate(self, key):
        """About how many tokens the item has, without drawing it."""
        clip, record = toy.sample(self.seed, *self.split(key))
        words = sum(len(entry["content"].split()) + 4
                    for entry in record["question"] + record["response"])
        return 60 + clip.seconds * (14 + self.fps * self.config.grid**2) + words

    def __getitem__(self, key):
        i, kind = self.split(key)
        clip, record = toy.sample(self.seed, i, kind)
        rng = random.Random(f"{self.seed}/{kind}/{i}/augment")
        fps = self.fps * (2 if rng.random() < self.augment.double_rate else 1)
        noise = np.random.default_rng(rng.getrandbits(64))
        level = rng.uniform(0, 4) if rng.random() < self.augment.noise else 0

        def frame(j):
            image = clip.frame(j / fps, self.config.vision.image_size)
            return image if not level else np.clip(
                image + noise.normal(0, level, image.shape), 0, 255).astype(np.uint8)

        turns = turns_from_record(record, clip.seconds)
        return make_item(self.tokenizer, self.config, turns, record["task_type"], frame,
                         clip.seconds * fps, fps, f"toy {self.seed}/{kind}/{i}", rng, self.augment)


class ToyFilms(ToyDataset):
    """Items with labels of their visual tokens, "shown" (N, 10): toy.labels (8), asked (1), and the
    second at which the turn ends, as its tag says it, -1 from 1000 on (1). words: the ids of all
    colours, shapes, changes and numbers, in this order; said: how many there are of each."""

    said = len(toy.COLOURS), len(toy.SHAPES), len(toy.CHANGES) - 1, 1000

    def __init__(self, tokenizer, config, seed):
        super().__init__(tokenizer, config, seed, augment=Augment(window=0, double_rate=0))
        self.numbers = {tokenizer.id(str(n)): n for n in range(1000)}
        self.words = [tokenizer.encode(f" {word}")[-1]
                      for word in (*toy.COLOURS, *toy.SHAPES, *toy.CHANGES[1:])] + [*self.numbers]

    def __getitem__(self, key):
        i, kind = self.split(key)
        item, (clip, record) = super().__getitem__(key), toy.sample(self.seed, i, kind)
        things = [clip.state(t) for t in range(clip.seconds)]
        before = things if isinstance(clip, toy.Slides) else [things[0], *things]
        questions = [(int(q["time"]) - 1, q["content"]) for q in record["question"]]
        shown, side = [], self.config.vision.side
        for t, grid in enumerate(item["grids"]):
            cells = toy.labels(things[t], before[t], side, grid)
            _, latest = max((q for q in questions if q[0] <= t), default=(0, ""))
            shown.append(np.column_stack([cells, asked(cells, latest)]))
        ids = np.array(item["input_ids"])
        number = np.isin(ids, [*self.numbers])          # the last before a frame: 5 of "<4s-5s>"
        at = np.maximum.accumulate(number * np.arange(len(ids)))[ids == self.tokenizer.frame_id]
        tags = [-1 if number[k - 1] else self.numbers[ids[k]] for k in at]      # -1: two tokens
        item["shown"] = np.column_stack([np.concatenate(shown), np.float32(tags)])
        return item


ASKED = re.compile(rf"\b(?:({'|'.join(toy.COLOURS)}) )?({'|'.join(toy.SHAPES)})\b(?: ([^.?]*))?")


def asked(cells, question):
    """(cells,) float32, for each of toy.labels: 0; 1 where it shows the thing that the question
    names first, 2 where that thing does what the question's caption says of it."""
    if not (match := ASKED.search(question)):
        return np.zeros(len(cells), np.float32)
    colour, shape, caption = match.groups("")
    named = (cells[:, 0] > 0) & (cells[:, 1] == list(toy.SHAPES).index(shape))
    if colour:
        named &= cells[:, 0] == 1 + list(toy.COLOURS).index(colour)
    told = {*caption.split(), *(toy.DIRECTIONS if "hits" in caption.split() else ())}
    does = [k for k, change in enumerate(toy.CHANGES) if change in told]
    return np.float32(named) + (named & np.isin(cells[:, 5], does))


ADVICE = "; see all faults: python data.py check "


class RawDataset(Dataset):
    """Raw or stream records of several files, each with a weight: how often an epoch reads them.

    Item i is number i mod len of epoch i // len, in an order shuffled by (seed, epoch). Raises
    ValueError for a broken record. longest: as in make_item. A video may be a folder of images;
    the record's "fps" is then their rate."""

    def __init__(self, tokenizer, config, files, videos, weights=None, seed=0, fps=1,
                 augment=PLAIN, longest=math.inf):
        self.tokenizer, self.config, self.videos, self.longest = tokenizer, config, videos, longest
        self.seed, self.fps, self.augment, self.epoch = seed, fps, augment, None
        self.silent = silent_second(tokenizer, config, fps)
        self.files = [[(str(file), n, record) for n, record in enumerate(read_records(file))]
                      for file in files]
        for name, n, record in chain(*self.files):
            if wrong := faults(record):
                raise ValueError(f"{name}: record {n}: {wrong[0]}{ADVICE}{name}")
        weights = [1] * len(files) if weights is None else weights
        self.takes = [round(w * len(rows)) for w, rows in zip(weights, self.files, strict=True)]
        if not sum(self.takes):
            raise ValueError(f"no records in {', '.join(map(str, files))}")

    def __len__(self):
        return sum(self.takes)

    def pick(self, i):
        """(file, number in it, record) of item i."""
        epoch, i = divmod(i, len(self))
        if epoch != self.epoch:
            self.epoch, self.order, rng = epoch, [], random.Random(f"{self.seed}/{epoch}")
            for rows, take in zip(self.files, self.takes):
                whole, rest = divmod(take, len(rows) or 1)
                self.order += rows * whole + rng.sample(rows, rest)
            rng.shuffle(self.order)
        return self.order[i]

    def task(self, i):
        return self.pick(i)[2]["task_type"]

    def estimate(self, i):
        """About how many tokens item i has, without reading its video."""
        record = self.pick(i)[2]
        texts = sum(len(entry["content"]) for entry in [*record.get("question", ()),
                                                         *record.get("response", ())])
        seconds = min(stated_seconds(record), self.longest)
        return 60 + texts // 4 + seconds * self.silent

    def __getitem__(self, i):
        return self.item(*self.pick(i), random.Random(f"{self.seed}/{i}/augment"))

    def item(self, name, n, record, rng):
        """The item of record n of a file; its counts say what turns_from_record mended, too."""
        try:
            size, fps, counts = self.config.vision.image_size, self.fps, Counter()
            path, rate = video_path(record, self.videos), parse_time(record.get("fps"))
            images = [resized(image, size) for _, image in frames(path, fps, rate)]
            turns = turns_from_record(record, math.ceil(len(images) / fps), counts)
            item = make_item(self.tokenizer, self.config, turns, record["task_type"],
                             images.__getitem__, len(images), fps, f"{name}:{n}", rng, self.augment,
                             self.longest)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: record {n}: {error}{ADVICE}{name}") from error
        item["counts"] += counts
        return item


def stated_seconds(record):
    """Seconds of a sound record by what it says itself: for want of its video, or of time."""
    if "messages" in record:
        return len(record["messages"]) // 2
    times = [parse_time(r.get(k)) or 0 for r in record["response"] for k in ("end_time", "time")]
    return math.ceil(parse_time(record.get("duration")) or max(times, default=0) + 1)


def video_path(record, folder):
    """The record's video inside `folder`; ValueError for a path that would leave it."""
    path = record["videos"][0] if "messages" in record else record["video_path"]
    if not path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"video path {path!r} is empty or leaves the video folder")
    return Path(folder) / path


def collate(samples, pad_id):
    """Right-padded batch: input_ids, labels (B, T); pixels uint8 (U, H, W, 3), the distinct
    frames; frames (F,), which of these each frame of the batch is; grids (F,), its grid side;
    names; counts; shown (N, 10), if the samples have it: see ToyFilms."""
    width = max(len(s["input_ids"]) for s in samples)
    batch = {key: torch.tensor([s[key] + [pad] * (width - len(s[key])) for s in samples])
             for key, pad in (("input_ids", pad_id), ("labels", -100))}
    batch["pixels"] = torch.from_numpy(np.concatenate([s["pixels"] for s in samples]))
    firsts = np.cumsum([0] + [len(s["pixels"]) for s in samples])
    batch["frames"] = torch.tensor([n + f for s, n in zip(samples, firsts) for f in s["frames"]])
    batch["grids"] = torch.tensor([g for s in samples for g in s["grids"]])
    batch["names"] = [s["name"] for s in samples]
    batch["counts"] = dict(sum((s["counts"] for s in samples), Counter()))
    if "shown" in samples[0]:
        batch["shown"] = torch.from_numpy(np.concatenate([s["shown"] for s in samples]))
    return batch

# ---------------------------------------------- Annotation files, and other sources -> raw records

def read_records(file):
    """Yield what a file holds: the lines of .jsonl and the rows of .csv, in constant memory; the
    items of a JSON list; the (key, value) pairs of a JSON object, or of its "database".
    Raises OSError, or ValueError naming file and line."""
    path, n = Path(file), 0
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None)

    def lines(errors):
        nonlocal n
        with open(path, "rb") as raw:
            while line := raw.readline(LONGEST_LINE):
                n += 1
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"longer than {LONGEST_LINE} bytes")
                bar.update(len(line))
                yield line.decode("utf-8-sig" if n == 1 else "utf-8", errors)

    try:
        if path.suffix == ".csv":
            csv.field_size_limit(LONGEST_LINE)
            yield from csv.DictReader(lines("replace"))
        elif path.suffix == ".jsonl":
            yield from (json.loads(line) for line in lines("strict") if line.strip())
        else:
            whole = json.loads(path.read_text("utf-8-sig"))
            whole = whole.get("database", whole) if isinstance(whole, dict) else whole
            if not isinstance(whole, (list, dict)):
                raise ValueError("neither a JSON list nor an object")
            yield from whole.items() if isinstance(whole, dict) else whole
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{file}: {f'line {n}: ' if n else ''}{error}") from error
    finally:
        bar.close()


# A reader yields, for an item of its source's file: the video's path, its duration (None: unknown),
# spans (start, end, text) in seconds of that video (None: no times), and the tasks to make of them.

def activitynet(name, v):
    spans = [(*span, text) for span, text in zip(v["timestamps"], v["sentences"], strict=True)]
    yield f"v_{name.removeprefix('v_')}.mp4", v["duration"], spans, caption, grounding

def qvhighlights(v):                            # times are relative to the clip that vid names
    spans = [(*span, v["query"]) for span in v["relevant_windows"]]
    yield f"{v['vid']}.mp4", v["duration"], spans, grounding

def youcook2(name, v):
    if "timestamps" in v:                       # PDVC's copy; its test split says "None"
        path, spans = name.removeprefix("v_"), zip(v["timestamps"], v["sentences"], strict=True)
    else:
        path = f"{v['recipe_type']}/{name}"
        spans = [(a["segment"], a["sentence"]) for a in v["annotations"]]
    spans = [(*span, text) for span, text in spans if text != "None"]
    yield f"{path}.mp4", v["duration"], spans, steps, grounding

def hacs(name, v):                              # the folder is the class, the duration a string
    spans = [(*a["segment"], a["label"]) for a in v["annotations"]]
    folder = spans[0][2].replace(" ", "_") if spans else ""
    yield f"{folder}/v_{name}.mp4", v["duration"], spans, steps, grounding

def egotimeqa(v):                               # frames at 30 fps; " l " is a misread " I "
    ask = partial(qa, question=v["question"].replace(" l ", " I "))
    span = v["moment_start_frame"] / 30, v["moment_end_frame"] / 30, v["answer"]
    yield f"{v['video_id']}.mp4", None, [span], ask

def didemo(v):                                  # inclusive 5-second chunks, by several annotators
    (first, last), _ = Counter(map(tuple, v["times"])).most_common(1)[0]
    end = min(5 * v["num_segments"], 30)
    yield v["video"], end, [(5 * first, min(5 * last + 5, end), v["description"])], grounding

def coin(name, v):                              # the class is the goal, in CamelCase
    goal = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", v["class"])
    which = partial(dated, question=f'Which step of "{goal}" is being done?')
    spans = [(*a["segment"], a["label"]) for a in v["annotation"]]
    yield f"{name}.mp4", v["duration"], spans, steps, grounding, which

def llava_video(v):                             # no times at all
    for asked, told in talk(turn["value"] for turn in v["conversations"]):
        yield v["video"], None, [(None, None, told)], partial(qa, question=asked)

def koala(v):                                   # a row is a clip; its times are the whole film's
    start, end = map(parse_time, re.findall(r"[\d:.]+", v["timestamp"]))
    yield f"{v['videoID']}.mp4", end - start, [(0, end - start, v["caption"])], caption

def et_instruct(v):                             # src and tgt are flat: start, end, start, end, ...
    src, tgt = v.get("src", []), v.get("tgt", [])
    left = {"human": [*src], "gpt": [*tgt]}     # in vid files each <vid> is the next of them
    texts = [re.sub("<vid>", lambda _: str(left[turn["from"]].pop(0)), turn["value"])
             for turn in v["conversations"]]
    for asked, told in talk(texts):
        part = re.split(r"(\d+(?:\.\d+)?) *- *(\d+(?:\.\d+)?) *s(?:ec\w*)?\b[,:. ]*", told)
        spans = list(zip(part[1::3], part[2::3], map(str.strip, part[3::3])))
        if not tgt or len(tgt) % 2 or v["task"] == "gvq":       # words, at a time or of one
            times = [tgt[0], tgt[0] + 1] if len(tgt) == 1 else tgt or src or [None]
            spans, task = [(times[0], times[-1], told)], partial(qa, question=asked)
        elif spans and all(text for *_, text in spans):         # "36 - 44 seconds, wash it. ..."
            task = steps if v["task"] == "slc" else caption     # slc: steps, located and told
        else:                                                   # spans alone, of what was asked
            spans = [(start, end, asked) for start, end in zip(tgt[::2], tgt[1::2])]
            task = partial(grounding, question=asked)
        yield v["video"], v["duration"], spans, task

def talk(texts):
    """The (question, answer) pairs of a LLaVA conversation, without its mark of the video."""
    texts = [text.replace("<image>\n", "") for text in texts]
    return zip(texts[::2], texts[1::2], strict=True)


SOURCES = {"activitynet": activitynet, "qvhighlights": qvhighlights, "youcook2": youcook2,
           "hacs": hacs, "egotimeqa": egotimeqa, "didemo": didemo, "coin": coin,
           "llava-video": llava_video, "koala": koala, "et-instruct": et_instruct}
ASK = {**toy.ASK, "Action Caption": (
    "List each step when it is done.", "Describe every action as it ends.", "Name every step.",
    "What is being done here, step by step?", "Follow the work and report each finished step.")}


# A task maker: (spans, duration, rng) -> (task, second of the question, question, responses).

def response(text, start="", end="", time=""):
    return {"content": text, "st_time": start, "end_time": end, "time": str(time)}

def caption(spans, duration, rng, task="Event Caption"):
    """All spans, each told when it ends; many short ones (3 s or less) are a narration."""
    responses = [response(text, start, end) for start, end, text in spans]
    if len(spans) > 4 and sorted(end - start for start, end, _ in spans)[len(spans) // 2] <= 3:
        task = "Real-time Narration"
        responses = [response(text, time=int(max(end, 1))) for _, end, text in spans]
    return task, 0, rng.choice(ASK[task]), responses

steps = partial(caption, task="Action Caption")

def grounding(spans, duration, rng, question=None):
    """One event, with all of its spans: asked before the first, or after the last."""
    event = rng.choice(spans)[2]
    spans = sorted((start, end) for start, end, text in spans if text == event)
    told = [f"from {int(start)}s to {int(end)}s" for start, end in spans]
    over = int(max(end for _, end in spans)) + 2
    if duration and over <= duration and rng.random() < 0.5:
        task, asked = "Backward Grounding", rng.randint(over, int(duration))
        responses = [response(f"The event took place {' and '.join(told)}.", time=asked)]
    else:
        task, asked = "Event Grounding", rng.randint(0, int(spans[0][0]))
        responses = [response(f"The event took place {text}.", *span)
                     for text, span in zip(told, spans)]
    return task, asked, question or rng.choice(ASK[task]).format(event), responses

def dated(spans, duration, rng, question):
    """One question, whose answer changes as each span begins."""
    responses = [response(text, time=int(start) + 1) for start, _, text in spans]
    return "Time-sensitive QA", 0, rng.choice(ASK["Time-sensitive QA"]).format(question), responses

def qa(spans, duration, rng, question):
    """Asked as the span begins; without times early in the video, as the release does it."""
    [(start, end, text)] = spans
    if start is None:
        start = rng.randint(2, 6)
        end = start + 1
    return "Offline QA", int(start), question.strip(), [response(text, start, end)]


def clean(spans, duration, counts):
    """The spans in float seconds, in order, inside the video; texts on one line. Empty ones go."""
    for start, end, text in spans:
        start, end, text = parse_time(start), parse_time(end), " ".join(text.split())
        if start is not None:
            counts["spans swapped"] += end < start
            counts["spans clamped to the video"] += bool(duration and max(start, end) > duration)
            start, end = sorted(min(time, duration or time) for time in (start, end))
        if text and (start is None or start < end):
            yield start, end, text
        else:
            counts["spans left out: no length or no text"] += 1


def raw_records(source, item, counts):
    """The raw records of one item of a source's file; always the same for the same item."""
    item = item if isinstance(item, tuple) else (item,)         # of a JSON object, or of a list
    for video, duration, spans, *tasks in SOURCES[source](*item):
        duration = parse_time(duration)
        spans = list(clean(spans, duration, counts))
        rng = random.Random(f"{source}/{video}/{spans}")
        for make in tasks if spans else ():
            task, asked, question, responses = make(spans, duration, rng)
            yield {"video_name": Path(video).name, "video_path": video, "task_type": task,
                   "source": source, "duration": duration,
                   "question": [{"content": question, "time": str(asked)}], "response": responses}


@lru_cache(maxsize=1000)                        # the records of a video usually follow one another
def count_seconds(video, rate=None):
    return sum(1 for _ in frames(video, 1, rate))


def convert(source, files, videos, counts):
    """Yield the records made of the items of a source's files ("stream": stream records of raw
    ones, whose videos must be there). An item that cannot be used is reported and counted."""
    for file in files:
        for n, item in enumerate(read_records(file)):
            try:
                if source == "stream":
                    seconds = count_seconds(video_path(item, videos), parse_time(item.get("fps")))
                    made = [stream_record(item, turns_from_record(item, seconds, counts))]
                else:
                    made = list(raw_records(source, item, counts))
                json.dumps(made, ensure_ascii=False).encode()       # half an emoji is no text
            except (OSError, *MISSHAPEN) as error:
                counts["items refused"] += 1
                print(f"{file}: item {n} refused: {type(error).__name__} {error}", file=sys.stderr)
                continue
            counts["items with nothing to learn from"] += not made
            counts["records written"] += len(made)
            yield from made


def write(records, out):
    """Write records to `out`, a JSON list (.json) or one a line (.jsonl), whole or not at all."""
    before, between, after = ("[\n", ",\n", "\n]\n") if out.endswith(".json") else ("", "\n", "\n")
    with open(f"{out}.tmp", "w", encoding="utf-8") as sink:
        sink.write(before)
        for n, record in enumerate(records):
            sink.write((between if n else "") + json.dumps(record, ensure_ascii=False))
        sink.write(after)
    os.replace(f"{out}.tmp", out)


# ---------------------------------------------------------------------------------- check and show

GRAIN = {"Real-time Narration": "second", "Action Caption": "step", "Event Caption": "event",
         "Event Grounding": "event", "Backward Grounding": "event"}


def check(file, videos=None):
    """Print what is wrong with each record of a file, then what the file holds. Returns 2 when a
    record cannot be used, 1 when some are to be mended (turns_from_record does it), else 0."""
    broken, mended, holds = Counter(), Counter(), Counter()
    for n, record in enumerate(read_records(file)):
        wrong, counts = faults(record), Counter()
        try:
            if not wrong:
                seconds = stated_seconds(record) if not videos else count_seconds(
                    video_path(record, videos), parse_time(record.get("fps")))
                task, edges = record["task_type"], (30, 60, 120, 240, math.inf)
                holds.update([f"state {turn.state}"
                              for turn in turns_from_record(record, seconds, counts)])
                holds.update([f"task {task}", f"granularity {GRAIN.get(task, 'question')}",
                              f"source {record['source']}",
                              f"duration up to {min(e for e in edges if seconds <= e)} s"])
        except (OSError, ValueError) as error:
            wrong = [str(error)]
        for what in [*wrong, *(f"{what} (mended)" for what in +counts)]:
            print(f"{file}: record {n}: {what}")
        broken.update(re.sub(r"'[^']*'|\S*/\S*|[\d.]+", "*", what) for what in wrong)
        mended += counts
    for title, found in (("broken", broken), ("mended", mended), ("holds", holds)):
        for what, count in found.most_common():
            print(f"{title:8}{count:9}  {what}")
    states = [holds[f"state {state}"] for state in STATES]
    ratio = " : ".join(f"{n / max(states[2], 1):.1f}" for n in states)
    print(f"Silence : Standby : Response = {ratio}")
    return 2 if broken else 1 if mended else 0


def paint(tokenizer, item, colour):
    """The tokens of an item as text. What is only read is grey, each token ending in a dot; what is
    learnt is coloured by kind (the three states; text) on a shade that grows with its loss weight,
    the alpha of a state (paper, equation 4), which is printed. In plain text the learnt is [so]."""
    hues = dict(zip(tokenizer.state_ids, (34, 33, 31)))
    counts = Counter(label for label in item["labels"] if label in hues)
    out = []
    for (token, label), run in groupby(zip(item["input_ids"], item["labels"])):
        text, times = tokenizer.decode([token]), len(list(run))
        if token == tokenizer.frame_id:
            text, times = f"{text}x{times}", 1
        if label == -100:
            plain = text = text if text.endswith("\n") else f"{text}·"
            shade = "90"
        else:
            weight = counts.total() / (3 * counts[label]) if label in hues else 1.0
            text = f"{text} {weight:.2f}" if label in hues else text
            shade = f"{hues.get(label, 32)};48;5;{232 + min(int(weight * 3), 12)}"
            plain = f"[{text}]"
        out += [f"\033[{shade}m{text}\033[0m" if colour else plain] * times
    return "".join(out)


def strip(item, state_ids, path, columns=10, side=96):
    """Write a PNG of the frames of an item (one a second), each over the colour of its state."""
    states = [label for label in item["labels"] if label in state_ids]
    rows = math.ceil(len(states) / columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + 20)), "white")
    for k, (frame, label) in enumerate(zip(item["frames"], states, strict=True)):
        x, y = k % columns * (side + 8), k // columns * (side + 20)
        sheet.paste(("#6baed6", "#fec44f", "#de2d26")[state_ids.index(label)],
                    (x, y, x + side + 8, y + side + 20))
        sheet.paste(Image.fromarray(item["pixels"][frame]).resize((side, side)), (x + 4, y + 4))
        ImageDraw.Draw(sheet).text((x + 6, y + side + 5), f"{k}s", fill="black")
    sheet.save(path)


def show(args):
    tokenizer = Tokenizer.from_pretrained(args.model)
    config = StreamoConfig.from_dict(read_json(Path(args.model) / "config.json"))
    if args.file:
        data = RawDataset(tokenizer, config, [args.file], args.videos)
        if not 0 <= args.index < len(data):
            raise ValueError(f"--index {args.index}: {args.file} has records 0 to {len(data) - 1}")
        item = data.item(*data.files[0][args.index], random.Random(0))
    else:
        item = ToyDataset(tokenizer, config, seed=0, augment=PLAIN)[args.index]
    print(paint(tokenizer, item, sys.stdout.isatty()))
    print(f"{item['name']}: {item['length']} tokens, {len(item['grids'])} frames, "
          f"{len(item['pixels'])} distinct; counts: {dict(+item['counts'])}")
    if args.strip:
        strip(item, tokenizer.state_ids, args.strip)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("show").add_argument
    add("file", nargs="?", help="raw or stream records; none: the toy world")
    add("--index", type=int, default=0)
    add("--videos", default=".", help="the folder that the records' paths start from")
    add("--model", default="assets/tiny", help="a folder with tokenizer.json and config.json")
    add("--strip", metavar="PNG", help="write the frames here")
    add = commands.add_parser("check").add_argument
    add("file")
    add("--videos", help="without it the videos are not looked at")
    add = commands.add_parser("convert").add_argument
    add("source", choices=[*SOURCES, "stream"])
    add("files", nargs="+")
    add("--videos", default=".", help="for stream: the folder that the records' paths start from")
    add("--out", required=True, help=".jsonl, or .json for a list")
    args = parser.parse_args(argv)
    if args.command == "show":
        return show(args)
    if args.command == "check":
        return check(args.file, args.videos)
    counts = Counter()
    write(convert(args.source, args.files, args.videos, counts), args.out)
    Path(f"{args.out}.counts.json").write_text(json.dumps(+counts, indent=1))
    for what, count in counts.most_common():
        print(f"{count:9}  {what}")
    return 0 if counts["records written"] else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(f"data.py: {error}", file=sys.stderr)
        sys.exit(2)
