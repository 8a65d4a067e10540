"""Short films of coloured shapes: things, and events that change them.

A clip is a script. Pixels and annotations both come from it, so they cannot disagree. An event is
under way in frames first..last (one a second): `first` is the first frame that shows a change,
`last` the last, and frame `last + 1` shows it over. Turn t sees frame t, counted from 0; the
records count seconds from 1, as the public data set does. At more frames a second, turn t ends with
frame t (see moment): what an event shows is seen in the turns that its record says.
"""
import math
from dataclasses import dataclass, replace

import numpy as np

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
GERUNDS = {"appears": "appearing", "disappears": "disappearing", "moves": "moving",
           "turns": "turning", "grows": "growing", "shrinks": "shrinking", "hits": "hitting"}
EVENTS = {"appear": 2, "leave": 1.5, "move": 5, "turn": 2, "grow": 1.5, "shrink": 1.5, "hit": 2.5}


@dataclass
class Thing:
    """A thing at a moment."""
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
    """What happens to a thing, and the words for it: "the red star", "moves left"."""
    kind: str
    thing: int              # index into Clip.start
    name: str               # the thing's, before: "red circle"
    first: int              # the frames that show it under way
    last: int
    change: tuple           # attribute of the thing, value before, value after; () in a Bustle
    does: str               # "moves left"
    doing: str = ""         # "moving left"; empty: it takes no time

    @property
    def subject(self):
        return an(self.name) if self.kind == "appear" else f"the {self.name}"

    @property
    def caption(self):
        return f"{self.subject.capitalize()} {self.does}."

    @property
    def clause(self):
        return f"{self.subject} {self.does}"

    @property
    def plain(self):
        """What follows "did"."""
        verb, *rest = self.does.split()
        return " ".join([f"the {self.name}", verb[:-1], *rest])

    @property
    def truths(self):
        """What it is true to say that its thing does: what hits also moves."""
        return {self.does, self.doing.replace("moving", "moves")}

    @property
    def gerund(self):
        verb, *rest = self.does.split()
        return " ".join([self.subject, GERUNDS[verb], *rest])

    @property
    def span(self):
        """The caption with its time: an event that takes no time is "at" its second."""
        first, last = self.first + 1, self.last + 1
        when = f"from {first}s to {last}s" if self.doing else f"at {first}s"
        return f"{self.caption[:-1]}, {when}."


def moment(frame, fps):
    """The second of a film that frame number `frame` of a stream shows: turn t has fps of them, the
    last one at t. At 1 fps: 0, 1, 2; at 2 fps: 0, 0, 0.5, 1, 1.5, 2."""
    return max(0, (frame + 1) / fps - 1)


def an(name):
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def count(things):
    """How many of at most four things are there, in a sentence."""
    n = sum(thing.r > 0 for thing in things)
    number = ("no", "one", "two", "three", "four")[n]
    return f"There is {number} shape." if n == 1 else f"There are {number} shapes."


def there(things):
    """Those that are there, in the order of reading."""
    return sorted((thing for thing in things if thing.r), key=lambda t: PLACES.index(t.place))


def listed(texts):
    """"a, b and c" of one text or more."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def seen(things):
    """What is there, in the order of reading, in a sentence."""
    return f"I see {listed([an(thing.name) for thing in there(things)] or ['no shapes'])}."


def placed(things):
    """The same, each with its place."""
    text = ", ".join(f"{an(thing.name)} {thing.place}" for thing in there(things)) or "no shapes"
    return f"{text[0].upper()}{text[1:]}."


def going_on(clip, turn, since=False):
    """What goes on in a second of a film, a sentence each in the order of reading; with `since`,
    from when on."""
    told = []
    for e in clip.moments:
        if e.first <= turn <= e.last:
            seen = turn if e.kind == "appear" else turn - 1         # where it was before it acted
            thing = clip.state(seen)[e.thing]
            text = f"The {e.name} is {e.doing}" if e.doing else e.caption[:-1]
            when = f" {'since' if e.doing else 'at'} {e.first + 1}s" * since
            told.append((PLACES.index(thing.place), f"{text}{when}."))
    return " ".join(text for _, text in sorted(told)) or "Nothing happens."


class Clip:
    """A film of so many seconds: `start` are the things, `events` the script in order of time.

    first_edition: as the films of the benchmark's first edition, for figures that stay comparable:
    the scene is never empty, a thing may appear where another has grown or passes, and what is to
    be hit may change before. still: nothing happens. odds: {kind of event: how often, beside the
    others}."""

    def __init__(self, rng, seconds, still=False, odds=EVENTS, first_edition=False):
        self.seconds, self.start, self.events, self.odds = seconds, [], [], odds
        self.first_edition = first_edition
        self.ground = rng.choice(GROUNDS), rng.choice(list(PATTERNS)), rng.uniform(-10, 10)
        self.looks, self.cells, self.canvas = set(), {}, {}
        bare = 0 if first_edition else 0.5
        shares = (bare, 6, 3, 2, 1) if still else (bare, 1, 3, 4, 0)
        for _ in range(rng.choices((0, 1, 2, 3, 4), shares)[0]):
            self._enter(rng)
            self.start[-1].r = rng.uniform(0.13, 0.152)
        if not self.start and rng.random() < 0.5:
            still = True                            # a scene that is empty and stays empty
        time = rng.randint(1, 3)
        while not still and time <= seconds - 2 and (event := self._happen(rng, time)):
            if event.last - event.first >= 2 and rng.random() < 0.15:       # two at a time
                time = rng.randint(event.first + 1, event.last)
                self._happen(rng, time, ("turn", "grow", "shrink", "appear"), self._parties(event))
            time = max(e.last for e in self.events) + 2 + rng.choice((0, 0, 1, 1, 2, 3, 5))
        self.events.sort(key=lambda e: (e.first, e.last))

    @property
    def moments(self):
        """What each second tells: of a hit the way until it touches, and then that it has hit."""
        hits = [replace(e, first=e.last + 1, last=e.last + 1, doing="")
                for e in self.events if e.kind == "hit"]
        return self.events + hits

    def _enter(self, rng, first=0):
        """A new thing, still invisible, in a free cell, apart from what is near from frame `first`
        on; its index, or None."""
        free = [cell for cell in CELLS if cell not in self.cells.values()
                and (self.first_edition or self._clear(cell, first))]
        if not free:
            return None
        cell = rng.choice(free)
        look = rng.choice([(c, s) for c in COLOURS for s in SHAPES if (c, s) not in self.looks])
        self.looks.add(look)
        self.cells[len(self.start)] = cell
        self.start.append(Thing(*look, *(CENTRES[k] + rng.uniform(-0.03, 0.03) for k in cell)))
        return len(self.start) - 1

    def _parties(self, event):
        """The things of an event: what is hit stays as it is till then, too."""
        if self.first_edition:
            return [event.thing]
        return [i for i, thing in enumerate(self.state(event.first))
                if i == event.thing or event.does == f"hits the {thing.name}"]

    def _happen(self, rng, first, kinds=tuple(EVENTS), busy=()):
        """Add an event to the script; None: nothing is possible, or no time is left."""
        if not self.cells and not self.first_edition:
            kinds = ("appear",)                     # the scene is empty
        for _ in range(20):
            kind, change = rng.choices(kinds, [self.odds[k] for k in kinds])[0], None
            here = [i for i in self.cells if i not in busy]
            if kind == "appear" and len(self.cells) == 4:
                continue
            if kind != "appear" and not here:
                break
            i = self._enter(rng, first) if kind == "appear" else rng.choice(here)
            if i is None:
                continue
            thing = self.state(math.inf)[i]
            if kind == "appear":
                change = "r", rng.uniform(0.13, 0.152), 1, "appears"
            elif kind == "leave" and (len(self.cells) > 1 or (
                    not self.first_edition and rng.random() < 0.5)):
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

    def _clear(self, cell, first):
        """Whether a cell is, and stays, apart from what has grown beside it or passes it."""
        (x, y), end = (CENTRES[k] for k in cell), max((e.last for e in self.events), default=0)
        return all(math.hypot(other.x - x, other.y - y) > other.r + 0.12
                   for t in (*range(first, end + 1), math.inf)
                   for other in self.state(t) if other.r)

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
        """The picture at t seconds, whole or not: uint8 (size, size, 3), anti-aliased."""
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
    spans = [slice(k * side // grid, math.ceil((k + 1) * side / grid)) for k in range(grid)]

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
