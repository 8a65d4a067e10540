"""Questions and answers about the toy world's films: raw records in Streamo-Instruct's layout."""
import random
from functools import partial

from toy.drills import Bustle, Slides
from toy.world import COLOURS, EVENTS, Clip, an, count, listed, placed, seen, there

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
