"""What can be asked about a film of the toy world, and what is then true: the record of a dialogue.

Events do not always come, and things are not always there: what life has, a share of all questions
has, too (NOT_SO, ABSENT). The right answer to a wait for what never comes is none.
"""
from collections import defaultdict

from toy.drills import Reel, Slides
from toy.wordings import KNOWN, PLAINEST, typed
from toy.world import COLOURS, DIRECTIONS, EVENTS, SHAPES, Event, an, count, seen, there

NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
NOT_SO = 0.25           # share of the questions about events whose event never comes or never came
VAIN = 0.5              # share of "Waiting" whose event never comes, while a look-alike does
FIRST_OR_LAST = 0.25    # share of the questions about the past: which event was first, or last
LASTING = 0.6           # share of the questions about past events that are about one with duration
ABSENT = 0.15           # share of the questions about the picture after something that is not in it
PLAIN = 0.25            # share of the training questions in the PLAINEST words
WHY = ("another", "absent", "elsewhen")     # why an event is missing, see Dialogue.missing


class Dialogue:
    """The questions and answers of one record, all of them read from the script of a clip.

    An answer names its thing again: a small decoder looks a thing up better from its own words."""

    def __init__(self, clip, rng, wordings=KNOWN):
        self.clip, self.rng, self.questions, self.responses = clip, rng, [], []
        self.wordings, self.trains, self.tasks = wordings, wordings is KNOWN, set()

    def record(self, i, task=None):
        name = f"{i:06d}.mp4"
        task = task or ("Mixed" if len(self.tasks) > 1 else min(self.tasks))
        return {"video_name": name, "video_path": name, "task_type": task, "source": "toy",
                "question": self.questions, "response": self.responses}

    # ---- what is said

    def worded(self, kind, about=""):
        """A question of a kind about a thing, an inner question or an event."""
        wordings = self.wordings[kind]
        if self.trains and self.rng.random() < PLAIN:
            wordings = PLAINEST[kind]
        text = self.rng.choice(wordings) if len(wordings) > 1 else wordings[0]
        if isinstance(about, Event):
            return text.format(about.caption, clause=about.clause, gerund=about.gerund,
                               plain=about.plain)
        return text.replace("{}", about).replace("{an}", an(about) if about else "")

    def ask(self, task, about, turn):
        """Ask about a thing, an event or, of a pair (kind, thing), the inner question."""
        self.tasks.add(task)
        about = self.worded(*about) if isinstance(about, tuple) else about
        text = self.worded(task, about)
        if self.trains:
            text = typed(self.rng, text)
        self.questions.append({"content": text, "time": str(turn + 1)})

    def say(self, text, turn, since=None):
        """The response on a turn; `since`: the first turn that shows what it waits for."""
        times = {"st_time": "", "end_time": "", "time": str(turn + 1)}
        if since is not None:
            times = {"st_time": float(since + 1), "end_time": float(turn), "time": ""}
        self.responses.append({"content": text, **times})

    def at_once(self, turn, question):
        """A question of this second, ((kind, what it is about), answer), with its answer."""
        about, reply = question
        self.ask("Frame QA", about, turn)
        self.say(reply, turn)

    def due(self):
        """{turn on which something is said: the texts}, in the order of time."""
        due = defaultdict(list)
        for said in self.responses:
            due[int(said["time"] or said["end_time"] + 1) - 1].append(said["content"])
        return dict(sorted(due.items()))

    # ---- events that come, and events that do not

    def unique(self, turn, instants=False):
        """The lasting events, with `instants` all events, over before a turn, whose caption is true
        of nothing else in the film."""
        told = [(e.name, does) for e in self.clip.events for does in e.truths]
        return [e for e in self.clip.events if (e.doing or instants)
                and e.kind not in self.unseen() and e.last + 2 <= turn
                and told.count((e.name, e.does)) == 1]

    def unseen(self):
        """The kinds of event that the film may show without an event: a cut brings and takes."""
        return ("appear", "leave") if isinstance(self.clip, Reel) else ()

    def past(self, turn):
        """Unique events to ask about in training: oftener than not those that last, if there are
        any, for two seconds are harder to tell than one."""
        lasting = self.unique(turn)
        if lasting and self.rng.random() < LASTING:
            return lasting
        return self.unique(turn, instants=True)

    def names(self):
        """Of all things that are ever there, under each name that they ever have."""
        return {thing.name for t in range(self.clip.seconds) for thing in self.clip.state(t)}

    def missing(self, turn, first, last, why):
        """An event that does not happen in frames first..last, and might: a thing that is there on
        a turn does "another" thing; a thing is "absent" from the whole film; or it is one of the
        film's that happens "elsewhen" alone. None: the film has no such event."""
        rng = self.rng
        near = [e for e in self.clip.events if e.last >= first and e.first <= last]
        if why == "elsewhen":
            told = {(who, does) for e in near for who in (e.thing, e.name) for does in e.truths}
            found = [e for e in self.clip.events if e not in near and e.kind not in self.unseen()
                     and not {(e.thing, e.does), (e.name, e.does)} & told]
            return rng.choice(found) if found else None
        now = self.clip.state(turn)
        here = [i for i, thing in enumerate(now) if thing.r > 0]
        if why == "another":
            if not here:
                return None
            i = rng.choice(here)
            name = now[i].name
            done = [e for e in near if e.thing == i or e.name == name]  # in a reel's other films
        else:
            ever, i, done = self.names(), -1, []
            name = rng.choice([name for name in NAMES if name not in ever])
        others = [now[j].name for j in here if j != i]
        does = {"appear": ["appears"], "leave": ["disappears"], "grow": ["grows"],
                "shrink": ["shrinks"], "move": [f"moves {way}" for way in DIRECTIONS],
                "turn": [f"turns {colour}" for colour in COLOURS if colour != name.split()[0]],
                "hit": [f"hits the {other}" for other in others]}
        if any(e.kind == "hit" for e in done):
            del does["hit"], does["move"]           # what hits also moves
        if why == "another" and first == 0:
            del does["appear"]                      # it may have been there from the start
        told = {e.does for e in done}
        does = {kind: left for kind in does if kind not in self.unseen()
                and (left := [d for d in does[kind] if d not in told])}
        if not does:
            return None
        kind = rng.choices([*does], [EVENTS[kind] for kind in does])[0]
        return Event(kind, i, name, -1, -1, (), rng.choice(does[kind]))

    def vain(self, turn, why=None):
        """Ask to wait for an event that does not come from a turn on: no answer, to the end."""
        end = self.clip.seconds
        for reason in [why] if why else self.rng.sample(WHY, len(WHY)):
            if event := self.missing(turn, max(0, turn - 1), end, reason):
                self.ask("Event Grounding", event, turn)
                return

    def tempt(self, turn):
        """Ask to wait for an event that does not come, but a look-alike does: the same thing does
        something else, or another thing does the same. The turn after the first look-alike. Where
        the film has none, ask any vain wait: None."""
        tries = [self.missing(turn, max(0, turn - 1), self.clip.seconds, why) for why in 2 * WHY]
        self.rng.shuffle(tries)
        for event in filter(None, tries):
            alike = [e.last + 2 for e in self.clip.events if e.first > turn
                     and (e.thing == event.thing or e.does == event.does)]
            if alike:
                self.ask("Event Grounding", event, turn)
                return min(alike)
        self.vain(turn)
        return None

    def deny(self, turn):
        """Ask when something happened that did not happen before a turn, and say so."""
        for reason in self.rng.sample(WHY, len(WHY)):
            if event := self.missing(turn, 0, turn + 1, reason):
                self.ask("Backward Grounding", event, turn)
                self.say("That did not happen.", turn)
                return

    def ground(self, event, turn):
        """A question about the time of an event that is to come, or is over; and its answer."""
        if event.first > turn:
            self.ask("Event Grounding", event, turn)
            self.say(event.span, event.last + 1, since=event.first)
        else:
            self.ask("Backward Grounding", event, turn)
            self.say(event.span, turn)

    def ground_ahead(self, events):
        """At any turn before one of the events, a question about its time."""
        event = self.rng.choice(events)
        self.ground(event, self.rng.randint(0, event.first - 1))

    def ground_back(self, events):
        """The same after one of the events, once its end has been seen."""
        event = self.rng.choice(events)
        self.ground(event, self.rng.randint(event.last + 2, self.clip.seconds - 1))

    def recall(self, turn):
        """A question about a past event, if there is one, or about one that was not."""
        past, ends = self.past(turn), self.ends(turn)
        if ends and self.rng.random() < FIRST_OR_LAST:
            last = ends[0]                      # which is harder to tell than what came first
            self.at_once(turn, self.rng.choice([last, *ends]))
        elif self.rng.random() < NOT_SO:
            self.deny(turn)
        elif past:
            self.ground(self.rng.choice(past), turn)

    # ---- questions about the picture

    def quiet(self, end, room=0):
        """The turns 1..end-1 around which nothing begins, goes on or has just ended."""
        return [turn for turn in range(1, end) if all(
            e.last + 1 < turn or e.first > turn + 1 + room for e in self.clip.events)]

    def absent(self, turn):
        """((kind, what it is about), answer) about something that is not there on a turn."""
        now = there(self.clip.state(turn))
        shown = [thing.name for thing in now]
        name = self.rng.choice([name for name in NAMES if name not in shown])
        asks = [((kind, name), f"There is no {name}.") for kind in ("place", "doing")]
        asks += [(("exists", name), "No.")]
        if shapes := SHAPES.keys() - {thing.shape for thing in now}:
            shape = self.rng.choice(sorted(shapes))
            asks += [(("colour", shape), f"There is no {shape}.")] * 2
        if colours := COLOURS.keys() - {thing.colour for thing in now}:
            colour = self.rng.choice(sorted(colours))
            asks += [(("shape", colour), f"No shape is {colour}.")] * 2
        if not any(thing.moves for thing in now) and not isinstance(self.clip, Slides):
            asks += [(("mover", ""), "No shape is moving.")]
        if not now:
            asks += [(("count", ""), count(now)), (("names", ""), seen(now))] * 2
        return self.rng.choice(asks)

    def question(self, turn, asked=None):
        """((kind, what it is about), answer): about the picture on a turn, or what was seen before
        it. Asked on a turn before, it names what was there then, too."""
        rng, now = self.rng, there(self.clip.state(turn))
        known = {thing.name for thing in there(self.clip.state(turn if asked is None else asked))}
        old = [thing for thing in now if thing.name in known]
        if not old or rng.random() < ABSENT:
            return self.absent(turn)
        one = rng.choice(old)
        asks = [(("count", ""), count(now)),
                (("place", one.name), f"The {one.name} is {one.place}.")]
        if [thing.shape for thing in now].count(one.shape) == 1:
            asks += [(("colour", one.shape), f"The {one.shape} is {one.colour}.")] * 2
        if [thing.colour for thing in now].count(one.colour) == 1:
            asks += [(("shape", one.colour), f"It is the {one.shape}.")] * 2
        other = f"{rng.choice(list(COLOURS))} {one.shape}"
        yes = rng.random() < 0.5
        asks += [(("exists", one.name if yes else other),
                  "Yes." if yes or other in [thing.name for thing in now] else "No."),
                 (("exists", one.shape), "Yes."), (("names", ""), seen(now))]
        if others := SHAPES.keys() - {thing.shape for thing in now}:
            asks += [(("exists", rng.choice(sorted(others))), "No.")]
        busy = [thing for thing in old if thing.doing != "still"]
        one = rng.choice(busy if busy and rng.random() < 0.6 else old)
        if one.doing != "still":
            asks += [(("doing", one.name), f"The {one.name} is {one.doing}.")] * 2
        movers = [thing for thing in now if thing.moves]
        if len(movers) == 1:
            asks += [(("mover", ""), f"The {movers[0].name}.")] * 2
        return rng.choice(asks + 3 * self.ends(turn))

    def is_new(self, text, turn):
        """Whether nothing says this on a turn yet: what is said twice on a turn is said once."""
        return text not in self.due().get(turn, ())

    def unsaid(self, turn):
        """A question whose answer is new on its turn."""
        question = self.question(turn)
        while not self.is_new(question[1], turn):
            question = self.question(turn)
        return question

    def ends(self, turn):
        """[((kind, ""), answer)] about what happened last and first, before a turn: only where it
        is the same event by the beginnings and by the ends, so that nobody can differ."""
        asks, begun = [], [e for e in self.clip.events if e.first <= turn]
        if over := [e for e in begun if e.last < turn]:
            last, first = max(over, key=lambda e: e.last), min(over, key=lambda e: e.last)
            if all(e.first < last.first and e.last < last.last for e in begun if e is not last):
                asks.append((("last", ""), last.caption))
            if all(e.first > first.first and e.last > first.last for e in begun if e is not first):
                asks.append((("first", ""), first.caption))
        elif not begun and not isinstance(self.clip, Slides):
            asks.append((("last", ""), "Nothing happened."))
        return asks

    def interrupt(self, turns):
        """On each of the turns a question to answer at once, about the past or the picture; a turn
        may have two, whose answers differ."""
        for turn in turns:
            past = Dialogue(self.clip, self.rng, self.wordings)
            if not isinstance(self.clip, Slides) and self.rng.random() < 0.6:
                past.recall(turn)
            if any(self.is_new(said["content"], turn) for said in past.responses):
                self.questions += past.questions
                self.responses += past.responses
                self.tasks |= past.tasks
            else:
                self.at_once(turn, self.unsaid(turn))

    # ---- time-sensitive QA

    def dated(self):
        """All (question, first turn to ask it, true answer on every turn) of Time-sensitive QA,
        those whose answer changes first. The answer is None while it cannot be told."""
        clip, states = self.clip, [self.clip.state(t) for t in range(self.clip.seconds)]
        moving = ["Yes." if any(thing.moves for thing in now) else "No." for now in states]
        found = [(("count", ""), 0, [count(now) for now in states]), (("moving", ""), 0, moving)]
        for i, (thing, life) in enumerate(zip(clip.start, zip(*states))):
            mine = {e.kind: e.first for e in clip.events if e.thing == i}
            born = mine.get("appear", 0)
            if born > clip.seconds - 6:
                continue
            asks = [("place", thing.name), ("doing", thing.name)]
            if "turn" in mine:
                alone = [other.shape for other in clip.start].count(thing.shape) == 1
                asks = [("colour", thing.shape)] if alone else []
            for kind, name in asks:
                found.append(((kind, name), born, [
                    None if kind == "place" and now.moves else
                    f"The {name} is {getattr(now, kind) if now.r else 'gone'}." for now in life]))

        def constant(item):
            _, born, truth = item
            return len({*truth[born:]} - {None}) < 2

        self.rng.shuffle(found)
        return sorted(found, key=constant)

    def undated(self):
        """The same about something that is not there yet, or never."""
        def new(name, born):                    # a thing of a busy film comes and goes
            return all(thing.name != name or not thing.r
                       for turn in range(born) for thing in self.clip.state(turn))

        late = [(about, born, truth) for about, born, truth in self.dated()
                if born > 0 and about[0] != "colour" and new(about[1], born)]
        if late and self.rng.random() < 0.6:
            about, born, truth = self.rng.choice(late)
            return about, 0, [f"There is no {about[1]}."] * born + truth[born:]
        ever = self.names()
        name = self.rng.choice([name for name in NAMES if name not in ever])
        return (self.rng.choice(("place", "doing")), name), 0, (
            [f"There is no {name}."] * self.clip.seconds)

    def follow(self, about, born, truth):
        """Time-sensitive QA: the truth is told when asked for and whenever it changes."""
        told, waiting = None, None
        asked = min(born + self.rng.randint(0, 3), self.clip.seconds - 2)
        self.ask("Time-sensitive QA", about, asked)
        for turn in range(asked, self.clip.seconds):
            if truth[turn] not in (None, told):
                told = truth[turn]
                self.say(told, turn, since=waiting)
            if truth[turn] is not None:
                waiting = None
            elif waiting is None:
                waiting = turn
        return self
