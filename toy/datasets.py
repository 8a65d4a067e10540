"""Training items of the toy world, drawn on demand."""
import random
import re

import numpy as np
from torch.utils.data import Dataset

from data import SYSTEM, Augment, Example, make_item, turns_from_record
from toy.dialogues import sample, tasks_of
from toy.drills import Slides
from toy.world import (CHANGES, COLOURS, DIRECTIONS, GERUNDS, PLACES, SHAPES, Clip, labels,
                       moment)


def toy_texts(n=3000):
    """What a vocabulary for the toy world is learnt from: dialogues of a seed of their own."""
    yield SYSTEM
    yield from ["<4s-5s>\n"] * n
    for i in range(n):
        _, record = sample(-1, i, ("full", "short", "frame", "busy")[i % 4])
        yield from ("user\n", "assistant\n", "system\n")
        yield from (question["content"] + "\n" for question in record["question"])
        yield from (" " + response["content"] for response in record["response"])


class ToyStills(Dataset):
    """Pictures (S, S, 3) with what their patches, and the cells of both grids, show: three times
    (cells, 8), as world.labels. Places and sizes vary as they do while things move and grow."""

    # logits of the colour; of the shape; x, y and radius; logits of the change; of the place
    parts = 1 + len(COLOURS), len(SHAPES), 3, len(CHANGES), len(PLACES)

    def __init__(self, config):
        self.config = config

    def __getitem__(self, i):
        rng, side = random.Random(f"still/{i}"), self.config.vision.side
        clip = Clip(rng, 1, still=True)
        for thing in clip.start:
            thing.r *= rng.choice((1, 1, rng.uniform(0.55, 1), rng.uniform(1, 1.6)))
            thing.x += rng.uniform(-0.1, 0.1)
            thing.y += rng.uniform(-0.1, 0.1)
        return (clip.frame(0, self.config.vision.image_size),
                *(labels(clip.start, clip.start, side, grid)
                  for grid in (side, self.config.grid, self.config.coarse_grid)))


class ToyDataset(Dataset):
    """Item i, or ("short", i), is drawn by dialogues.sample, augmented, always the same: no end."""

    def __init__(self, tokenizer, config, seed, fps=1, augment=Augment()):
        self.tokenizer, self.config, self.seed = tokenizer, config, seed
        self.fps, self.augment = fps, augment

    @staticmethod
    def split(key):
        return key[::-1] if isinstance(key, tuple) else (key, "full")

    def task(self, key):
        return sample(self.seed, *self.split(key))[1]["task_type"]

    def wanted(self, key, tasks):
        """Whether a run of these tasks reads the item: "all"; "grounding+caption": those of
        GROUNDING_AND_CAPTION; a key of LEFT_OUT: those in which no question asks for that task."""
        if tasks == "all":
            return True
        if tasks in LEFT_OUT:
            return LEFT_OUT[tasks] not in tasks_of(self.seed, *self.split(key))
        return self.task(key) in GROUNDING_AND_CAPTION

    def estimate(self, key):
        """About how many tokens the item has, without drawing its pictures."""
        clip, record = sample(self.seed, *self.split(key))
        words = sum(len(entry["content"].split()) + 4
                    for entry in record["question"] + record["response"])
        frame = self.config.tokens(self.config.grid)
        return 60 + clip.seconds * (14 + self.fps * frame) + words

    def __getitem__(self, key):
        i, kind = self.split(key)
        clip, record = sample(self.seed, i, kind)
        rng = random.Random(f"{self.seed}/{kind}/{i}/augment")
        fps = self.fps * (2 if rng.random() < self.augment.double_rate else 1)
        noise = np.random.default_rng(rng.getrandbits(64))
        level = rng.uniform(0, 4) if rng.random() < self.augment.noise else 0

        def frame(j):
            image = clip.frame(moment(j, fps), self.config.vision.image_size)
            return image if not level else np.clip(
                image + noise.normal(0, level, image.shape), 0, 255).astype(np.uint8)

        example = Example(f"toy {self.seed}/{kind}/{i}", record["task_type"],
                          turns_from_record(record, clip.seconds), frame, clip.seconds * fps, fps)
        return make_item(self.tokenizer, self.config, example, rng, self.augment)


class ToyFilms(ToyDataset):
    """Items with labels of their visual tokens, "shown" (N, 10): world.labels (8), asked (1), the
    second at which the turn ends, as its tag says it, -1 from 1000 on (1). words: the ids of all
    colours, shapes, changes and numbers, in this order; said: how many there are of each. gerunds:
    pairs of ids, of "growing" and "grows"; the: the id of "the"."""

    said = len(COLOURS), len(SHAPES), len(CHANGES) - 1, 1000

    def __init__(self, tokenizer, config, seed):
        super().__init__(tokenizer, config, seed, augment=Augment(window=0, double_rate=0))
        self.numbers = {tokenizer.id(str(n)): n for n in range(1000)}
        self.words = [tokenizer.encode(f" {word}")[-1]
                      for word in (*COLOURS, *SHAPES, *CHANGES[1:])] + [*self.numbers]
        pairs = ((tokenizer.encode(f" {gerund}"), tokenizer.encode(f" {verb}"))
                 for verb, gerund in GERUNDS.items() if verb in CHANGES)
        self.gerunds = [(gerund[0], verb[-1]) for gerund, verb in pairs if len(gerund) == 1]
        self.the = tokenizer.encode(" the")[-1]

    def __getitem__(self, key):
        i, kind = self.split(key)
        item, (clip, record) = super().__getitem__(key), sample(self.seed, i, kind)
        things = [clip.state(t) for t in range(clip.seconds)]
        before = things if isinstance(clip, Slides) else [things[0], *things]
        questions = [(0, ""), *((int(q["time"]) - 1, q["content"]) for q in record["question"])]
        questions.sort(key=lambda question: question[0])    # of a second, as they are read
        shown, side = [], self.config.vision.side
        for t, grid in enumerate(item["grids"]):
            cells = labels(things[t], before[t], side, grid)
            latest = [text for second, text in questions if second <= t][-1]
            shown.append(np.column_stack([cells, asked(cells, latest)]))
        tags, second, last = [], None, None             # of each visual token, the 5 of "<4s-5s>"
        for token in item["input_ids"]:
            if token in self.numbers:                   # a number of four digits has two tokens
                second = -1 if last in self.numbers else self.numbers[token]
            if token == self.tokenizer.frame_id:
                tags.append(second)
            last = token
        item["shown"] = np.column_stack([np.concatenate(shown), np.float32(tags)])
        return item

ASKED = re.compile(rf"\b(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})\b(?: ([^.?]*))?")
VERBS = {form: verb for verb, gerund in GERUNDS.items() for form in (gerund, verb[:-1])}


def asked(cells, question):
    """(cells,) float32, for each of world.labels: 0; 1 where it shows the thing that the question
    names first, by its name now or a second before, 2 where that thing does what the question's
    caption says of it."""
    if not (match := ASKED.search(question)):
        return np.zeros(len(cells), np.float32)
    colour, shape, caption = match.groups("")

    def named(colours, shapes):
        right = cells[:, shapes] == list(SHAPES).index(shape)
        return right & (cells[:, colours] == 1 + list(COLOURS).index(colour) if colour else
                        cells[:, colours] > 0)

    old = named(6, 7) & (cells[:, 5] > 0)                   # what changes goes by its old name
    told = {VERBS.get(word, word) for word in re.findall(r"\w+", caption)}
    told |= {*DIRECTIONS} if "hits" in told else set()
    does = old & np.isin(cells[:, 5], [k for k, change in enumerate(CHANGES) if change in told])
    if "turns" in told:
        does &= np.isin(cells[:, 0], [k for k, new in enumerate(COLOURS, 1) if new in told])
    return np.float32(old | named(0, 1)) + does

# The toy curriculum: until this part of the steps, so many tokens a step, this mix of samples.
CURRICULUM = ((0.30, 2304, {"one": 0.02, "busy": 0.20, "frame": 0.08, "short": 0.42, "long": 0.12,
                            "full": 0.10, "reel": 0.06}),
              (1.00, 3072, {"one": 0.02, "busy": 0.11, "frame": 0.05, "short": 0.36, "long": 0.14,
                            "full": 0.22, "reel": 0.10}))
# what --tasks leaves out
LEFT_OUT = {"no-backward-grounding": "Backward Grounding", "no-narration": "Real-time Narration"}
# what is asked once, as in ET-Instruct: spans, captions, questions about the picture; no narration,
# no answer that is due again when it changes, or two seconds late
GROUNDING_AND_CAPTION = ("Naming", "Placing", "Acting", "Since", "Dating", "Frame QA",
                         "Timed Caption", "Event Caption", "Event Grounding", "Backward Grounding")
