"""From videos and annotations to training turns: the frame reader, records, the one renderer, the datasets.

    python data.py show                                  one toy sample, token by token
"""

import json
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

import toy
from streamo import RESPONSE, SILENCE, STANDBY

SYSTEM = ("You watch a video, one second at a time. Each second say </Silence>, </Standby> while something "
          "you were asked about is going on, or </Response> and the answer as soon as it is known.")
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


# ---------------------------------------------------------------- frames

def frames(source, fps=1, rate=None):
    """Yield (seconds, image uint8 (H, W, 3) RGB) at k/fps for k = 0, 1, ... from a video file, GIF or folder.

    Frame k is the first that appears in [k/fps, (k+1)/fps); when none does, the one still on screen.
    rate: images per second of a folder of images, sorted by the numbers in their names (None: fps).
    Raises FileNotFoundError, or ValueError that names the file: no picture in it, truncated, not a video.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    timed = _folder(path, rate or fps) if path.is_dir() else _video(path)
    k, shown, tiny = 0, None, 1e-3        # tiny: containers round presentation times to a millisecond
    for start, end, frame in timed:
        while shown and start >= (k + 1) / fps - tiny:
            yield k / fps, _rgb(shown)
            k += 1
        if start >= k / fps - tiny:
            yield k / fps, _rgb(frame)
            k += 1
        shown = frame
    while shown and (k + 1) / fps <= end + tiny:
        yield k / fps, _rgb(shown)
        k += 1
    if not shown:
        raise ValueError(f"{source}: no picture in it")


def _folder(path, rate):
    names = [p for p in path.iterdir() if p.suffix.lower() in IMAGES]
    names.sort(key=lambda p: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", p.name)])
    for i, name in enumerate(names):
        yield i / rate, (i + 1) / rate, name


def _video(path):
    """Yield (start, end, av.VideoFrame) in seconds from the first frame, in order of presentation."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            step = float(1 / (stream.average_rate or 25))
            first = end = None
            for i, frame in enumerate(container.decode(stream)):
                time = i * step if frame.time is None else frame.time
                first = time if first is None else first
                length = float(frame.duration * frame.time_base) if frame.duration else step
                end = time - first + length
                yield time - first, end, frame
            declared = float((stream.duration or 0) * stream.time_base)
            if end is not None and declared > end + 1:
                raise ValueError(f"{path}: truncated: {end:.1f} s of {declared:.1f} s can be read")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from error


def _rgb(frame):
    if isinstance(frame, Path):
        try:
            with Image.open(frame) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{frame}: not a readable image ({error})") from error
    turns = round(frame.rotation / 90) % 4            # a phone held upright stores its picture lying down
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))


def resized(image, size):
    """uint8 (H, W, 3) -> uint8 (size, size, 3), bicubic, as streamo.preprocess does before it scales to [-1, 1]."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.BICUBIC))


class Compressor:
    """Grid side for each frame of a stream: `coarse` where it hardly differs from the last frame kept at `grid`.

    The difference is that of the most changed 8 x 8 block, mean over its pixels in levels of 0-255: a
    small object that moves counts, noise spread over the picture does not. Used in training and streaming.
    """

    def __init__(self, grid, coarse, threshold=3.0):
        self.grid, self.coarse, self.threshold, self.kept = grid, coarse, threshold, None

    def __call__(self, frame):          # uint8 (S, S, 3), at the model's size
        if self.kept is not None:
            if self.kept is frame:
                return self.coarse
            side = frame.shape[0] // 8
            moved = np.abs(frame.astype(np.int16) - self.kept)[: side * 8, : side * 8]
            if moved.reshape(side, 8, side, 8, 3).mean((1, 3, 4)).max() <= self.threshold:
                return self.coarse
        self.kept = frame
        return self.grid


# ---------------------------------------------------------------- records -> turns

@dataclass
class Turn:
    """One second of a dialogue: what is asked, and the state (with the text of a Response) to be learnt.

    said: (state, text) that stands in the dialogue where it differs from the target (a perturbed history).
    """
    second: int
    state: str = SILENCE
    text: str = ""
    question: str | None = None
    said: tuple[str, str] | None = None
    supervised: bool = True


def read_records(file):
    """Yield the raw records of a JSON list or of a .jsonl file; ValueError names the file and the line."""
    with open(file, encoding="utf-8") as lines:
        if Path(file).suffix == ".jsonl":
            for n, line in enumerate(lines, 1):
                try:
                    if line.strip():
                        yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{file}:{n}: not JSON ({error.msg})") from error
        else:
            try:
                yield from json.load(lines)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}:{error.lineno}: not JSON ({error.msg})") from error


def parse_time(value):
    """Seconds as a float from a number, "5", "5.5", "MM:SS" or "HH:MM:SS[.f]"; None when absent (None or "")."""
    if value is None or value == "":
        return None
    try:
        seconds = 0.0
        for part in str(value).split(":"):
            seconds = seconds * 60 + float(part)
    except ValueError:
        raise ValueError(f"time {value!r} is not a number of seconds or HH:MM:SS") from None
    if not 0 <= seconds < 1e7:                                  # false for NaN too
        raise ValueError(f"time {value!r} is not a number of seconds from 0 on")
    return seconds


def turns_from_record(record, seconds, counts=None):
    """The `seconds` turns of a raw record (formats A1): a list of Turn, second by second.

    A question at t stands in turn t-1; a span st-end is Standby on turns st-1 .. end-1 and Response on turn
    `end`; an instant t is Response on turn t-1 (the released meaning). A Response beats a Standby; what falls
    after the last turn moves to it; two questions (responses) of a turn are joined by a newline (space).
    counts: a Counter of what was moved, joined and clamped. Raises ValueError for a broken field.
    """
    counts = Counter() if counts is None else counts
    if seconds < 1:
        raise ValueError("a video of no seconds has no turns")
    turns = [Turn(second) for second in range(seconds)]

    def at(turn, what):
        counts[f"{what} moved to the last turn"] += turn >= seconds
        return turns[min(max(turn, 0), seconds - 1)]

    for question in record["question"]:
        turn = at(int(parse_time(question.get("time")) or 0) - 1, "question")
        counts["questions joined"] += turn.question is not None
        turn.question = f"{turn.question}\n{question['content']}" if turn.question else question["content"]
    for response in record["response"]:
        start, end, time = (parse_time(response.get(key)) for key in ("st_time", "end_time", "time"))
        if (start is None) != (end is None) or (start is None and time is None):
            raise ValueError("a response needs st_time and end_time, or time")
        if start is not None and end < start:
            raise ValueError(f"a span runs backwards, from {start} to {end}")
        if start is not None:
            for turn in turns[max(int(start) - 1, 0):int(end)]:
                turn.state = turn.state if turn.state == RESPONSE else STANDBY
        turn = at(int(time) - 1 if start is None else int(end), "response")
        counts["responses joined"] += turn.state == RESPONSE
        turn.text = f"{turn.text} {response['content']}" if turn.state == RESPONSE else response["content"]
        turn.state = RESPONSE
    return turns


# ---------------------------------------------------------------- the one renderer

def system_part(tokenizer):
    return tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")


def pinned_part(tokenizer, question):
    """What stays of a question when the turn that it stood in has left the context."""
    return [*tokenizer.encode("<|im_start|>user\n"), *tokenizer.encode(question + "\n", special=False),
            *tokenizer.encode("<|im_end|>\n")]


def user_part(tokenizer, second, tokens_per_frame, question=None):
    """Ids up to and with "assistant\\n", whose last token is where the state is read.

    The question, the time tag and the frames are separate pieces, so that a cache may be cut between them;
    a question is plain text: no token of ours can be written by a user.
    """
    return [*tokenizer.encode("<|im_start|>user\n"),
            *(tokenizer.encode(question + "\n", special=False) if question else ()),
            *tokenizer.encode(f"<{second}s-{second + 1}s>\n", special=False),
            *[tokenizer.frame_id] * sum(tokens_per_frame),
            *tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")]


def assistant_part(tokenizer, state, text=""):
    return [tokenizer.id(state), *(tokenizer.encode(" " + text, special=False) if text else ()),
            *tokenizer.encode("<|im_end|>\n")]


def render(tokenizer, turns, grids, pinned=()):
    """(input_ids, labels) of a dialogue: two equal lists; labels are the target AT a position, or -100.

    grids: per turn, the side of each of its frames' grids (a frame takes side * side tokens).
    Learnt are state, text and <|im_end|> of a turn; only the state where the dialogue says something else.
    """
    ids = system_part(tokenizer)
    for question in pinned:
        ids += pinned_part(tokenizer, question)
    labels = [-100] * len(ids)
    for turn, sides in zip(turns, grids, strict=True):
        user = user_part(tokenizer, turn.second, [side * side for side in sides], turn.question)
        answer = assistant_part(tokenizer, *(turn.said or (turn.state, turn.text)))
        ids += user + answer
        labels += [-100] * len(user)
        if not turn.supervised:
            labels += [-100] * len(answer)
        elif turn.said:
            labels += [tokenizer.id(turn.state)] + [-100] * (len(answer) - 1)
        else:
            labels += answer[:-1] + [-100]                      # all but the newline after <|im_end|>
    return ids, labels


# ---------------------------------------------------------------- augmentation

def shift_times(record, offset):
    """The record with every "from 12s to 20s" of its answers moved by `offset` seconds."""
    def moved(match):
        return f"from {int(match[1]) + offset}s to {int(match[2]) + offset}s"
    return {**record, "response": [
        {**r, "content": re.sub(r"\bfrom (\d+)s to (\d+)s\b", moved, r["content"])} for r in record["response"]]}


def perturb(turns, rng, rate):
    """Turns whose history is wrong at `rate`: states swapped, answers dropped, replaced or invented.

    A model trained on perfect histories only copies its own past states when it streams.
    """
    texts = sorted({turn.text for turn in turns if turn.state == RESPONSE})

    def wrong(turn):
        others = [text for text in texts if text != turn.text]
        if others and rng.random() < (0.5 if turn.state == RESPONSE else 0.3):
            return RESPONSE, rng.choice(others)
        return rng.choice([s for s in (SILENCE, STANDBY) if s != turn.state]), ""

    return [replace(turn, said=wrong(turn)) if rng.random() < rate else turn for turn in turns]


def cut(turns, rng):
    """Number of turns to drop from the head: up to a second of silence after a second of silence, or 0."""
    quiet = [k for k in range(2, len(turns) - 1) if turns[k].state == turns[k - 1].state == SILENCE]
    return rng.choice(quiet) if quiet else 0


# ---------------------------------------------------------------- datasets

@dataclass(frozen=True)
class Augment:
    """Probabilities per dialogue; perturb_rate is the range of the rate per turn."""
    perturb: float = 0.5
    perturb_rate: tuple[float, float] = (0.03, 0.06)
    shift: float = 0.5
    compress: float = 0.3
    window: float = 0.15
    double_rate: float = 0.1
    noise: float = 0.1


CUTTABLE = {"Real-time Narration", "Event Caption", "Action Caption", "Event Grounding"}


def make_item(tokenizer, config, record, seconds, frame, fps, name, rng=None, augment=None):
    """One training item (see collate) of a record. frame(j) is frame j of the stream, uint8 (S, S, 3)."""
    rng, augment = rng or random.Random(0), augment or Augment(0, (0, 0), 0, 0, 0, 0, 0)
    perturbed, shifted, compressed, windowed = (
        rng.random() < p for p in (augment.perturb, augment.shift, augment.compress, augment.window))
    offset = rng.randrange(900 if rng.random() < 0.9 else 100_000) if shifted else 0
    turns = turns_from_record(shift_times(record, offset), seconds)
    for turn in turns:
        turn.second += offset
    start = cut(turns, rng) if windowed and record.get("task_type") in CUTTABLE else 0
    pinned = [turn.question for turn in turns[:start] if turn.question]
    turns = turns[start:]
    if perturbed:
        turns = perturb(turns, rng, rng.uniform(*augment.perturb_rate))
    side = Compressor(config.grid, config.coarse_grid) if compressed else lambda _: config.grid
    pixels, index, grids = [], [], []
    for j in range(start * fps, seconds * fps):
        image = frame(j)
        if not pixels or not np.array_equal(image, pixels[-1]):
            pixels.append(image)                                # a still scene is encoded once
        index.append(len(pixels) - 1)
        grids.append(side(pixels[-1]))
    ids, labels = render(tokenizer, turns, [grids[k * fps:(k + 1) * fps] for k in range(len(turns))], pinned)
    return {"input_ids": ids, "labels": labels, "pixels": np.stack(pixels), "frames": index,
            "grids": grids, "name": name, "length": len(ids)}


class ToyDataset(Dataset):
    """Item i is toy.sample(seed, i), drawn on the fly at the model's size, and augmented: always the same for i."""

    def __init__(self, tokenizer, config, seed, length=10**9, fps=1, augment=Augment()):
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.length, self.fps, self.augment = length, fps, augment

    def __len__(self):
        return self.length

    def __getitem__(self, key):                     # a number, or ("short", number): see toy.sample
        kind, i = key if isinstance(key, tuple) else ("full", key)
        clip, record = toy.sample(self.seed, i, kind)
        rng = random.Random(f"{self.seed}/{kind}/{i}/augment")
        fps = self.fps * (2 if rng.random() < self.augment.double_rate else 1)
        noise = np.random.default_rng(rng.getrandbits(64))
        level = rng.uniform(0, 4) if rng.random() < self.augment.noise else 0

        def frame(j):                               # noise as a codec leaves it; none when augment is off
            image = clip.frame(j / fps, self.config.vision.image_size)
            return image if not level else np.clip(
                image + noise.normal(0, level, image.shape), 0, 255).astype(np.uint8)

        return make_item(self.tokenizer, self.config, record, clip.seconds, frame, fps,
                         f"toy {self.seed}/{kind}/{i}", rng, self.augment)


def video_path(record, folder):
    """The record's video inside `folder`; ValueError for a path that would leave it."""
    path = Path(record["video_path"])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"video_path {record['video_path']!r} leaves the video folder")
    return Path(folder) / path


class RawDataset(Dataset):
    """Annotation files with a weight each: in an epoch a file of n records is read about weight * n times.

    Item i is the (i mod len)-th of epoch i div len, whose order is shuffled by (seed, epoch).
    """

    def __init__(self, tokenizer, config, files, videos, weights=None, seed=0, fps=1, augment=Augment()):
        self.tokenizer, self.config, self.videos = tokenizer, config, videos
        self.seed, self.fps, self.augment = seed, fps, augment
        self.files = [(str(file), list(read_records(file))) for file in files]
        self.takes = [round(w * len(r)) for w, (_, r) in zip(weights or [1] * len(files), self.files, strict=True)]
        self.epoch = self.order = None

    def __len__(self):
        return sum(self.takes)

    def __getitem__(self, i):
        epoch, i = divmod(i, len(self))
        if epoch != self.epoch:
            rng, self.order = random.Random(f"{self.seed}/{epoch}"), []
            for file, take in enumerate(self.takes):
                size = len(self.files[file][1])
                whole = list(range(size)) * (take // size) + rng.sample(range(size), take % size)
                self.order += [(file, n) for n in whole]
            rng.shuffle(self.order)
            self.epoch = epoch
        file, n = self.order[i]
        name, records = self.files[file]
        size = self.config.vision.image_size
        try:
            images = [resized(image, size) for _, image in frames(video_path(records[n], self.videos), self.fps)]
            return make_item(self.tokenizer, self.config, records[n], len(images) // self.fps, images.__getitem__,
                             self.fps, f"{name}:{n}", random.Random(f"{self.seed}/{epoch}/{i}/augment"), self.augment)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{name}: record {n}: {error}; see: python data.py check {name}") from error


def collate(samples, pad_id):
    """Right-padded batch: input_ids, labels (B, T); pixels (U, 3, H, W) in [-1, 1] of the distinct frames;
    frames (F,), the distinct frame of each frame of the batch; grids (F,), its grid side; names."""
    width = max(len(s["input_ids"]) for s in samples)
    batch = {key: torch.tensor([s[key] + [pad] * (width - len(s[key])) for s in samples])
             for key, pad in (("input_ids", pad_id), ("labels", -100))}
    pixels = torch.from_numpy(np.concatenate([s["pixels"] for s in samples]))
    batch["pixels"] = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    starts = np.cumsum([0] + [len(s["pixels"]) for s in samples])
    batch["frames"] = torch.tensor([start + f for s, start in zip(samples, starts) for f in s["frames"]])
    batch["grids"] = torch.tensor([g for s in samples for g in s["grids"]])
    batch["names"] = [s["name"] for s in samples]
    return batch
