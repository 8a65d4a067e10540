"""The toy world: short films of coloured shapes, with exact annotations, drawn on demand.

    python toy.py --out FOLDER --n 20 --seed 1      20 films (mp4) and their annotations (raw.json)

A clip is a script: things (a shape, a colour, a place, a size) and events that change them. An event
is under way in frames `first`..`last` (one frame a second): `first` is the first frame that shows a
change, `last` the last one, so that frame `last + 1` is the first that shows it over. Everything
else, pixels and annotations alike, is computed from the script, so they cannot disagree.

Times in the records are the dataset's: second t is the t-th second, which is turn t - 1 and shows
frame t - 1. An event in frames first..last therefore has st_time = first + 1, end_time = last + 1.
"""
import argparse
import json
import math
import os
import random
from dataclasses import dataclass

import numpy as np

COLOURS = {"red": (222, 45, 38), "green": (49, 163, 84), "blue": (40, 90, 225),
           "yellow": (250, 215, 40), "purple": (150, 55, 190), "orange": (250, 130, 20)}
SHAPES = ("circle", "square", "triangle", "star", "cross")
BACKGROUNDS = [(238, 238, 234), (205, 214, 222), (222, 211, 198), (160, 168, 172), (96, 104, 112),
               (58, 62, 72), (30, 32, 38), (196, 206, 190)]
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CELL = (0.19, 0.5, 0.81)                              # things rest near the centres of a 3 x 3 grid
PLACES = ("at the top left", "at the top", "at the top right", "on the left", "in the centre",
          "on the right", "at the bottom left", "at the bottom", "at the bottom right")
NUMBERS = ("no", "one", "two", "three", "four")
KINDS = {"appear": 2.0, "leave": 1.5, "move": 5.0, "turn": 2.0, "grow": 1.5, "shrink": 1.5, "hit": 2.5}
LASTING = ("move", "grow", "shrink", "hit")           # events that take some seconds
MIX = {"Time-sensitive QA": 34.8, "Grounding": 26.3, "Offline QA": 13.8,        # paper, figure 3
       "Real-time Narration": 12.7, "Event Caption": 6.7, "Action Caption": 5.8}
MIXED = 0.3                                           # share of streams with several instructions

ASK = {  # the wordings of each instruction; {} is the event, the thing or the question
    "Real-time Narration": (
        "Narrate the video as it happens.", "Comment on every change, second by second.",
        "Give me a live commentary.", "Tell me what you see, the moment it changes.",
        "Keep describing what starts and what stops.", "Be my eyes: report each change at once."),
    "Event Caption": (
        "Describe every event.", "Describe every event in the video once it is over.",
        "Write one sentence for each event when it ends.", "List all events with a description.",
        "What happens in this video? Report every event.", "Caption each event as it finishes."),
    "Action Caption": (
        "List each action of {}.", "Follow {} and describe every step it takes.",
        "Report the actions of {}, one by one.", "What does {} do, step by step?",
        "Describe every single action of {}."),
    "Event Grounding": (
        "Wait for this event and tell me its time span: {}", "Tell me from when to when it lasts: {}",
        "Watch for the following event and report its start and end: {}",
        "As soon as it is over, give me the period of this event: {}",
        "Find the beginning and the end of what comes: {}"),
    "Backward Grounding": (
        "When did this happen? {}", "Look back and give me the time span of this event: {}",
        "From when to when did it last, earlier on? {}", "Recall the period of this past event: {}",
        "You have seen it already; when was it? {}"),
    "Time-sensitive QA": (
        "{} Update your answer whenever it changes.", "{} Keep your answer up to date.",
        "{} Tell me again each time the answer changes.", "{} If that changes later, correct it.",
        "{} Refresh the answer on any change."),
    "Offline QA": ("Question: {}", "Answer this question: {}", "A question about the video: {}",
                   "Please think and answer: {}", "Here is a question: {}"),
    "Frame QA": ("Right now: {}", "Look at this moment: {}", "Quick question: {}",
                 "Say it at once: {}", "At this very second: {}")}


def an(name):
    return f"an {name}" if name[0] == "o" else f"a {name}"


@dataclass
class Thing:
    shape: str
    colour: str
    x: float
    y: float
    r: float


@dataclass(frozen=True)
class Event:
    kind: str
    thing: int          # index into Clip.things
    first: int          # first frame that shows it under way
    last: int           # last such frame
    name: str           # of the thing when it began: "red circle"
    detail: str         # direction, new colour or the name of what is hit
    change: dict        # attribute -> (before, after)

    @property
    def caption(self):
        what = {"appear": "appears", "leave": "disappears", "move": f"moves {self.detail}",
                "turn": f"turns {self.detail}", "grow": "grows", "shrink": "shrinks",
                "hit": f"hits the {self.detail}"}[self.kind]
        return f"{an(self.name).capitalize() if self.kind == 'appear' else f'The {self.name}'} {what}."


class Clip:
    """One film. `frame(t, size)` draws second t; `events` is the script in order of time."""

    def __init__(self, rng, seconds, still=False):
        self.seconds, self.events, self.things = seconds, [], []
        self.ground = rng.choice(BACKGROUNDS), rng.choice(("plain", "fade", "stripes", "checks"))
        self.tint, self.canvas, self.names, self.cells = rng.uniform(-14, 14), {}, set(), {}
        for _ in range(rng.choices((1, 2, 3, 4), (1, 3, 4, 2 if still else 0))[0]):
            self._new_thing(rng, visible=True)
        time = rng.randint(1, 3)
        while not still and time <= seconds - 2:
            event = self._event(rng, time, tuple(KINDS))
            if event is None or event.last > seconds - 2:
                break
            self._apply(event)
            end = event.last
            if event.last - event.first >= 2 and rng.random() < 0.15:      # now and then two at a time
                start = rng.randint(event.first + 1, event.last)
                other = self._event(rng, start, ("turn", "grow", "shrink", "appear"), event.thing)
                if other is not None and other.last <= seconds - 2:
                    self._apply(other)
                    end = max(end, other.last)
            time = end + 2 + rng.choice((0, 0, 1, 1, 2, 3, 5))
        self.events.sort(key=lambda e: (e.first, e.last))

    def _new_thing(self, rng, visible):
        free = [(c, r) for c in range(3) for r in range(3) if (c, r) not in self.cells.values()]
        names = [(c, s) for c in COLOURS for s in SHAPES if f"{c} {s}" not in self.names]
        (column, row), (colour, shape) = rng.choice(free), rng.choice(names)
        self.names.add(f"{colour} {shape}")
        self.cells[len(self.things)] = (column, row)
        jitter = [rng.uniform(-0.03, 0.03) for _ in range(2)]
        self.things.append(Thing(shape, colour, CELL[column] + jitter[0], CELL[row] + jitter[1],
                                 rng.uniform(0.095, 0.125) if visible else 0.0))
        self.start = [Thing(**vars(thing)) for thing in self.things] if visible else \
            self.start + [Thing(**vars(self.things[-1]))]
        return len(self.things) - 1

    def _event(self, rng, first, kinds, busy=None):
        """A possible event that starts in frame `first`, or None. self.things is the state then."""
        for _ in range(20):
            kind = rng.choices(kinds, [KINDS[k] for k in kinds])[0]
            here = [i for i in self.cells if i != busy]
            if kind == "appear":
                if len(self.cells) >= 4:
                    continue
                i = self._new_thing(rng, visible=False)
                return Event(kind, i, first, first, self.name(i), "",
                             {"r": (0.0, rng.uniform(0.095, 0.125))})
            if not here:
                return None
            i = rng.choice(here)
            thing, name = self.things[i], self.name(i)
            if kind == "leave" and len(self.cells) > 1:
                return Event(kind, i, first, first, name, "", {"r": (thing.r, 0.0)})
            if kind == "turn":
                new = rng.choice([c for c in COLOURS if c != thing.colour])
                if f"{new} {thing.shape}" not in self.names:
                    self.names.add(f"{new} {thing.shape}")
                    return Event(kind, i, first, first, name, new, {"colour": (thing.colour, new)})
            if kind == "grow" and thing.r < 0.13 or kind == "shrink" and thing.r > 0.105:
                after = thing.r * (rng.uniform(1.6, 1.8) if kind == "grow" else rng.uniform(.55, .65))
                last = first + rng.randint(2, 3)
                return Event(kind, i, first, last, name, "", {"r": (thing.r, min(after, 0.19))})
            if kind in ("move", "hit"):
                tries = (self._journey(rng, kind, rng.choice(here), first) for _ in range(12))
                event = next(filter(None, tries), None)
                if event is not None:
                    return event
        return None

    def _journey(self, rng, kind, i, first):
        """Thing i moves to a free cell, or runs into the thing two cells away."""
        thing, (column, row) = self.things[i], self.cells[i]
        direction, (dx, dy) = rng.choice(list(DIRECTIONS.items()))
        steps = 2 if kind == "hit" else rng.choice((1, 2, 2))
        way = [(column + dx * k, row + dy * k) for k in range(1, steps + 1)]
        taken = {cell: j for j, cell in self.cells.items()}
        if not (0 <= way[-1][0] <= 2 and 0 <= way[-1][1] <= 2) or any(c in taken for c in way[:-1]):
            return None
        if (way[-1] in taken) != (kind == "hit"):
            return None
        axis = "x" if dx else "y"
        target, detail = CELL[way[-1][0 if dx else 1]] + rng.uniform(-0.03, 0.03), direction
        if kind == "hit":
            other = self.things[taken[way[-1]]]
            detail = self.name(taken[way[-1]])
            target = getattr(other, axis) - (dx + dy) * 0.95 * (thing.r + other.r)
        distance = abs(target - getattr(thing, axis))
        last = first + max(3, round(distance / rng.uniform(0.07, 0.12))) - 1
        self.goal = way[-1] if kind == "move" else way[0]
        return Event(kind, i, first, last, self.name(i), detail,
                     {axis: (getattr(thing, axis), target)})

    def _apply(self, event):
        for attribute, (_, after) in event.change.items():
            setattr(self.things[event.thing], attribute, after)
        if event.kind == "leave":
            del self.cells[event.thing]
        elif event.kind in ("move", "hit"):
            self.cells[event.thing] = self.goal
        self.events.append(event)

    def name(self, i):
        return f"{self.things[i].colour} {self.things[i].shape}"

    def state(self, t):
        """The things as they are at t seconds; radius 0: not there. A colour in between is RGB."""
        now = [Thing(**vars(thing)) for thing in self.start]
        for event in self.events:
            begin = event.first - (0.3 if event.first == event.last else 1.0)
            part = min(1.0, max(0.0, (t - begin) / (event.last - begin)))
            for attribute, (before, after) in event.change.items():
                if part in (0.0, 1.0):
                    value = (before, after)[int(part)]
                elif attribute == "colour":
                    value = tuple(a + (b - a) * part for a, b in zip(COLOURS[before], COLOURS[after]))
                else:
                    value = before + (after - before) * part
                if part > 0:
                    setattr(now[event.thing], attribute, value)
        return now

    def frame(self, t, size):
        """The picture at t seconds: uint8 (size, size, 3), anti-aliased by signed distance."""
        if size not in self.canvas:
            self.canvas[size] = self._background(size)
        picture = self.canvas[size].copy()
        for thing in self.state(t):
            if thing.r > 0:
                x0, y0 = (max(0, int((c - 1.2 * thing.r) * size)) for c in (thing.x, thing.y))
                x1, y1 = (min(size, int((c + 1.2 * thing.r) * size) + 2) for c in (thing.x, thing.y))
                u = ((np.arange(x0, x1) + 0.5) / size - thing.x)[None] / thing.r
                v = ((np.arange(y0, y1) + 0.5) / size - thing.y)[:, None] / thing.r
                cover = np.clip(0.5 - distance(thing.shape, u, v) * thing.r * size, 0, 1)[..., None]
                rgb = COLOURS[thing.colour] if isinstance(thing.colour, str) else thing.colour
                window = picture[y0:y1, x0:x1]
                window += cover * (np.array(rgb, np.float64) - window)
        return (picture + 0.5).astype(np.uint8)

    def _background(self, size):
        (colour, style), grid = self.ground, (np.arange(size) + 0.5) / size
        wave = {"plain": np.zeros((size, size)), "fade": np.tile(grid[:, None] - 0.5, (1, size)),
                "stripes": np.tile((np.floor(grid * 8) % 2 - 0.5)[None], (size, 1)),
                "checks": (np.floor(grid * 6)[:, None] + np.floor(grid * 6)[None]) % 2 - 0.5}[style]
        return np.clip(np.array(colour, np.float64) + self.tint * wave[..., None] * 1.5, 0, 255)


def distance(shape, u, v):
    """Signed distance (in radii, negative inside) of points (u, v) to a shape of radius 1."""
    if shape == "circle":
        return np.sqrt(u * u + v * v) - 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.82
    if shape == "triangle":
        return np.maximum(v - 0.75, (np.abs(u) * 1.75 - (v + 1) * 1.02) / 2.026)
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.3, b - 0.95), np.maximum(b - 0.3, a - 0.95))
    lines = [math.sin(k * math.tau / 5) * u - math.cos(k * math.tau / 5) * v for k in range(5)]
    return np.sort(np.stack(np.broadcast_arrays(*lines)), axis=0)[-2] - 0.44    # a star: all but one


# --------------------------------------------------------------------------------- annotations

def ask(rng, task, content, turn):
    return {"content": rng.choice(ASK[task]).format(content), "time": str(turn + 1)}


def answer(text, first, last=None):
    """A response on turn `first`, or, with `last`, after an event seen on turns first..last."""
    if last is None:
        return {"content": text, "st_time": "", "end_time": "", "time": str(first + 1)}
    return {"content": text, "st_time": float(first + 1), "end_time": float(last + 1), "time": ""}


def span_text(event):
    return f"The event took place from {event.first + 1}s to {event.last + 1}s."


def narration(clip):
    lines = []
    for e in clip.events:
        if e.kind in LASTING:
            way = e.detail if e.kind == "move" else next(
                (d for d, (dx, dy) in DIRECTIONS.items() for k, (a, b) in e.change.items()
                 if (b - a) * (dx if k == "x" else dy if k == "y" else 0) > 0), "")
            doing = {"grow": "growing", "shrink": "shrinking"}.get(e.kind, f"moving {way}")
            end = e.caption if e.kind == "hit" else f"The {e.name} stops."
            lines += [answer(f"The {e.name} starts {doing}.", e.first), answer(end, e.last + 1)]
        else:
            lines.append(answer(e.caption, e.first))
    return lines


def place(thing):
    column, row = (min(range(3), key=lambda k: abs(CELL[k] - c)) for c in (thing.x, thing.y))
    return PLACES[3 * row + column]


def count_text(n):
    return f"There {'is' if n == 1 else 'are'} {NUMBERS[n]} shape{'' if n == 1 else 's'}."


def value(clip, kind, i, frame):
    """The true answer to a dated question at a frame; None while it cannot be told yet."""
    now = clip.state(frame)
    active = [e for e in clip.events if e.first <= frame <= e.last and e.kind in LASTING]
    if kind == "count":
        return count_text(sum(thing.r > 0 for thing in now))
    if kind == "moving":
        return "Yes." if any(e.kind in ("move", "hit") for e in active) else "No."
    mine = [e for e in active if e.thing == i]
    if now[i].r == 0:
        return "It is gone."
    if kind == "colour":
        return f"It is {now[i].colour}."
    if kind == "where":
        return None if any(e.kind in ("move", "hit") for e in mine) else f"It is {place(now[i])}."
    line = next((a["content"] for e in mine for a in narration(Script([e]))), None)
    return f"It is {line.split(' starts ')[1]}" if line else "It is still."


@dataclass
class Script:
    events: list


def dated_questions(clip, rng):
    """All (question, kind, thing, first frame at which it may be asked), those that change first."""
    found = [("How many shapes are there?", "count", 0, 0), ("Is any shape moving?", "moving", 0, 0)]
    shapes = [thing.shape for thing in clip.start]
    for i, thing in enumerate(clip.start):
        born = next((e.first for e in clip.events if e.thing == i and e.kind == "appear"), 0)
        name = f"{thing.colour} {thing.shape}"
        if born > clip.seconds - 6 or (born == 0 and thing.r == 0):
            continue
        if any(e.thing == i and e.kind == "turn" for e in clip.events):
            if shapes.count(thing.shape) == 1:
                found.append((f"What colour is the {thing.shape}?", "colour", i, born))
        else:
            found += [(f"Where is the {name}?", "where", i, born),
                      (f"What is the {name} doing?", "doing", i, born)]
    rng.shuffle(found)
    changes = [len({value(clip, q[1], q[2], k) for k in range(q[3], clip.seconds)} - {None}) > 1
               for q in found]
    return [q for q, c in zip(found, changes) if c] + [q for q, c in zip(found, changes) if not c]


def dated(clip, rng, question):
    """A time-sensitive record: an answer when asked and at each change."""
    text, kind, i, born = question
    told, waiting, answers = None, None, []
    asked = born + rng.randint(0, 3)
    for k in range(asked, clip.seconds):
        now = value(clip, kind, i, k)
        if now is None:
            waiting = k if waiting is None else waiting
        else:
            if now != told:
                answers.append(answer(now, k) if waiting is None else answer(now, waiting, k - 1))
            told, waiting = now, None
    return [ask(rng, "Time-sensitive QA", text, asked)], answers


def one_shot(clip, rng, turn, past=True):
    """A question about the picture at a turn, or about what was seen before; and its answer."""
    now = [thing for thing in clip.state(turn) if thing.r > 0]
    thing, over = rng.choice(now), [e for e in clip.events if e.last < turn]
    name = f"{thing.colour} {thing.shape}"
    asks = [("How many shapes are there?", count_text(len(now))),
            (f"Where is the {name}?", f"It is {place(thing)}.")]
    if [t.shape for t in now].count(thing.shape) == 1:
        asks += [(f"What colour is the {thing.shape}?", f"It is {thing.colour}.")] * 2
    if [t.colour for t in now].count(thing.colour) == 1:
        asks += [(f"Which shape is {thing.colour}?", f"It is the {thing.shape}.")] * 2
    other = f"{rng.choice(list(COLOURS))} {thing.shape}"
    asks.append((f"Is there any {other}?",
                 "Yes." if other in [f"{t.colour} {t.shape}" for t in now] else "No."))
    listed = [an(f"{t.colour} {t.shape}") for t in sorted(now, key=lambda t: PLACES.index(place(t)))]
    all_of = " and ".join(filter(None, (", ".join(listed[:-1]), listed[-1])))
    asks.append(("Name all the shapes.", f"I see {all_of}."))
    if past and over:
        asks += [("What happened last?", max(over, key=lambda e: e.last).caption)] * 3
        asks += [("What happened first?", min(over, key=lambda e: e.last).caption)]
    return rng.choice(asks)


def quiet(clip, turn, room=0):
    """Nothing begins, goes on or has just ended on the turns around this one."""
    return all(e.last + 1 < turn or e.first > turn + 1 + room for e in clip.events)


def groundable(clip):
    """Lasting events whose sentence is true of no other event of the clip."""
    captions = [e.caption for e in clip.events]
    return [e for e in clip.events if e.kind in LASTING and captions.count(e.caption) == 1]


def make(clip, rng, task):
    """(questions, responses) of one instruction, or None if the clip has no matter for it."""
    if task == "Real-time Narration":
        return [ask(rng, task, "", 0)], narration(clip)
    if task == "Event Caption":
        return [ask(rng, task, "", 0)], [answer(e.caption, e.first, e.last) for e in clip.events]
    if task == "Action Caption":
        busy = sorted({e.thing for e in clip.events})
        if not busy:
            return None
        chosen = rng.choice(busy)
        mine = [e for e in clip.events if e.thing == chosen]
        return [ask(rng, task, f"the {mine[0].name}", 0)], [
            answer(e.caption.replace(f"The {e.name}", "It").replace(an(e.name).capitalize(), "It"),
                   e.first, e.last) for e in mine]
    if task == "Event Grounding":
        events = [e for e in groundable(clip) if e.first > 0]
        if not events:
            return None
        event = rng.choice(events)
        return [ask(rng, task, event.caption, rng.randint(0, event.first - 1))], [
            answer(span_text(event), event.first, event.last)]
    if task == "Backward Grounding":
        events = [e for e in groundable(clip) if e.last + 2 < clip.seconds]
        if not events:
            return None
        event = rng.choice(events)
        turn = rng.randint(event.last + 2, clip.seconds - 1)
        return [ask(rng, task, event.caption, turn)], [answer(span_text(event), turn)]
    if task == "Time-sensitive QA":
        return dated(clip, rng, dated_questions(clip, rng)[0])
    turns = [k for k in range(1, clip.seconds - 2) if quiet(clip, k, 2)] or [clip.seconds - 3]
    turn = rng.choice(turns)
    text, reply = one_shot(clip, rng, turn)
    return [ask(rng, "Offline QA", text, turn)], [answer(reply, turn, turn + 1)]


def mixed(clip, rng):
    """Several instructions in one stream: perhaps a lasting one, and questions along the way."""
    task = rng.choice(("Event Caption", "Real-time Narration", "Action Caption", "Event Grounding",
                       "Time-sensitive QA", None))
    questions, responses = (make(clip, rng, task) if task else None) or ([], [])
    free = [k for k in range(1, clip.seconds) if quiet(clip, k)]
    told = {int(r["time"] or r["end_time"] + 1) - 1 for r in responses}
    free = [k for k in free if k not in told]
    for turn in sorted(rng.sample(free, min(len(free), rng.randint(2, 6)))):
        past = [e for e in groundable(clip) if e.last + 2 <= turn]
        if past and rng.random() < 0.6:
            event = rng.choice(past)
            questions.append(ask(rng, "Backward Grounding", event.caption, turn))
            responses.append(answer(span_text(event), turn))
        else:
            text, reply = one_shot(clip, rng, turn)
            questions.append(ask(rng, "Frame QA", text, turn))
            responses.append(answer(reply, turn))
    return questions, responses


def frame_questions(clip, rng):
    """A question on every turn about the picture alone: where words for things are learnt."""
    questions, responses = [], []
    for turn in range(clip.seconds):
        text, reply = one_shot(clip, rng, turn, past=False)
        questions.append(ask(rng, "Frame QA", text, turn))
        responses.append(answer(reply, turn))
    return questions, responses


def record(name, task, made):
    return {"video_name": name, "video_path": name, "task_type": task, "source": "toy",
            "question": made[0], "response": made[1]}


def length(rng, kind):
    longest = rng.choices((20, 30, 60), (5, 3, 2))[0]
    return rng.randint(*{"full": (10, longest), "short": (5, 9), "frame": (4, 7)}[kind])


def seconds(seed, i, kind="full"):
    """The length of sample(seed, i, kind), without making it."""
    return length(random.Random(f"train/{kind}/{seed}/{i}"), kind)


def sample(seed, i, kind="full"):
    """(clip, raw record) number i of a seed: "full" 10-60 s at the paper's mix and streams with
    several instructions; "short" 5-9 s; "frame": a still and a question on every second."""
    rng = random.Random(f"train/{kind}/{seed}/{i}")
    clip = Clip(rng, length(rng, kind), still=kind == "frame")
    if kind == "frame":
        return clip, record(f"{i:06d}.mp4", "Frame QA", frame_questions(clip, rng))
    task = rng.choices(list(MIX), list(MIX.values()))[0]
    if task == "Grounding":
        task = rng.choice(("Event Grounding", "Backward Grounding"))
    made = mixed(clip, rng) if rng.random() < MIXED else make(clip, rng, task)
    if made is None or not made[0]:
        task, made = "Event Caption", make(clip, rng, "Event Caption")
    return clip, record(f"{i:06d}.mp4", task if len(made[0]) == 1 else "Mixed", made)


def bench(seed, i):
    """(clip, [(task, record)]): Streamo-Bench's ten tasks on an unseen clip of 16-60 s."""
    for attempt in range(100):
        rng = random.Random(f"bench/{seed}/{i}/{attempt}")
        clip = Clip(rng, rng.randint(16, rng.choice((30, 30, 60))))
        rows = [("forward_grounding", "Event Grounding"), ("backward_grounding", "Backward Grounding"),
                ("narration", "Real-time Narration"), ("dense_caption", "Event Caption")]
        made = [(task, make(clip, rng, name)) for task, name in rows]
        dates = dated_questions(clip, rng)[:6]
        if len(dates) == 6 and all(m for _, m in made):
            made += [("tsqa", dated(clip, rng, question)) for question in dates]
            return clip, [(task, record(f"{i:06d}.mp4", task, m)) for task, m in made]
    raise ValueError(f"seed {seed}, clip {i}: no script with ten tasks")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--n", type=int, default=20, help="number of films")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--fps", type=int, default=10, help="frames per second of the files")
    args = parser.parse_args()
    import imageio.v3 as iio
    os.makedirs(args.out, exist_ok=True)
    records = []
    for i in range(args.n):
        clip, item = sample(args.seed, i)
        film = [clip.frame(k / args.fps, args.size) for k in range(clip.seconds * args.fps)]
        iio.imwrite(os.path.join(args.out, item["video_name"]), film, plugin="pyav", codec="h264",
                    fps=args.fps)
        records.append(item)
    with open(os.path.join(args.out, "raw.json"), "w", encoding="utf-8") as file:
        json.dump(records, file, indent=1)


if __name__ == "__main__":
    main()
