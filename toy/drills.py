"""Films of the demo's training beside Clip: a new picture every second, all things busy every
second, and several films end to end."""
import math
from dataclasses import replace

from toy.world import CENTRES, COLOURS, DIRECTIONS, PROGRESSIVE, Clip, Event


class Slides:
    """A film that shows another picture every second: from after t - 1 up to t, that of t."""
    events = ()

    def __init__(self, rng, seconds):
        self.seconds = seconds
        self.pictures = [Clip(rng, 1, still=True) for _ in range(seconds)]

    def state(self, t):
        return self.pictures[math.ceil(t)].state(0)

    def frame(self, t, size):
        return self.pictures[math.ceil(t)].frame(0, size)


class Reel:
    """Films end to end, `seconds` in all or more: the picture changes without a warning, as at the
    cuts of a film, and what goes on is told as before."""

    def __init__(self, rng, seconds):
        self.films, self.events, self.seconds, things = [], [], 0, 0
        while self.seconds < seconds:
            film = Clip(rng, rng.randint(8, 20))
            self.films.append((self.seconds, film))
            for e in film.events:
                self.events.append(replace(e, thing=things + e.thing, first=self.seconds + e.first,
                                           last=self.seconds + e.last))
            self.seconds += film.seconds
            things += len(film.start)

    def at(self, t):
        """(number of seconds before it, film) of the film that runs at t seconds."""
        return [(begin, film) for begin, film in self.films if begin <= t][-1]

    def state(self, t):
        """The things of all films; those of the others are not there."""
        begin, running = self.at(t)
        things = []
        for _, film in self.films:
            if film is running:
                things += film.state(t - begin)
            else:
                things += [replace(thing, r=0.0, doing="still") for thing in film.start]
        return things

    def frame(self, t, size):
        begin, film = self.at(t)
        return film.frame(t - begin, size)


class Bustle:
    """A film in which everything does something nearly every second: many changes to learn from.
    What moves head-on to another thing comes to touch it; the second after tells so.

    moments: what each second tells; events: the script."""

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
            ahead = {i: self._ahead(i, way, before) for i, way in ways.items()}
            hits = {i: j for i, (gap, j) in ahead.items() if gap < 0.01}
            for i, old in enumerate(before):
                chances = 0 if i in hits.values() else 3        # what is hit stays still
                tries = (self._act(rng, i, old, now) for _ in range(chances))
                now[i] = next((thing for thing in tries if self._fits(thing, i, now)), now[i])
                if i in hits:
                    now[i] = replace(old, doing=f"hits the {before[hits[i]].name}")
                self.worn[now[i].name] = i
                self._note(turn, i, old.name, now[i])
            self.states.append(now)
        self.moments = sorted(self.events, key=lambda e: (e.first, e.last))
        self.events = list(self._script())

    def _script(self):
        """The moments as a Clip has them: the whole way of what comes to touch another thing is
        one event, in which it hits it."""
        hits = {(e.thing, e.first): e for e in self.moments if e.kind == "hit"}
        for e in self.moments:
            if e.kind == "move" and (e.thing, e.last + 1) in hits:
                yield replace(e, kind="hit", does=hits[e.thing, e.last + 1].does)
            elif e.kind != "hit":
                yield e

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
        if not thing.r:
            return True
        inside = 0.12 < min(thing.x, thing.y) and max(thing.x, thing.y) < 0.88
        own_look = self.worn.get(thing.name, i) == i
        apart = all(math.hypot(other.x - thing.x, other.y - thing.y) > 0.9 * (other.r + thing.r)
                    for j, other in enumerate(now) if j != i and other.r)
        return 0.07 < thing.r < 0.27 and inside and own_look and apart

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
        return [replace(thing) for thing in self.states[math.ceil(t)]]

    def frame(self, t, size):
        self.stage.start = self.state(t)
        return self.stage.frame(0, size)
