"""The toy world: short films of coloured shapes, with exact annotations, drawn on demand.

    python toy.py --out FOLDER --n 20 --seed 1      20 films (mp4) and their annotations (raw.json)

A clip is a script: things, and events that change them. Pixels and annotations both come from it,
so they cannot disagree. An event is under way in frames first..last (one a second): `first` is the
first frame that shows a change, `last` the last, and frame `last + 1` shows it over. Turn t sees
frame t, counted from 0; the records count seconds from 1, as the public data set does.
"""
import argparse
import json
import math
import os
import random
from dataclasses import dataclass, replace
from functools import partial

import imageio.v3 as iio
import numpy as np
from tqdm import tqdm

COLOURS = {"red": (222, 45, 38), "green": (49, 163, 84), "blue": (40, 90, 225),
           "yellow": (250, 215, 40), "purple": (150, 55, 190), "orange": (250, 130, 20)}
SHAPES = {              # signed distance of the point (u, v) to the outline, in radii, inside < 0
    "circle": lambda u, v: np.sqrt(u * u + v * v) - 0.95,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.82,
    "triangle": lambda u, v: np.maximum(v - 0.75, (abs(u) * 1.75 - (v + 1) * 1.02) / 2.026),
    "star": lambda u, v: np.sort([math.sin(k * math.tau / 5) * u - math.cos(k * math.tau / 5) * v
                                  for k in range(5)], axis=0)[3] - 0.44,    # inside 4 of 5 lines
    "cross": lambda u, v: np.minimum(np.maximum(abs(u) - 0.3, abs(v) - 0.95),
                                     np.maximum(abs(v) - 0.3, abs(u) - 0.95))}
GROUNDS = ((244, 244, 240), (226, 232, 238), (238, 230, 218), (222, 226, 228), (230, 238, 224),
           (240, 226, 232), (214, 218, 224), (248, 240, 214))
PATTERNS = {"plain": lambda x, y: 0 * x, "fade": lambda x, y: y - 0.5,
            "stripes": lambda x, y: np.floor(x * 8) % 2 - 0.5,
            "checks": lambda x, y: (np.floor(x * 6) + np.floor(y * 6)) % 2 - 0.5}
CELLS = [(column, row) for column in range(3) for row in range(3)]
CENTRES = (0.19, 0.5, 0.81)                     # of the cells; things rest near them
PLACES = ("at the top left", "at the top", "at the top right", "on the left", "in the centre",
          "on the right", "at the bottom left", "at the bottom", "at the bottom right")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PROGRESSIVE = {"moving": "move", "growing": "grow", "shrinking": "shrink"}
EVENTS = {"appear": 2, "leave": 1.5, "move": 5, "turn": 2, "grow": 1.5, "shrink": 1.5, "hit": 2.5}
MIXES = {               # tasks by the kind of sample; of full clips, the paper's figure 3
    "full": {"Time-sensitive QA": 34.8, "Grounding": 26.3, "Offline QA": 13.8,
             "Real-time Narration": 12.7, "Event Caption": 6.7, "Action Caption": 5.8},
    "short": {"Timed Caption": 17, "Real-time Narration": 14, "Grounding": 25,
              "Time-sensitive QA": 32, "Event Caption": 12},
    "busy": {"Acting": 20, "Since": 20, "Frame QA": 20, "Recalling": 15, "Waiting": 10,
             "Time-sensitive QA": 15},
    "long": {"Recalling": 35, "Time-sensitive QA": 25, "Waiting": 20, "Timed Caption": 20},
    "frame": {"Dating": 60, "Frame QA": 16, "Placing": 14, "Naming": 10}}
ASK = {                 # the wordings; {} is the event, the thing or the question
    "Real-time Narration": (
        "Narrate the video as it happens.", "Comment on every change, second by second.",
        "Give me a live commentary.", "Tell me what you see, the moment it changes.",
        "Keep describing what starts and what stops.", "Be my eyes: report each change at once."),
    "Event Caption": (
        "Describe every event.", "Describe every event in the video once it is over.",
        "Write one sentence for each event when it ends.", "List all events with a description.",
        "What happens in this video? Report every event.", "Caption each event as it finishes."),
    "Action Caption": ("List each action of {}.", "Follow {} and describe every step it takes.",
                       "Report the actions of {}, one by one.", "What does {} do, step by step?",
                       "Describe every single action of {}."),
    "Event Grounding": (
        "Wait for this event and tell me its time span: {}",
        "Tell me from when to when it lasts: {}",
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
    "Timed Caption": (
        "Describe every event with its times.", "List all events, each from when to when.",
        "Caption each event and give its time span.", "Write down what happens, and when."),
    "Acting": ("Each second, say what goes on.", "Say what each shape does, second by second.",
               "What happens right now? Answer every second."),
    "Since": ("Each second, say what goes on and since when.",
              "What happens, and since when? Answer every second."),
    "Dating": ("When was there {}?", "At which second did you see {}?",
               "When did the picture show {}?"),
    "Placing": (
        "Say where each shape is.", "Name all the shapes and their places, every second.",
        "Map the picture, second by second."),
    "Naming": ("Name all the shapes, every second.", "Each second, name what you see.",
               "Say what is in the picture, second by second."),
    "Frame QA": ("Right now: {}", "Look at this moment: {}", "Quick question: {}",
                 "Say it at once: {}", "At this very second: {}")}


@dataclass
class Thing:
    colour: str             # (r, g, b) in the middle of a turn
    shape: str
    x: float                # centre and radius in pictures; radius 0: it is not there
    y: float
    r: float = 0.0
    doing: str = "still"    # or "moving left", "growing", ...

    name = property(lambda self: f"{self.colour} {self.shape}")
    moves = property(lambda self: self.doing.startswith("moving"))

    @property
    def place(self):
        column, row = (min(range(3), key=lambda k: abs(CENTRES[k] - c)) for c in (self.x, self.y))
        return PLACES[3 * row + column]


@dataclass(frozen=True)
class Event:
    kind: str
    thing: int              # index into Clip.start
    name: str               # the thing's, before: "red circle"
    first: int              # the frames that show it under way
    last: int
    change: tuple           # attribute of the thing, value before, value after; () in a Bustle
    does: str               # "moves left"
    doing: str = ""         # "moving left"; empty: it takes no time

    @property
    def caption(self):
        new = self.kind == "appear"
        return f"{an(self.name).capitalize() if new else f'The {self.name}'} {self.does}."

    @property
    def span(self):
        return f"{self.caption[:-1]}, from {self.first + 1}s to {self.last + 1}s."


def an(name):
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def count(things):
    n = sum(thing.r > 0 for thing in things)
    number = ("no", "one", "two", "three", "four")[n]
    return f"There is {number} shape." if n == 1 else f"There are {number} shapes."


def there(things):
    """Those that are there, in the order of reading."""
    return sorted((thing for thing in things if thing.r), key=lambda t: PLACES.index(t.place))


def listed(texts):
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def seen(things):
    return f"I see {listed([an(thing.name) for thing in there(things)])}."


def placed(things):
    text = ", ".join(f"{an(thing.name)} {thing.place}" for thing in there(things))
    return f"{text[0].upper()}{text[1:]}."


class Clip:
    """A film of so many seconds: `start` are the things, `events` the script in order of time."""

    def __init__(self, rng, seconds, still=False, odds=EVENTS):
        self.seconds, self.start, self.events, self.odds = seconds, [], [], odds
        self.ground = rng.choice(GROUNDS), rng.choice(list(PATTERNS)), rng.uniform(-10, 10)
        self.looks, self.cells, self.canvas = set(), {}, {}
        for _ in range(rng.choices((1, 2, 3, 4), (6, 3, 2, 1) if still else (1, 3, 4, 0))[0]):
            self._enter(rng)
            self.start[-1].r = rng.uniform(0.13, 0.152)
        time = rng.randint(1, 3)
        while not still and time <= seconds - 2 and (event := self._happen(rng, time)):
            if event.last - event.first >= 2 and rng.random() < 0.15:       # two at a time
                time = rng.randint(event.first + 1, event.last)
                self._happen(rng, time, ("turn", "grow", "shrink", "appear"), busy=event.thing)
            time = max(e.last for e in self.events) + 2 + rng.choice((0, 0, 1, 1, 2, 3, 5))
        self.events.sort(key=lambda e: (e.first, e.last))

    def _enter(self, rng):
        """A new thing, still invisible, in a free cell; its index."""
        cell = rng.choice([cell for cell in CELLS if cell not in self.cells.values()])
        look = rng.choice([(c, s) for c in COLOURS for s in SHAPES if (c, s) not in self.looks])
        self.looks.add(look)
        self.cells[len(self.start)] = cell
        self.start.append(Thing(*look, *(CENTRES[k] + rng.uniform(-0.03, 0.03) for k in cell)))
        return len(self.start) - 1

    def _happen(self, rng, first, kinds=tuple(EVENTS), busy=None):
        """Add an event to the script; None: nothing is possible, or no time is left."""
        for _ in range(20):
            kind, change = rng.choices(kinds, [self.odds[k] for k in kinds])[0], None
            here = [i for i in self.cells if i != busy]
            if kind == "appear" and len(self.cells) == 4:
                continue
            if kind != "appear" and not here:
                break
            i = self._enter(rng) if kind == "appear" else rng.choice(here)
            thing = self.state(math.inf)[i]
            if kind == "appear":
                change = "r", rng.uniform(0.13, 0.152), 1, "appears"
            elif kind == "leave" and len(self.cells) > 1:
                del self.cells[i]
                change = "r", 0.0, 1, "disappears"
            elif kind == "turn":
                colour = rng.choice([c for c in COLOURS if c != thing.colour])
                if (colour, thing.shape) not in self.looks:
                    self.looks.add((colour, thing.shape))
                    change = "colour", colour, 1, f"turns {colour}"
            elif kind == "grow" and thing.r < 0.145 or kind == "shrink" and thing.r > 0.125:
                r = thing.r * rng.uniform(*((1.5, 1.7) if kind == "grow" else (0.55, 0.65)))
                frames, word = rng.randint(2, 3), f"{kind}ing"
                if r < self._room(i):
                    change = "r", r, frames, f"{kind}s", word
            elif kind in ("move", "hit"):
                i, *change = self._journey(rng, kind, here) or [i]
            if change:
                attribute, after, frames, *words = change
                thing, last = self.state(math.inf)[i], first + frames - 1
                if last > self.seconds - 2:
                    break
                change = attribute, getattr(thing, attribute), after
                self.events.append(Event(kind, i, thing.name, first, last, change, *words))
                return self.events[-1]
        return None

    def _room(self, i):
        """How far thing i is from the nearest other one."""
        things = self.state(math.inf)
        return min((math.hypot(other.x - things[i].x, other.y - things[i].y) - other.r
                    for j, other in enumerate(things) if j != i and other.r), default=1)

    def _passes(self, i, way, things):
        """Whether thing i can take this way of cells without touching what rests beside it."""
        return all(math.hypot(other.x - CENTRES[column], other.y - CENTRES[row])
                   > things[i].r + other.r for column, row in way if (column, row) in CELLS
                   for j, other in enumerate(things)
                   if j != i and other.r and self.cells.get(j) not in way)

    def _journey(self, rng, kind, here):
        """One of the things here moves to a free cell, or hits the thing two cells away."""
        things, taken = self.state(math.inf), {cell: i for i, cell in self.cells.items()}
        for _ in range(12):
            i, (direction, (dx, dy)) = rng.choice(here), rng.choice(list(DIRECTIONS.items()))
            steps = 2 if kind == "hit" else rng.choice((1, 2, 2))
            column, row = self.cells[i]
            *way, goal, beyond = [(column + dx * k, row + dy * k) for k in range(1, steps + 2)]
            if kind == "move":
                way.append(beyond)              # what stops short of a thing looks like a hit
            if goal in CELLS and (goal in taken) == (kind == "hit") \
                    and not taken.keys() & set(way) and self._passes(i, [*way, goal], things):
                axis, does = "x" if dx else "y", f"moves {direction}"
                after = CENTRES[goal[0 if dx else 1]] + rng.uniform(-0.03, 0.03)
                if kind == "hit":
                    other = things[taken[goal]]
                    after = getattr(other, axis) - (dx + dy) * 0.95 * (things[i].r + other.r)
                    does, goal = f"hits the {other.name}", way[0]
                self.cells[i] = goal
                length = abs(after - getattr(things[i], axis))
                frames = max(3, round(length / rng.uniform(0.09, 0.13)))
                return i, axis, after, frames, does, f"moving {direction}"
        return None

    def state(self, t):
        """The things as they are at t seconds; math.inf: after all events."""
        now = [replace(thing) for thing in self.start]
        for event in self.events:
            thing, (attribute, before, after) = now[event.thing], event.change
            begin = event.first - (0.3 if event.first == event.last else 1.0)
            part = (t - begin) / (event.last - begin)
            if part >= 1:
                setattr(thing, attribute, after)
            elif part > 0 and attribute == "colour":
                pairs = zip(COLOURS[before], COLOURS[after])
                thing.colour = tuple(a + (b - a) * part for a, b in pairs)
            elif part > 0:
                setattr(thing, attribute, before + (after - before) * part)
            if event.doing and event.first <= t <= event.last:
                thing.doing = event.doing
        return now

    def frame(self, t, size):
        """The picture at t seconds: uint8 (size, size, 3), anti-aliased."""
        grid = (np.arange(size) + 0.5) / size
        if size not in self.canvas:
            colour, pattern, tint = self.ground
            wave = PATTERNS[pattern](grid[None], grid[:, None]) + np.zeros((size, size))
            ground = np.float64(colour) + tint * wave[..., None] * 1.5              # (S, S, 3)
            self.canvas[size] = np.clip(ground, 0, 255)
        picture = self.canvas[size].copy()
        for thing in self.state(t):
            if thing.r > 0:
                columns, rows = (slice(max(0, int((c - 1.2 * thing.r) * size)),
                                       min(size, int((c + 1.2 * thing.r) * size) + 2))
                                 for c in (thing.x, thing.y))
                u, v = (grid[columns] - thing.x) / thing.r, (grid[rows] - thing.y) / thing.r
                outside = SHAPES[thing.shape](u[None], v[:, None]) * thing.r * size     # in pixels
                cover, window = np.clip(0.5 - outside, 0, 1)[..., None], picture[rows, columns]
                window += cover * (np.float64(COLOURS.get(thing.colour, thing.colour)) - window)
        return (picture + 0.5).astype(np.uint8)


CHANGES = ("none", "appears", "turns", "disappears", *DIRECTIONS, "grows", "shrinks")


def labels(now, before, side, grid):
    """What a picture shows, and how it differs from the one before: for each cell of a grid pooled
    from side x side patches the thing that covers most of it. now, before: the same things at two
    times -> (grid*grid, 8) of colour, from 1 (0: none), shape, x, y, radius, index into CHANGES,
    and the colour and shape by which that change is told: those before it."""
    centre, labels = (np.arange(side) + 0.5) / side, np.zeros((grid * grid, 8), np.float32)
    spans = [slice(k * side // grid, -(-(k + 1) * side // grid)) for k in range(grid)]

    def covered(thing):
        near = np.hypot(thing.x - centre[None], thing.y - centre[:, None]) < 1.05 * thing.r
        return np.array([near[rows, columns].sum() for rows in spans for columns in spans])

    def look(thing):
        return 1 + list(COLOURS).index(thing.colour), list(SHAPES).index(thing.shape)

    most = np.zeros(grid * grid)
    for thing, old in zip(now, before):
        told = CHANGES.index(change(thing, old)), *look(old if old.r else thing)
        if old.r and not thing.r:
            labels[(covered(old) > 0) & (most == 0), 5:] = told
        covers = covered(thing)
        labels[covers > most] = *look(thing), thing.x, thing.y, thing.r, *told
        most = np.maximum(most, covers)
    return labels


def change(thing, old):
    """What a thing did since it was `old`, one of CHANGES; one change at a time."""
    dx, dy, dr = thing.x - old.x, thing.y - old.y, thing.r - old.r
    if not old.r or not thing.r:
        return "appears" if thing.r else "disappears"
    if thing.colour != old.colour:
        return "turns"
    if max(abs(dx), abs(dy)) > 0.02:
        return next(k for k, (x, y) in DIRECTIONS.items() if x * dx + y * dy > 0.02)
    return "grows" if dr > 0.008 else "shrinks" if dr < -0.008 else "none"


class Slides:
    """A film that shows another picture every second."""
    events = ()

    def __init__(self, rng, seconds):
        self.seconds = seconds
        self.pictures = [Clip(rng, 1, still=True) for _ in range(seconds)]

    def state(self, t):
        return self.pictures[int(t)].state(0)

    def frame(self, t, size):
        return self.pictures[int(t)].frame(0, size)


class Bustle:
    """A film in which everything does something nearly every second: many changes to learn from.
    What moves head-on to another thing comes to touch it; the second after, it hits it."""

    def __init__(self, rng, seconds):
        self.seconds, self.stage, self.events = seconds, Clip(rng, 1, still=True), []
        while len(self.stage.start) < 2:
            self.stage._enter(rng)
            self.stage.start[-1].r = rng.uniform(0.13, 0.152)
        self.start = self.stage.start
        self.worn = {thing.name: i for i, thing in enumerate(self.start)}   # whose look it ever was
        self.states = [self.start]
        for turn in range(1, seconds):
            before = self.states[-1]
            now = [replace(thing, doing="still") for thing in before]
            ways = {i: thing.doing.split()[1] for i, thing in enumerate(before) if thing.moves}
            hits = {i: self._ahead(i, way, before) for i, way in ways.items()}
            hits = {i: j for i, (gap, j) in hits.items() if gap < 0.01}
            for i, old in enumerate(before):
                tries = (self._act(rng, i, old, now) for _ in range(3 * (i not in hits.values())))
                now[i] = next((thing for thing in tries if self._fits(thing, i, now)), now[i])
                if i in hits:
                    now[i] = replace(old, doing=f"hits the {before[hits[i]].name}")
                self.worn[now[i].name] = i
                self._note(turn, i, old.name, now[i])
            self.states.append(now)
        self.events.sort(key=lambda e: (e.first, e.last))

    def _ahead(self, i, direction, things):
        """(gap, j): how far thing i may go until it touches thing j, the next in its way, nearly
        head-on; (inf, -1): nothing is in its way."""
        (dx, dy), found, one = DIRECTIONS[direction], [(math.inf, -1)], things[i]
        for j, other in enumerate(things):
            x, y, reach = other.x - one.x, other.y - one.y, 0.95 * (other.r + one.r)
            along, aside = x * dx + y * dy, x * dy + y * dx
            if other.r and along > 0 and abs(aside) < 0.08:
                found.append((along - math.sqrt(reach ** 2 - aside ** 2), j))
        return min(found)

    def _act(self, rng, i, old, now):
        """What thing i, that was `old`, may be a second later; often it goes on as before."""
        new, doing = replace(old, doing="still"), old.doing
        if not old.r:
            if rng.random() < 0.5:
                x, y = (rng.choice(CENTRES) + rng.uniform(-0.03, 0.03) for _ in "xy")
                new = replace(old, x=x, y=y, r=rng.uniform(0.13, 0.152), doing="appears")
            return new
        near = [f"moving {way}" for way in DIRECTIONS                # towards what it may hit
                if 0.075 < self._ahead(i, way, now)[0] < 0.45]
        if doing not in near and (doing == "still" or rng.random() < 0.6):
            move = rng.choice(8 * near + [f"moving {way}" for way in DIRECTIONS])
            turn, weights = f"turns {rng.choice(list(COLOURS))}", (1.5, 1.5, 1.5, 1, 2)
            doing = rng.choices((move, "growing", "shrinking", turn, "disappears", "still"),
                                (12 if near else 5, *weights))[0]
        if doing.startswith("moving"):
            way, far = doing.split()[1], rng.uniform(0.09, 0.13)
            gap, (dx, dy) = self._ahead(i, way, now)[0], DIRECTIONS[way]
            if gap < 0.3:                       # no step ends short of a thing in its way
                far = gap / math.ceil(gap / 0.145) if gap > 0.075 else 0
            new.x, new.y, doing = old.x + dx * far, old.y + dy * far, doing if far else "still"
        elif doing.startswith("turns"):
            new.colour = doing.split()[1]
            doing = doing if new.colour != old.colour else "still"
        elif doing == "disappears" and any(other.r for j, other in enumerate(now) if j != i):
            new.r = 0.0
        elif doing in ("growing", "shrinking"):
            new.r *= rng.uniform(*((1.15, 1.35) if doing == "growing" else (0.72, 0.87)))
        else:
            doing = "still"
        return replace(new, doing=doing)

    def _fits(self, thing, i, now):
        return not thing.r or 0.07 < thing.r < 0.27 and 0.12 < min(thing.x, thing.y) and max(
            thing.x, thing.y) < 0.88 and self.worn.get(thing.name, i) == i and all(
            math.hypot(other.x - thing.x, other.y - thing.y) > 0.9 * (other.r + thing.r)
            for j, other in enumerate(now) if j != i and other.r)

    def _note(self, turn, i, name, thing):
        """Write what thing i does on a turn into the script."""
        word, *rest = thing.doing.split()
        goes_on = [k for k, e in enumerate(self.events)
                   if (e.thing, e.last, e.doing) == (i, turn - 1, thing.doing)]
        if goes_on:
            self.events[goes_on[0]] = replace(self.events[goes_on[0]], last=turn)
        elif word in PROGRESSIVE:
            does = " ".join([f"{PROGRESSIVE[word]}s", *rest])
            self.events.append(Event(PROGRESSIVE[word], i, name, turn, turn, (), does, thing.doing))
        elif word != "still":
            kind = {"appears": "appear", "disappears": "leave", "turns": "turn",
                    "hits": "hit"}[word]
            self.events.append(Event(kind, i, name, turn, turn, (), thing.doing))
            thing.doing = "still"

    def state(self, t):
        return [replace(thing) for thing in self.states[int(t)]]

    def frame(self, t, size):
        self.stage.start = self.state(t)
        return self.stage.frame(0, size)

    def sentences(self, turn, since):
        """What goes on, in the order of reading; with `since`, from when on."""
        told = []
        for e in self.events:
            if e.first <= turn <= e.last:
                thing = self.states[turn - (e.kind != "appear")][e.thing]
                text = f"The {e.name} is {e.doing}" if e.doing else e.caption[:-1]
                when = f" {'since' if e.doing else 'at'} {e.first + 1}s" * since
                told.append((PLACES.index(thing.place), f"{text}{when}."))
        return " ".join(text for _, text in sorted(told)) or "Nothing happens."


class Dialogue:
    """The questions and answers of one record, all of them read from the script of a clip.

    An answer names its thing again: a small decoder looks a thing up better from its own words."""

    def __init__(self, clip, rng):
        self.clip, self.rng, self.questions, self.responses = clip, rng, [], []
        self.tasks = set()

    def record(self, i, task=None):
        name = f"{i:06d}.mp4"
        task = task or ("Mixed" if len(self.tasks) > 1 else min(self.tasks))
        return {"video_name": name, "video_path": name, "task_type": task, "source": "toy",
                "question": self.questions, "response": self.responses}

    def ask(self, task, content, turn):
        self.tasks.add(task)
        content = self.rng.choice(ASK[task]).format(content)
        self.questions.append({"content": content, "time": str(turn + 1)})

    def say(self, text, turn, since=None):
        """The response on a turn; `since`: the first turn that shows what it waits for."""
        times = {"st_time": "", "end_time": "", "time": str(turn + 1)}
        if since is not None:
            times = {"st_time": float(since + 1), "end_time": float(turn), "time": ""}
        self.responses.append({"content": text, **times})

    def instruct(self, task):
        """One instruction with its answers; nothing if the clip has no matter for it."""
        rng, end, events = self.rng, self.clip.seconds, self.clip.events
        if task == "Real-time Narration":
            self.ask(task, "", 0)
            for e in events:
                self.say(f"The {e.name} starts {e.doing}." if e.doing else e.caption, e.first)
                if e.doing:
                    self.say(e.caption if e.kind == "hit" else f"The {e.name} stops.", e.last + 1)
        elif task in ("Event Caption", "Timed Caption"):
            self.ask(task, "", 0)
            for e in events:
                text = e.span if task == "Timed Caption" else e.caption
                self.say(text, e.last + 1, since=e.first)
        elif task == "Action Caption" and events:
            chosen = rng.choice(sorted({e.thing for e in events}))
            events = [e for e in events if e.thing == chosen]
            self.ask(task, f"the {events[0].name}", 0)
            for e in events:
                self.say(e.caption, e.last + 1, since=e.first)
        elif task == "Event Grounding" and self.unique(end):
            event = rng.choice(self.unique(end))
            self.ground(event, rng.randint(0, event.first - 1))
        elif task == "Backward Grounding" and self.unique(end - 1):
            event = rng.choice(self.unique(end - 1))
            self.ground(event, rng.randint(event.last + 2, end - 1))
        elif task == "Time-sensitive QA":
            self.follow(*self.dated()[0])
        elif task == "Offline QA":
            turn = rng.choice(self.quiet(end - 2, 2) or [end - 3])
            content, reply = self.question(turn)
            self.ask(task, content, turn)
            self.say(reply, turn + 2, since=turn)
        elif task in ("Acting", "Since", "Naming", "Placing"):
            self.drill(task)
        elif task == "Dating":
            self.date()
        elif task == "Recalling":       # again and again an event of the past
            for turn in sorted(rng.sample(range(end), min(end, 15))):
                self.recall(turn)
        elif task == "Waiting":         # for one event after the other
            turn = 0
            while later := [e for e in self.unique(end) if e.first > turn]:
                event = rng.choice(later)
                self.ground(event, turn)
                turn = event.last + 2
        elif task == "Frame QA":
            self.interrupt(range(end))
        elif task == "Mixed":           # perhaps a lasting instruction, and questions along the way
            self.instruct(rng.choice(("Event Caption", "Real-time Narration", "Action Caption",
                                      "Event Grounding", "Time-sensitive QA", None)))
            told = {int(r["time"] or r["end_time"] + 1) - 1 for r in self.responses}
            free = [turn for turn in self.quiet(end) if turn not in told]
            self.interrupt(sorted(rng.sample(free, min(len(free), rng.randint(2, 6)))))
        return self

    def drill(self, task):
        """An answer every second: what is there, where it is, what it does."""
        self.ask(task, "", 0)
        for turn in range(task in ("Acting", "Since"), self.clip.seconds):
            things = self.clip.state(turn)
            self.say(placed(things) if task == "Placing" else seen(things) if task == "Naming"
                     else self.clip.sentences(turn, task == "Since"), turn)

    def date(self):
        """Every second a question after some things that were each in one picture so far."""
        names = []
        for turn in range(self.clip.seconds):
            names.append([thing.name for thing in self.clip.state(turn)])
            once = [(name, k) for k, some in enumerate(names) for name in some
                    if sum(name in others for others in names) == 1]
            if turn and once:
                some = self.rng.sample(once, self.rng.randint(1, min(4, len(once))))
                self.ask("Dating", listed([an(name) for name, _ in some]), turn)
                told = listed([f"{an(name)} at {k + 1}s" for name, k in some])
                self.say(f"There was {told}.", turn)

    def interrupt(self, turns):
        """On each of the turns a question to answer at once, about the past or the picture."""
        for turn in turns:
            if self.unique(turn) and self.rng.random() < 0.6:
                self.recall(turn)
            else:
                content, reply = self.question(turn)
                self.ask("Frame QA", content, turn)
                self.say(reply, turn)

    def recall(self, turn):
        """A question about a past event, if there is one."""
        if past := self.unique(turn):
            self.ground(self.rng.choice(past), turn)

    def ground(self, event, turn):
        """A question about the time of an event that is to come, or is over; and its answer."""
        if event.first > turn:
            self.ask("Event Grounding", event.caption, turn)
            self.say(event.span, event.last + 1, since=event.first)
        else:
            self.ask("Backward Grounding", event.caption, turn)
            self.say(event.span, turn)

    def quiet(self, end, room=0):
        """The turns 1..end-1 around which nothing begins, goes on or has just ended."""
        return [turn for turn in range(1, end) if all(
            e.last + 1 < turn or e.first > turn + 1 + room for e in self.clip.events)]

    def unique(self, turn):
        """The lasting events, over before a turn, whose caption is true of no other event."""
        captions = [e.caption for e in self.clip.events]
        return [e for e in self.clip.events
                if e.doing and e.last + 2 <= turn and captions.count(e.caption) == 1]

    def pick(self, turn):
        """One of the things that are there, more often one that is doing something."""
        now = there(self.clip.state(turn))
        busy = [thing for thing in now if thing.doing != "still"]
        return self.rng.choice(busy if busy and self.rng.random() < 0.6 else now)

    def question(self, turn):
        """A question about the picture on a turn, or about what was seen before; and its answer."""
        now = [thing for thing in self.clip.state(turn) if thing.r > 0]
        one, over = self.rng.choice(now), [e for e in self.clip.events if e.last < turn]
        asks = [("How many shapes are there?", count(now)),
                (f"Where is the {one.name}?", f"The {one.name} is {one.place}.")]
        if [thing.shape for thing in now].count(one.shape) == 1:
            asks += [(f"What colour is the {one.shape}?", f"The {one.shape} is {one.colour}.")] * 2
        if [thing.colour for thing in now].count(one.colour) == 1:
            asks += [(f"Which shape is {one.colour}?", f"It is the {one.shape}.")] * 2
        other = f"{self.rng.choice(list(COLOURS))} {one.shape}"
        yes = other in [thing.name for thing in now]
        asks += [(f"Is there any {other}?", "Yes." if yes else "No."),
                 ("Name all the shapes.", seen(now))]
        busy = self.pick(turn)
        if turn and busy.doing != "still":
            asks += [(f"What is the {busy.name} doing?", f"The {busy.name} is {busy.doing}.")] * 2
        if turn and [thing.moves for thing in now].count(True) == 1:
            mover = next(thing for thing in now if thing.moves)
            asks += [("Which shape is moving?", f"The {mover.name}.")] * 2
        ends = [e.last for e in over]
        for which, end, weight in (("last", max, 3), ("first", min, 1)) if over else ():
            if ends.count(end(ends)) == 1:
                event = over[ends.index(end(ends))]
                asks += [(f"What happened {which}?", event.caption)] * weight
        return self.rng.choice(asks)

    def dated(self):
        """All (question, first turn to ask it, true answer on every turn) of Time-sensitive QA,
        those whose answer changes first. The answer is None while it cannot be told."""
        clip, states = self.clip, [self.clip.state(t) for t in range(self.clip.seconds)]
        moving = ["Yes." if any(thing.moves for thing in now) else "No." for now in states]
        found = [("How many shapes are there?", 0, [count(now) for now in states]),
                 ("Is any shape moving?", 0, moving)]
        for i, (thing, life) in enumerate(zip(clip.start, zip(*states))):
            mine = {e.kind: e.first for e in clip.events if e.thing == i}
            born = mine.get("appear", 0)
            asks = [("place", thing.name, f"Where is the {thing.name}?"),
                    ("doing", thing.name, f"What is the {thing.name} doing?")]
            if "turn" in mine:
                alone = [other.shape for other in clip.start].count(thing.shape) == 1
                asks = [("colour", thing.shape, f"What colour is the {thing.shape}?")] * alone
            for fact, name, text in asks if born <= clip.seconds - 6 else ():
                found.append((text, born, [
                    None if fact == "place" and now.moves else
                    f"The {name} is {getattr(now, fact) if now.r else 'gone'}." for now in life]))
        self.rng.shuffle(found)
        return sorted(found, key=lambda item: len({*item[2][item[1]:]} - {None}) < 2)

    def follow(self, question, born, truth):
        """Time-sensitive QA: the truth is told when asked for and whenever it changes."""
        told, waiting = None, None
        asked = min(born + self.rng.randint(0, 3), self.clip.seconds - 2)
        self.ask("Time-sensitive QA", question, asked)
        for turn in range(asked, self.clip.seconds):
            if truth[turn] not in (None, told):
                told = truth[turn]
                self.say(told, turn, since=waiting)
            waiting = (waiting or turn) if truth[turn] is None else None
        return self


def sample(seed, i, kind="full"):
    """(clip, raw record) number i of a seed, always the same. kind: "full", 10 to 60 s, one task by
    the paper's mix or several; "long", as long, with many questions about what is far back;
    "short", 6 to 12 s and dense, with many hits; "busy", everything does something every second;
    "frame", another picture every second; "one", a picture."""
    rng = random.Random(f"train/{kind}/{seed}/{i}")
    longest = rng.choices((20, 30, 60), (5, 3, 2))[0]
    lengths = {"short": (6, 12), "busy": (3, 10), "frame": (2, 8), "one": (1, 1)}
    film = {"one": Slides, "frame": Slides, "busy": Bustle,
            "short": partial(Clip, odds=EVENTS | {"hit": 20})}.get(kind, Clip)
    clip = film(rng, rng.randint(*lengths.get(kind, (10, longest))))
    mix, dialogue = MIXES["frame" if kind == "one" else kind], Dialogue(clip, rng)
    task = rng.choices(list(mix), list(mix.values()))[0]
    if task == "Grounding":
        task = rng.choice(("Event Grounding", "Backward Grounding"))
    dialogue.instruct("Mixed" if kind in ("short", "full") and rng.random() < 0.3 else task)
    if not dialogue.questions:
        dialogue.instruct({Slides: "Naming", Bustle: "Acting"}.get(film, "Event Caption"))
    return clip, dialogue.record(i)


def bench(seed, i):
    """(clip, [(task, raw record)]): Streamo-Bench's ten tasks on a clip of 16 to 60 s that is never
    a sample. ValueError if no such clip is found."""
    for attempt in range(100):
        rng = random.Random(f"bench/{seed}/{i}/{attempt}")
        clip = Clip(rng, rng.randint(16, rng.choice((30, 30, 60))))
        rows = [(name, Dialogue(clip, rng).instruct(task)) for name, task in (
            ("forward_grounding", "Event Grounding"), ("backward_grounding", "Backward Grounding"),
            ("narration", "Real-time Narration"), ("dense_caption", "Event Caption"))]
        dated = Dialogue(clip, rng).dated()[:6]
        if len(dated) == 6 and all(dialogue.questions for _, dialogue in rows):
            rows += [("tsqa", Dialogue(clip, rng).follow(*question)) for question in dated]
            return clip, [(name, dialogue.record(i, name)) for name, dialogue in rows]
    raise ValueError(f"toy bench, seed {seed}, clip {i}: no clip with ten tasks in 100 attempts")


def main():
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write to")
    for flag, default, text in (("--n", 20, "number of films"), ("--seed", 1, "which films"),
                                ("--size", 256, "side of the picture in pixels, even, 32 or more"),
                                ("--fps", 10, "frames a second of the films")):
        parser.add_argument(flag, type=int, default=default, help=f"{text} ({default})")
    args = parser.parse_args()
    if args.n < 1 or args.fps < 1:
        parser.error(f"--n {args.n} and --fps {args.fps} must be 1 or more")
    if args.size < 32 or args.size % 2:
        parser.error(f"--size {args.size} must be even, and 32 or more")
    records, partial = [], os.path.join(args.out, "partial.mp4")
    try:
        os.makedirs(args.out, exist_ok=True)
        for i in tqdm(range(args.n), unit="film"):
            clip, record = sample(args.seed, i)
            with iio.imopen(partial, "w", plugin="pyav") as film:
                film.init_video_stream("h264", fps=args.fps)
                for k in range(clip.seconds * args.fps):
                    film.write_frame(clip.frame(k / args.fps, args.size))
            os.replace(partial, os.path.join(args.out, record["video_name"]))
            records.append(record)
        partial = os.path.join(args.out, "raw.json.partial")
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=1)
        os.replace(partial, os.path.join(args.out, "raw.json"))
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}")


if __name__ == "__main__":
    main()
