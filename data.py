"""Instruction data: videos and annotations in, training turns out.

Seconds everywhere. Two public formats, Streamo-Instruct's: raw records (question / response with
times) and stream records (messages, one second each); both become the same list of Turn.
`python records.py` checks, shows and converts annotation files.
"""
import math
import os
import random
import re
from collections import Counter, deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from parts.files import MISSHAPEN, read_records
from parts.video import frames, resized
from streamo import RESPONSE, SILENCE, STANDBY, STATES, normalised

SYSTEM = "Each second, say </Silence>, </Standby> or </Response> and the answer."


# ---- Records -> turns -----------------------------------------------------------------------

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


# ---- Turns -> tokens: the one renderer ------------------------------------------------------

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


# ---- Augmentation ---------------------------------------------------------------------------

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


# ---- Datasets and batches -------------------------------------------------------------------

ADVICE = "; see all faults: python records.py check "


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


def model_inputs(batch, device):
    """What a model reads of a batch of data.collate, as the arguments of its forward."""
    inputs = {key: batch[key].to(device, non_blocking=True)
              for key in ("input_ids", "pixels", "frames", "grids")}
    return {**inputs, "pixels": normalised(inputs["pixels"])}

POOL = 8                                       # steps whose samples are sorted by length together


class Steps:
    """What every step reads, a function of the options, the ranks and the step. A step is so many
    micro-batches for each rank; a micro-batch is a list of the dataset's keys of like length."""

    def __init__(self, o, dataset, rank, world, curriculum):
        self.o, self.dataset, self.rank, self.world = o, dataset, rank, world
        self.curriculum = curriculum
        self.sizes = deque()                                   # micro-batches of the steps to come

    def cut(self, keys, tokens):
        """Groups of (length, key), shortest first, each within so many tokens when padded."""
        groups = [[]]
        for length, key in sorted(keys):
            if groups[-1] and (len(groups[-1]) + 1) * length > tokens:
                groups.append([])
            groups[-1].append(key)
        return groups

    def epoch_step(self, step):
        """--batch samples in the data's order; as many micro-batches for one rank as another."""
        first, o = step * self.o.batch, self.o
        groups = self.cut([(self.dataset.estimate(i), i) for i in range(first, first + o.batch)],
                          o.micro_tokens)
        while len(groups) % self.world:
            large = max(groups, key=len)              # --batch is a multiple of world: it ends
            groups.remove(large)
            groups += [large[::2], large[1::2]]
        return groups

    def toy_pool(self, pool):
        """POOL steps of one micro-batch for each rank, drawn by the curriculum."""
        o, rng, keys, total = self.o, random.Random(f"{self.o.seed}/pool/{pool}"), [], 0
        tokens, kinds = next(rest for end, *rest in self.curriculum if pool * POOL / o.steps < end)
        while total < (POOL * self.world + 1.5) * tokens:
            key = rng.choices(list(kinds), list(kinds.values()))[0], rng.randrange(10**9)
            if self.dataset.wanted(key, o.tasks):
                keys.append((self.dataset.estimate(key), key))
                total += min(keys[-1][0], tokens)       # a longer one is a group of its own
        groups = self.cut(keys, tokens)
        rng.shuffle(groups)
        return [groups[k * self.world:][:self.world] for k in range(POOL)]

    def batches(self, first):
        """The micro-batches of this rank from step `first` on."""
        for step in range(first, self.o.steps):
            if self.o.batch:
                groups = self.epoch_step(step)
            else:
                if step == first or step % POOL == 0:
                    pool = self.toy_pool(step // POOL)
                groups = pool[step % POOL]
            mine = groups[self.rank::self.world]
            self.sizes.append(len(mine))
            yield from mine


class Loader(torch.utils.data.Dataset):
    """The dataset as the workers see it: a sample that cannot be read is named, and either stops
    the run or, with --skip-bad, is written to a list and the next one stands in for it."""

    def __init__(self, dataset, o, tokenizer):
        self.dataset, self.o = dataset, o
        self.silence, self.standby, _ = tokenizer.state_ids

    def __getitem__(self, key):
        *kind, first = key if isinstance(key, tuple) else (key,)    # ("short", 5), or 5
        for number in range(first, first + 100):
            try:
                item = self.dataset[(*kind, number) if kind else number]
                if item["length"] > self.o.max_tokens:
                    raise ValueError(f"{item['name']}: {item['length']} tokens, more than "
                                     f"--max-tokens {self.o.max_tokens}")
                if self.o.states == 2:
                    for ids in (item["input_ids"], item["labels"]):
                        ids[:] = [self.silence if i == self.standby else i for i in ids]
                return item
            except (ValueError, OSError) as error:
                if not self.o.skip_bad:
                    raise
                with open(Path(self.o.out) / "bad.txt", "a", encoding="utf-8") as file:
                    file.write(f"{error}\n")
        raise ValueError("--skip-bad: 100 samples on end are unreadable, the last is number "
                         f"{number}")


def loaded(o, dataset, tokenizer, batches):
    """The micro-batches of these lists of keys, decoded ahead by --workers processes."""
    return DataLoader(Loader(dataset, o, tokenizer), batch_sampler=batches, num_workers=o.workers,
                      collate_fn=partial(collate, pad_id=tokenizer.pad_id),
                      worker_init_fn=own_group, prefetch_factor=4 if o.workers else None,
                      pin_memory=torch.cuda.is_available())


def own_group(_):
    """For a loader's process: signals to the run's group of processes are not meant for it."""
    os.setpgrp()
