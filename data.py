"""Instruction data: videos and annotations in, training turns out.

A record (what is asked and answered, and when) becomes a list of Turn, one a second; the turns
become tokens and labels; augmentation makes a training item of them, and items make a batch.
Times are seconds everywhere. Both formats of Streamo-Instruct are read by parts/annotations.py.
"""
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from parts import moments
from parts.annotations import (DAY, faults, parse_rate, read_annotations, read_record,
                               stated_seconds, task_of, video_path, written_as_stream)
from parts.compressor import Compressor
from parts.files import check
from parts.video import frames, resized
from parts.workers import loader_process
from streamo import RESPONSE, SILENCE, STANDBY, normalised

SYSTEM = "Each second, say </Silence>, </Standby> or </Response> and the answer."
stream_record = partial(written_as_stream, system=SYSTEM)       # turns -> the public stream format


# ---- Records -> turns -----------------------------------------------------------------------

@dataclass
class Turn:
    """One second of a dialogue, and what the model is to say in it."""
    second: int                                 # since the stream began; 4 has the time tag <4s-5s>
    state: str = SILENCE                        # the state to learn
    text: str = ""                              # what a Response says
    question: str | None = None                 # what is asked in this second
    said: tuple[str, str] | None = None         # (state, text) that stands there instead, if wrong


# A record counts its seconds from 1: "second 8" is the turn 7, whose time tag is <7s-8s>. What is
# dated so stands in that turn; the Response to a span stands in the first turn after the span.
#
#     turn            0   1   2   3   4   5   6   7   8
#     question "1"    Q
#     span 3 to 7             s   s   s   s   s   R           s: Standby, R: Response
#     instant 8                                   R

def turn_of(time):
    """The turn of a stated second: 8 and 8.9 are turn 7; 0, and None (nothing stated), turn 0."""
    return max(int(time or 0) - 1, 0)


def placed(said):
    """The turn of everything that a record says (said: see read_record), also past the video's end:
    (questions, responses, waits). The first two are lists of (turn, text); waits has, for each
    event that is awaited, the turns of its Standby: 2 to 6 for the span 3 to 7."""
    questions = [(turn_of(entry.time), entry.text) for entry in said.questions]
    responses, waits = [], []
    for entry in said.responses:
        if entry.start is None:
            responses.append((turn_of(entry.time), entry.text))
        else:
            waits.append(range(turn_of(entry.start), int(entry.end)))
            responses.append((int(entry.end), entry.text))
    for n, (question, state, text) in enumerate(said.turns):    # a stream record has its turns
        if question:
            questions.append((n, question))
        if state == STANDBY:
            waits.append([n])
        if state == RESPONSE:
            responses.append((n, text))
    return questions, responses, waits


def joined(texts):
    """The answers of one turn as sentences, an equal one once."""
    whole, *others = dict.fromkeys(texts)           # in order, without repetition
    for text in others:
        whole += (" " if whole[-1] in ".!?。！？…" else ". ") + text
    return whole


def turns_from_record(record, seconds, counts=None):
    """The turns of a raw or stream record on a video of `seconds` seconds: a list of Turn.

    A Response beats a Standby; what falls after the last turn moves to it; two questions of a turn
    are joined by a newline, two responses as sentences, in the order of the record. counts: a
    Counter of all that, by the words below, and of said.mended. ValueError: a broken field."""
    counts = Counter() if counts is None else counts
    said = read_record(record)
    if said.wrong or seconds < 1:
        raise ValueError(said.wrong[0] if said.wrong else "the video has no whole second")
    counts.update(said.mended)
    questions, responses, waits = placed(said)
    turns = [Turn(n) for n in range(seconds)]
    for n in chain(*waits):
        if n < seconds:                             # an event may go on when the video has ended
            turns[n].state = STANDBY
    for n, text in questions:
        turn = turns[min(n, seconds - 1)]           # none is lost: the last turn takes it
        counts["question after the end moved to the last turn"] += n >= seconds
        counts["questions joined"] += turn.question is not None
        turn.question = text if turn.question is None else f"{turn.question}\n{text}"
    told = {}                                       # {turn: its answers}
    for n, text in responses:
        turn = turns[min(n, seconds - 1)]
        counts["response after the end moved to the last turn"] += n >= seconds
        # where it was due: one that is moved may come to lie in its own Standby
        counts["response in the Standby of another event"] += n < seconds and turn.state == STANDBY
        counts["responses joined"] += turn.state == RESPONSE
        turn.state = RESPONSE
        told.setdefault(turn.second, []).append(text)
    for n, texts in told.items():
        turns[n].text = joined(texts)
    return turns


# ---- Turns -> tokens: the one renderer ------------------------------------------------------

def system_part(tokenizer):
    return tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n")


def pinned_part(tokenizer, question):
    """What stays of a question when the turn that it stood in has left the context."""
    asked = tokenizer.encode(question + "\n", special=False)
    return tokenizer.encode("<|im_start|>user\n") + asked + tokenizer.encode("<|im_end|>\n")


def user_part(tokenizer, second, tokens_per_frame, question=None):
    """Ids up to and with "assistant\\n", at whose last token the state is read.

    Question, time tag and frames are separate pieces, so that a cache can be cut between them. A
    question is plain text: no user can write a token of ours."""
    ids = tokenizer.encode("<|im_start|>user\n")
    if question:
        ids += tokenizer.encode(question + "\n", special=False)
    ids += tokenizer.encode(f"<{second}s-{second + 1}s>\n", special=False)
    ids += [tokenizer.frame_id] * sum(tokens_per_frame)     # the connector's output goes here
    return ids + tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")


def assistant_part(tokenizer, state, text=""):
    """Ids of the state, of a Response's text, and of the turn's end with its newline."""
    words = tokenizer.encode(" " + text, special=False) if text else []
    return [tokenizer.id(state)] + words + tokenizer.encode("<|im_end|>\n")


def silent_second(tokenizer, config, fps):
    """How many tokens a second takes in which nothing is asked or answered."""
    user = user_part(tokenizer, 999, [config.tokens(config.grid)] * fps)    # of three digits
    return len(user + assistant_part(tokenizer, SILENCE))


def render(tokenizer, turns, tokens_per_frame, pinned=()):
    """(input_ids, labels), two lists of one length; a label is the token AT its position, or -100.

    tokens_per_frame: of each turn, the visual tokens of each of its frames. Learnt are state, text
    and <|im_end|> of a turn; where the history is wrong, the state only."""
    ids = system_part(tokenizer)
    for question in pinned:
        ids += pinned_part(tokenizer, question)
    labels = [-100] * len(ids)                              # what is only read
    for turn, tokens in zip(turns, tokens_per_frame, strict=True):
        user = user_part(tokenizer, turn.second, tokens, turn.question)
        if turn.said is None:
            answer = assistant_part(tokenizer, turn.state, turn.text)
            learnt = answer[:-1]                            # all but the newline at its end
        else:
            # the wrong answer is read, and at its first token the right state is learnt
            answer = assistant_part(tokenizer, *turn.said)
            learnt = [tokenizer.id(turn.state)]
        ids += user + answer
        labels += [-100] * len(user) + learnt + [-100] * (len(answer) - len(learnt))
    return ids, labels


# ---- Augmentation ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Augment:
    """Probabilities per dialogue; perturb_rate is the range of the rate per turn."""
    perturb: float = 0.5                # the history that is read has errors
    perturb_rate: tuple[float, float] = (0.03, 0.06)
    shift: float = 0.5                  # the stream began earlier
    compress: float = 0.3               # frames like the last one kept take fewer tokens
    window: float = 0.15                # the head of the dialogue has left the context
    double_rate: float = 0.1            # of toy clips alone: two frames a second
    noise: float = 0.1                  # of toy clips alone: as a codec leaves it

PLAIN = Augment(0, (0, 0), 0, 0, 0, 0, 0)
# a shift is drawn below one of these: mostly a minute, seldom what a stream of a day comes to
OFFSETS = 60, 60, 60, 60, 200, 200, 900, 4000, 100_000
LASTS = 0.75                            # the chance that a wrong state is said again
# tasks whose answers do not look back further than their event
CUTTABLE = {"Real-time Narration", "Event Caption", "Action Caption", "Event Grounding"}


def shift(turns, offset):
    """The stream began `offset` seconds earlier: so do its seconds, and those that answers name."""
    return [replace(turn, second=turn.second + offset, text=moments.shifted(turn.text, offset))
            for turn in turns]


def perturb(turns, rng, rate):
    """Turns whose history is wrong: at `rate` an error begins, a state swapped, an answer dropped,
    replaced or invented. A wrong Silence or Standby is said again while the same state is right, 4
    seconds in the mean: trained on perfect histories, a stream copies its own past to the end."""
    texts = sorted({turn.text for turn in turns if turn.state == RESPONSE})
    found, said = [], None

    def wrong(turn):
        others = [text for text in texts if text != turn.text]
        if others and rng.random() < (0.5 if turn.state == RESPONSE else 0.3):
            return RESPONSE, rng.choice(others)             # another answer, or one too many
        return rng.choice([s for s in (SILENCE, STANDBY) if s != turn.state]), ""

    for turn in turns:
        lasting = said and said[0] != RESPONSE and turn.state == found[-1].state
        if not (lasting and rng.random() < LASTS):
            said = wrong(turn) if rng.random() < rate else None
        found.append(replace(turn, said=said))
    return found


def window(turns, task, rng, wanted, beyond):
    """Which turns an item keeps, as (start, stop). `beyond` turns must go: from the head where the
    task allows it, the rest from the end. wanted: cut the head even where nothing must go."""
    start = 0
    if task in CUTTABLE and (wanted or beyond):
        last = min(beyond or len(turns), len(turns) - 2)
        # between two silent turns, so that no event is cut in two
        cuts = [k for k in range(2, last + 1) if turns[k].state == turns[k - 1].state == SILENCE]
        start = rng.choice(cuts) if cuts else 0
    # what need not go stays: a window of full length, or all that follows the head
    return start, (len(turns) - beyond + start if beyond else len(turns))


@dataclass
class Example:
    """A dialogue with its video, before augmentation."""
    name: str
    task: str
    turns: list[Turn]
    frame: Callable[[int], np.ndarray]      # number j -> uint8 (S, S, 3), at the model's size
    n_frames: int
    fps: int


def gather(example, start, stop, side):
    """The frames of the turns from start to stop: (the distinct ones, which of these each frame is,
    its grid side). side: a Compressor, or what gives another side of a frame."""
    fps, pixels, index, grids = example.fps, [], [], []
    for j in range(start * fps, min(stop * fps, example.n_frames)):
        image = example.frame(j)
        if not pixels or not np.array_equal(image, pixels[-1]):
            pixels.append(image)                            # a still scene is encoded once
        index.append(len(pixels) - 1)
        grids.append(side(image))                           # its tokens are its own all the same
    return np.stack(pixels), index, grids                   # (U, S, S, 3), F and F numbers


def make_item(tokenizer, config, example, rng, augment=PLAIN, longest=math.inf, max_tokens=10**9):
    """One training item, what collate makes a batch of: lists of input_ids and labels, their
    "length"; "pixels" uint8 (U, S, S, 3), the distinct frames; "frames", which of these each frame
    is; "grids", its grid side; "name"; "counts", what was left out.

    longest: seconds that an item may have; max_tokens: where it would have more, it has fewer
    seconds. Questions of a lost head are pinned, as in a stream."""
    dice = rng.getstate()           # all first: whether one augmentation comes is no other's matter
    perturbed = rng.random() < augment.perturb
    shifted = rng.random() < augment.shift
    compressed = rng.random() < augment.compress
    windowed = rng.random() < augment.window
    offset = rng.randrange(rng.choice(OFFSETS)) if shifted else 0
    if any(moments.fixed(turn.question, turn.text) for turn in example.turns):
        offset = 0                              # what names seconds, and is not moved, stays true
    beyond = max(len(example.turns) - longest, 0)
    start, stop = window(example.turns, example.task, rng, windowed, beyond)
    pinned = [turn.question for turn in example.turns[:start] if turn.question]
    turns = shift(example.turns[start:stop], offset)
    if perturbed:
        turns = perturb(turns, rng, rng.uniform(*augment.perturb_rate))
    side = Compressor(config.grid, config.coarse_grid) if compressed else lambda image: config.grid
    pixels, index, grids = gather(example, start, stop, side)
    starts = range(0, len(grids), example.fps)  # fps frames a turn; the last turn may have fewer
    by_turn = [list(map(config.tokens, grids[k:k + example.fps])) for k in starts]
    ids, labels = render(tokenizer, turns, by_turn, pinned)
    if len(ids) > max_tokens and len(turns) > 1:
        rng.setstate(dice)
        return make_item(tokenizer, config, example, rng, augment, len(turns) * 7 // 8, max_tokens)
    return {"input_ids": ids, "labels": labels, "length": len(ids), "pixels": pixels,
            "frames": index, "grids": grids, "name": example.name,
            "counts": Counter({"turns beyond `longest` left out": beyond})}


# ---- Datasets and batches -------------------------------------------------------------------
ADVICE = "; see all faults: python records.py check "


class RawDataset(Dataset):
    """Raw or stream records of several files, each with a weight: how often an epoch reads them.

    Item i is number i mod len of epoch i // len, in an order shuffled by (seed, epoch). ValueError
    for a broken record. max_tokens: as in make_item. there: refuse a video that is not in the
    folder now, not when it is read. A video may be a folder of images at the record's "fps"."""

    def __init__(self, tokenizer, config, files, videos, weights=None, seed=0, fps=1,
                 augment=PLAIN, max_tokens=10**9, there=False):
        self.tokenizer, self.config, self.videos = tokenizer, config, videos
        self.seed, self.fps, self.augment, self.epoch = seed, fps, augment, None
        self.max_tokens, self.silent = max_tokens, silent_second(tokenizer, config, fps)
        self.longest = max(1, int(0.8 * max_tokens) // self.silent)     # seconds; 0.2: words
        self.files = [[(str(file), n, record) for n, record in enumerate(read_annotations(file))]
                      for file in files]                    # (name, number in it, record) of each
        for name, n, record in chain(*self.files):
            wrong = faults(record, videos)
            if there and not wrong and not (video := video_path(record, videos)).exists():
                wrong = [f"{video}: no such file or folder"]
            if wrong:
                raise ValueError(f"{name}: record {n}: {wrong[0]}{ADVICE}{name}")
        weights = [1] * len(files) if weights is None else weights
        # how many records an epoch reads of each file
        self.takes = [round(w * len(rows)) for w, rows in zip(weights, self.files, strict=True)]
        check(sum(self.takes), f"no records in {', '.join(map(str, files))}")

    def __len__(self):
        return sum(self.takes)

    def pick(self, i):
        """(file, number in it, record) of item i."""
        epoch, i = divmod(i, len(self))
        if epoch != self.epoch:                             # a new order, kept for the epoch
            self.epoch, self.order, rng = epoch, [], random.Random(f"{self.seed}/{epoch}")
            for rows, take in zip(self.files, self.takes):
                whole, rest = divmod(take, len(rows) or 1)  # weight 2.5: twice, and half of them
                self.order += rows * whole + rng.sample(rows, rest)
            rng.shuffle(self.order)
        return self.order[i]

    def estimate(self, i):
        """About how many tokens item i has, without reading its video."""
        record = self.pick(i)[2]                            # raw, or a stream record
        texts = sum(len(entry["content"]) for key in ("messages", "question", "response")
                    for entry in record.get(key, ()))
        seconds = min(stated_seconds(record), self.longest)
        return min(self.max_tokens, 60 + texts // 4 + seconds * self.silent)    # 4 letters a token

    def __getitem__(self, i):
        return self.item(*self.pick(i), random.Random(f"{self.seed}/{i}/augment"))

    def item(self, name, n, record, rng):
        """The item of record n of a file; its counts say what was accepted and mended, too."""
        counts = Counter()
        try:
            path, rate = video_path(record, self.videos, counts), parse_rate(record.get("fps"))
            images = self.read(path, rate, counts)
            turns = turns_from_record(record, math.ceil(len(images) / self.fps), counts)
            example = Example(f"{name}:{n}", task_of(record), turns, images.__getitem__,
                              len(images), self.fps)
            item = make_item(self.tokenizer, self.config, example, rng, self.augment, self.longest,
                             self.max_tokens)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: record {n}: {error}{ADVICE}{name}") from error
        counts["no question in the record"] += not any(turn.question for turn in turns)
        item["counts"] += counts
        return item

    def read(self, path, rate, counts=None):
        """The frames of a video at the model's size; one that stays on the screen is kept once."""
        images = []
        for second, image in frames(path, self.fps, rate, counts, trusted=False):
            check(second < DAY, f"{path} is longer than a day ({DAY} s)")
            image = resized(image, self.config.vision.image_size)
            still = bool(images) and np.array_equal(image, images[-1])
            images.append(images[-1] if still else image)
        return images


def collate(samples, pad_id):
    """Right-padded batch: input_ids, labels (B, T); pixels uint8 (U, H, W, 3), the distinct
    frames; frames (F,), which of these each frame of the batch is; grids (F,), its grid side;
    names; counts; shown (N, 10), if the samples have it: see ToyFilms."""
    width, batch = max(len(sample["input_ids"]) for sample in samples), {}
    for key, pad in (("input_ids", pad_id), ("labels", -100)):
        rows = [sample[key] + [pad] * (width - len(sample[key])) for sample in samples]
        batch[key] = torch.tensor(rows)                                         # (B, T)
    first, index = 0, []                # first: of a sample's frames among those of the batch
    for sample in samples:
        index += [first + own for own in sample["frames"]]
        first += len(sample["pixels"])
    pixels = np.concatenate([sample["pixels"] for sample in samples])           # (U, H, W, 3)
    batch["pixels"] = torch.from_numpy(pixels)
    batch["frames"] = torch.tensor(index)                                       # (F,)
    batch["grids"] = torch.tensor([side for s in samples for side in s["grids"]])       # (F,)
    batch["names"] = [sample["name"] for sample in samples]
    batch["counts"] = dict(sum((sample["counts"] for sample in samples), Counter()))
    if "shown" in samples[0]:
        batch["shown"] = torch.from_numpy(np.concatenate([s["shown"] for s in samples]))
    return batch


def model_inputs(batch, device):
    """What a model reads of a batch of collate, as the arguments of its forward."""
    inputs = {key: batch[key].to(device, non_blocking=True)
              for key in ("input_ids", "pixels", "frames", "grids")}
    return {**inputs, "pixels": normalised(inputs["pixels"])}      # (U, 3, H, W) in [-1, 1]


# ---- What each step reads -------------------------------------------------------------------

def packed(samples, tokens):
    """(length, key) pairs as lists of keys, shortest samples first: micro-batches of at most so
    many tokens when padded, but of one sample at least."""
    groups = [[]]
    for length, key in sorted(samples):
        if groups[-1] and (len(groups[-1]) + 1) * length > tokens:
            groups.append([])
        groups[-1].append(key)
    return groups


class EpochSteps:
    """Step by step `batch` samples in the dataset's order, epoch after epoch. steps[n]: the
    micro-batches (lists of keys) of step n, as many for one of the `world` ranks as for another."""

    def __init__(self, dataset, batch, micro_tokens, world):
        self.dataset, self.batch = dataset, batch
        self.micro_tokens, self.world = micro_tokens, world

    def __getitem__(self, step):
        keys = range(step * self.batch, (step + 1) * self.batch)
        groups = packed([(self.dataset.estimate(key), key) for key in keys], self.micro_tokens)
        while len(groups) % self.world:             # it ends: batch is a multiple of world
            large = max(groups, key=len)
            groups.remove(large)
            groups += [large[::2], large[1::2]]     # every other one: halves of like length
        return groups


class Readable(Dataset):
    """A dataset as a run reads it. A sample that cannot be read, or is longer than max_tokens, is
    named in a ValueError, or with bad_list (a file) written there, and the next stands in for it.
    states 2: Standby becomes Silence."""

    def __init__(self, dataset, max_tokens, states=3, bad_list=None):
        self.dataset, self.max_tokens = dataset, max_tokens
        self.states, self.bad_list = states, bad_list

    def read(self, key):
        item = self.dataset[key]
        if item["length"] > self.max_tokens:
            raise ValueError(f"{item['name']}: {item['length']} tokens, more than "
                             f"--max-tokens {self.max_tokens}")
        if self.states == 2:
            silence, standby, _ = self.dataset.tokenizer.state_ids
            head = len(system_part(self.dataset.tokenizer))     # which names the three of them
            for ids in (item["input_ids"], item["labels"]):
                ids[head:] = [silence if i == standby else i for i in ids[head:]]
        return item

    def __getitem__(self, key):
        *kind, first = key if isinstance(key, tuple) else (key,)    # ("short", 5), or 5
        for number in range(first, first + 100):
            try:
                return self.read((*kind, number) if kind else number)
            except (ValueError, OSError) as error:
                if not self.bad_list:
                    raise
                with open(self.bad_list, "a", encoding="utf-8") as file:
                    file.write(f"{error}\n")
        raise ValueError("--skip-bad: 100 samples on end cannot be read, see their faults in "
                         f"{self.bad_list}")


def loaded(dataset, tokenizer, steps, numbers, workers, rank=0, world=1):
    """For each step of `numbers`, in turn, the list of this rank's micro-batches, decoded ahead by
    so many processes. steps[n]: as EpochSteps."""
    sizes = deque()                 # of the steps to come: the loader is ahead of who reads them

    def micro_batches():
        for number in numbers:
            mine = steps[number][rank::world]
            sizes.append(len(mine))
            yield from mine

    step = []
    for batch in DataLoader(dataset, batch_sampler=micro_batches(), num_workers=workers,
                            collate_fn=partial(collate, pad_id=tokenizer.pad_id),
                            worker_init_fn=loader_process, prefetch_factor=4 if workers else None,
                            pin_memory=torch.cuda.is_available()):
        step.append(batch)
        if len(step) == sizes[0]:
            yield step
            step = []
            sizes.popleft()
