"""Exams of data.py: from records to states, from turns to labels."""
import random

from course.exams import exam
from data import Turn, render, turns_from_record
from parts.tokenizer import FRAME, RESPONSE, SILENCE, STANDBY, STATES, Tokenizer

CHECKS, check = exam()


# ---- From spans to states

def record(questions=(), responses=()):
    """questions: (time, text); responses: (start, end, text) or (time, text)."""
    said = [{"content": r[-1], "st_time": r[0], "end_time": r[1], "time": ""} if len(r) == 3 else
            {"content": r[-1], "st_time": "", "end_time": "", "time": r[0]} for r in responses]
    return {"video_name": "a.mp4", "video_path": "a.mp4", "task_type": "Event Caption",
            "source": "mine", "question": [{"content": text, "time": time}
                                           for time, text in questions], "response": said}


def line(record, seconds):
    """The turns of a record: by second a state, text, and question."""
    return [[turn.second, turn.state, turn.text, turn.question]
            for turn in turns_from_record(record, seconds)]


def word(rng):
    return rng.choice(("It opens.", "A man leaves.", "The dog barks.", "Water boils."))


@check("states", 2, "a span: Standby while it lasts, the Response when it is over")
def one_span(rng):
    start = rng.randrange(2, 8)
    return [line(record([], [(start, start + n, word(rng))]), 20) for n in (1, rng.randrange(2, 7))]


@check("states", 1, "an instant: the Response in the turn of its second, no Standby")
def instant(rng):
    return line(record([], [(rng.randrange(2, 15), word(rng))]), 16)


@check("states", 1, "a question stands in the turn of its second")
def question(rng):
    return [line(record([(time, "What happens?")]), 6)
            for time in (0, 1, 2, rng.randrange(3, 6), "")]


@check("states", 1, "times that begin at 0, are fractions, or are written as MM:SS")
def odd_times(rng):
    start = rng.randrange(3, 9)
    return [line(record([("00:04", "Now?")], [(0, 3, "It moves.")]), 12),
            line(record([], [(start + 0.4, start + 2.7, "It moves.")]), 14),
            line(record([], [("1:02", "1:05", "It moves."), ("00:07", "It stops.")]), 70)]


@check("states", 2, "two events in a row: the Response of the first, the Standby of the next")
def neighbours(rng):
    a = rng.randrange(2, 6)
    return [line(record([], [(a, a + 4, "One."), (a + 4 + gap, a + 9, "Two.")]), 20)
            for gap in (0, 1, 2, 3)] + [line(record([], [(a + 5, a + 9, "Two."),
                                                        (a, a + 6, "One.")]), 20)]


@check("states", 1, "what falls after the last turn")
def after_the_end(rng):
    n = rng.randrange(8, 12)
    return [line(record([(n + 5, "Still there?")], [(n - 3, n + 2, "It ends.")]), n),
            line(record([], [(n + 9, "Late.")]), n), line(record([], [(n - 1, n, "Just.")]), n)]


@check("states", 1, "two questions, or two responses, in one turn")
def together(rng):
    n = rng.randrange(3, 8)
    return line(record([(n, "First?"), (n, "Second?")],
                       [(n + 3, "It opens."), (n - 1, n + 2, "It falls."),
                        (n + 3, "A bell rings.")]), 16)


@check("states", 1, "a stream record, whose turns are there already")
def stream_record(rng):
    turns = [(rng.choice(("", "", "What now?")), state, "It opens." if state == RESPONSE else "")
             for state in rng.choices(STATES, k=8)]
    messages = [{"role": "system", "content": "..."}]
    for n, (asked, state, text) in enumerate(turns):
        question = f"{asked}\n" if asked else ""
        messages += [{"role": "user", "content": f"{question}<{n}s-{n + 1}s>\n<stream>"},
                     {"role": "assistant", "content": f"{state} {text}".strip()}]
    made = {"messages": messages, "videos": ["a.mp4"], "task_type": "Event Caption",
            "source": "mine"}
    return [line(made, seconds) for seconds in (8, 10)]


# ---- The labels of the renderer

def a_tokenizer(rng):
    """A small tokenizer with the ids of our own tokens in an order of its own."""
    texts = ["user\n", "assistant\n", "system\n", "</Silence> red green blue star moves left"] * 5
    tokenizer = Tokenizer.train(texts, 300 + rng.randrange(1270, 1290) - 1270 + 1000)
    added = [*STATES, FRAME]
    rng.shuffle(added)
    tokenizer.add_tokens(added)
    return tokenizer


def some_turns(rng, n, answers=True):
    states = [rng.choice(STATES if answers else STATES[:2]) for _ in range(n)]
    first = rng.randrange(500)
    texts = [rng.choice(("A star moves.", "Red.")) if s == RESPONSE else "" for s in states]
    return [Turn(first + k, state, text, rng.choice((None, None, "What moves?")))
            for k, (state, text) in enumerate(zip(states, texts))]


def rendered(rng, turns, frames=(4,), pinned=(), tokenizer=None):
    tokenizer = tokenizer or a_tokenizer(rng)
    return list(render(tokenizer, turns, [list(frames)] * len(turns), pinned))


@check("labels", 1, "render: the ids of silent turns")
def silent(rng):
    return rendered(rng, [Turn(k) for k in range(rng.randrange(2, 5))])[0]


@check("labels", 1, "render: what is learnt in turns of Silence and Standby")
def quiet(rng):
    return rendered(rng, some_turns(rng, 6, answers=False))[1]


@check("labels", 2, "render: what is learnt in an answer")
def answer(rng):
    return rendered(rng, [Turn(4, RESPONSE, "A star moves.")])[1]


@check("labels", 2, "render: ids and labels of a whole dialogue")
def dialogue(rng):
    return rendered(rng, some_turns(rng, 12))


@check("labels", 1, "render: frames of other sizes, several in a turn, or none")
def frames(rng):
    return [rendered(random.Random(rng.random()), some_turns(rng, 3), tokens)
            for tokens in ((1,), (4, 4), (9, 1), (), (8,))]


@check("labels", 1, "render: questions that are pinned")
def pinned(rng):
    return rendered(rng, some_turns(rng, 3), pinned=["What moves?", "Where is it?"])


@check("labels", 2, "render: a turn that says something else than what is right (said)")
def perturbed(rng):
    tokenizer = a_tokenizer(rng)
    turns = [Turn(3, SILENCE, said=(STANDBY, "")), Turn(4, STANDBY, said=(RESPONSE, "Red.")),
             Turn(5, RESPONSE, "A star moves.", said=(SILENCE, "")),
             Turn(6, RESPONSE, "Red.", said=(RESPONSE, "A star moves."))]
    rng.shuffle(turns)
    return rendered(rng, turns, tokenizer=tokenizer)
