"""Annotation files: what is in them, what is wrong with them, and eleven public sources as ours.

    python records.py show                                             a toy sample, token by token
    python records.py show raw.json --videos FOLDER --index 3 --strip frames.png
    python records.py check raw.json --videos FOLDER                   what is wrong, what is in it
    python records.py convert coin COIN.json --out raw.jsonl           other sources -> raw records
    python records.py convert stream raw.json --videos FOLDER --out stream_format.json

check ends with 0 for sound records (what was mended is a line a kind; -v names each), else with 2.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import json
import math
import os
import random
import re
import signal
import sys
from collections import Counter
from functools import lru_cache, partial
from itertools import chain, groupby
from pathlib import Path

from PIL import Image, ImageDraw

from data import PLAIN, RawDataset, stream_record, turns_from_record
from parts import converters
from parts.annotations import (
    DAY,
    faults,
    parse_rate,
    read_annotations,
    stated_seconds,
    task_of,
    video_path,
)
from parts.config import StreamoConfig
from parts.files import (MISSHAPEN, check_outputs, fault, in_words, is_standard, read_json,
                         read_records, replacing, write_json)
from parts.options import LineParser, named_file
from parts.tokenizer import STATES, Tokenizer
from parts.video import frames
from toy.datasets import ToyDataset
from toy.dialogues import ASK as TOY_ASK

ASK = {**TOY_ASK, "Action Caption": (
    "List each step when it is done.", "Describe every action as it ends.", "Name every step.",
    "What is being done here, step by step?", "Follow the work and report each finished step.")}
raw_records = partial(converters.raw_records, ask=ASK)
TINY = Path(__file__).parent / "assets/tiny"


# ---- Convert

@lru_cache(maxsize=1000)                        # the records of a video usually follow one another
def count_seconds(video, rate=None):
    """Whole or begun seconds of a video."""
    seconds = 0
    for _ in frames(video, 1, rate, trusted=False):
        seconds += 1
        if seconds > DAY:
            raise ValueError(f"{video} is longer than a day ({DAY} s)")
    return seconds


def to_stream(record, videos, counts):
    """The stream record of a raw record, whose video must be there."""
    if isinstance(record, dict) and "messages" in record:
        raise ValueError("a stream record already: convert stream reads raw records")
    if wrong := faults(record, videos):
        raise ValueError(wrong[0])
    video = video_path(record, videos, counts)
    seconds = count_seconds(video, parse_rate(record.get("fps")))
    return stream_record(record, turns_from_record(record, seconds, counts))


def convert(source, files, videos, counts):
    """Yield the records made of the items of a source's files ("stream": stream records of raw
    ones). An item that cannot be used is reported and counted: the items that were read are those
    that were used, those refused and those with nothing in them."""
    for file in files:
        items = read_annotations(file) if source in ("stream", "joyai") else read_records(file)
        for n, item in enumerate(items):
            counts["items read"] += 1
            mended = Counter()
            try:
                if source == "stream":
                    made = [to_stream(item, videos, mended)]
                else:
                    made = list(raw_records(source, item, mended, file=file))
                for wrong in chain(*map(faults, made)):
                    raise ValueError(f"what was made of it: {wrong}")
            except (OSError, *MISSHAPEN) as error:
                counts["items refused"] += 1
                other = "" if isinstance(error, (OSError, ValueError)) else f"no item of {source}: "
                print(f"{file}: item {n} refused: {other}{fault(error)}", file=sys.stderr)
                continue
            counts.update(mended)
            counts["items used" if made else "items with nothing to learn from"] += 1
            counts["records written"] += len(made)
            yield from made


def write(records, out):
    """Write records to `out`, a JSON list (.json) or one a line (.jsonl), whole or not at all."""
    before, between, after = ("[\n", ",\n", "\n]\n") if out.endswith(".json") else ("", "\n", "\n")
    with replacing(out) as partial_file, open(partial_file, "w", encoding="utf-8") as sink:
        sink.write(before)
        for n, record in enumerate(records):
            sink.write((between if n else "") + json.dumps(record, ensure_ascii=False))
        sink.write(after)


def convert_files(args):
    """The command: nothing usable leaves the old output as it was."""
    counted = f"{args.out}.counts.json"
    device = is_standard(args.out) or Path(args.out).exists() and not Path(args.out).is_file()
    if not device and Path(args.out).suffix not in (".json", ".jsonl"):
        raise ValueError(f"--out {args.out}: .jsonl, or .json for a list")
    check_outputs({"--out": args.out, "--out's counts": None if device else counted},
                  {"the source": args.files})
    counts = Counter()

    def some():
        yield from convert(args.source, args.files, args.videos, counts)
        if not counts["records written"]:
            raise ValueError(f"nothing usable in {', '.join(args.files)}, {args.out} not written")

    try:
        write(some(), args.out)
        if not device:
            write_json(counted, +counts)
    finally:
        for what, count in (+counts).most_common():
            print(f"{count:9}  {what}", file=sys.stderr if device else sys.stdout)


# ---- Check and show

GRAIN = {"Real-time Narration": "second", "Action Caption": "step", "Event Caption": "event",
         "Event Grounding": "event", "Backward Grounding": "event"}


def check(file, videos=None, verbose=False):
    """Print what is wrong with each record of a file, then what the file holds. Returns 2 when a
    record cannot be used, else 0: what turns_from_record mends is one line a kind, and with
    `verbose` a line a record."""
    broken, mended, holds, n = Counter(), Counter(), Counter(), -1
    if videos and not Path(videos).is_dir():
        raise ValueError(f"--videos {videos}: no such folder")
    for n, record in enumerate(read_annotations(file)):
        wrong, counts = faults(record, videos), Counter()
        try:
            if not wrong:
                task, seconds = task_of(record), stated_seconds(record)
                if videos:
                    video = video_path(record, videos, counts)
                    seconds = count_seconds(video, parse_rate(record.get("fps")))
                turns = turns_from_record(record, seconds, counts)
                counts["no question in the record"] += not any(turn.question for turn in turns)
                edges = [edge for edge in (30, 60, 120, 240) if seconds <= edge]
                length = f"up to {edges[0]} s" if edges else "over 240 s"
                holds.update(f"state {turn.state}" for turn in turns)
                holds.update([f"task {task}", f"granularity {GRAIN.get(task, 'question')}",
                              f"source {record['source']}", f"duration {length}"])
        except (OSError, ValueError) as error:
            wrong = [str(error)]
        for what in wrong:
            print(f"{file}: record {n}: {what}")
        for what in +counts if verbose else ():
            print(f"{file}: record {n}: {what} (mended)")
        broken.update(re.sub(r"'[^']*'|\S*/\S*|[\d.]+", "*", what) for what in wrong)
        mended += counts
    if n < 0:
        raise ValueError(f"{file}: no records in it")
    for title, found in (("broken", broken), ("mended", mended), ("holds", holds)):
        for what, count in found.most_common():
            print(f"{title:8}{count:9}  {what}")
    states = [holds[f"state {state}"] for state in STATES]
    if any(states):
        ratio = " : ".join(f"{n / max(states[2], 1):.1f}" for n in states)
        print(f"Silence : Standby : Response = {ratio}")
    return 2 if broken else 0


def paint(tokenizer, item, colour):
    """The tokens of an item as text. What is only read is grey, each token ending in a dot; what is
    learnt is coloured by kind (the three states; text) on a shade that grows with its loss weight,
    the alpha of a state (paper, equation 4), which is printed. In plain text the learnt is [so]."""
    dot = "·" if "·".encode(sys.stdout.encoding or "ascii", "replace") != b"?" else "_"
    hues = dict(zip(tokenizer.state_ids, (34, 33, 31)))
    counts = Counter(label for label in item["labels"] if label in hues)
    out = []
    for (token, label), run in groupby(zip(item["input_ids"], item["labels"])):
        text, times = tokenizer.decode([token]), len(list(run))
        if token == tokenizer.frame_id:
            text, times = f"{text}x{times}", 1
        if label == -100:
            plain = text = text if text.endswith("\n") else f"{text}{dot}"
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
    with replacing(path) as partial_file:
        sheet.save(partial_file, format="PNG")


def show(args):
    tokenizer = Tokenizer.from_pretrained(args.model)
    config = StreamoConfig.from_dict(read_json(Path(args.model) / "config.json"))
    if args.strip and Path(args.strip).suffix.lower() != ".png":
        raise ValueError(f"--strip {args.strip}: a .png is written")
    check_outputs({"--strip": args.strip}, {"the records": args.file,
                                            "--model": [*Path(args.model).glob("*")]})
    if args.file:
        data = RawDataset(tokenizer, config, [args.file], args.videos)
        if not 0 <= args.index < len(data):
            raise ValueError(f"--index {args.index}: {args.file} has records 0 to {len(data) - 1}")
        name, n, record = data.files[0][args.index]
        video = video_path(record, args.videos)
        read = sorted(map(str, video.iterdir())) if video.is_dir() else str(video)
        check_outputs({"--strip": args.strip}, {"the video": read})
        item = data.item(name, n, record, random.Random(0))
    elif args.index < 0:
        raise ValueError(f"--index {args.index}: from 0 on")
    else:
        item = ToyDataset(tokenizer, config, seed=0, augment=PLAIN)[args.index]
    colour = sys.stdout.isatty()
    print(paint(tokenizer, item, colour))
    print(f"({'Coloured' if colour else 'In brackets'}: what is learnt, a state with its weight in "
          "the loss; a dot or a line ends each token that is only read.)")
    print(f"{item['name']}: {item['length']} tokens, {len(item['grids'])} frames, "
          f"{len(item['pixels'])} distinct; counts: {dict(+item['counts'])}")
    if args.strip:
        strip(item, tokenizer.state_ids, args.strip)


# ---- The command line

def parse(argv):
    parser = LineParser("records.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("show").add_argument
    add("file", nargs="?", help="raw or stream records; none: the toy world")
    add("--index", type=int, default=0)
    add("--videos", type=named_file, help="the folder that the records' paths start from (.)")
    add("--model", type=named_file, default=TINY,
        help="a folder with tokenizer.json and config.json")
    add("--strip", type=named_file, metavar="PNG", help="write the frames here")
    add = commands.add_parser("check").add_argument
    add("file")
    add("--videos", type=named_file, help="without it the videos are not looked at")
    add("-v", "--verbose", action="store_true", help="name each record that is mended")
    add = commands.add_parser("convert").add_argument
    add("source", choices=[*converters.SOURCES, "joyai", "stream"])
    add("files", nargs="+")
    add("--videos", type=named_file,
        help="for stream: the folder that the records' paths start from (.)")
    add("--out", required=True, type=named_file, help=".jsonl, or .json for a list")
    args = parser.parse_args(argv)
    if args.command == "show" and args.videos and not args.file:
        parser.error("--videos: of records, and no file is given")
    if args.command == "convert" and args.videos and args.source != "stream":
        parser.error(f"--videos: {args.source} is converted without a look at its videos")
    if args.command != "check":
        args.videos = args.videos or "."
    return args


def main(argv=None):
    """Exit code: 0, or 2 for bad input or broken records."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args = parse(argv)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8")     # ">&-"
                              for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):     # letters that a terminal lacks are escaped
        stream.reconfigure(errors="backslashreplace")
    if args.command == "check":
        return check(args.file, args.videos, args.verbose)
    (show if args.command == "show" else convert_files)(args)
    return 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("records.py: interrupted", file=sys.stderr)
        code = 130
    except (OSError, ValueError) as error:
        if nameless := isinstance(error, OSError) and not error.filename:   # files have names
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it, too
        where, code = "standard output: " if nameless else "", 2
        if isinstance(error, BrokenPipeError):  # "| head -1": nobody reads on
            code = 0
        else:
            print(f"records.py: {where}{in_words(error)}", file=sys.stderr)
    sys.exit(code)
