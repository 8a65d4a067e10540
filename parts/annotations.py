"""Annotation files of the two public formats: every field checked, every fault named.

Raw records (question / response with times) and stream records (messages, one second each) become
the same `Said`. Its times are seconds as they stand in the file: which turn of the dialogue they
mean is said in data.py. What the released converter accepts is accepted, and counted.
"""
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from parts.files import MISSHAPEN, check, in_words, read_records
from parts.tokenizer import STATES

RESPONSE, STANDBY = STATES[2], STATES[1]
DAY = 86_400                    # seconds; no film to learn from is longer, a unit is mistaken
SLOWEST, FASTEST = 1 / 60, 1000     # pictures a second in a folder: a time lapse, a fast camera
SUFFIXES = ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".ts"
JOYAI_TASKS = {"background": "Background", "chat": "Chat", "event_grounding": "Event Grounding",
               "narration": "Real-time Narration"}          # theirs: ours


class Entry(NamedTuple):
    """A question or a response of a raw record: a span (start, end), or an instant (time)."""
    text: str
    start: float | None             # seconds, as the file has them
    end: float | None
    time: float | None


@dataclass
class Said:
    """What a record says, and what is wrong with it, field by field.

    A raw record fills questions and responses, a stream record turns: (question or "", state, text)
    of each second. mended: what was accepted although it is not as the format has it."""
    questions: list = field(default_factory=list)
    responses: list = field(default_factory=list)
    turns: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    mended: Counter = field(default_factory=Counter)


# ---- Single fields

def shown(value):
    """A value as an error message has it, however long it is."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def blank(value):
    """Whether a field is there in name only: null, "" or spaces."""
    return value is None or isinstance(value, str) and not value.strip()


def parse_time(value, most=DAY):
    """Seconds from a number, "5", "5.5", "MM:SS" or "HH:MM:SS.f"; None from a blank."""
    if blank(value):
        return None
    try:
        parts = [float(part) for part in str(value).split(":")]
    except ValueError:
        raise ValueError(f"time {shown(value)} is not seconds, MM:SS or HH:MM:SS") from None
    check(len(parts) <= 3, f"time {shown(value)} is not seconds, MM:SS or HH:MM:SS")
    check(min(parts) >= 0, f"time {shown(value)} is negative or no time at all")    # also for NaN
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + part
    check(seconds <= most, f"time {shown(value)} lies beyond {most} s: is it in seconds?")
    return seconds


def parse_rate(value):
    """Images per second of a folder of images; None from a blank."""
    if blank(value):
        return None
    try:
        rate = float(str(value))
    except ValueError:
        raise ValueError(f"{shown(value)} is no number of images per second") from None
    check(rate >= 0, f"{shown(value)} images per second: negative or no number")
    check(SLOWEST <= rate <= FASTEST, f"{shown(value)} images per second: from one a minute "
          f"({SLOWEST:.4f}) to {FASTEST} are possible")
    return rate


def text_of(value, what=""):
    """A field that must hold text."""
    check(isinstance(value, str) and value.strip(), f"{what}missing, empty or not text")
    check_letters(value)
    return value


def bare(text, mended):
    """A text without the white space around it: what a model says has none to be equal to."""
    mended["white space around a text left out"] += text != text.strip()
    return text.strip()


def check_letters(text):
    """ValueError for half an emoji (a surrogate), which is no text."""
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"surrogates in it, {ascii(half[0])}, are no text")


def task_of(record):
    """"Event_Grounding", as some copies have it, is "Event Grounding"."""
    return record["task_type"].replace("_", " ")


def stated_path(record):
    """The path of its video as a record has it: the release looks into `videos`, too."""
    path, videos = record.get("video_path"), record.get("videos")
    if "messages" in record or blank(path):
        path = videos[0] if isinstance(videos, list) and videos else videos
    return text_of(path, "the path is ")


def video_path(record, folder, counts=None):
    """The record's video as an absolute path inside `folder`; None: any folder.

    Accepted and counted: an absolute path that lies in the folder, and a name without extension
    where one file has it. Raises ValueError for a path that would leave the folder."""
    counts = Counter() if counts is None else counts
    path = Path(stated_path(record))
    check(".." not in path.parts, f"{shown(str(path))} leaves the video folder")
    if folder is None:
        return path
    root = Path(folder).absolute()
    if path.is_absolute():
        # links inside the folder are followed, they are the user's; the folder may be one itself
        check(path.is_relative_to(root) or path.is_relative_to(root.resolve()),
              f"{shown(str(path))} leaves the video folder {folder}")
        counts["absolute video path inside the folder"] += 1
    whole = root / path
    if whole.suffix.lower() in SUFFIXES or whole.exists():
        return whole
    there = [whole.with_name(whole.name + suffix) for suffix in SUFFIXES
             if whole.with_name(whole.name + suffix).exists()]
    check(len(there) < 2, f"{shown(str(path))} has no extension, and {len(there)} videos fit: "
          f"{', '.join(video.name for video in there)}")
    counts["video name without extension"] += len(there)
    return there[0] if there else whole


# ---- Whole records

def read_annotations(file):
    """Yield the records of a file. A JSON object alone is one record, as the release has it."""
    pairs = []
    for item in read_records(file):
        if isinstance(item, tuple):                 # (key, value) of an object
            pairs.append(item)
        else:
            yield item
    if pairs:
        yield dict(pairs)


def read_entry(kind, entry, mended):
    """A question or a response of a raw record, checked: an Entry."""
    check(isinstance(entry, dict), f"{shown(entry)} is not an object with content and time")
    text = bare(text_of(entry.get("content"), "content is "), mended)
    start, end, time = (parse_time(entry.get(key)) for key in ("st_time", "end_time", "time"))
    for key in ("st_time", "end_time", "time"):
        value = entry.get(key)
        mended["blank time read as none"] += isinstance(value, str) and value.isspace()
    if kind == "question":
        return Entry(text, None, None, time)
    if (start is None) != (end is None):
        check(time is not None, "st_time without end_time, or the reverse")
        mended["half a span left out, its time read"] += 1
        start = end = None
    check(start is not None or time is not None, "neither st_time and end_time nor time")
    check(start is None or start <= end, f"the span runs backwards, from {start} to {end}")
    return Entry(text, start, end, None if start is not None else time)


def read_messages(messages, mended):
    """The turns of a stream record: (question or "", state, text) of each second."""
    check(isinstance(messages, list) and messages, "missing, empty or not a list")
    check(all(isinstance(message, dict) and isinstance(message.get("content"), str)
              for message in messages), "a message is not an object with role and content")
    if messages[0].get("role") == "system":
        messages = messages[1:]
    check(len(messages) % 2 == 0, "the last turn has no reply")
    turns = []
    for n, (user, reply) in enumerate(zip(messages[::2], messages[1::2])):
        asked, _, frame = user["content"].rpartition(f"<{n}s-{n + 1}s>\n")
        state, _, text = reply["content"].partition(" ")
        check_letters(asked + text)
        text = bare(text, mended)
        check(f"<{n}.0 seconds>" not in user["content"], f"turn {n} is of JoyAI-VL-Interaction's "
              "stream form: give their raw records to python records.py convert joyai")
        check(frame == "<stream>" and (user.get("role"), reply.get("role")) == (
            "user", "assistant"), f"turn {n} is not '[question] <{n}s-{n + 1}s> <stream>', a reply")
        check(state in STATES and (state == RESPONSE) == bool(text),
              f"turn {n}: no state, or no text: {shown(reply['content'])}")
        turns.append((asked.removesuffix("\n"), state, text))
    # the released converter writes the first question in turn 0, too, whenever it is asked
    if turns and turns[0][0] and turns[0][0] in [question for question, _, _ in turns[1:]]:
        mended["repeated question of turn 0 left out"] += 1
        turns[0] = ("", *turns[0][1:])
    return turns


def joyai_sign(record):
    """What tells that a raw record is JoyAI-VL-Interaction's: same keys, but its second t is the
    turn t, where Streamo's is the turn t - 1. None where nothing tells."""
    entries = []
    for kind in ("question", "response"):
        if isinstance(record.get(kind), list):
            entries += record[kind]
    if any(isinstance(entry, list) for entry in entries):
        return "a list in the list of entries"
    entries = [entry for entry in entries if isinstance(entry, dict)]
    for entry in entries:
        if isinstance(entry.get("time"), str) and "," in entry["time"]:
            return f"the list of times {shown(entry['time'])}"
        if "</delegation>" in str(entry.get("content")):
            return "</delegation>"
    spans = any("st_time" in entry or "end_time" in entry for entry in entries)
    if str(record.get("task_type")) in JOYAI_TASKS and not spans:
        return f"the task {record['task_type']!r}"
    return None


def read_record(record, folder=None):
    """What a raw or stream record says, its faults among it: Said. folder: where videos lie."""
    said = Said()

    def attempt(what, read, *args):
        """What a reader makes of a field, or its fault by name."""
        try:
            return read(*args)
        except (OSError, *MISSHAPEN) as error:
            said.wrong.append(f"{what}: {in_words(error)}")

    if not isinstance(record, dict):
        said.wrong.append("not a JSON object")
        return said
    if not record.keys() & {"question", "response", "messages"}:
        has = shown(", ".join(map(str, record))) if record else "nothing"
        said.wrong.append("no annotation: it has neither question and response nor messages, but "
                          f"{has}; wanted are records, in a list, one a line or one alone; another "
                          "source is to be converted first")
        return said
    if sign := joyai_sign(record):
        said.wrong.append(f"a record of JoyAI-VL-Interaction, by {sign}, whose times mean other "
                          "turns; convert it first: python records.py convert joyai")
        return said
    for key in ("task_type", "source"):
        attempt(key, text_of, record.get(key))
    attempt("duration", parse_time, record.get("duration"))
    attempt("fps", parse_rate, record.get("fps"))
    streamed = "messages" in record
    attempt("videos" if streamed else "video_path", video_path, record, folder)
    said.mended["underscores in the task's name"] += "_" in str(record.get("task_type"))
    if streamed:
        said.turns = attempt("messages", read_messages, record["messages"], said.mended) or []
        return said
    for kind, entries in (("question", said.questions), ("response", said.responses)):
        if not isinstance(record.get(kind), list):
            said.wrong.append(f"{kind}: missing or not a list")
            continue
        for n, entry in enumerate(record[kind]):
            entries.append(attempt(f"{kind}[{n}]", read_entry, kind, entry, said.mended))
    return said


def faults(record, folder=None):
    """What is wrong with a raw or stream record, field by field."""
    return read_record(record, folder).wrong


def stated_seconds(record):
    """Seconds of a sound record by what it says itself: for want of its video, or of time."""
    if "messages" in record:
        return len(record["messages"]) // 2
    times = [parse_time(entry.get(key)) or 0
             for entry in record["response"] for key in ("end_time", "time")]
    return math.ceil(parse_time(record.get("duration")) or max(times, default=0) + 1)


def written_as_stream(record, turns, system):
    """The stream record of a raw record's turns (data.Turn); system: its first message."""
    messages = [{"role": "system", "content": system}]
    for turn in turns:
        asked = "" if turn.question is None else turn.question + "\n"
        tag = f"<{turn.second}s-{turn.second + 1}s>\n<stream>"
        answer = f"{turn.state} {turn.text}" if turn.text else turn.state
        messages += [{"role": "user", "content": asked + tag},
                     {"role": "assistant", "content": answer}]
    about = {key: record.get(key, "") for key in ("video_name", "task_type", "source")}
    if "fps" in record:                         # the rate of a folder's images
        about["fps"] = record["fps"]
    return {"messages": messages, "videos": [stated_path(record)], **about}
