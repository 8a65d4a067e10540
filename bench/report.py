"""From files of answers to a report: what is scored, what failed, what is absent."""
import sys
from collections import Counter

import numpy as np
import torch

from bench import proactive, public
from bench.streams import JUDGE, NAMES, score_stream, timing_table
from parts.files import MISSHAPEN, read_records, write_json

READERS = public.READERS | proactive.READERS
SIZES = public.SIZES | proactive.SIZES
VERSIONS = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}


def score_rows(bench, rows, absent=(), marks=None):
    """The scores of answered rows; absent: unanswered ones that a corrected figure counts."""
    if bench == "raw":
        return score_stream(rows)
    if bench in proactive.READERS:
        return proactive.score(bench, rows, absent, marks)
    return public.score(bench, rows)


def named_scores(bench, rows, of, *more):
    """score_rows(); where a row is broken, the ValueError names its file (of[id]) and item."""
    try:
        return score_rows(bench, rows, *more)
    except MISSHAPEN as error:
        for row in rows:
            try:
                score_rows(bench, [row], *more)
            except MISSHAPEN as fault:
                what = str(fault) if isinstance(fault, ValueError) else repr(fault)
                raise ValueError(f"{of[row['id']]}: item {row['id']}: {what}") from None
        raise ValueError(f"rows that cannot be scored together: {error!r}") from None


def read_answers(bench, files):
    """Rows of result files -> ([answered row], [failed row], {id: file}, items of the run that
    wrote them or None). An item in two files is refused, unless it failed in one of them."""
    good, bad, of, items = {}, {}, {}, None
    for file in files:
        for row in public.read_rows(bench, file, READERS):
            if not isinstance(row, dict) or not {"id", "task"} <= row.keys():
                raise ValueError(f"{file}: not a row of {bench}: {row!r:.60}")
            id = row["id"]
            if "failed" in row:
                bad[id] = row
            elif id in good and of[id] != file:
                raise ValueError(f"{file}: item {id} is in {of[id]}, too")
            elif bench not in proactive.READERS or "compute" in row or proactive.answered(row):
                good[id], of[id] = row, file
        if file.suffix == ".jsonl":
            items = items or next(read_records(file)).get("run", {}).get("items")
    return [*good.values()], [row for id, row in bad.items() if id not in good], of, items


def lacking(rows, failed, sizes):
    """{task, or "" for all: items of the benchmark that are in no file given}."""
    have = Counter(row["task"] for row in (*rows, *failed))
    have[""] = len(rows) + len(failed)
    return {task: n - have[task] for task, n in sizes.items() if n > have[task]}


def report(bench, scores, out, **about):
    """Print a table of the scores; write them to `out` with all that is needed to repeat them."""
    beside = scores.get("corrected", {})
    print(f"{bench:34}{'score':>8}" + (f"{'corrected':>12}" if beside else ""))
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            print(f"{name:34}{value:{'8' if isinstance(value, int) else '8.2f'}}"
                  + (f"{beside[name]:12.2f}" if name in beside else ""))
    for name, line in zip(NAMES, scores.get("confusion", ())):
        print(f"{name:10} of the annotation said as", *map("{}: {} ".format, NAMES, line))
    if "confusion" in scores:
        print(JUDGE)
    if "timing" in scores:
        print("", *timing_table(scores["timing"]), "", sep="\n")
    if "meant" in scores:
        print(scores["meant"])
    if about.get("to_judge"):
        print(f"The text has no score here and is in no total: {about['to_judge']} wait for a judge"
              " of your choice (--judged).")
    if absent := about.get("absent"):
        print("Not in the answers given:", ", ".join(
            f"{n} items{' of ' + task if task else ''}" for task, n in absent.items()))
    tell_failed(about.get("failed", ()))
    write_json(out, scores | about | {"versions": VERSIONS})


def tell_failed(rows):
    """Say how many items failed, and why the first did."""
    if rows:
        print(f"{len(rows)} items failed and are in no score; the next run tries them again. The "
              f"first: {rows[0]['id']}: {rows[0]['failed']}", flush=True)
