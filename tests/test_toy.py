"""The toy world: its annotations against its pixels, its samples for ever the same, its command."""
import collections
import hashlib
import itertools
import json
import math
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from bench.streams import EXACT
from toy import dialogues, drills, telling, wordings, world
from toy.__main__ import main as toy_main

SIZE, VIDEOS = 96, 80
NUMBERS = {0: "no", 2: "two", 3: "three", 4: "four"}
CAPTION = re.compile(r"(An?|The) (\w+) (\w+) (appears|disappears|grows|shrinks|"
                     r"moves (?:left|right|up|down)|turns \w+|hits the \w+ \w+)\.")
SPAN = re.compile(r"(.+), from (\d+)s to (\d+)s\.")


# ------------------------------------------------------------- what is measured, from pixels alone

@cache
def clip_and_rows(i):
    return dialogues.bench(11, i)


@cache
def look(i, t, colour):
    """(area, x, y) of all pixels of a colour on second t of clip i; in pixels; area 0: no such."""
    picture = clip_and_rows(i)[0].frame(t, SIZE).astype(int)
    rows, columns = np.nonzero(np.abs(picture - world.COLOURS[colour]).max(axis=2) < 24)
    return (len(rows), columns.mean(), rows.mean()) if len(rows) else (0, np.nan, np.nan)


def colours_of(clip):
    """How many things of the clip ever wear each colour: one means that pixels name the thing."""
    worn = {(i, thing.colour) for i, thing in enumerate(clip.start)}
    worn |= {(e.thing, e.does.split()[1]) for e in clip.events if e.kind == "turn"}
    return collections.Counter(colour for _, colour in worn)


def shift(i, t, colour):
    """How far the colour's centre is from where it was one second before: (x, y) in pixels."""
    (_, x, y), (_, x_before, y_before) = look(i, t, colour), look(i, t - 1, colour)
    return np.array([x - x_before, y - y_before])


def still(i, t, colour):
    return abs(shift(i, t, colour)).max() < 0.8


def shows(i, colour, verb, first, last):
    """Whether the pixels agree that the thing of a colour does this in frames first..last."""
    area = [look(i, t, colour)[0] for t in range(first - 1, last + 2)]
    if verb == "appears":
        return first == last and area[0] == 0 < area[1] == area[2] and still(i, first + 1, colour)
    if verb == "disappears":
        return first == last and area[0] > 0 == area[1] == area[2]
    if verb in ("grows", "shrinks"):
        steps = np.diff(area[:-1]) * (1 if verb == "grows" else -1)
        moved = [abs(shift(i, t, colour)).max() for t in range(first, last + 2)]
        return (steps > 0).all() and area[-1] == area[-2] and max(moved) < 3    # border: cut off
    if verb.startswith("turns"):
        new = verb.split()[1]
        there = np.array(look(i, first, new)[1:]) - look(i, first - 1, colour)[1:]
        return (first == last and area[0] > 0 == area[1] and look(i, first - 1, new)[0] == 0
                and abs(there).max() < 1.5)
    way = np.array([shift(i, t, colour) for t in range(first, last + 1)])
    if verb.startswith("moves"):
        direction = np.array(world.DIRECTIONS[verb.split()[1]])
    else:                                       # hits: towards the other, up to its edge
        other = verb.split()[2]
        apart = np.array(look(i, last, other)[1:]) - look(i, last, colour)[1:]
        direction = np.where(abs(apart) == abs(apart).max(), np.sign(apart), 0)
        reach = sum(np.sqrt(look(i, last, name)[0]) for name in (colour, other))
        if abs(apart).max() > reach or not still(i, last + 1, other):
            return False
    return ((way @ direction > 1).all() and (abs(way @ direction[::-1]) < 0.8).all()
            and still(i, last + 1, colour))


@pytest.mark.long
def test_captions_agree_with_the_pixels():
    """Each sentence of a dense caption comes true in frames st_time - 1..end_time - 1 exactly."""
    seen, wrong = collections.Counter(), []
    for i in range(VIDEOS):
        clip, rows = clip_and_rows(i)
        worn = colours_of(clip)
        (record,) = (record for task, record in rows if task == "dense_caption")
        assert len(record["response"]) == len(clip.events)
        for said in record["response"]:
            _, colour, _, verb = CAPTION.fullmatch(said["content"]).groups()
            others = [word for word in verb.split() if word in world.COLOURS]
            if any(worn[name] > 1 for name in (colour, *others)):
                continue                        # pixels cannot tell two red things apart
            first, last = int(said["st_time"]) - 1, int(said["end_time"]) - 1
            seen[verb.split()[0]] += 1
            if not shows(i, colour, verb, first, last):
                wrong.append((i, first, last, said["content"]))
            assert not shows(i, colour, verb, first + 1, last + 1)      # a second later it is false
            assert not shows(i, colour, verb, first - 1, last - 1)
    assert not wrong
    assert len(seen) == 7 and min(seen.values()) >= 5, seen


@pytest.mark.long
def test_narration_agrees_with_the_pixels():
    """What starts, starts on that frame; what stops, rests on that frame for the first time."""
    seen = collections.Counter()
    for i in range(VIDEOS):
        clip, rows = clip_and_rows(i)
        worn = colours_of(clip)
        for said in next(record for task, record in rows if task == "narration")["response"]:
            t, words = int(said["time"]) - 1, said["content"][:-1].split()
            if worn[words[1]] > 1:
                continue
            if words[3:5] == ["starts", "moving"]:
                assert still(i, t - 1, words[1]), said
                assert shift(i, t, words[1]) @ world.DIRECTIONS[words[5]] > 1, said
            elif words[3] == "starts":
                grown = look(i, t, words[1])[0] - look(i, t - 1, words[1])[0]
                assert (grown > 0) == (words[4] == "growing"), said
                before = look(i, t - 1, words[1]), look(i, t - 2, words[1])
                assert np.allclose(*before, atol=0.5), said     # but for the edge of a neighbour
            elif words[3] in ("stops", "hits"):
                (before, *_), (now, *_) = look(i, t - 2, words[1]), look(i, t - 1, words[1])
                assert now == look(i, t, words[1])[0] and still(i, t, words[1]), said
                assert now != before or not still(i, t - 1, words[1]), said
            seen[words[3]] += 1
    assert min(seen[verb] for verb in ("starts", "stops", "hits", "appears", "turns")) >= 5, seen


def test_grounding_is_asked_before_or_after_the_event_and_gives_its_span():
    for i in range(VIDEOS):
        rows = dict(clip_and_rows(i)[1])        # a task's last record; grounding has one each
        dense = [(said["content"], said["st_time"], said["end_time"])
                 for said in rows["dense_caption"]["response"]]
        for task in ("forward_grounding", "backward_grounding"):
            (question,), (said,) = rows[task]["question"], rows[task]["response"]
            (event,) = (row for row in dense if row[0] in question["content"])      # no other
            caption, start, end = SPAN.fullmatch(said["content"]).groups()
            assert (f"{caption}.", float(start), float(end)) == event
            if task == "forward_grounding":
                assert int(question["time"]) < event[1]
                assert (said["st_time"], said["end_time"]) == event[1:]
            else:
                assert int(question["time"]) > event[2] + 1
                assert said["time"] == question["time"]


@pytest.mark.long
def test_slides_show_what_is_said_of_them():
    """Each second is another picture; what is said of it on that second is measured in it."""
    told = collections.Counter()
    for i in range(170):
        clip, record = dialogues.sample(3, i, "frame")
        pictures = [clip.frame(t, SIZE).astype(int) for t in range(clip.seconds)]
        assert len({picture.tobytes() for picture in pictures}) == clip.seconds
        for said in record["response"]:
            turn = int(said["time"]) - 1
            masks = {name: np.abs(pictures[turn] - rgb).max(axis=2) < 24
                     for name, rgb in world.COLOURS.items()}
            there = {name for name, mask in masks.items() if mask.any()}
            worn = collections.Counter(one.colour for one in clip.state(turn) if one.r)
            asked = next((question["content"] for question in record["question"]
                          if question["time"] == said["time"]), "")
            if said["content"].startswith("I see "):
                named = re.findall(rf"\b({'|'.join(world.COLOURS)})\b", said["content"])
                assert collections.Counter(named) == worn and set(named) == there
                told["names"] += 1
            where = re.fullmatch(r"The ((\w+) \w+) is ((?:at|on|in) .*)\.", said["content"])
            if where and worn[where[2]] == 1:
                assert where[1] in asked
                rows, columns = np.nonzero(masks[where[2]])
                column, row = (int(pixels.mean() * 3 / SIZE) for pixels in (columns, rows))
                place = world.PLACES[3 * row + column]
                assert where[3] == place
                told["places"] += 1
            dates = re.findall(r"(\w+ \w+) at (\d+)s", said["content"])
            assert [name for name, _ in dates] == (
                re.findall(r"an? (\w+ \w+)", asked) if dates else []), asked
            for name, second in dates:
                held = [t for t in range(turn + 1)
                        if name in [one.name for one in clip.state(t) if one.r]]
                assert held == [int(second) - 1]
                told["dates"] += 1
    assert min(told["names"], told["places"], told["dates"]) >= 8, told


def test_labels_agree_with_the_pixels():
    """Side 96: one patch is one pixel, so that what it is called must be its colour. A cell of a
    coarser grid is called as most of its covered patches are."""
    looks = list(world.COLOURS), list(world.SHAPES)
    for i in range(15):
        (clip,) = dialogues.sample(6, i, "one")[0].pictures
        picture = clip.frame(0, SIZE).astype(int)
        things = clip.state(0)
        labels = world.labels(things, things, SIZE, SIZE).reshape(SIZE, SIZE, 8)
        names, centre = labels[..., :2], (np.arange(SIZE) + 0.5) / SIZE
        for thing in (thing for thing in things if thing.r):
            look = 1 + looks[0].index(thing.colour), looks[1].index(thing.shape)
            mine = (names == look).all(axis=2)
            far = np.hypot(centre[None] - thing.x, centre[:, None] - thing.y)
            assert mine[far < 0.25 * thing.r].all() and not mine[far > 1.06 * thing.r].any()
            colours = picture[far < 0.25 * thing.r] - world.COLOURS[thing.colour]
            assert np.abs(colours).max() < 24
            assert np.allclose(labels[mine][:, 2:], (thing.x, thing.y, thing.r, 0, *look))
        off = np.min([np.abs(picture - rgb).max(axis=2) for rgb in world.COLOURS.values()], axis=0)
        assert (off[names[..., 0] == 0] < 24).mean() < 0.03     # only corners reach out so far
        patches = world.labels(things, things, 8, 8).reshape(8, 8, 8)
        for grid, spans in ((2, ((0, 4), (4, 8))), (3, ((0, 3), (2, 6), (5, 8)))):
            cells = iter(world.labels(things, things, 8, grid))
            for rows, columns in itertools.product(spans, spans):
                inside = patches[slice(*rows), slice(*columns)].reshape(-1, 8)
                counts = collections.Counter(tuple(row) for row in inside if row[0])
                cell, most = tuple(next(cells)), max(counts.values(), default=0)
                assert counts[cell] == most if counts else cell[0] == 0


def cut_off(clip, turn, colour):
    """Whether the border hides a part of the thing of this colour, a second before or now."""
    return any(min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) < thing.r
               for t in (turn - 1, turn) for thing in clip.state(t) if thing.colour == colour)


def test_labels_and_sentences_of_a_busy_film_agree_with_its_pixels():
    """What goes on is measured anew: by where each colour's pixels are, a second before and now."""
    told, words = collections.Counter(), "moving (?:left|right|up|down)|growing|shrinking"
    for i in range(100):
        clip, record = dialogues.sample(3, i, "busy")
        pictures = [clip.frame(t, SIZE).astype(int) for t in range(clip.seconds)]
        if record["task_type"] not in ("Acting", "Since"):
            continue
        for said in record["response"]:
            turn = int(said["time"]) - 1
            begun = re.findall(r"since (\d+)s", said["content"])
            assert all(2 <= int(second) <= turn + 1 for second in begun)
            for colour, shape, doing in re.findall(rf"The (\w+) (\w+) is ({words})",
                                                   said["content"]):
                worn = [[one.colour for one in clip.state(t) if one.r].count(colour)
                        for t in (turn - 1, turn)]
                if worn != [1, 1] or cut_off(clip, turn, colour):
                    continue
                off = (np.abs(pictures[t] - world.COLOURS[colour]).max(axis=2)
                       for t in (turn - 1, turn))
                before, now = (np.argwhere(far < 24) for far in off)
                (dy, dx), grown = now.mean(axis=0) - before.mean(axis=0), len(now) / len(before)
                x, y = world.DIRECTIONS.get(doing.split()[-1], (0, 0))
                if doing.startswith("moving"):
                    assert 0.07 * SIZE < x * dx + y * dy < 0.15 * SIZE
                else:
                    assert (grown > 1.1) == (doing == "growing") and (grown < 0.92) == (
                        doing == "shrinking") and max(abs(dx), abs(dy)) < 0.02 * SIZE
                told[doing] += 1
                things = clip.state(turn)
                labels = world.labels(things, clip.state(turn - 1), 8, 3)
                mine = labels[labels[:, 0] == 1 + list(world.COLOURS).index(colour)]
                change = {"growing": "grows", "shrinking": "shrinks"}.get(doing, doing.split()[-1])
                assert all(world.CHANGES[int(cell[5])] == change for cell in mine)
    assert len(told) == 6 and min(told.values()) >= 5, told


@pytest.mark.long
def test_what_turns_or_disappears_is_known_by_its_name_of_the_second_before():
    """Its middle has that colour in the picture before, and another in this one."""
    changes = [*map(world.CHANGES.index, ("turns", "disappears"))]
    centre, told = (np.arange(SIZE) + 0.5) / SIZE, collections.Counter()
    for i in range(4):
        clip, _ = dialogues.sample(3, i, "busy")
        for turn in range(1, clip.seconds):
            before, now = clip.state(turn - 1), clip.state(turn)
            labels = world.labels(now, before, SIZE, SIZE).reshape(SIZE, SIZE, 8)
            pictures = [clip.frame(t, SIZE).astype(int) for t in (turn - 1, turn)]
            for old in (one for one in before if one.r):
                middle = np.hypot(centre[None] - old.x, centre[:, None] - old.y) < 0.25 * old.r
                middle &= np.isin(labels[..., 5], changes)
                told.update(labels[middle][:, 5])
                assert (labels[middle][:, 7] == list(world.SHAPES).index(old.shape)).all()
                for colour, *off in zip(labels[middle][:, 6], *(p[middle] for p in pictures)):
                    named = world.COLOURS[list(world.COLOURS)[int(colour) - 1]]
                    was, goes_on = (np.abs(rgb - named).max() < 24 for rgb in off)
                    assert was and not goes_on
    assert min(told[change] for change in changes) > 50


def test_what_hits_in_a_busy_film_has_come_to_touch_what_it_hits():
    """Both are at rest, and the one touches the other, towards which it moved the second before."""
    hits = 0
    for i in range(100):
        clip, record = dialogues.sample(3, i, "busy")
        for event in (event for event in clip.moments if event.kind == "hit"):
            earlier, before, now = (clip.state(event.first - k) for k in (2, 1, 0))
            one, (other,) = event.thing, [k for k, thing in enumerate(before)
                                          if event.does == f"hits the {thing.name}"]
            rest = [[(thing.x, thing.y, thing.r, thing.name) for thing in (now[one], now[other])]
                    for now in (before, now)]
            assert rest[0] == rest[1] and event.name == now[one].name
            far, near = (math.hypot(was[one].x - now[other].x, was[one].y - now[other].y)
                         for was in (earlier, now))
            assert near < 0.95 * (now[one].r + now[other].r) + 0.01 and far - near > 0.05
            told = [said["content"] for said in record["response"]
                    if said["time"] == str(event.first + 1)]
            assert record["task_type"] not in ("Acting", "Since") or event.caption[:-1] in told[0]
            hits += 1
    assert hits > 20


@pytest.mark.parametrize("t", [0, 7, 7.5])
def test_edges_are_smooth_and_every_size_shows_the_same(t):
    clip, _ = dialogues.bench(11, 0)
    large, small = clip.frame(t, 256), clip.frame(t, 64)
    assert large.shape == (256, 256, 3) and large.dtype == np.uint8
    pooled = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small).mean() < 1 and np.abs(pooled - small).max() < 64
    assert len(np.unique(small.reshape(-1, 3), axis=0)) > 40        # in between the few colours


# ---------------------------------------------------------------------------- time-sensitive QA

def measured(clip, question, turn):
    """The true answer on a turn from the things' places alone; None: not told while it moves."""
    now, before = clip.state(turn), clip.state(max(0, turn - 1))
    moved = [(one.x - was.x, one.y - was.y) for one, was in zip(now, before)]
    if question == "How many shapes are there?":
        n = sum(one.r > 0 for one in now)
        return "There is one shape." if n == 1 else f"There are {NUMBERS[n]} shapes."
    if question == "Is any shape moving?":
        return "Yes." if any(way != (0, 0) for way in moved) else "No."
    pattern = r"(Where|What|What colour) is the (.*?)(?: doing)?\?"
    kind, rest = re.fullmatch(pattern, question).groups()
    (i,) = {i for i, one in enumerate(clip.start) if one.name == rest or
            kind == "What colour" and one.shape == rest}
    one, (x, y), grown = now[i], moved[i], now[i].r - before[i].r
    if one.r == 0:
        return f"The {rest} is gone."
    if kind == "What colour":
        return f"The {rest} is {one.colour}."
    if kind == "Where":
        column, row = (0 if c < 0.345 else 1 if c < 0.655 else 2 for c in (one.x, one.y))
        return None if x or y else f"The {rest} is {world.PLACES[3 * row + column]}."
    if x:
        return f"The {rest} is moving {'right' if x > 0 else 'left'}."
    if y:
        return f"The {rest} is moving {'down' if y > 0 else 'up'}."
    if grown and before[i].r:
        return f"The {rest} is {'growing' if grown > 0 else 'shrinking'}."
    return f"The {rest} is still."


def test_dated_answers_are_true_on_every_turn_and_told_at_every_change():
    kinds, changes = collections.Counter(), 0
    for i in range(VIDEOS):
        clip, rows = clip_and_rows(i)
        for record in (record for task, record in rows if task == "tsqa"):
            (asked,) = record["question"]
            question = re.search(r"(?:How|Is|Wh)[^?]*\?", asked["content"])[0]
            told = {int(said["time"] or said["end_time"] + 1) - 1: said
                    for said in record["response"]}
            first = int(asked["time"]) - 1
            truths = [measured(clip, question, turn) for turn in range(clip.seconds)]
            current = None
            for turn in range(first, clip.seconds):
                if turn in told:
                    assert told[turn]["content"] != current, "told twice"
                    current = told[turn]["content"]
                    start = int(told[turn]["st_time"] or turn + 1) - 1
                    assert not any(truths[start:turn])          # Standby only while it moves
                    assert start == first or truths[start - 1]
                assert truths[turn] in (None, current), (i, question, turn)
            assert min(told) >= first and max(told) < clip.seconds
            kinds[question.split(" the ")[0]] += 1
            changes += len(told) - 1
    assert changes >= 300 and len(kinds) >= 5, (changes, kinds)


# ------------------------------------------------------------------------- the records as a whole

@cache
def samples(kind, n):
    return [dialogues.sample(5, i, kind) for i in range(n)]


def everything():
    return itertools.chain(samples("full", 3000), samples("long", 200), samples("short", 200),
                           samples("frame", 200), samples("one", 200), samples("busy", 200),
                           samples("reel", 100))


@pytest.mark.long
def test_every_task_appears_near_the_papers_share():
    paper = {"Time-sensitive QA": 34.8, "Event Grounding": 26.3 / 2, "Backward Grounding": 26.3 / 2,
             "Offline QA": 13.8, "Real-time Narration": 12.7, "Event Caption": 6.7,
             "Action Caption": 5.8}
    found = collections.Counter(record["task_type"] for _, record in samples("full", 1500))
    several = found.pop("Mixed") + found.pop("Frame QA")
    assert 0.31 < several / 1500 < 0.38
    assert set(found) == set(paper)
    for task, percent in paper.items():         # Event Caption stands in where a clip has no matter
        share = 100 * found[task] / sum(found.values())
        assert abs(share - percent) < (6 if task == "Event Caption" else 2.5), (task, share)
    for kind in ("short", "long", "busy", "frame", "reel"):
        tasks = {record["task_type"] for _, record in samples(kind, 400)}
        drawn = {"Recalling": "Backward Grounding", "Waiting": "Event Grounding",
                 "Beside": "Mixed", "Pairs": "Mixed"}
        assert tasks >= {drawn.get(task, task) for task in dialogues.MIXES[kind]} - {"Grounding"}


@pytest.mark.long
def test_times_lie_in_the_clip_and_answers_follow_questions():
    lengths = {kind: {clip.seconds for clip, _ in samples(kind, n)} for kind, n in (
        ("full", 3000), ("long", 200), ("short", 200), ("busy", 200), ("frame", 200),
        ("one", 200))}
    assert lengths.pop("long") <= lengths["full"]
    spans = {kind: (min(found), max(found)) for kind, found in lengths.items()}
    assert spans == {"full": (10, 60), "short": (6, 12), "busy": (3, 10), "frame": (2, 8),
                     "one": (1, 1)}
    for clip, record in everything():
        asked = [int(question["time"]) for question in record["question"]]
        assert asked and 1 <= min(asked) and max(asked) <= clip.seconds
        for said in record["response"]:
            assert bool(said["time"]) != bool(said["end_time"])
            if said["time"]:
                assert min(asked) <= int(said["time"]) <= clip.seconds
            else:                               # Response on turn end_time, counted from 0
                assert min(asked) <= said["st_time"] <= said["end_time"] <= clip.seconds - 1
        end = clip.seconds - (1 if isinstance(clip, drills.Bustle) else 2)
        assert all(1 <= event.first <= event.last <= end for event in clip.events)


@pytest.mark.long
def test_every_sentence_is_grammatical(monkeypatch):
    """Questions before they are typed as people type, a kind of film in as many samples."""
    monkeypatch.setattr(telling, "typed", lambda rng, text: text)
    captions = collections.Counter()
    for clip, record in (dialogues.sample(5, i, kind) for kind in (
            "full", "long", "short", "frame", "one", "busy", "reel") for i in range(200)):
        for event in clip.events:
            article, colour, shape, verb = CAPTION.fullmatch(event.caption).groups()
            assert colour in world.COLOURS and shape in world.SHAPES
            new = "An" if colour == "orange" else "A"
            assert article == (new if verb == "appears" else "The")
            captions[verb.split()[0]] += 1
        for text in (entry["content"] for entry in record["question"] + record["response"]):
            assert re.fullmatch(r"[A-Z][^{}]*[.?!]", text) and "  " not in text, text
            assert not re.search(r"\b(a [aeiou]|an [^aeiou]|is (two|three|four)|are one|is no "
                                 r"shapes)\b", text, re.IGNORECASE), text
    assert len(captions) == 7


def test_every_kind_of_question_has_thirty_wordings_and_some_that_no_training_has():
    for kind, first in wordings.FIRST.items():
        known, unseen = wordings.KNOWN[kind], wordings.UNSEEN[kind]
        assert known[:len(first)] == first and len(known) >= 30 and len(unseen) >= 5
        assert len({*known, *unseen}) == len(known) + len(unseen), kind
        for text in (*known, *unseen):
            assert text == "{}" or re.fullmatch(r"[A-Z{].*([.?!]|: \{\}|[.?] \{\})", text), text
            assert not re.search(rf"[()|]|  |\b({'|'.join(world.COLOURS)})\b", text), text
    assert wordings.expanded(("(Say|Tell me) (it|this).",)) == (
        "Say it.", "Say this.", "Tell me it.", "Tell me this.")
    kept = "|".join(re.sub(r"\\{\w*\\}", ".+", re.escape(text))
                    for texts in wordings.UNSEEN.values() for text in texts)
    for _, record in samples("full", 500):
        for question in record["question"]:
            assert not re.fullmatch(kept, question["content"]), question
    new = [record["question"][0]["content"] for task, record in clip_and_rows(0)[1]
           if task.startswith("reworded")]
    assert len(new) == 1 and re.fullmatch(kept, new[0])


def test_no_wording_that_training_has_is_all_but_one_that_is_kept():
    kept = "What's the {} doing?", "How is the {} coloured?", "Any movement?"
    for text in ("What is the {} doing?", "How's the {} colored?", "Any movement."):
        assert wordings.known(("Say.",), (text, "New.", "New.", "Say."), kept) == ("Say.", "New.")
    for kind, unseen in wordings.UNSEEN.items():
        had = wordings.KNOWN[kind] + wordings.PLAINEST[kind]
        assert not {*map(wordings.alike, had)} & {*map(wordings.alike, unseen)}, kind


def test_questions_are_typed_as_people_type_them_and_mean_the_same():
    """Each of the three ways in an eighth of them; all letters of the question are still there."""
    rng, text = random.Random(0), "Where's the red star?"
    found = [wordings.typed(rng, text) for _ in range(4000)]
    lower = [said for said in found if said == said.lower()]
    for some in (lower, [said for said in found if said[-1] not in ".?!"],
                 [said for said in found if len(said) > len(text)]):
        assert 400 < len(some) < 600
    assert 150 < sum("'" not in said for said in lower) < 350
    letters = "wheres the red star"
    assert all(letters in said.lower().replace("'", "") for said in found)


def test_a_part_of_all_questions_is_asked_in_the_plainest_words():
    """A quarter, and what the choice among all wordings gives; of this second, the bare question.
    The benchmark's own wordings are left alone."""
    clip = world.Clip(random.Random(0), 20)
    told = telling.Dialogue(clip, random.Random(0))
    for kind, plain in (("Frame QA", ("Where?",)), ("last", ("What happened last?",))):
        said = [told.worded(kind, "Where?") for _ in range(2000)]
        assert 0.22 < sum(text in plain for text in said) / 2000 < 0.30, kind
    unseen = telling.Dialogue(clip, random.Random(0), wordings.UNSEEN)
    unseen.ask("Frame QA", "Where?", 0)
    kept = [text.format("Where?") for text in wordings.UNSEEN["Frame QA"]]
    assert unseen.questions[0]["content"] in kept
    assert {unseen.worded("Frame QA", "Where?") for _ in range(99)} == {*kept}


def test_of_the_past_what_lasted_is_asked_oftener_than_what_did_not():
    """A span has two seconds to get right, and a film nearly as many events that have one."""
    found = collections.Counter()
    for i in range(60):
        for response in dialogues.sample(5, i, "long")[1]["response"]:
            if response["time"]:                        # at once: no wait was over
                found["lasted"] += ", from " in response["content"]
                found["instant"] += ", at " in response["content"]
    assert 1.6 < found["lasted"] / found["instant"] < 5


def test_what_happened_first_or_last_is_asked_only_where_nobody_can_differ():
    """By the beginnings or by the ends of the events that have begun, it is the same one."""
    asked = collections.Counter()
    for i in range(120):
        clip, rng = dialogues.sample(5, i)[0], random.Random(i)
        for turn in range(1, clip.seconds):
            (which, _), answer = telling.Dialogue(clip, rng).question(turn)
            if which not in ("first", "last") or answer == "Nothing happened.":
                continue
            begun = [e for e in clip.events if e.first <= turn]
            end = min if which == "first" else max
            for times in ([e.first for e in begun], [e.last for e in begun]):
                (only,) = [e for e, time in zip(begun, times) if time == end(times)]
                assert only.caption == answer and only.last < turn
            asked[which] += 1
    assert min(asked["first"], asked["last"]) > 20


# ----------------------------------------------------------------- always the same, never shared

def fingerprint(pairs):
    digest = hashlib.sha256()
    for clip, record in pairs:
        digest.update(json.dumps(record, sort_keys=True).encode())
        for t in (0, clip.seconds // 2, clip.seconds - 1):
            digest.update(clip.frame(t, 64).tobytes())
    return digest.hexdigest()[:16]


def test_samples_never_change():
    """A changed hash is a changed data set, or benchmark: figures before and after differ."""
    assert fingerprint(dialogues.sample(1, i) for i in range(8)) == "efab3359ef081096"
    assert fingerprint(dialogues.sample(1, i, "short") for i in range(8)) == "71b16fed98ee53ad"
    assert fingerprint(dialogues.sample(1, i, "long") for i in range(8)) == "8001c6d5a4326398"
    assert fingerprint(dialogues.sample(1, i, "busy") for i in range(8)) == "ca3e2f6abc371db0"
    assert fingerprint(dialogues.sample(1, i, "frame") for i in range(8)) == "a5cea7e2f6206f3c"
    bench = [dialogues.bench(1, i) for i in range(3)]
    first = fingerprint((clip, rows[:10]) for clip, rows in bench)
    assert first == "fffd22bb924a258a"                  # the first edition's rows, for ever
    two = [(clip, [row for row in rows if row[0] not in EXACT[2:]]) for clip, rows in bench]
    assert fingerprint(two) == "023f7ccbf98c0222"       # and those of the second
    assert fingerprint(bench) == "9032ea35e309b075"
    assert fingerprint(dialogues.bench_empty(1, i) for i in range(3)) == "31e142a880fb102e"


def test_a_sample_does_not_depend_on_what_was_made_before():
    random.seed(0)
    clip, record = dialogues.sample(4, 2)
    random.seed(1)
    dialogues.sample(4, 1)
    again, record_again = dialogues.sample(4, 2)
    assert record == record_again and clip.seconds == again.seconds
    assert np.array_equal(clip.frame(3, 32), again.frame(3, 32))


def test_evaluation_clips_are_never_training_clips(monkeypatch):
    """Not one source of chance is shared, whatever the seeds; and no two clips are alike."""
    used, real = set(), random.Random
    monkeypatch.setattr(dialogues.random, "Random", lambda seed: used.add(seed) or real(seed))
    clips = [dialogues.sample(seed, i, kind)[0] for kind in ("full", "short", "frame")
             for seed in (0, 1, 7) for i in range(15)]
    training, used = used, set()
    clips += [dialogues.bench(seed, i)[0] for seed in (0, 1, 7) for i in range(5)]
    assert len(training) == 135 and len(used) >= 15 and not training & used
    assert all(seed.startswith("train/") for seed in training)
    assert all(seed.startswith("bench/") for seed in used)
    assert len({clip.frame(0, 32).tobytes() for clip in clips}) == len(clips)


# ------------------------------------------------------------------------------------ the command

def test_films_are_not_put_into_a_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["toy", "--out", str(tmp_path / "notes.txt"), "--n", "1"])
    with pytest.raises(SystemExit) as end:
        toy_main()
    assert end.value.code == 2 and "notes.txt: no folder can be made" in capsys.readouterr().err


def test_annotations_that_are_there_are_not_written_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "raw.json").write_text("mended by hand")
    monkeypatch.setattr(sys, "argv", ["toy", "--out", str(tmp_path), "--n", "1", "--size", "32"])
    with pytest.raises(SystemExit) as end:
        toy_main()
    assert end.value.code == 2 and "there is a raw.json already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["raw.json"]


@pytest.mark.long
def test_the_command_writes_films_and_records_that_match(tmp_path):
    out = tmp_path / "new" / "films"
    done = subprocess.run([sys.executable, "-m", "toy", "--out", out, "--n", "2", "--seed", "51",
                           "--size", "64", "--fps", "5"], cwd=Path(__file__).parents[1],
                          capture_output=True, text=True, check=True)
    assert "2/2" in done.stderr                                     # the progress bar
    assert sorted(path.name for path in out.iterdir()) == ["000000.mp4", "000001.mp4", "raw.json"]
    records = json.loads((out / "raw.json").read_text(encoding="utf-8"))
    between = 0
    for i, record in enumerate(records):
        clip, expected = dialogues.sample(51, i)
        assert record == expected
        film = iio.imread(out / record["video_path"], plugin="pyav")
        assert film.shape == (clip.seconds * 5, 64, 64, 3)
        for k in range(len(film)):                                  # frame k shows k / fps seconds
            exact, floor = (clip.frame(t, 64).astype(int) for t in (k / 5, k // 5))
            off, off_floor = (np.abs(film[k] - picture).mean() for picture in (exact, floor))
            assert off < 6
            if np.abs(exact - floor).mean() > 1.5:
                between += 1
                assert off < off_floor
    assert between >= 5


@pytest.mark.parametrize("bad, named", [
    (["--n", "0"], "--n 0"), (["--fps", "0"], "--fps 0"), (["--size", "8"], "--size 8"),
    (["--size", "65"], "--size 65"), (["--n", "many"], "--n"), (["--wrong"], "--wrong"),
    (["--out", "FILE"], "FILE"), (["--out", "FILE/films"], "FILE/films"), ([], "--out")])
def test_bad_arguments_end_in_one_line(bad, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    out = [] if "--out" in bad or not bad else ["--out", "films"]
    monkeypatch.setattr(sys, "argv", ["toy.py", *out, *bad])
    with pytest.raises(SystemExit) as stop:
        toy_main()
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert named in printed and printed.count("\n") == 1, printed
    assert not Path("films").exists()


def test_no_film_is_written_over(tmp_path, monkeypatch, capsys):
    (tmp_path / "000001.mp4").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["toy.py", "--out", str(tmp_path), "--n", "2"])
    with pytest.raises(SystemExit) as stop:
        toy_main()
    assert stop.value.code == 2 and "there is a 000001.mp4 already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["000001.mp4"]
    assert (tmp_path / "000001.mp4").read_text() == "mine"


@pytest.mark.parametrize("stop, code, line", [
    (OSError(28, "No space left on device"), 2, "No space left on device"),
    (KeyboardInterrupt(), 130, "toy: interrupted; .* holds 1 of 3 films")])
def test_a_film_has_its_name_only_when_it_is_whole(stop, code, line, tmp_path, monkeypatch, capsys):
    """Whatever ends the command in a film: those before it stay, nothing is left of this one."""
    frame = world.Clip.frame

    def breaks(clip, t, size):
        if clip.seconds == dialogues.sample(1, 1)[0].seconds and t > 2:
            raise stop
        return frame(clip, t, size)

    assert dialogues.sample(1, 0)[0].seconds != dialogues.sample(1, 1)[0].seconds
    monkeypatch.setattr(world.Clip, "frame", breaks)
    monkeypatch.setattr(sys, "argv", ["toy", "--out", str(tmp_path), "--n", "3", "--size", "32",
                                      "--fps", "1"])
    with pytest.raises(SystemExit) as end:
        toy_main()
    assert end.value.code == code and re.search(line, capsys.readouterr().err.splitlines()[-1])
    assert [path.name for path in tmp_path.iterdir()] == ["000000.mp4"]


def test_a_reel_shows_and_tells_its_films_one_after_the_other():
    """Each film as it is alone: pictures, things, events; the others' things are not there."""
    events = 0
    for i in range(40):
        reel, record = dialogues.sample(7, i, "reel")
        ends = [begin for begin, _ in reel.films[1:]] + [reel.seconds]
        assert len(reel.films) >= 2 and reel.seconds >= 18
        first = 0
        for (begin, film), end in zip(reel.films, ends, strict=True):
            assert end - begin == film.seconds
            for turn in (begin, (begin + end) // 2, end - 1):
                assert (reel.frame(turn, 32) == film.frame(turn - begin, 32)).all()
                assert [t.name for t in world.there(reel.state(turn))] == [
                    t.name for t in world.there(film.state(turn - begin))]
                mine = reel.state(turn)[first:first + len(film.start)]
                assert [(t.name, t.r, t.doing) for t in mine] == [
                    (t.name, t.r, t.doing) for t in film.state(turn - begin)]
            told = [e for e in reel.events if begin <= e.first < end]
            assert [(e.first - begin, e.last - begin, e.thing - first, e.caption) for e in told] \
                == [(e.first, e.last, e.thing, e.caption) for e in film.events]
            first, events = first + len(film.start), events + len(told)
        if record["task_type"] == "Event Caption" and reel.events:
            assert [r["content"] for r in record["response"]] == [e.caption for e in reel.events]
    assert events > 100
