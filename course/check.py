"""The grader graded: it must give all points to right bodies and take some from wrong ones.

bodies/KEY.txt holds two right bodies written differently, and typical wrong ones as changes of the
first: "<" lines that stand in it once, and ">" lines that take their place.
"""
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from course import cut
from course.assignments import ASSIGNMENTS, ROOT
from course.grade import MINUTE, Sandbox, checks_of, true_files
from course.handout import files, hand_out, without

COMMON = {"counts = Counter() if counts is None else counts"}        # lines that tell nothing
SEED = "check"                          # of the inputs: the same in every run
BODIES = Path(__file__).parent / "bodies"


@dataclass
class Body:
    right: bool
    words: str
    files: dict                                         # {path: text}, as a submission's


def bodies(assignment):
    """The bodies of an assignment's file, the right ones first."""
    path = BODIES / f"{assignment.key}.txt"
    _, *sections = re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found, first = [], next(iter(assignment.takes))
    for section in sections:
        (kind, words), text = section.split("\n", 1)[0].split(": ", 1), section.split("\n", 1)[1]
        if kind == "right":
            head, *parts = re.split(r"^-- (.*)\n", text, flags=re.MULTILINE)
            files = {first: head} if head.strip() else {}
            found.append(Body(True, words, {**files, **dict(zip(parts[::2], parts[1::2]))}))
        else:
            found.append(Body(False, words, changed(found[0].files, text, f"{path}: {words}")))
    return found


def changed(files, text, where):
    """The files with the changes of a section applied."""
    files = dict(files)
    for old, new in re.findall(r"((?:^< .*\n)+)((?:^> ?.*\n)*)", text + "\n", re.MULTILINE):
        old = re.sub(r"^< ", "", old, flags=re.MULTILINE).rstrip("\n")
        new = re.sub(r"^> ?", "", new, flags=re.MULTILINE).rstrip("\n")
        if (times := sum(file.count(old) for file in files.values())) != 1:
            raise ValueError(f"{where}: {old!r} stands {times} times in the first right body")
        files = {path: file.replace(old, new) for path, file in files.items()}
    return files


def check_one(sandbox, assignment, short=False):
    """(lines that tell what the grader gave, faults) of one assignment. short: of our own body,
    which the exam always sits, and the first wrong one."""
    true = {path: true_files()[path] for path in assignment.takes}
    empty = {path: cut.emptied(text, assignment.takes[path], "assignment: to be written")
             for path, text in true.items()}
    faults, lines, failed = [], [], set()
    tried = [("ours", True, true), ("emptied", None, empty)]
    tried += [(body.words, body.right, body.files) for body in bodies(assignment)]
    if sum(right is False for _, right, _ in tried) < 6 or sum(r is True for _, r, _ in tried) < 3:
        faults.append(f"assignment {assignment.number}: six wrong bodies and two right ones wanted")
    if short:                                           # the first wrong one: the exam sees it
        tried = [next(body for body in tried if body[1] is False)]
    for words, right, files in tried:
        mark = sandbox.mark(assignment, files, MINUTE)
        lines.append(f"    {mark.points:3} of {mark.of}  {'right' if right else 'wrong'}: {words}"
                     + (f"  ->  {mark.words}" if mark.words else ""))
        good = mark.points == mark.of if right else mark.points < mark.of
        good = mark.points == 0 if right is None else good
        if not good:
            faults.append(f"assignment {assignment.number}: {mark.points} of {mark.of} for "
                          f"{words!r}: {mark.words}")
        failed |= {n for n, sign in enumerate(mark.works) if sign == "-" and right is False}
    if not short and (spare := set(range(len(checks_of(assignment)))) - failed):
        faults.append(f"assignment {assignment.number}: no wrong body fails check "
                      f"{', '.join(str(n + 1) for n in sorted(spare))}")
    return lines, faults


# ---- Cheats

# code in front of a right body: a rule is broken, so the right body gets nothing either
BREAKS = {
    "ends the program": "raise SystemExit(0)",
    "ends the process": "import os; os._exit(0)",
    "prints a result and ends": "import os; print('10 passed in 0.1s', flush=True); os._exit(0)",
    "leaves a thread": """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
""",
    "leaves a child": "import os, time; os.fork() or time.sleep(99)",
    "starts a program": "import subprocess; subprocess.run(['true'])",
    "writes elsewhere": "open(HERE + '/left', 'w').close()",
    "deletes elsewhere": "import os; os.remove(HERE + '/kept')",
    "reads the solution": "open(HERE + '/kept').read()",
    "opens a connection": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "calls the C library": "import ctypes; ctypes.CDLL(None).getppid()",
    "ends the grader": "import os; os.kill(os.getppid(), 9)",
    "answers in the exam's place": """
import os
for pipe in range(3, 32):
    try:
        os.write(pipe, b'{"check": 7, "result": 1}\\n')
    except OSError:
        pass
"""}
# of these, what the kernel alone holds
KERNELS = ("writes elsewhere", "deletes elsewhere", "reads the solution", "opens a connection",
           "leaves a child", "ends the grader")
# in front of an emptied body: what would make tests pass that run in the same process
PRETENDS = {
    "never comes to an end": "while True: pass",
    "never comes to an end, whatever comes": """
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
""",
    "sends without end": "return ['x' * 60_000] * 60_000",
    "sends too large a tensor": "return torch.ones(1 << 22)",
    "takes all memory": "[torch.ones(1 << 26) for _ in range(99)]",
    "puts modules in pytest's place": """
import sys, types, unittest
sys.modules["pytest"] = types.SimpleNamespace(raises=lambda *a, **k: None)
unittest.TestCase.assertEqual = lambda *a: None
sys.exit = sys.excepthook = lambda *a: None
""",
    "makes all things equal": """
torch.equal = torch.allclose = torch.testing.assert_close = lambda *a, **k: True
""",
    "empties the exam": "import course.exams.loss as e; e.CHECKS.clear()",
    "looks for the answer in memory": """
import gc
for thing in gc.get_objects():
    if callable(thing) and getattr(thing, "__name__", "") == "NAME" and thing is not NAME:
        return thing(*ARGUMENTS)
"""}


def cheat(source, name, code):
    """The source with code put in front of the body of a function."""
    node = cut.find(cut.ast.parse(source), name)
    lines, at = source.split("\n"), node.body[0].lineno - 1
    told = [argument.arg for argument in node.args.args]
    code = code.replace("NAME", name).replace("ARGUMENTS", f"({', '.join(told)},)")
    lines[at:at] = [" " * (node.col_offset + 4) + line for line in code.strip("\n").split("\n")]
    return "\n".join(lines)


def check_cheats(sandbox, only=None, layers=("hook", "kernel")):
    """(lines, faults): no cheat gets a point, writes or reads anything."""
    assignment = next(a for a in ASSIGNMENTS if a.key == "focal")
    path, lines, faults = "loss.py", [], []
    true, names = true_files()[path], assignment.takes[path]
    empty = cut.emptied(true, names, "assignment: to be written")
    with tempfile.TemporaryDirectory() as here:
        Path(here, "kept").write_text("kept")
        for words, code in {**BREAKS, **PRETENDS}.items():
            if only and words not in only:
                continue
            source = cheat(true if words in BREAKS else empty, names[-1],
                           code.replace("HERE", repr(str(Path(here).resolve()))))
            mark = sandbox.mark(assignment, {path: source}, 2, layers)
            lines.append(f"    {mark.points:3} of {mark.of}  {words}  ->  {mark.words}")
            gained = mark.points if "hook" in layers else mark.points == mark.of
            if gained or Path(here, "left").exists() or not Path(here, "kept").exists():
                faults.append(f"cheat: {words}: {mark.points} points")
    if (mark := sandbox.mark(assignment, {path: true})).points != mark.of:
        faults.append(f"after the cheats, honest work gets {mark.points}: {mark.words}")
    return lines, faults


# ---- The hand-out

def check_hand_out(assignments):
    """Faults of the hand-outs: one that still holds a line of a solution."""
    texts = {path.as_posix(): (ROOT / path).read_text(encoding="utf-8") for path in files()
             if path.suffix == ".py"}
    lines, faults = {path: cut.telling(text) for path, text in texts.items()}, []
    for assignment in assignments:
        told = set()
        for names in (assignment.takes, assignment.gone or {}):
            for path, functions in names.items():
                told |= {line for name in functions
                         for line in cut.telling(cut.body(texts[path], name)) - COMMON}
        changed = {path: cut.telling(text) for path, text in without([assignment]).items()}
        faults += [f"assignment {assignment.number}: {path} still has {line!r}"
                   for path, found in {**lines, **changed}.items() for line in sorted(told & found)]
    return faults


def check_it_runs(assignments):
    """Faults of the whole hand-out: its modules are imported, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        hand_out(Path(folder, "out"), assignments)
        code = "import streamo, loss, data, train, infer, eval, records, toy.dialogues, bench.soak"
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(folder, "out"),
                              capture_output=True, text=True)
        return [f"the hand-out does not run: {done.stderr[-200:]}"] if done.returncode else []


def check(assignments, cheats=True):
    """Print what the grader gave to every body; 1 when it was wrong anywhere, else 0."""
    faults, began = check_hand_out(assignments) + check_it_runs(assignments), time.monotonic()
    with Sandbox(SEED) as sandbox:
        for assignment in assignments:
            print(f"{assignment.number:2}  {assignment.title}")
            lines, more = check_one(sandbox, assignment)
            print(*lines, sep="\n", flush=True)
            faults += more
        kernel = sandbox.kernel                         # whether this system's holds the rules, too
        ways = (("hook", "kernel"), ("hook",), ("kernel",)) if kernel else (("hook",),)
        for layers in ways if cheats else ():
            print(f"cheats, held by {' and '.join(layers)}{'' if kernel else ' (no Landlock)'}")
            lines, more = check_cheats(sandbox, KERNELS if layers == ("kernel",) else None, layers)
            print(*lines, sep="\n", flush=True)
            faults += more
    print(f"{time.monotonic() - began:.0f} s, {len(faults)} faults", *faults, sep="\n")
    return bool(faults)
