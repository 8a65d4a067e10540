"""A stream without end: the toy world's films one after another, for a day.

    python -m bench.soak                           24 hours (86,400 turns) with the demo checkpoint
    python -m bench.soak --hours 1 --prune 10      what a way to forget costs and saves

Every hour shows the same films, so that the hours can be compared: memory, how many of the events
are told with the right words within a second of their time, and milliseconds a second. An answer
takes time by its words, and one minute has more answers than another: medians are those of the
seconds without one.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import os
import resource
import statistics
import sys
from pathlib import Path

import numpy as np

import data
import infer
from parts.files import check_outputs, write_json
from parts.options import LineParser, a_path, check_bounds
from parts.runs import to_the_end
from streamo import Streamo, Tokenizer
from toy import dialogues

ROOT = Path(__file__).resolve().parent.parent

QUESTION = "Narrate the video as it happens."


def an_hour(seed, size, seconds=3600):
    """Frames (seconds, S, S, 3) of films end to end, and what is to be told: [(second, text)]."""
    frames, due, number = [], [], 0
    while len(frames) < seconds:
        clip, rows = dialogues.bench(seed, number)
        (record,) = (record for name, record in rows if name == "narration")
        due += [(len(frames) + turn.second, turn.text)
                for turn in data.turns_from_record(record, clip.seconds) if turn.text]
        frames += [clip.frame(second, size) for second in range(clip.seconds)]
        number += 1
    return np.stack(frames[:seconds]), [(at, text) for at, text in due if at < seconds]


def told(due, answers, first):
    """(recall, precision) of the events of the hour that begins at second `first`."""
    near = {(at + d, text) for at, text in answers for d in (-1, 0, 1)}
    asked = {(first + at + d, text) for at, text in due for d in (-1, 0, 1)}
    mine = [answer for answer in answers if first <= answer[0] < first + 3600]
    hits = sum((first + at, text) in near for at, text in due)
    return hits / max(1, len(due)), sum(answer in asked for answer in mine) / max(1, len(mine))


def told_by(due, answers, first, width=300):
    """The recall of each `width` seconds of the hour that begins at second `first`."""
    return [told([event for event in due if begin <= event[0] < begin + width], answers, first)[0]
            for begin in range(0, 3600, width)]


def resident():
    """MiB that the process holds now; its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss       # KiB; on macOS bytes
        return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def main(argv=None):
    parser = LineParser("bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=a_path, default=ROOT / "assets/tiny")
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--seed", type=int, default=9, help="of the films")
    parser.add_argument("--window", type=int, default=None, help="as infer.py")
    parser.add_argument("--prune", type=int, default=None, help="as infer.py")
    parser.add_argument("--compress", type=float, default=None, help="as infer.py")
    parser.add_argument("--out", default=None, help="JSON of all that is measured")
    args = parser.parse_args(argv)
    check_bounds(parser, args, {"hours": (1, 10**4), "window": 0, "prune": 1, "compress": 0})
    with to_the_end("bench.soak"):
        check_outputs({"--out": args.out}, {"--model": [*args.model.glob("*")]})
        soak(args)


def soak(args):
    tokenizer = Tokenizer.from_pretrained(args.model)
    model = Streamo.from_pretrained(args.model).float()
    film, due = an_hour(args.seed, model.config.vision.image_size)
    frames = ((second, film[second % 3600]) for second in range(3600 * args.hours))
    times, silent, answers, slots, held = [], [], [], 0, {}

    def median(first, end=None):
        seconds = zip(times[first:end], silent[first:end])
        return statistics.median(ms for ms, alone in seconds if alone)

    for turn in infer.stream(model, tokenizer, frames, [(0, QUESTION)], window=args.window,
                             prune=args.prune, compress=args.compress):
        times.append(turn.ms)
        silent.append(not turn.text)
        slots = max(slots, turn.kv[0])
        if turn.text:
            answers.append((turn.start, turn.text))
        if turn.end % 3600 == 0 or turn.end == 120:
            held[turn.end] = resident()
            print(f"{turn.end / 3600:6.2f} h  median {median(-3600):.2f} ms  "
                  f"{held[turn.end]:.0f} MiB", flush=True)
    minute, hour, last = median(60, 120), median(-3600), 3600 * (args.hours - 1)
    rows = {"turns": len(times), "slots_most": slots, "ms_second_minute": minute,
            "ms_last_hour": hour, "ratio": hour / minute, "ms_mean": statistics.fmean(times),
            "ms_worst": max(times), "MiB_after_2_minutes": held[120],
            "MiB_at_the_end": held[len(times)], "events_an_hour": len(due),
            "told_first_hour": told(due, answers, 0),
            "told_last_hour": told(due, answers, last)}
    # a stream that has lost its way does not find back: of the last hour, five minutes by five
    rows["told_by_5_minutes"] = told_by(due, answers, last)
    for name, value in rows.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        print(f"{name:22}", *(round(number, 3) for number in numbers))
    if args.out:
        write_json(args.out, rows)


if __name__ == "__main__":
    main()
