"""Questions and answers about the toy world's films: raw records in Streamo-Instruct's layout.

A task is one function under @task: it writes one instruction with its answers, nothing if the film
has no matter for it; the head says in which films it is asked how often. What it asks and says is
told by the Dialogue d (telling.py), in the wordings of its name (wordings.py).
"""
import random
from functools import partial

from toy.drills import Bustle, Reel, Slides
from toy.telling import ABSENT, NOT_SO, VAIN, Dialogue
from toy.wordings import FIRST, PLAINEST, UNSEEN
from toy.world import EVENTS, Clip, an, going_on, listed, placed, seen, there

ASK = {kind: FIRST[kind] for kind in FIRST if kind[0].isupper()}    # of instructions, a few each
# name: function; kind of film: {name: weight}, of full ones the paper's, and "Frame QA" beside them
TASKS, MIXES = {}, {}


def task(name, **weights):
    """Register a task: "full", 10 to 60 s, "long", "short", "reel", "busy" and "frame" films (see
    sample) are asked it with these weights."""
    def register(tell):
        TASKS[name] = tell
        for kind, weight in weights.items():
            MIXES.setdefault(kind, {})[name] = weight
        return tell
    return register


# ---- The tasks

@task("Time-sensitive QA", full=34.8, short=75, busy=15, long=50)
def time_sensitive_qa(d):
    asked = d.undated() if d.rng.random() < ABSENT else d.dated()[0]
    d.follow(*asked)


@task("Event Grounding", full=13.15, short=12.5, reel=15)
def event_grounding(d):
    """Of an event that is to come, or never comes."""
    end, rng = d.clip.seconds, d.rng
    coming = d.unique(end, instants=True)
    if rng.random() < NOT_SO or not coming:
        d.tempt(rng.randrange(1 + end // 2))
    else:
        d.ground_ahead(coming)


@task("Backward Grounding", full=13.15, short=12.5)
def backward_grounding(d):
    """Of an event of the past, or one that never was."""
    end, rng = d.clip.seconds, d.rng
    past = d.past(end - 1)
    if rng.random() < NOT_SO:
        d.deny(rng.randint(min(3, end - 1), end - 1))
    elif past:
        d.ground_back(past)


@task("Offline QA", full=13.8)
def offline_qa(d):
    """A question in the middle, answered two seconds later, by what is to be seen then."""
    end = d.clip.seconds
    quiet = d.quiet(end - 2, 2)
    turn = d.rng.choice(quiet if quiet and d.rng.random() < 0.5 else range(end - 2))
    about, reply = d.question(turn + 2, asked=turn)
    d.ask("Offline QA", about, turn)
    d.say(reply, turn + 2, since=turn)


@task("Real-time Narration", full=12.7, short=14, reel=40)
def narration(d):
    """What starts and stops, on the second that shows it."""
    d.ask("Real-time Narration", "", 0)
    for e in d.clip.events:
        d.say(f"The {e.name} starts {e.doing}." if e.doing else e.caption, e.first)
        if e.doing:
            d.say(e.caption if e.kind == "hit" else f"The {e.name} stops.", e.last + 1)


@task("Event Caption", full=6.7, short=12, reel=20)
def event_caption(d):
    d.ask("Event Caption", "", 0)
    for e in d.clip.events:
        d.say(e.caption, e.last + 1, since=e.first)


@task("Timed Caption", short=17, long=20, reel=20)
def timed_caption(d):
    d.ask("Timed Caption", "", 0)
    for e in d.clip.events:
        d.say(e.span, e.last + 1, since=e.first)


@task("Action Caption", full=5.8, short=20, long=10)
def action_caption(d):
    """The events of one thing."""
    if d.clip.events:
        chosen = d.rng.choice(sorted({e.thing for e in d.clip.events}))
        events = [e for e in d.clip.events if e.thing == chosen]
        d.ask("Action Caption", f"the {events[0].name}", 0)
        for e in events:
            d.say(e.caption, e.last + 1, since=e.first)


@task("Recalling", short=50, busy=25, long=70)
def recalling(d):
    """Again and again an event of the past."""
    for turn in sorted(d.rng.sample(range(d.clip.seconds), min(d.clip.seconds, 15))):
        d.recall(turn)


@task("Waiting", short=40, busy=40, long=35, reel=20)
def waiting(d):
    """For one event after the other, or for two at once; some never come, while something like
    them does."""
    turn, end = 0, d.clip.seconds
    while later := [e for e in d.unique(end, instants=True) if e.first > turn]:
        if d.rng.random() < VAIN:
            turn = d.tempt(turn) or turn + d.rng.randint(1, 6)
        else:
            events = d.rng.sample(later, min(len(later), d.rng.choice((1, 1, 2))))
            last = min(event.first for event in events) - 1
            asked = sorted(d.rng.randint(turn, last) for _ in events)
            for event, second in zip(events, asked):
                d.ground(event, second)
            turn = max(event.last for event in events) + 2


@task("Frame QA", full=8, busy=20, frame=16, short=12, long=12)
def frame_qa(d):
    """Every second where all is busy, now and then in other films."""
    turns = range(d.clip.seconds)
    if not isinstance(d.clip, (Bustle, Slides)):
        turns = sorted(d.rng.sample(turns, d.rng.randint(1, 4)))
    d.interrupt(turns)


@task("Beside", short=30, long=15)
def beside(d):
    """Questions in the very seconds in which a caption or a change is due."""
    TASKS[d.rng.choice(("Event Caption", "Real-time Narration"))](d)
    d.interrupt([turn for turn in d.due() if d.rng.random() < 0.5])


@task("Pairs", short=40, long=20, busy=15)
def pairs(d):
    """Two questions in a second, now and then."""
    turns = d.rng.sample(range(d.clip.seconds), d.rng.randint(1, min(4, d.clip.seconds)))
    d.interrupt(sorted(turns + turns))


@task("Mixed")
def mixed(d):
    """Perhaps a lasting instruction, and questions along the way, oftener where an answer to that
    is due, or about to be: one answer does not take another's place."""
    lasting = d.rng.choice(("Event Caption", "Real-time Narration", "Action Caption",
                            "Event Grounding", "Time-sensitive QA", None))
    if lasting:
        TASKS[lasting](d)
    due = d.due()
    turns = [*range(d.clip.seconds), *due, *(turn - 1 for turn in due if turn)]
    d.interrupt(sorted(d.rng.choices(turns, k=d.rng.randint(2, 6))))


def drill(name, since, tell, **weights):
    """A task that is answered every second from second `since` on, by tell(clip, turn)."""
    @task(name, **weights)
    def every_second(d):
        d.ask(name, "", 0)
        for turn in range(since, d.clip.seconds):
            d.say(tell(d.clip, turn), turn)


drill("Acting", 1, going_on, busy=20, short=6, long=4)
drill("Since", 1, partial(going_on, since=True), busy=20, short=6, long=4)
drill("Placing", 0, lambda clip, turn: placed(clip.state(turn)), frame=14, short=6, long=4)
drill("Naming", 0, lambda clip, turn: seen(clip.state(turn)), frame=10, short=6, long=4)


@task("Dating", frame=60)
def dating(d):
    """Every second a question after some things that were each in one picture so far."""
    names = []
    for turn in range(d.clip.seconds):
        names.append([thing.name for thing in there(d.clip.state(turn))])
        once = [(name, k) for k, some in enumerate(names) for name in some
                if sum(name in others for others in names) == 1]
        if turn and once:
            some = d.rng.sample(once, d.rng.randint(1, min(4, len(once))))
            d.ask("Dating", listed([an(name) for name, _ in some]), turn)
            told = listed([f"{an(name)} at {k + 1}s" for name, k in some])
            d.say(f"There was {told}.", turn)


# ---- Samples and the benchmark

def sample(seed, i, kind="full"):
    """(clip, raw record) number i of a seed, always the same. kind: "full", 10 to 60 s, one task by
    the paper's mix or several; "long", as long, with many questions about what is far back;
    "short", 6 to 12 s and dense, with many hits; "reel", several films end to end; "busy",
    everything does something every second; "frame", another picture every second; "one", a
    picture."""
    dialogue = drawn(seed, i, kind)
    return dialogue.clip, dialogue.record(i)


def tasks_of(seed, i, kind):
    """The tasks of the questions of a sample."""
    return drawn(seed, i, kind).tasks


def drawn(seed, i, kind):
    """The dialogue of a sample, with its clip."""
    rng = random.Random(f"train/{kind}/{seed}/{i}")
    longest = rng.choices((20, 30, 60), (5, 3, 2))[0]
    lengths = {"short": (6, 12), "reel": (18, 40), "busy": (3, 10), "frame": (2, 8), "one": (1, 1)}
    film = {"one": Slides, "frame": Slides, "busy": Bustle, "reel": Reel,
            "short": partial(Clip, odds=EVENTS | {"hit": 20})}.get(kind, Clip)
    clip = film(rng, rng.randint(*lengths.get(kind, (10, longest))))
    mix, dialogue = MIXES["frame" if kind == "one" else kind], Dialogue(clip, rng)
    name = rng.choices(list(mix), list(mix.values()))[0]
    if kind in ("short", "full") and rng.random() < 0.3:
        name = "Mixed"
    TASKS[name](dialogue)
    if not dialogue.questions:
        TASKS[{Slides: "Naming", Bustle: "Acting"}.get(film, "Event Caption")](dialogue)
    return dialogue


def bench(seed, i):
    """(clip, [(task, raw record)]): Streamo-Bench on a clip of 16 to 60 s that is never a sample.
    The first ten rows are those of the first edition, which its six figures and states are read
    from; the others are the second's (see beyond) and the third's (see crowded). ValueError if no
    such clip is found."""
    for attempt in range(100):
        rng = random.Random(f"bench/{seed}/{i}/{attempt}")
        clip = Clip(rng, rng.randint(16, rng.choice((30, 30, 60))), first_edition=True)
        end, rows = clip.seconds, [(name, Dialogue(clip, rng, FIRST)) for name in (
            "forward_grounding", "backward_grounding", "narration", "dense_caption")]
        forward, backward, narrated, captioned = (dialogue for _, dialogue in rows)
        if coming := forward.unique(end):
            forward.ground_ahead(coming)
        if past := backward.unique(end - 1):
            backward.ground_back(past)
        narration(narrated)
        event_caption(captioned)
        dated = Dialogue(clip, rng).dated()[:6]
        if len(dated) == 6 and all(dialogue.questions for _, dialogue in rows):
            rows += [("tsqa", Dialogue(clip, rng, FIRST).follow(*question)) for question in dated]
            rows += beyond(clip, random.Random(f"bench/{seed}/{i}/second edition"))
            rows += crowded(clip, random.Random(f"bench/{seed}/{i}/third edition"))
            return clip, [(name, dialogue.record(i, name)) for name, dialogue in rows]
    raise ValueError(f"toy bench, seed {seed}, clip {i}: no clip with ten tasks in 100 attempts")


def beyond(clip, rng):
    """[(task, dialogue)] of the benchmark's second edition: waiting for what never comes, looking
    back on what never was, events without duration, absent things; and the six's tasks in wordings
    that no training has. A film has those that it has the matter for."""
    rows, end = [], clip.seconds

    def add(task, wordings=FIRST):
        rows.append((task, Dialogue(clip, rng, wordings)))
        return rows[-1][1]

    for why in ("another", "absent"):
        add(f"never_{why}").vain(rng.randint(0, end // 2), why)
    turn = rng.randint(end // 2, end - 5)
    add("never_again").vain(turn, "elsewhen")
    add("denied").deny(rng.randint(end // 2, end - 1))
    for task, last in (("forward_instant", end), ("backward_instant", end - 1)):
        dialogue = add(task)
        if found := [e for e in dialogue.unique(last, instants=True) if not e.doing]:
            if task == "forward_instant":
                dialogue.ground_ahead(found)
            else:
                dialogue.ground_back(found)
    absent(add("absent"), rng)
    new = rng.choice(("forward_grounding", "backward_grounding", "narration", "dense_caption",
                      "tsqa"))
    dialogue = add(f"reworded_{new}", UNSEEN)
    if new == "forward_grounding":
        dialogue.ground_ahead(dialogue.unique(end))
    elif new == "backward_grounding":
        dialogue.ground_back(dialogue.unique(end - 1))
    elif new == "tsqa":
        dialogue.follow(*dialogue.dated()[0])
    else:
        {"narration": narration, "dense_caption": event_caption}[new](dialogue)
    return [(task, dialogue) for task, dialogue in rows if dialogue.questions]


def crowded(clip, rng):
    """[(task, dialogue)] of the benchmark's third edition: a question in each second in which a
    caption is due; two questions in a second; two waits at a time; which event was the first, or
    the last; and a bare question, late and alone. A film has those that it has the matter for."""
    names = ("beside_captions", "two_at_once", "two_waits", "first_last", "late_alone")
    beside, two, waits, ends, late = dialogues = [Dialogue(clip, rng, PLAINEST) for _ in names]

    event_caption(beside)
    for turn in beside.due():
        question = beside.question(turn)
        while question[0][0] in ("first", "last"):          # its answer may be the caption itself
            question = beside.question(turn)
        beside.at_once(turn, question)
    for turn in (k * clip.seconds // 3 + rng.randint(1, 3) for k in range(3)):
        two.at_once(turn, two.question(turn))
        two.at_once(turn, two.unsaid(turn))
    coming = waits.unique(clip.seconds)
    if len(coming) > 1:
        events = rng.sample(coming, 2)
        turn = rng.randint(0, min(e.first for e in events) - 1)
        for event in events:
            waits.ground(event, turn)
    for turn in range(rng.randint(4, 8), clip.seconds, 5):
        if found := [end for end in ends.ends(turn) if end[1] != "Nothing happened."]:
            ends.at_once(turn, rng.choice(found))
    turn = rng.randint(2 * clip.seconds // 3, clip.seconds - 1)
    late.at_once(turn, late.question(turn))
    return [(task, dialogue) for task, dialogue in zip(names, dialogues) if dialogue.questions]


def absent(dialogue, rng):
    """Four questions about what is not there, far enough apart, each to answer at once."""
    end = dialogue.clip.seconds
    for turn in (k * end // 4 + rng.randint(0, end // 4 - 2) for k in range(4)):
        dialogue.at_once(turn, dialogue.absent(turn))


def bench_empty(seed, i):
    """(clip, [(task, raw record)]) of an empty scene of 12 to 20 s, beside clip i of the benchmark:
    questions about it, and a wait for an event, which never comes."""
    rng = random.Random(f"bench/{seed}/{i}/empty")
    clip = Clip(rng, rng.randint(12, 20), still=True)
    clip.start = []                                         # what it began with is taken out
    rows = [(name, Dialogue(clip, rng, FIRST)) for name in ("empty", "never_empty")]
    (_, asked), (_, waiting) = rows
    absent(asked, rng)
    waiting.vain(rng.randint(0, 3), "absent")
    return clip, [(name, dialogue.record(i, name)) for name, dialogue in rows]


BENCH = {"": bench, "/empty": bench_empty}      # the benchmark's films by the name in a row's id
