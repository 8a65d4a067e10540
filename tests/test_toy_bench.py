"""What is not there and what never comes, in the benchmark's later editions and in the samples."""
import collections
import math
import random
import re
from functools import cache

import numpy as np
import pytest

from bench import streams
from data import turns_from_record
from toy import dialogues, drills, telling, world
from toy.datasets import asked
from toy.wordings import FIRST

FILMS = 40
NAMED = re.compile(rf"\b({'|'.join(world.COLOURS)}) ({'|'.join(world.SHAPES)})\b")
EVENT = re.compile(r"(An?|The) (\w+ \w+) ([^.?]+)\.$")


@cache
def film(i):
    return dialogues.bench(21, i)


@cache
def samples(kind, n):
    return [dialogues.sample(31, i, kind) for i in range(n)]


def rows(task):
    """[(clip, record)] of a task of the benchmark."""
    return [(film(i)[0], record) for i in range(FILMS) for name, record in film(i)[1]
            if name == task]


def event_of(record):
    """(what a grounding asks for, the turn on which it asks)."""
    (question,) = record["question"]
    return EVENT.search(question["content"])[0], int(question["time"]) - 1


def told(clip):
    """[(caption, first frame, last frame)]"""
    return [(event.caption, event.first, event.last) for event in clip.events]


def names_on(clip, turns):
    return {thing.name for turn in turns for thing in clip.state(turn) if thing.r}


# ------------------------------------------------------------------------- what the benchmark asks

def test_what_never_comes_does_not_come_and_is_not_answered():
    for why in ("another", "absent", "again"):
        asked_for = rows(f"never_{why}")
        assert len(asked_for) > 0.9 * FILMS
        for clip, record in asked_for:
            caption, turn = event_of(record)
            _, name, does = EVENT.fullmatch(caption).groups()
            later = [event for event in clip.events if event.last >= turn - 1]
            assert record["response"] == [] and caption not in [e.caption for e in later]
            if why == "absent":
                assert name not in names_on(clip, range(clip.seconds))
            elif why == "another":
                (i,) = [k for k, thing in enumerate(clip.state(turn)) if thing.name == name]
                mine = [event for event in later if event.thing == i]
                assert clip.state(turn)[i].r and does not in [event.does for event in mine]
                assert not does.startswith(("moves", "hits")) or all(e.kind != "hit" for e in mine)
            else:
                assert [last for text, _, last in told(clip) if text == caption][-1] < turn - 1


def test_what_never_was_is_denied():
    denied = rows("denied")
    assert len(denied) == FILMS
    for clip, record in denied:
        caption, turn = event_of(record)
        assert [said["content"] for said in record["response"]] == ["That did not happen."]
        assert record["response"][0]["time"] == str(turn + 1)
        assert not [first for text, first, _ in told(clip) if text == caption and first <= turn + 1]
        name = EVENT.fullmatch(caption)[2]
        assert " appears" not in caption or name not in names_on(clip, range(turn + 1))


@pytest.mark.parametrize("task", ["forward_instant", "backward_instant"])
def test_events_without_duration_are_told_at_their_second(task):
    found = rows(task)
    assert len(found) > 0.8 * FILMS
    for clip, record in found:
        caption, turn = event_of(record)
        (said,), (event,) = record["response"], [e for e in clip.events if e.caption == caption]
        first, last = event.first, event.last
        assert first == last and said["content"] == f"{caption[:-1]}, at {first + 1}s."
        due = int(said["time"] or said["end_time"] + 1) - 1
        assert turn < first < due == last + 1 if task == "forward_instant" else last < turn == due


def test_what_is_absent_is_not_invented():
    """The answers, measured in the things that are there on the second of the question."""
    kinds = collections.Counter()
    empty = [dialogues.bench_empty(21, i) for i in range(FILMS)]
    asked_of = rows("absent") + [(clip, dict(found)["empty"]) for clip, found in empty]
    for clip, record in asked_of:
        assert len(record["question"]) == len(record["response"]) == 4
        for question, said in zip(record["question"], record["response"]):
            assert question["time"] == said["time"]
            now = [thing for thing in clip.state(int(said["time"]) - 1) if thing.r]
            text = said["content"]
            subject = re.search(r"(?:no|is) (\w+)( \w+)?\.$", text)
            if text == "No.":
                assert NAMED.search(question["content"])[0] not in [thing.name for thing in now]
            elif text in ("There are no shapes.", "I see no shapes."):
                assert not now
            elif text == "No shape is moving.":
                assert not any(thing.moves for thing in now)
            elif text.startswith("No shape is"):
                assert subject[1] not in [thing.colour for thing in now]
            elif subject[2]:
                assert subject[1] + subject[2] not in [thing.name for thing in now]
            else:
                assert subject[1] not in [thing.shape for thing in now]
            kinds[re.sub(r" (\w+ )?\w+\.$", "", text)] += 1
    assert len(kinds) >= 4, kinds


def test_the_third_edition_asks_several_things_at_a_time():
    """Each second that has a caption has an answer to a question, too; two questions of a second
    have two answers; of two waits each has its span."""
    for clip, record in rows("beside_captions"):
        turns = turns_from_record(record, clip.seconds)
        captions = collections.defaultdict(list)
        for caption, _, last in told(clip):
            captions[last + 1].append(caption)
        for turn, due in captions.items():
            if turn < clip.seconds:
                assert turns[turn].question and turns[turn].text.startswith(" ".join(due))
                assert len(turns[turn].text) > len(" ".join(due))
    for clip, record in rows("two_at_once"):
        asked_at = collections.Counter(question["time"] for question in record["question"])
        assert {*asked_at.values()} <= {2, 4} and len(asked_at) >= 2
        assert asked_at == collections.Counter(said["time"] for said in record["response"])
    for clip, record in rows("two_waits"):
        (first, second), spans = record["question"], [r["content"] for r in record["response"]]
        assert first["time"] == second["time"] and len({*spans}) == 2
        for question, span in zip(record["question"], spans):
            assert span.startswith(EVENT.search(question["content"])[0][:-1])
    for clip, record in rows("first_last"):
        for question, said in zip(record["question"], record["response"], strict=True):
            turn, which = int(question["time"]) - 1, question["content"].split()[-1]
            begun = [entry for entry in told(clip) if entry[1] <= turn]
            end = (min if which == "first?" else max)(begun, key=lambda entry: entry[1])
            assert (said["content"], said["time"]) == (end[0], question["time"])
    for clip, record in rows("late_alone"):
        (question,), (said,) = record["question"], record["response"]
        assert question["time"] == said["time"] and int(said["time"]) > 2 * clip.seconds // 3
        assert not re.search("now|moment|quick", question["content"], re.IGNORECASE)
    assert min(len(rows(name)) for name in streams.EXACT[2:]) > 0.6 * FILMS


def test_an_empty_scene_shows_its_ground_alone():
    for i in range(8):
        clip, found = dialogues.bench_empty(21, i)
        first, last = (clip.frame(t, 48).astype(int) for t in (0, clip.seconds - 1))
        assert (first == last).all()
        assert min(np.abs(first - rgb).max(axis=2).min() for rgb in world.COLOURS.values()) > 24
        silent = [record for task, record in found if task == "never_empty"]
        assert len(silent) == 1 and silent[0]["response"] == []


# -------------------------------------------------------------------------- what the samples hold

@pytest.mark.long
def test_samples_hold_what_never_comes_in_a_share_that_life_has():
    counts = collections.Counter()
    for kind, n in (("full", 800), ("short", 300), ("long", 60)):
        for clip, record in samples(kind, n):
            if record["task_type"] == "Event Grounding" and len(record["question"]) == 1:
                counts["waits"] += 1
                counts["in vain"] += not record["response"]
            denied = [said for said in record["response"] if "did not happen" in said["content"]]
            counts["spans"] += sum(bool(re.search(r"\d+s\.$", said["content"]))
                                   for said in record["response"] if said["time"])
            counts["denied"] += len(denied)
            counts["seconds"] += clip.seconds
            counts["empty"] += sum(not any(one.r for one in clip.state(t))
                                   for t in range(clip.seconds))
    assert 0.15 < counts["in vain"] / counts["waits"] < 0.35, counts
    assert 0.15 < counts["denied"] / (counts["denied"] + counts["spans"]) < 0.4, counts
    assert 0.01 < counts["empty"] / counts["seconds"] < 0.08, counts


def test_what_is_denied_did_not_happen_in_any_film():
    seen = collections.Counter()
    for kind, n in (("full", 800), ("short", 300), ("busy", 200), ("long", 60)):
        for clip, record in samples(kind, n):
            denied, never = collections.Counter(), collections.Counter()     # by their seconds
            for said in record["response"]:
                denied[said["time"]] += said["content"] == "That did not happen."
            for question in record["question"]:
                event, turn = EVENT.search(question["content"]), int(question["time"]) - 1
                if not event:                       # in words that do not hold the caption
                    never[question["time"]] += 1
                elif not [e for e in clip.events if e.caption == event[0] and e.first <= turn + 1]:
                    never[question["time"]] += 1
                    seen[kind] += denied[question["time"]]
            assert denied <= never, record
    assert min(seen[kind] for kind in ("full", "short", "busy", "long")) >= 2, seen


def test_among_waits_one_after_the_other_many_are_in_vain_and_something_like_it_happens():
    for kind in ("short", "busy", "long", "reel"):
        vain = tempted = asked_for = several = 0
        for i in range(60):
            clip = dialogues.sample(33, i, kind)[0]
            dialogue = telling.Dialogue(clip, random.Random(i), FIRST)
            dialogues.TASKS["Waiting"](dialogue)
            turns = [int(question["time"]) - 1 for question in dialogue.questions]
            assert turns == sorted(turns)
            heard = 0
            for question, turn, next_turn in zip(
                    dialogue.questions, turns, [*turns[1:], math.inf]):
                caption = EVENT.search(question["content"])[0]
                _, name, does = EVENT.fullmatch(caption).groups()
                answers = [said for said in dialogue.responses
                           if said["content"].split(",")[0] == caption[:-1]
                           and turn < int(said["time"] or said["end_time"] + 1) - 1]
                asked_for += 1
                if answers:
                    assert len(answers) == 1
                    heard += 1
                    several += answers[0]["end_time"] >= next_turn
                    continue
                later = [e for e in clip.events if e.last >= turn - 1]
                assert caption not in [e.caption for e in later]        # not after it either
                vain += 1
                tempted += any(e.does == does or e.name == name for e in later
                               if turn < e.first and e.last + 2 <= next_turn)
            assert heard == len(dialogue.responses)                     # and nothing else is said
        assert 0.2 < vain / asked_for < 0.7 and tempted / vain > 0.5, (kind, vain, tempted)
        assert several / asked_for > 0.03, kind                             # two waits at once


def test_a_question_does_not_take_the_place_of_an_answer_that_is_due():
    """A second has both, or two questions and two answers; and an event may go on around it."""
    found = collections.Counter()
    for i in range(120):
        clip = dialogues.sample(34, i)[0]
        dialogue = telling.Dialogue(clip, random.Random(i))
        dialogues.TASKS["Mixed"](dialogue)
        if dialogue.questions:
            turns = turns_from_record(dialogue.record(i), clip.seconds)
            asked = collections.Counter(q["time"] for q in dialogue.questions)
            due = collections.Counter()
            for said in dialogue.responses:
                turn = int(said["time"] or said["end_time"] + 1) - 1
                assert said["content"] in turns[turn].text
                due[turn] += 1
                found["within"] += any(e.first <= turn < e.last for e in clip.events)
            found["both"] += sum(due[int(time) - 1] > n for time, n in asked.items())
            found["questions"] += sum(n > 1 for n in asked.values())
    assert min(found["both"], found["questions"], found["within"]) > 30, found


@pytest.mark.long
def test_what_is_told_to_be_absent_is_not_there_on_that_second():
    told = collections.Counter()
    for kind, n in (("full", 800), ("short", 300), ("busy", 300), ("frame", 60), ("long", 60),
                    ("reel", 60)):
        for clip, record in samples(kind, n):
            for said in record["response"]:
                turn = int(said["time"] or said["end_time"] + 1) - 1
                if match := re.fullmatch(r"There is no (\w+ \w+)\.", said["content"]):
                    assert match[1] not in names_on(clip, [turn]), (kind, record)
                    told[kind] += 1
                elif said["content"] in ("There are no shapes.", "I see no shapes."):
                    assert not names_on(clip, [turn])
                    told["nothing"] += 1
            if kind in ("full", "busy"):        # time-sensitive, of what is not there yet
                (_, name), _, truth = telling.Dialogue(clip, random.Random(0)).undated()
                for turn, text in enumerate(truth):
                    assert (text == f"There is no {name}.") <= (name not in names_on(clip, [turn]))
                    told["yet"] += text not in (None, truth[0])
    assert min(told[kind] for kind in ("full", "short", "busy", "nothing", "yet")) >= 5, told


def test_things_keep_apart():
    """Nothing appears where another has grown or passes; the first edition's films do not ask."""
    def closest(first_edition):
        found = 9
        for i in (345, 347, 1486, 1952, *range(40)):        # where it happened, and others
            rng = random.Random(f"apart/{i}")
            clip = world.Clip(rng, rng.randint(10, 30), first_edition=first_edition)
            for t in range(clip.seconds):
                now = [thing for thing in clip.state(t) if thing.r]
                found = min([found, *(math.hypot(a.x - b.x, a.y - b.y) / (a.r + b.r)
                                      for k, a in enumerate(now) for b in now[:k])])
        return found

    assert closest(False) > 0.78 > closest(True)


@pytest.mark.long
def test_what_is_to_be_hit_stays_what_it_is_called():
    """The first edition's films do not ask."""
    def changed(first_edition):
        found = []
        for i in range(300):
            clip = world.Clip(random.Random(f"hit/{i}"), 40, odds=world.EVENTS | {"hit": 20},
                              first_edition=first_edition)
            for e in (e for e in clip.events if e.kind == "hit"):
                target, = [i for i, thing in enumerate(clip.state(e.first))
                           if e.does == f"hits the {thing.name}"]
                found.append(clip.state(e.first)[target] != clip.state(e.last + 1)[target])
        return sum(found), len(found)

    kept, hits = changed(False)
    assert kept == 0 < changed(True)[0] and hits > 200


@pytest.mark.long
def test_what_goes_on_in_a_film_is_how_its_things_differ():
    """Each second's sentences against the things a second before and now, and all the hits."""
    words = {"grows": "is growing", "shrinks": "is shrinking", "appears": "appears",
             "disappears": "disappears", **{way: f"is moving {way}" for way in world.DIRECTIONS}}
    told, hits = collections.Counter(), 0
    for i in range(60):
        clip = world.Clip(random.Random(f"going on/{i}"), 30, odds=world.EVENTS | {"hit": 6})
        for turn in range(1, clip.seconds):
            wanted = set()
            for old, new in zip(clip.state(turn - 1), clip.state(turn)):
                if (old.r or new.r) and (change := world.change(new, old)) != "none":
                    who = f"A {new.name}" if change == "appears" else f"The {old.name}"
                    what = f"turns {new.colour}" if change == "turns" else words[change]
                    wanted.add(f"{who} {what}".replace("A orange", "An orange"))
                    told[change] += 1
            wanted |= {e.caption[:-1] for e in clip.events
                       if e.kind == "hit" and e.last + 1 == turn}
            hits += sum(" hits " in text for text in wanted)
            text = world.going_on(clip, turn)
            assert set(text[:-1].split(". ")) == (wanted or {"Nothing happens"})
            text = world.going_on(clip, turn, since=True)
            for what, second in re.findall(r"(\w[\w ]+) since (\d+)s", text):
                assert what in world.going_on(clip, int(second) - 1)
                assert what not in world.going_on(clip, int(second) - 2)
    assert hits > 10 and min(told[change] for change in world.CHANGES[1:]) > 10, (hits, told)


def test_a_busy_film_has_hits_like_other_films():
    """One event, the way until it touches; what a second tells is that it moves, then hits."""
    hits = 0
    for i in range(60):
        clip = drills.Bustle(random.Random(i), 10)
        assert not [e for e in clip.events if e.kind == "hit" and not e.doing]
        for e in (e for e in clip.events if e.kind == "hit"):
            things = clip.state(e.last)
            mover, (hit,) = things[e.thing], [one for one in things if e.does[9:] == one.name]
            assert math.hypot(mover.x - hit.x, mover.y - hit.y) < 0.96 * (mover.r + hit.r)
            assert [one.thing == e.thing and one.first <= e.last and one.last >= e.first
                    for one in clip.events].count(True) == 1        # and no move beside it
            assert f"The {e.name} is {e.doing}." in world.going_on(clip, e.last)
            if e.last + 1 < clip.seconds:
                assert e.caption in world.going_on(clip, e.last + 1)
            hits += 1
    assert hits > 30


def test_what_hits_also_moves():
    """So that it moves left is true of two events, and it did not move left but once."""
    clip = world.Clip(random.Random(0), 30, still=True)
    name = clip.start[0].name
    move, hit, turn = clip.events = [
        world.Event("move", 0, name, 2, 4, (), "moves left", "moving left"),
        world.Event("hit", 0, name, 10, 12, (), "hits the red cross", "moving left"),
        world.Event("turn", 0, name, 20, 20, (), "turns red")]
    clip.state = lambda t: [world.Thing(*name.split(), 0.5, 0.5, 0.14)]
    told = telling.Dialogue(clip, random.Random(0))
    assert told.unique(29, instants=True) == [hit, turn] and told.unique(29) == [hit]
    for first, others in ((8, {turn.caption}), (15, {move.caption, hit.caption})):
        found = {told.missing(first, first, first + 6, "elsewhen").caption for _ in range(99)}
        assert found == others


def test_nobody_waits_for_what_a_cut_shows():
    """That something appears or is gone, which no event says."""
    asked_for = collections.Counter()
    for i in range(150):
        clip = drills.Reel(random.Random(i), 30)
        told = telling.Dialogue(clip, random.Random(i))
        for why in telling.WHY:
            if event := told.missing(12, 12, clip.seconds, why):
                asked_for[event.kind] += 1
        asked_for.update(event.kind for event in told.unique(clip.seconds, instants=True))
    assert asked_for["turn"] > 10 and not {"appear", "leave"} & {*asked_for}, asked_for


def test_two_questions_in_a_second_have_two_answers():
    """Else it would be one: what is said twice in a second is said once."""
    found = [record for _, record in rows("two_at_once")]
    for kind, task in (("short", "Pairs"), ("short", "Mixed"), ("busy", "Pairs")):
        for i, (clip, _) in enumerate(samples(kind, 300)):
            dialogue = telling.Dialogue(clip, random.Random(i))
            dialogues.TASKS[task](dialogue)
            if dialogue.questions:
                found.append(dialogue.record(i))
    both = 0
    for record in found:
        said = [(one["time"], one["content"]) for one in record["response"] if one["time"]]
        assert len(said) == len({*said}), record
        both += len(said) - len({time for time, _ in said})
    assert both > 1000


def test_a_turn_ends_with_its_own_frame():
    """Also at two a second: no frame of the turns before the first event shows it, no frame of the
    turns after the last one shows it go on."""
    assert [world.moment(k, 1) for k in range(3)] == [0, 1, 2]
    assert [world.moment(k, 2) for k in range(6)] == [0, 0, 0.5, 1, 1.5, 2]
    lasting = 0
    for i in range(40):
        clip = world.Clip(random.Random(i), 30)
        if clip.events:
            first, last = clip.events[0].first, max(e.last for e in clip.events)
            before = [clip.state(world.moment(frame, 2)) for frame in range(2 * first)]
            after = [clip.state(world.moment(frame, 2)) for frame in range(2 * last + 2, 60)]
            assert all(state == before[0] for state in before)
            assert all(state == after[0] for state in after)
            lasting += bool(clip.events[0].doing)
    assert lasting > 10
    for clip in drills.Slides(random.Random(0), 5), drills.Bustle(random.Random(0), 8):
        for turn in range(clip.seconds):                    # a drill's turn has one picture
            assert clip.state(world.moment(2 * turn, 2)) == clip.state(turn)
            assert clip.state(world.moment(2 * turn + 1, 2)) == clip.state(turn)


def test_a_question_in_the_middle_is_answered_by_what_is_to_be_seen_then():
    """Two seconds after it, of things that were there under this name when it was asked."""
    checked = busy = 0
    for i, (clip, _) in enumerate(samples("full", 800)):
        dialogue = telling.Dialogue(clip, random.Random(i))
        dialogues.TASKS["Offline QA"](dialogue)
        (question,), (said,) = dialogue.questions, dialogue.responses
        turn = int(said["end_time"])
        assert turn == int(question["time"]) + 1
        busy += any(turn - 3 <= e.last and e.first <= turn for e in clip.events)
        now = {thing.name: thing for thing in clip.state(turn) if thing.r}
        if match := re.fullmatch(r"The (\w+ \w+) is (.*)\.", said["content"]):
            thing = now[match[1]]
            assert match[2] in (thing.place, thing.doing)
            assert match[1] in names_on(clip, [turn - 2])
            checked += 1
        elif match := re.fullmatch(r"There are (\w+) shapes\.", said["content"]):
            assert len(now) == {"no": 0, "two": 2, "three": 3, "four": 4}[match[1]]
    assert checked >= 40 and busy >= 10


def test_an_event_is_recognised_within_any_sentence():
    """What visual tokens are told to be asked about, in wordings that hold it as a clause."""
    red, circle = 1 + list(world.COLOURS).index("red"), list(world.SHAPES).index("circle")
    cells = np.array([(red, circle, 0, 0, 0, world.CHANGES.index("left"), red, circle)], np.float32)
    for does, expected in (("moves left", 2), ("moves right", 1), ("hits the blue star", 2),
                           ("grows", 1)):
        event = world.Event("move", 0, "red circle", 1, 2, (), does)
        for kind in ("Event Grounding", "Backward Grounding"):
            for text in telling.KNOWN[kind]:
                question = text.format(event.caption, clause=event.clause, gerund=event.gerund,
                                       plain=event.plain)
                assert asked(cells, question).tolist() == [expected], question


# ------------------------------------------------------------------------------- how it is scored

def row(task, gold, pred, begins=None, seconds=20):
    def said(answers):
        states = ["0"] * seconds
        if begins is not None:
            states[begins] = "1"
        for second, _ in answers:
            states[second] = "2"
        return {"states": "".join(states), "answers": [list(answer) for answer in answers]}

    return {"task": task, "gold": said(gold), "pred": said(pred), "seconds": seconds, "compute": 1}


@pytest.mark.parametrize("said, score", [
    ("A star appears, at 12s.", 100), ("A star appears, from 12s to 12s.", 100),
    ("A star appears, from 11s to 12s.", 50), ("A star appears, at 11s.", 0), ("Yes.", 0)])
def test_an_instant_is_a_span_of_one_second(said, score):
    gold = [(12, "A star appears, at 12s.")]
    for task in ("forward_instant", "backward_instant"):
        assert streams.score_stream([row(task, gold, [(12, said)])])[task] == score
    name = streams.score_stream([row("forward_grounding", gold, [(12, said)])])
    assert name["forward_instant"] == score and "forward_grounding" not in name     # own records


def test_false_alarms_are_any_answer_to_what_never_comes():
    span = "The star grows, from 2s to 3s."
    scores = streams.score_stream([
        row("never_another", [], [(3, span)]), row("never_another", [], []),
        row("never_absent", [], []), row("never_again", [], [(2, "No."), (9, "No.")]),
        row("forward_grounding", [], [])])
    assert scores["false_alarms"] == 40 and scores["false_alarms_another"] == 50
    assert scores["false_alarms_absent"] == 0 and scores["false_alarms_again"] == 100
    assert scores["dialogues"] == 5


def test_answers_before_the_event_are_counted_by_the_question():
    gold = [(9, "The star grows, from 7s to 9s.")]
    rows = [row("forward_grounding", gold, [(second, "It grows.")], begins=6)
            for second in (2, 5, 6, 9)]
    assert streams.score_stream(rows)["early_answers"] == 50
    rows += [row("never_absent", [], [(2, "It grows.")])]
    assert streams.score_stream(rows)["early_answers"] == 50


def test_denials_absent_things_and_new_words():
    no, star = "That did not happen.", "There is no red star."
    scores = streams.score_stream([
        row("denied", [(5, no)], [(5, no)]), row("denied", [(5, no)], [(5, "At 3s.")]),
        row("absent", [(3, star), (9, "No.")], [(4, star), (9, "Yes.")]),
        row("two_at_once", [(3, "No. Yes."), (9, "No. No.")], [(3, "No."), (9, "No. No.")]),
        row("empty", [(3, star)], [(6, star)]),
        row("reworded_narration", [(3, "a"), (6, "b")], [(3, "a"), (6, "c")]),
        row("reworded_tsqa", [(3, "a")], [(3, "a"), (6, "c")])])
    assert [scores[name] for name in ("denied", "absent", "empty", "reworded")] == [50, 50, 0, 75]
    assert scores["two_at_once"] == 50


def test_the_six_and_the_states_are_those_of_the_first_edition():
    old = [row("narration", [(3, "a")], [(3, "a"), (5, "b")]),
           row("forward_grounding", [(9, "from 3s to 9s")], [(9, "from 3s to 8s")], begins=2)]
    new = [row("never_absent", [], [(3, "x")]), row("absent", [(3, "x")], []),
           row("reworded_narration", [(3, "a")], []), row("forward_instant", [(3, "at 3s")], [], 2)]
    before, after = streams.score_stream(old), streams.score_stream(old + new)
    for name in before.keys() - {"dialogues", "stream_seconds_per_compute_second", "early_answers"}:
        assert before[name] == after[name], name
    for one in old + new:
        one["pred"]["p"] = [0.4] * 20
    assert streams.threshold_curve(old + new) == streams.threshold_curve(old)
