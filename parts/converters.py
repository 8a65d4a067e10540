"""Public annotation sources -> raw records in Streamo-Instruct's layout.

A reader takes one item of a source's file and yields (video, duration, spans, makers ...). Spans
are (start, end, text) in seconds; (start, None, text) is an instant, (None, None, text) is undated.
Each maker makes one record of all spans, or None. What a record says must be true where it stands:
nothing is told before it is over, no question looks back at what is to come.
"""
import math
import random
import re
from collections import Counter
from functools import partial
from itertools import groupby
from pathlib import Path

from parts.annotations import JOYAI_TASKS, blank, parse_time, shown
from parts.files import check

SHORT = 3                       # seconds: events that are all as short are a narration

# ---- Readers: one item of a file -> video, duration, spans, makers

def activitynet(name, v):
    spans = [(*span, text) for span, text in zip(v["timestamps"], v["sentences"], strict=True)]
    yield f"v_{name.removeprefix('v_')}.mp4", v["duration"], spans, caption, grounding


def qvhighlights(v):                            # times are relative to the clip that vid names
    spans = [(*span, v["query"]) for span in v["relevant_windows"]]
    yield f"{v['vid']}.mp4", v["duration"], spans, grounding


def youcook2(name, v):
    if "timestamps" in v:                       # PDVC's copy; its test split says "None"
        path, spans = name.removeprefix("v_"), zip(v["timestamps"], v["sentences"], strict=True)
    else:
        path = f"{v['recipe_type']}/{name}"
        spans = [(a["segment"], a["sentence"]) for a in v["annotations"]]
    spans = [(*span, text) for span, text in spans if text != "None"]
    yield f"{path}.mp4", v["duration"], spans, steps, grounding


def hacs(name, v):                              # the folder is the class, the duration a string
    spans = [(*a["segment"], a["label"]) for a in v["annotations"]]
    folder = spans[0][2].replace(" ", "_") if spans else ""
    yield f"{folder}/v_{name}.mp4", v["duration"], spans, steps, grounding


def egotimeqa(v):
    """The moment's frames (of 30 a second) were shrunk around its middle; end_sec is its true end.
    The questions look back ("What did I cut?"); " l " in them is a misread " I "."""
    end = v["moment_end_frame"] / 30 if v.get("end_sec") is None else v["end_sec"]
    ask = partial(looking_back, question=v["question"].replace(" l ", " I "), end=parse_time(end))
    yield f"{v['video_id']}.mp4", None, [(None, None, v["answer"])], ask


def didemo(v):                                  # inclusive 5-second chunks, by several annotators
    (first, last), _ = Counter(map(tuple, v["times"])).most_common(1)[0]
    end = min(5 * v["num_segments"], 30)
    yield v["video"], end, [(5 * first, min(5 * last + 5, end), v["description"])], grounding


def coin(name, v):                              # the class is the goal, in CamelCase: "RJ45Cable"
    goal = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z0-9])(?=[A-Z][a-z])", " ", v["class"])
    which = partial(dated, question=f'Which step of "{goal}" is being done?')
    spans = [(*a["segment"], a["label"]) for a in v["annotation"]]
    yield f"{name}.mp4", v["duration"], spans, steps, grounding, which


LLAVA_LENGTHS = {"0_30_s": 30, "30_60_s": 60, "1_2_m": 120, "2_3_m": 180}   # by the folder's name
WHOLE = re.compile(r"\b(describe|description|caption|summar\w+)\b.*\b(video|clip|footage|film)\b",
                   re.IGNORECASE | re.DOTALL)

def llava_video(v, described=False):
    """No times at all. A description of the whole video (all of *_cap_processed.json) is given at
    its end; how long the video is, its folder's name bounds."""
    folder = f"{v.get('data_source')}/{v['video']}"
    longest = next((LLAVA_LENGTHS[part] for part in LLAVA_LENGTHS if part in folder), 180)
    for asked, told in talk(v["conversations"]):
        make = partial(qa, question=asked)
        if described or WHOLE.search(asked):
            make = partial(at_the_end, question=asked, end=longest + 5)
        yield v["video"], None, [(None, None, told)], make


def koala(v):                                   # a row is a clip; its times are the whole film's
    start, end = map(parse_time, re.findall(r"[\d:.]+", v["timestamp"]))
    yield f"{v['videoID']}.mp4", end - start, [(0, end - start, v["caption"])], caption


def talk(turns):
    """The (question, answer) pairs of a LLaVA conversation, without its marks of the video."""
    if turns and turns[0]["from"] != "human":   # a system's word, or a greeting
        turns = turns[1:]
    check([turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2) and turns,
          "the conversation is not human, gpt, human, gpt, ...")
    texts = [re.sub(r"[ \t]*\n?<(?:image|video)>\n?", "", turn["value"]).strip() for turn in turns]
    return list(zip(texts[::2], texts[1::2]))


# ---- ET-Instruct: every task has its own kind of answer

LOCATED, TOLD = {"tvg", "epm", "tal", "evs", "tem"}, {"dvc", "slc"}     # spans; spans with captions
NUMBER, UNIT = r"\d+(?:\.\d+)?", r"(?:(?:s|secs?|seconds?)\b)"
LINK = re.compile(rf"\s*{UNIT}?\s*(?:-|–|~|to)\s*")                     # between start and end
PROSE = re.compile(r"\b(?:to|until|till|ends?|ending|stops?|and)\b")    # the same, in a sentence


def marked(text, times):
    """(text with <vid> for each time, those times), taken in order from the front of `times`: in
    vid files the marks are there, in txt files the numbers are, as "36.0" for 36."""
    mine = []
    if "<vid>" in text:
        for _ in range(text.count("<vid>")):
            mine.append(times.pop(0))
        return text, mine

    def mark(match):
        if not times or abs(float(match[0]) - times[0]) > 0.06:
            return match[0]                     # a number of the text itself: "add 2 eggs"
        exact = rf"(?<![\d.]){re.escape(f'{times[0]:.1f}')}(?!\d)"
        if "." not in match[0] and re.search(exact, text[match.end():]):
            return match[0]                     # "add 10 eggs", before "10.0"
        mine.append(times.pop(0))
        return "<vid>"

    return re.sub(NUMBER, mark, text), mine


def pieces(text, times, linked):
    """[(start, end or None, what follows)] of a marked text. linked(what stands between two marks):
    whether they are a start and an end."""
    parts, found, k = text.split("<vid>"), [], 1
    while k < len(parts):
        paired = k + 1 < len(parts) and bool(linked(parts[k]))
        rest = parts[k + 1] if paired else parts[k]
        rest = re.sub(rf"^[\s)\]]*{UNIT}", "", rest).strip(" \n\t,:;-–")
        found.append((times[k - 1], times[k] if paired else None, rest.removeprefix(". ")))
        k += 2 if paired else 1
    return found


def et_instruct(v):
    """src and tgt are flat lists (start, end, start, end, ...; or starts alone) of the times in
    questions and answers, shared by all turns of a conversation; each turn takes its own."""
    task, pairs = v["task"], talk(v["conversations"])
    src, tgt = ([parse_time(time) for time in v.get(key) or []] for key in ("src", "tgt"))
    if not tgt and task in LOCATED | TOLD:      # the times stand in the text alone
        spoken = " ".join(told for _, told in pairs)
        spans = re.findall(rf"({NUMBER}) *(?:-|–|to) *({NUMBER})", spoken)
        tgt = [float(time) for span in spans for time in span]
    left, share = [*tgt], len(tgt) // len(pairs)    # share: of a turn whose answer names no time
    over = 0                                        # when all is over that was referred to so far
    for n, (asked, told) in enumerate(pairs):
        asked, seen = marked(asked, src)
        over = max([over, *(seen or src)])
        answer, mine = marked(told, left)
        mine = mine or tgt[n * share:(n + 1) * share]
        spans, make = et_kind(task, put_back(asked, seen), answer, mine, over)
        yield v["video"], v["duration"], spans, make


def put_back(text, times):
    """A marked text as words."""
    times = iter(times)
    return re.sub("<vid>", lambda _: f"{next(times):g}", text)


def et_kind(task, asked, answer, times, over):
    """(spans, maker) of a question and its answer, a text with <vid> for its times, by the task."""
    dated_words, told = "<vid>" in answer, put_back(answer, times)
    if task in TOLD and dated_words:
        found = pieces(answer, times, LINK.fullmatch)
        if all(text for *_, text in found):
            return found, steps if task == "slc" else caption
    if task == "vhd" and times:                     # the best moments
        found = [(time, None, "") for time in times]
        return at_moments(found, asked, told)
    if task in LOCATED or task in TOLD and dated_words:
        check(times, f"{task}: no time in the answer, and none in tgt")
        even = len(times) % 2 == 0
        found = pieces(answer, times, lambda link: LINK.fullmatch(link)
                       or even and PROSE.search(link)) if dated_words else []
        if found and all(end is None for _, end, _ in found) or not even:
            return at_moments([(time, None, "") for time in times], asked, told)
        return [(*span, asked) for span in zip(times[::2], times[1::2])], partial(
            grounding, question=asked, over=over, past=task == "epm")
    if times:                                       # words about a moment: told when it is over
        end = times[-1] if len(times) > 1 else times[0] + 1
        return [(times[0], end, told)], partial(qa, question=asked, over=over)
    if over:                                        # words about what the question refers to
        return [(None, None, told)], partial(looking_back, question=asked, end=over)
    return [(None, None, told)], partial(qa, question=asked)


def at_moments(found, asked, told):
    """(spans, maker) of instants; one alone is told in the words of the answer."""
    texts = [told] if len(found) == 1 else [f"At {int(start)}s." for start, *_ in found]
    spans = [(start, None, text) for (start, *_), text in zip(found, texts)]
    return spans, partial(caption, task="Event Grounding", question=asked)


SOURCES = {"activitynet": activitynet, "qvhighlights": qvhighlights, "youcook2": youcook2,
           "hacs": hacs, "egotimeqa": egotimeqa, "didemo": didemo, "coin": coin,
           "llava-video": llava_video, "koala": koala, "et-instruct": et_instruct}
NAMED = {"activitynet", "youcook2", "hacs", "coin"}         # files of one object, {name: item}

# ---- Makers: spans -> task, second of the question, question or None (any wording of the task's),
# ---- what is asked about, responses

def response(text, start="", end="", time=""):
    return {"content": text, "st_time": start, "end_time": end, "time": str(time)}


def caption(spans, duration, rng, task="Event Caption", question=None):
    """All spans, each told when it ends; more than four that are all short are a narration. An
    instant is told in its second."""
    if len(spans) > 4 and all(end is not None and end - start <= SHORT for start, end, _ in spans):
        by_end = sorted(spans, key=lambda span: span[1])
        told = [response(text, time=max(math.ceil(end), 1)) for _, end, text in by_end]
        return "Real-time Narration", 0, None, "", told
    told = [response(text, time=int(start) + 1) if end is None else response(text, start, end)
            for start, end, text in spans]
    return task, 0, question, "", told

steps = partial(caption, task="Action Caption")


def grounding(spans, duration, rng, question=None, over=0, past=False):
    """One event, with all of its spans, in whole seconds: asked before the first, or after the
    last. over: when what the question refers to is over; past: the question looks back."""
    event = rng.choice(spans)[2]
    spans = whole_seconds((start, end) for start, end, text in spans if text == event)
    told = [f"from {start}s to {end}s" for start, end in spans]
    first, last = spans[0][0], max(end for _, end in spans)
    begin = math.ceil(over) + 1 if over else 0
    earliest = max(last + 2, begin)
    room = duration and earliest <= duration
    backward = rng.random() < 0.5 and room
    if backward or past or begin > first:
        asked = rng.randint(earliest, int(duration)) if room else earliest
        answer = response(f"The event took place {' and '.join(told)}.", time=asked)
        return "Backward Grounding", asked, question, event, [answer]
    responses = [response(f"The event took place {text}.", float(start), float(end))
                 for text, (start, end) in zip(told, spans)]
    return "Event Grounding", rng.randint(begin, first), question, event, responses


def whole_seconds(spans):
    """Spans of at least a second, in order; those that share a second are one."""
    found = []
    for start, end in sorted((math.floor(start), math.ceil(end)) for start, end in spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def dated(spans, duration, rng, question):
    """One question, whose answer changes as a span begins; None where it does not change."""
    runs = [next(run) for _, run in groupby(sorted(spans, key=lambda span: span[0]),
                                            key=lambda span: span[2])]
    if len(runs) < 2:
        return None
    told = [response(text, time=int(start) + 1) for start, _, text in runs]
    return "Time-sensitive QA", 0, None, question, told


def qa(spans, duration, rng, question, over=0):
    """Asked as the span begins; without times early in the video, as the release does it."""
    [(start, end, text)] = spans
    if start is None:
        start = rng.randint(2, 6)
        end = start + 1
    start = max(start, math.ceil(over) + 1) if over else start
    return "Offline QA", int(start), question, "", [response(text, start, max(start, end))]


def looking_back(spans, duration, rng, question, end):
    """Asked and answered in the first second in which all is over."""
    [(_, _, text)] = spans
    asked = math.ceil(end) + 1
    if duration:
        asked = min(asked, math.ceil(duration))
    return "Offline QA", asked, question, "", [response(text, time=asked)]


def at_the_end(spans, duration, rng, question, end):
    """Asked early, answered on the last turn: `end` is no earlier, and what is late moves there."""
    [(_, _, text)] = spans
    return "Offline QA", rng.randint(2, 6), question, "", [response(text, time=end)]


# ---- Records

def clean(spans, duration, counts):
    """The spans in float seconds, inside the video; texts on one line. Empty ones go."""
    for start, end, text in spans:
        start, end, text = parse_time(start), parse_time(end), " ".join(text.split())
        known = [time for time in (start, end) if time is not None]
        counts["spans swapped"] += len(known) == 2 and end < start
        counts["spans clamped to the video"] += bool(known and duration and max(known) > duration)
        known = sorted(min(time, duration or time) for time in known)
        if text and (len(known) < 2 or known[0] < known[1]):
            yield *known, *[None] * (2 - len(known)), text
        else:
            counts["spans left out: no length or no text"] += 1


def raw_records(source, item, counts, ask, file=""):
    """The raw records of one item of a source's file; always the same for the same item.

    ask: {task: wordings of its question}; counts: a Counter of what was mended."""
    item = item if isinstance(item, tuple) else (item,)         # of a JSON object, or of a list
    if source == "joyai":
        yield from joyai(*item, counts)
        return
    read = SOURCES[source]
    if source == "llava-video":
        read = partial(read, described="_cap_" in Path(file).name)
    named = source in NAMED
    check(len(item) == 1 + named,
          f"a file of {source} holds {'an object, {name: item}' if named else 'a list of items'}")
    for video, duration, spans, *makers in read(*item):
        name = Path(video).name.removesuffix(".mp4").removeprefix("v_")
        check(name not in ("", "None"), f"the name of its video is {name or 'empty'}")
        duration = parse_time(duration)
        spans = list(clean(spans, duration, counts))
        rng = random.Random(f"{source}/{video}/{spans}")
        for make in makers if spans else ():
            made = make(spans, duration, rng)
            if made is None:
                counts["questions left out: their answer does not change"] += 1
                continue
            task, asked, question, about, responses = made
            question = rng.choice(ask[task]).format(about) if question is None else question
            check(not blank(question), "a question without words")
            yield {"video_name": Path(video).name, "video_path": video, "task_type": task,
                   "source": source, "duration": duration,
                   "question": [{"content": question, "time": str(asked)}], "response": responses}


# ---- JoyAI-VL-Interaction

def joyai(v, counts):
    """The same keys as ours, but second t is the turn t, ours t - 1; "5,6,7" stands on three turns.

    As its converter has it, a time is cut to a whole number, a number 0 is no time (a "0" is), and
    what has no time is not shown. `</delegation>` hands a question on: what stands before it is the
    answer. Unlike there, two on one turn are both kept."""
    made = {key: v.get(key) for key in ("video_name", "video_path", "duration", "fps")
            if not blank(v.get(key))}
    if "video_path" not in made:
        made["video_path"] = v["video_name"]                # the files come without paths
    made["task_type"] = JOYAI_TASKS.get(v["task_type"], v["task_type"])
    made["source"] = f"joyai/{v['source']}"
    for kind in ("question", "response"):
        check(isinstance(v.get(kind), list), f"{kind}: missing or not a list")
        made[kind] = []
        for entry in v[kind]:
            for one in entry if isinstance(entry, list) else [entry]:
                check(blank(one.get("st_time")) and blank(one.get("end_time")),
                      f"{kind}: st_time and end_time are Streamo's: it needs no conversion")
                made[kind] += joyai_entries(one, counts)
    if made["question"] or made["response"]:
        yield made


def joyai_entries(entry, counts):
    """The entries, one a turn, of a question or response of theirs."""
    text, when = entry.get("content"), entry.get("time")
    answer = re.sub(r"^\s*</response>\s*", "", text or "").partition("</delegation>")[0].strip()
    counts["delegations cut off"] += "</delegation>" in (text or "")
    if blank(when) or when == 0 and not isinstance(when, str) or not answer:
        counts["entries left out: no time or no text"] += 1
        return
    for part in str(when).split(","):
        try:
            second = int(float(part))
        except (ValueError, OverflowError):
            raise ValueError(f"time {shown(when)} is no second, and no list of seconds") from None
        if second < 0:
            counts["entries left out: before the start"] += 1
        else:
            yield {"content": answer, "time": str(second + 1)}
