"""Grading: the judge, who compares what a student's functions give with what ours give.

The student's code never runs in this process. Of a submission only the definitions that an
assignment asks for are read (and what is new in the same file: helpers, imports); they are set into
a copy of the repository, which a sandbox runs. Its tests, its other changes and whatever it prints
do not count. Both sit the same exam on inputs drawn for this grading alone; an answer has its
points when it is ours, to the tolerance of the check.
"""
import csv
import importlib
import io
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from course import cut
from course.assignments import ROOT
from course.sandbox import libraries
from parts.files import MISSHAPEN, check, check_outputs, write_text

MINUTE, MOST = 60.0, 15.0               # seconds for a submission, for one of its exams
MEMORY = 1 << 30                        # bytes that an exam may take beyond what torch takes
LAYERS = ("hook", "kernel")              # see sandbox.py
FORGED = "the program wrote into the grader's own channel"
ABSENT = "not in the submission"
SHOWN = 80                              # letters of an error's own text that a student is told


@dataclass
class Mark:
    """points of `of`; words: what to mend first, "" when all is right."""
    points: int
    of: int
    words: str
    works: str = ""                     # by check, "+" or "-": what check.py looks at


@lru_cache
def true_files():
    """{path: text} of the Python files that an exam may import."""
    paths = [*ROOT.glob("*.py"), *ROOT.glob("parts/*.py"), *ROOT.glob("toy/*.py"),
             *ROOT.glob("bench/*.py"), ROOT / "course/__init__.py", *ROOT.glob("course/exams/*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def submitted_files(folder, assignment):
    """{path: text} of the files that an assignment reads of a submission. Of several the changed
    ones may come alone."""
    files = {}
    for path in assignment.takes:
        places = [place for place in (Path(folder, path), Path(folder, Path(path).name))
                  if place.is_file() and not place.is_symlink()]
        if not places:
            continue
        if places[0].stat().st_size > cut.LARGEST:
            raise ValueError(f"{path}: larger than {cut.LARGEST} bytes")
        try:
            files[path] = places[0].read_text(encoding="utf-8-sig")     # as Python reads it
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not UTF-8") from None
    if not files:
        raise ValueError(f"{' and '.join(assignment.takes)}: not in the submission")
    return files


def merged(assignment, submitted):
    """{path: text} that differ from the true files, and {path: places} of what came in."""
    files, places, true = {}, {}, true_files()
    word = f"assignment {assignment.number} does without this"
    for path in {*assignment.takes, *(assignment.gone or {})}:
        gone, names = (assignment.gone or {}).get(path, ()), assignment.takes.get(path, ())
        text, places[path] = cut.emptied(true[path], gone, word), []
        if path not in submitted:                       # then nothing of ours stands for it
            text = cut.emptied(text, names, f"assignment: {path} is {ABSENT}")
        else:
            theirs = cut.parsed(submitted[path], path)
            for name in gone:                           # what the student has put there instead
                node = cut.find(theirs, name)
                names = (*names, name) if node and not cut.is_empty(node) else names
            text, places[path] = cut.grafted(text, submitted[path], names, path)
        files[path] = text
    return files, places


def check_apart(folder):
    """ValueError for a folder in which a submission may read: solutions, or other submissions."""
    for place in map(os.path.realpath, libraries()):
        check(not Path(folder).resolve().is_relative_to(place), f"{folder}: lies in {place}, where "
              "a submission may read; grade in a copy that lies elsewhere")


class Sandbox:
    """The process of sandbox.py and the folder of copies that it works in. seed: of the inputs."""

    def __init__(self, seed=None):
        self.seed = seed or secrets.token_hex(8)

    def __enter__(self):
        check_apart(ROOT)
        self.folder = Path(tempfile.mkdtemp(prefix="streamo-grade-")).resolve()
        self.number, self.truths, self.process, self.kernel = 0, {}, None, None
        shutil.copytree(ROOT / "assets/tiny", self.folder / "assets/tiny")
        self.start()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        # what is told by or to the torch of whoever grades: its caches lie outside of the sandbox
        env = {key: value for key, value in os.environ.items()
               if not key.startswith(("PYTHON", "TORCH", "TRITON"))}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", ROOT / "course/sandbox.py"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=self.folder,
            env={**env, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})

    def sit(self, assignment, files, seconds, layers=LAYERS):
        """What the exam of an assignment gives with these files in place of ours: see held()."""
        self.number += 1
        folder = self.folder / f"copy-{self.number}"
        for path, text in {**true_files(), **files}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        (folder / "assets").symlink_to(self.folder / "assets")
        question = {"folder": str(folder), "exam": f"course.exams.{assignment.exam}",
                    "assignment": assignment.key, "seed": self.seed, "seconds": math.ceil(seconds),
                    "memory": MEMORY, "readable": [str(self.folder / "assets")], "layers": layers,
                    "libraries": assignment.libraries}
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            if answer["copy"] != str(folder):
                raise ValueError("the answer to another question")
        except (OSError, *MISSHAPEN):                   # it was attacked
            self.process.kill()
            self.process.wait()
            self.start()
            answer = {"lines": [], "late": False, "much": False, "left": True, "signal": 0}
        shutil.rmtree(folder, ignore_errors=True)
        return answer

    def truth(self, assignment):
        """The results of our own functions, check by check."""
        if assignment.key not in self.truths:
            answer = self.sit(assignment, {}, MINUTE)
            self.kernel = json.loads(answer["lines"][0])["kernel"] if answer["lines"] else False
            results, wrong = read(answer, checks_of(assignment))
            errors = [result for result in results if "result" not in (result or {})]
            if wrong or errors:
                raise ValueError(f"assignment {assignment.number}: the repository's own code "
                                   f"fails the exam: {wrong or errors[0]}")
            self.truths[assignment.key] = [result["result"] for result in results]
        return self.truths[assignment.key]

    def mark(self, assignment, submitted, seconds=MOST, layers=LAYERS):
        """The points of one assignment for submitted files {path: text}."""
        checks = checks_of(assignment)
        total = sum(check.points for check in checks)
        truth = self.truth(assignment)
        try:
            files, places = merged(assignment, submitted)
        except ValueError as error:
            return Mark(0, total, str(error))
        answer = self.sit(assignment, files, seconds, layers)
        try:
            results, wrong = read(answer, checks, places)
            words = [failure(ours, result, check.close, places)
                     for check, ours, result in zip(checks, truth, results)]
        except MISSHAPEN:                               # lines that the sandbox does not write
            results, wrong = [], FORGED
        if wrong:
            return Mark(0, total, wrong)
        return Mark(sum(check.points for check, word in zip(checks, words) if not word), total,
                    next((f"{check.says} ({word})" for check, word in zip(checks, words) if word),
                         ""), "".join("-" if word else "+" for word in words))


def checks_of(assignment):
    return importlib.import_module(f"course.exams.{assignment.exam}").CHECKS[assignment.key]


# ---- Reading what came out

def read(answer, checks, places=None):
    """(the result or error of each check, or None; what spoils the whole exam, in words, or "").
    Raises one of MISSHAPEN for lines that the sandbox does not write."""
    results, over, places = [None] * len(checks), None, places or {}
    for line in map(json.loads, answer["lines"]):
        if "refused" in line:
            return [], f"the program {printable(line['refused'])}, which no assignment needs"
        if "broken" in line:
            return [], f"the file cannot be imported: {told(line['broken'], places)}"
        if "check" in line:
            if results[line["check"]] is not None:
                return [], FORGED
            results[line["check"]] = line
            if line.get("error", {}).get("type") in ("SystemExit", "KeyboardInterrupt"):
                return [], told(line["error"], places)
        if "over" in line:
            over = line
    if answer["late"]:                                  # what was answered before counts
        late = {"type": "TooLong", "text": "", "lines": []}
        return [result or {"error": late} for result in results], ""
    if answer["much"]:
        return [], "its results are too large"
    if not over:
        killed = answer["signal"] and f", killed by signal {answer['signal']}"
        return [], f"the program ended before the exam was over{killed or ''}"
    if answer["left"] or over["threads"]:
        return [], "it leaves a thread or a process running"
    return results, ""


def printable(text):
    """Without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def told(error, places):
    """An exception in words: its type, text and line in the student's file."""
    kind, text = printable(error["type"]), printable(error["text"])
    at = ""
    for path, line in error["lines"]:           # the deepest line that is the student's
        for first, length, theirs in places.get(path, ()):
            if first <= line < first + length:
                at = f", {path} line {line - first + theirs}"
    if kind == "NotImplementedError" and text.startswith("assignment"):
        return text.partition(": ")[2] if text.endswith(ABSENT) else "not written yet"
    if kind == "TooLong":
        return f"it takes too long: a loop without an end, or far more work than is needed{at}"
    if kind in ("SystemExit", "KeyboardInterrupt"):
        return f"it ends the program{at}"
    if kind == "MemoryError" or "not enough memory" in text or "allocate memory" in text:
        return f"it takes too much memory{at}"
    return f"{kind}: {text[:SHOWN]}{at}"


def failure(ours, result, close, places):
    """Why a check has no points, in words; "" when it has."""
    if result is None:
        return "it was not answered"
    if "error" in result:
        return told(result["error"], places)
    return differs(ours, result["result"], close)


KINDS = {bool: "yes or no", int: "a number", float: "a number", str: "text", list: "several values",
         type(None): "nothing"}


def kind(value):
    if isinstance(value, dict):
        named = {"shape": "a tensor", "keys": "a dictionary", "outcome": "a refusal"}
        return next((words for key, words in named.items() if key in value),
                    f"a {printable(value.get('type'))[:SHOWN]}")
    return KINDS[type(value)]


def number(value):
    return isinstance(value, (int, float))


def same(a, b, close):
    """Whether two numbers agree: whole ones exactly, others to `close`."""
    if isinstance(a, int) or not math.isfinite(a):
        return a == b or math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=close, abs_tol=close)


def differs(ours, theirs, close):
    """How a result differs from the true one, without telling the true one; "": it does not."""
    if number(ours) and number(theirs):
        return "" if same(ours, theirs, close) else "a number is wrong"
    if kind(ours) != kind(theirs):
        return f"{kind(theirs)} where {kind(ours)} is expected"
    if isinstance(ours, list):
        if len(ours) != len(theirs):
            return f"{len(theirs)} values where {len(ours)} are expected"
        return next(filter(None, (differs(a, b, close) for a, b in zip(ours, theirs))), "")
    if isinstance(ours, dict) and "shape" in ours:
        if ours["shape"] != theirs["shape"]:
            return f"shape {tuple(theirs['shape'])} where {tuple(ours['shape'])} is expected"
        wrong = sum(not same(a, b, close) for a, b in zip(ours["numbers"], theirs["numbers"],
                                                          strict=True))
        return f"{wrong} of {len(ours['numbers'])} numbers are wrong" if wrong else ""
    if isinstance(ours, dict) and "outcome" in ours:
        return "" if ours == theirs else f"it is {printable(theirs['outcome'])}"
    if isinstance(ours, dict) and "keys" in ours:
        if set(ours["keys"]) != set(theirs["keys"]):
            return "other keys than expected"
        of = dict(zip(theirs["keys"], theirs["values"], strict=True))
        return next(filter(None, (differs(value, of[key], close)
                                  for key, value in zip(ours["keys"], ours["values"]))), "")
    return "" if ours == theirs else f"{kind(ours)} is wrong"


# ---- Submissions

def submissions(folder, assignments):
    """{name: folder}: the folder itself when it holds files of ours, else the folders in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = {file for assignment in assignments for path in assignment.takes
             for file in (path, Path(path).name)}
    if any((folder / file).exists() for file in files):
        return {folder.resolve().name: folder}
    found = {path.name: path for path in sorted(folder.iterdir())
             if path.is_dir() and not path.name.startswith(".") and not path.is_symlink()}
    if not found:
        raise ValueError(f"{folder}: neither a submission (none of {', '.join(sorted(files))}) "
                         "nor a folder of them")
    return found


def graded(sandbox, folder, assignments, budget=MINUTE):
    """{number: Mark} of one submission; all its exams together take at most `budget` seconds."""
    marks, left = {}, budget
    for n, assignment in enumerate(assignments):
        sandbox.truth(assignment)                       # ours, once for all submissions
        began = time.monotonic()
        try:
            files = submitted_files(folder, assignment)
            marks[assignment.number] = sandbox.mark(
                assignment, files, min(MOST, max(1, left / (len(assignments) - n))))
        except (ValueError, OSError) as error:
            of = sum(check.points for check in checks_of(assignment))
            marks[assignment.number] = Mark(0, of, str(error))
        left -= time.monotonic() - began
    return marks


def cell(text):
    """A cell that a spreadsheet does not take for a formula."""
    text = printable(" ".join(str(text).split()))
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def table(results):
    """The CSV of {submission: {number: Mark}}: a line each, points, then what to mend."""
    numbers = sorted({number for marks in results.values() for number in marks})
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["submission", "points", "of", *numbers, *(f"{n}: mend" for n in numbers)])
    for name, marks in results.items():
        rows.writerow([cell(name), sum(mark.points for mark in marks.values()),
                       sum(mark.of for mark in marks.values()),
                       *(marks[n].points for n in numbers), *(cell(marks[n].words)
                                                              for n in numbers)])
    return out.getvalue()


def grade(folder, assignments, out=None, budget=MINUTE):
    """Grade a submission or a folder of them; print what came out, write `out` (CSV)."""
    handed_in = [path for path in Path(folder).rglob("*") if path.suffix != ".csv"]
    check_outputs({"--csv": out}, {"the submission's": handed_in})
    found, results = submissions(folder, assignments), {}
    check_apart(folder)
    with Sandbox() as sandbox:
        for name, place in found.items():
            results[name] = graded(sandbox, place, assignments, budget)
            points, of = (sum(getattr(mark, what) for mark in results[name].values())
                          for what in ("points", "of"))
            print(f"{printable(name)}: {points} of {of}")
            for assignment in assignments:
                mark = results[name][assignment.number]
                words = f"   {mark.words}" if mark.words else ""
                print(f"  {assignment.number:2} {assignment.title:44.44}{mark.points:3} of "
                      f"{mark.of}{words}", flush=True)
            if out:                                     # an interrupted run keeps what it has
                write_text(out, table(results))
    return results
