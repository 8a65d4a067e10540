"""Annotation files: what is in them, what is wrong with them, and ten public sources as ours.

    python records.py show                                             a toy sample, token by token
    python records.py show raw.json --videos FOLDER --index 3 --strip frames.png
    python records.py check raw.json --videos FOLDER                   what is wrong, what is in it
    python records.py convert coin COIN.json --out raw.jsonl           other sources -> raw records
    python records.py convert stream raw.json --videos FOLDER --out stream_format.json
"""
import argparse
import json
import math
import os
import random
import re
import sys
from collections import Counter
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw

from data import PLAIN, RawDataset, stream_record, turns_from_record
from parts.annotations import faults, parse_time, stated_seconds, video_path
from parts.config import StreamoConfig
from parts.files import MISSHAPEN, read_json, read_records
from parts.tokenizer import STATES, Tokenizer
from parts.video import frames
from toy.datasets import ToyDataset
from toy.dialogues import ASK as TOY_ASK

# ---- Other sources -> raw records

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


def egotimeqa(v):                               # frames at 30 fps; " l " is a misread " I "
    ask = partial(qa, question=v["question"].replace(" l ", " I "))
    span = v["moment_start_frame"] / 30, v["moment_end_frame"] / 30, v["answer"]
    yield f"{v['video_id']}.mp4", None, [span], ask


def didemo(v):                                  # inclusive 5-second chunks, by several annotators
    (first, last), _ = Counter(map(tuple, v["times"])).most_common(1)[0]
    end = min(5 * v["num_segments"], 30)
    yield v["video"], end, [(5 * first, min(5 * last + 5, end), v["description"])], grounding


def coin(name, v):                              # the class is the goal, in CamelCase
    goal = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", v["class"])
    which = partial(dated, question=f'Which step of "{goal}" is being done?')
    spans = [(*a["segment"], a["label"]) for a in v["annotation"]]
    yield f"{name}.mp4", v["duration"], spans, steps, grounding, which


def llava_video(v):                             # no times at all
    for asked, told in talk(turn["value"] for turn in v["conversations"]):
        yield v["video"], None, [(None, None, told)], partial(qa, question=asked)


def koala(v):                                   # a row is a clip; its times are the whole film's
    start, end = map(parse_time, re.findall(r"[\d:.]+", v["timestamp"]))
    yield f"{v['videoID']}.mp4", end - start, [(0, end - start, v["caption"])], caption


def et_instruct(v):                             # src and tgt are flat: start, end, start, end, ...
    src, tgt = v.get("src", []), v.get("tgt", [])
    left = {"human": [*src], "gpt": [*tgt]}     # in vid files each <vid> is the next of them
    texts = [re.sub("<vid>", lambda _: str(left[turn["from"]].pop(0)), turn["value"])
             for turn in v["conversations"]]
    for asked, told in talk(texts):
        part = re.split(r"(\d+(?:\.\d+)?) *- *(\d+(?:\.\d+)?) *s(?:ec\w*)?\b[,:. ]*", told)
        spans = list(zip(part[1::3], part[2::3], map(str.strip, part[3::3])))
        if not tgt or len(tgt) % 2 or v["task"] == "gvq":       # words, at a time or of one
            times = [tgt[0], tgt[0] + 1] if len(tgt) == 1 else tgt or src or [None]
            spans, task = [(times[0], times[-1], told)], partial(qa, question=asked)
        elif spans and all(text for *_, text in spans):         # "36 - 44 seconds, wash it. ..."
            task = steps if v["task"] == "slc" else caption     # slc: steps, located and told
        else:                                                   # spans alone, of what was asked
            spans = [(start, end, asked) for start, end in zip(tgt[::2], tgt[1::2])]
            task = partial(grounding, question=asked)
        yield v["video"], v["duration"], spans, task


def talk(texts):
    """The (question, answer) pairs of a LLaVA conversation, without its mark of the video."""
    texts = [text.replace("<image>\n", "") for text in texts]
    return zip(texts[::2], texts[1::2], strict=True)

SOURCES = {"activitynet": activitynet, "qvhighlights": qvhighlights, "youcook2": youcook2,
           "hacs": hacs, "egotimeqa": egotimeqa, "didemo": didemo, "coin": coin,
           "llava-video": llava_video, "koala": koala, "et-instruct": et_instruct}
ASK = {**TOY_ASK, "Action Caption": (
    "List each step when it is done.", "Describe every action as it ends.", "Name every step.",
    "What is being done here, step by step?", "Follow the work and report each finished step.")}


def response(text, start="", end="", time=""):
    return {"content": text, "st_time": start, "end_time": end, "time": str(time)}


def caption(spans, duration, rng, task="Event Caption"):
    """All spans, each told when it ends; many short ones (3 s or less) are a narration."""
    responses = [response(text, start, end) for start, end, text in spans]
    if len(spans) > 4 and sorted(end - start for start, end, _ in spans)[len(spans) // 2] <= 3:
        task = "Real-time Narration"
        responses = [response(text, time=int(max(end, 1))) for _, end, text in spans]
    return task, 0, rng.choice(ASK[task]), responses

steps = partial(caption, task="Action Caption")


def grounding(spans, duration, rng, question=None):
    """One event, with all of its spans: asked before the first, or after the last."""
    event = rng.choice(spans)[2]
    spans = sorted((start, end) for start, end, text in spans if text == event)
    told = [f"from {int(start)}s to {int(end)}s" for start, end in spans]
    over = int(max(end for _, end in spans)) + 2
    if duration and over <= duration and rng.random() < 0.5:
        task, asked = "Backward Grounding", rng.randint(over, int(duration))
        responses = [response(f"The event took place {' and '.join(told)}.", time=asked)]
    else:
        task, asked = "Event Grounding", rng.randint(0, int(spans[0][0]))
        responses = [response(f"The event took place {text}.", *span)
                     for text, span in zip(told, spans)]
    return task, asked, question or rng.choice(ASK[task]).format(event), responses


def dated(spans, duration, rng, question):
    """One question, whose answer changes as each span begins."""
    responses = [response(text, time=int(start) + 1) for start, _, text in spans]
    return "Time-sensitive QA", 0, rng.choice(ASK["Time-sensitive QA"]).format(question), responses


def qa(spans, duration, rng, question):
    """Asked as the span begins; without times early in the video, as the release does it."""
    [(start, end, text)] = spans
    if start is None:
        start = rng.randint(2, 6)
        end = start + 1
    return "Offline QA", int(start), question.strip(), [response(text, start, end)]


def clean(spans, duration, counts):
    """The spans in float seconds, in order, inside the video; texts on one line. Empty ones go."""
    for start, end, text in spans:
        start, end, text = parse_time(start), parse_time(end), " ".join(text.split())
        if start is not None:
            counts["spans swapped"] += end < start
            counts["spans clamped to the video"] += bool(duration and max(start, end) > duration)
            start, end = sorted(min(time, duration or time) for time in (start, end))
        if text and (start is None or start < end):
            yield start, end, text
        else:
            counts["spans left out: no length or no text"] += 1


def raw_records(source, item, counts):
    """The raw records of one item of a source's file; always the same for the same item."""
    item = item if isinstance(item, tuple) else (item,)         # of a JSON object, or of a list
    for video, duration, spans, *tasks in SOURCES[source](*item):
        duration = parse_time(duration)
        spans = list(clean(spans, duration, counts))
        rng = random.Random(f"{source}/{video}/{spans}")
        for make in tasks if spans else ():
            task, asked, question, responses = make(spans, duration, rng)
            yield {"video_name": Path(video).name, "video_path": video, "task_type": task,
                   "source": source, "duration": duration,
                   "question": [{"content": question, "time": str(asked)}], "response": responses}


@lru_cache(maxsize=1000)                        # the records of a video usually follow one another
def count_seconds(video, rate=None):
    return sum(1 for _ in frames(video, 1, rate))


def convert(source, files, videos, counts):
    """Yield the records made of the items of a source's files ("stream": stream records of raw
    ones, whose videos must be there). An item that cannot be used is reported and counted."""
    for file in files:
        for n, item in enumerate(read_records(file)):
            try:
                if source == "stream":
                    seconds = count_seconds(video_path(item, videos), parse_time(item.get("fps")))
                    made = [stream_record(item, turns_from_record(item, seconds, counts))]
                else:
                    made = list(raw_records(source, item, counts))
                json.dumps(made, ensure_ascii=False).encode()       # half an emoji is no text
            except (OSError, *MISSHAPEN) as error:
                counts["items refused"] += 1
                print(f"{file}: item {n} refused: {type(error).__name__} {error}", file=sys.stderr)
                continue
            counts["items with nothing to learn from"] += not made
            counts["records written"] += len(made)
            yield from made


def write(records, out):
    """Write records to `out`, a JSON list (.json) or one a line (.jsonl), whole or not at all."""
    before, between, after = ("[\n", ",\n", "\n]\n") if out.endswith(".json") else ("", "\n", "\n")
    with open(f"{out}.tmp", "w", encoding="utf-8") as sink:
        sink.write(before)
        for n, record in enumerate(records):
            sink.write((between if n else "") + json.dumps(record, ensure_ascii=False))
        sink.write(after)
    os.replace(f"{out}.tmp", out)


# ---- Check and show

GRAIN = {"Real-time Narration": "second", "Action Caption": "step", "Event Caption": "event",
         "Event Grounding": "event", "Backward Grounding": "event"}


def check(file, videos=None):
    """Print what is wrong with each record of a file, then what the file holds. Returns 2 when a
    record cannot be used, 1 when some are to be mended (turns_from_record does it), else 0."""
    broken, mended, holds = Counter(), Counter(), Counter()
    for n, record in enumerate(read_records(file)):
        wrong, counts = faults(record), Counter()
        try:
            if not wrong:
                seconds = stated_seconds(record) if not videos else count_seconds(
                    video_path(record, videos), parse_time(record.get("fps")))
                task, edges = record["task_type"], (30, 60, 120, 240, math.inf)
                holds.update([f"state {turn.state}"
                              for turn in turns_from_record(record, seconds, counts)])
                holds.update([f"task {task}", f"granularity {GRAIN.get(task, 'question')}",
                              f"source {record['source']}",
                              f"duration up to {min(e for e in edges if seconds <= e)} s"])
        except (OSError, ValueError) as error:
            wrong = [str(error)]
        for what in [*wrong, *(f"{what} (mended)" for what in +counts)]:
            print(f"{file}: record {n}: {what}")
        broken.update(re.sub(r"'[^']*'|\S*/\S*|[\d.]+", "*", what) for what in wrong)
        mended += counts
    for title, found in (("broken", broken), ("mended", mended), ("holds", holds)):
        for what, count in found.most_common():
            print(f"{title:8}{count:9}  {what}")
    states = [holds[f"state {state}"] for state in STATES]
    ratio = " : ".join(f"{n / max(states[2], 1):.1f}" for n in states)
    print(f"Silence : Standby : Response = {ratio}")
    return 2 if broken else 1 if mended else 0


def paint(tokenizer, item, colour):
    """The tokens of an item as text. What is only read is grey, each token ending in a dot; what is
    learnt is coloured by kind (the three states; text) on a shade that grows with its loss weight,
    the alpha of a state (paper, equation 4), which is printed. In plain text the learnt is [so]."""
    hues = dict(zip(tokenizer.state_ids, (34, 33, 31)))
    counts = Counter(label for label in item["labels"] if label in hues)
    out = []
    for (token, label), run in groupby(zip(item["input_ids"], item["labels"])):
        text, times = tokenizer.decode([token]), len(list(run))
        if token == tokenizer.frame_id:
            text, times = f"{text}x{times}", 1
        if label == -100:
            plain = text = text if text.endswith("\n") else f"{text}·"
            shade = "90"
        else:
            weight = counts.total() / (3 * counts[label]) if label in hues else 1.0
            text = f"{text} {weight:.2f}" if label in hues else text
            shade = f"{hues.get(label, 32)};48;5;{232 + min(int(weight * 3), 12)}"
            plain = f"[{text}]"
        out += [f"\033[{shade}m{text}\033[0m" if colour else plain] * times
    return "".join(out)


def strip(item, state_ids, path, columns=10, side=96):
    """Write a PNG of the frames of an item (one a second), each over the colour of its state."""
    states = [label for label in item["labels"] if label in state_ids]
    rows = math.ceil(len(states) / columns)
    sheet = Image.new("RGB", (columns * (side + 8), rows * (side + 20)), "white")
    for k, (frame, label) in enumerate(zip(item["frames"], states, strict=True)):
        x, y = k % columns * (side + 8), k // columns * (side + 20)
        sheet.paste(("#6baed6", "#fec44f", "#de2d26")[state_ids.index(label)],
                    (x, y, x + side + 8, y + side + 20))
        sheet.paste(Image.fromarray(item["pixels"][frame]).resize((side, side)), (x + 4, y + 4))
        ImageDraw.Draw(sheet).text((x + 6, y + side + 5), f"{k}s", fill="black")
    sheet.save(path)


def show(args):
    tokenizer = Tokenizer.from_pretrained(args.model)
    config = StreamoConfig.from_dict(read_json(Path(args.model) / "config.json"))
    if args.file:
        data = RawDataset(tokenizer, config, [args.file], args.videos)
        if not 0 <= args.index < len(data):
            raise ValueError(f"--index {args.index}: {args.file} has records 0 to {len(data) - 1}")
        item = data.item(*data.files[0][args.index], random.Random(0))
    else:
        item = ToyDataset(tokenizer, config, seed=0, augment=PLAIN)[args.index]
    print(paint(tokenizer, item, sys.stdout.isatty()))
    print(f"{item['name']}: {item['length']} tokens, {len(item['grids'])} frames, "
          f"{len(item['pixels'])} distinct; counts: {dict(+item['counts'])}")
    if args.strip:
        strip(item, tokenizer.state_ids, args.strip)


# ---- The command line

def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("show").add_argument
    add("file", nargs="?", help="raw or stream records; none: the toy world")
    add("--index", type=int, default=0)
    add("--videos", default=".", help="the folder that the records' paths start from")
    add("--model", default="assets/tiny", help="a folder with tokenizer.json and config.json")
    add("--strip", metavar="PNG", help="write the frames here")
    add = commands.add_parser("check").add_argument
    add("file")
    add("--videos", help="without it the videos are not looked at")
    add = commands.add_parser("convert").add_argument
    add("source", choices=[*SOURCES, "stream"])
    add("files", nargs="+")
    add("--videos", default=".", help="for stream: the folder that the records' paths start from")
    add("--out", required=True, help=".jsonl, or .json for a list")
    args = parser.parse_args(argv)
    if args.command == "show":
        return show(args)
    if args.command == "check":
        return check(args.file, args.videos)
    counts = Counter()
    write(convert(args.source, args.files, args.videos, counts), args.out)
    Path(f"{args.out}.counts.json").write_text(json.dumps(+counts, indent=1))
    for what, count in counts.most_common():
        print(f"{count:9}  {what}")
    return 0 if counts["records written"] else 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(f"records.py: {error}", file=sys.stderr)
        sys.exit(2)
