"""From files of answers to a report: what is scored, what failed, what is absent."""
import json
import os
import sys
from collections import Counter

import numpy as np
import torch

from bench import proactive, public
from bench.streams import JUDGE, NAMES, score_stream, timing_table
from parts.files import MISSHAPEN, counted, fault, read_records, write_json

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
            except MISSHAPEN as one:
                raise ValueError(f"{of[row['id']]}: item {row['id']}: {fault(one)}") from None
        raise ValueError(f"rows that cannot be scored together: {fault(error)}") from None


def read_answers(bench, files):
    """Rows of result files -> ([answered row], [failed row], {id: file}, items of the runs that
    wrote them or None). An item that is answered twice is refused; one that failed is what it is
    where it was tried again; one of an annotation file, without a response, is not answered."""
    good, bad, of, items = [], {}, {}, {}
    for file in files:
        for row in public.read_rows(bench, file, READERS):
            named = isinstance(row, dict) and (row.get("id"), row.get("task"))
            if not named or not all(isinstance(name, str) for name in named):
                raise ValueError(f"{file}: not a row of {bench}, no id or task: {row!r:.60}")
            if "failed" in row:
                bad[row["id"]] = row
            elif row["id"] in of:
                other = of[row["id"]]
                again = "is answered twice" if other == file else f"is in {other}, too"
                raise ValueError(f"{file}: item {row['id']} {again}")
            elif "compute" in row or (proactive.answered(row) if bench in proactive.READERS
                                      else "response" in row or bench == "raw"):
                good.append(row)
                of[row["id"]] = file
        if file.suffix == ".jsonl":
            run = next(read_records(file)).get("run", {})
            if isinstance(run.get("items"), int):           # the same of all ranks of a run
                items[json.dumps(run.get("data_sha256"))] = run["items"]
    failed = [row for name, row in bad.items() if name not in of]
    return good, failed, of, sum(items.values()) or None


def lacking(rows, failed, sizes):
    """{task, or "" for all: items of the benchmark that are in no file given}."""
    have = Counter(row["task"] for row in (*rows, *failed))
    have[""] = len(rows) + len(failed)
    return {task: n - have[task] for task, n in sizes.items() if n > have[task]}


def report(bench, scores, out, **about):
    """Write the scores to `out` with all that is needed to repeat them; print a table of them."""
    write_json(out, scores | about | {"versions": VERSIONS})
    beside = scores.get("corrected", {})
    lines = [f"{bench:34}{'score':>8}" + (f"{'corrected':>12}" if beside else "")]
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            lines.append(f"{name:34}{value:{'8' if isinstance(value, int) else '8.2f'}}"
                         + (f"{beside[name]:12.2f}" if name in beside else ""))
    for name, row in zip(NAMES, scores.get("confusion", ())):
        said = " ".join(f"{state}: {n}" for state, n in zip(NAMES, row))
        lines.append(f"{name:10} of the annotation said as {said}")
    lines += [JUDGE] if "confusion" in scores else []
    lines += ["", *timing_table(scores["timing"]), ""] if "timing" in scores else []
    lines += [scores["meant"]] if "meant" in scores else []
    if about.get("to_judge"):
        lines.append(f"The text has no score here and is in no total: {about['to_judge']} wait for "
                     "a judge of your choice (--judged).")
    if lacking := about.get("lacking"):
        lines.append("Not in the answers given: " + ", ".join(
            f"{counted(n, 'item')}{' of ' + task if task else ''}" for task, n in lacking.items()))
    say(*lines, *failures(about.get("failed", ())))


def failures(rows):
    """Lines of text: how many items failed, and why the first did."""
    return [f"{counted(len(rows), 'item')} failed, in no score; the same command tries again. The "
            f"first: {rows[0]['id']}: {rows[0]['failed']}"] if rows else []


def say(*lines):
    """Print lines. A reader that has seen enough (`| head -1`) is no error; a full disk is."""
    try:
        print(*lines, sep="\n", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # for Python's own flush
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from error
