"""The course: no solution is handed out, right work is told from wrong, and no cheat pays."""
import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from course import check, cut, grade, handout, measure
from course.assignments import ASSIGNMENTS, chosen
from course.sandbox import plain

ROOT = Path(__file__).parent.parent
FOCAL = next(assignment for assignment in ASSIGNMENTS if assignment.key == "focal")


# ---- Cutting out and setting in

SOURCE = '''"""A file."""
import torch

SIZE = 3


@torch.no_grad()
def scores(q, k,
           scale={"a": 1}):  # (T, S)
    """The scores of q (T, D) and k (S, D).

    Two lines."""
    # the trick is to transpose
    y = q @ k.T                                             # (T, S)
    return y * scale["a"]      # scaled by a


class Cache:
    """A cache."""

    def add(self, x): return x + SIZE

    def other(self):
        return 1
'''


def test_a_hand_out_keeps_signature_docstring_and_shapes_and_no_word_of_the_body():
    word = "assignment 1: to be written"
    text = cut.emptied(SOURCE, ["scores", "Cache.add"], word)
    lines = text.splitlines(keepends=True)
    assert "".join(line for line in lines if word not in line) == (
        SOURCE[:SOURCE.index("    # the trick")] + "    # y: (T, S)\n\n\n"
        'class Cache:\n    """A cache."""\n\n'
        "    def add(self, x):\n\n"
        "    def other(self):\n        return 1\n")
    assert len([line for line in lines if word in line]) == 2       # the two bodies
    code = {}
    exec(text, code)
    for unwritten, given in ((code["scores"], (1, 2)), (code["Cache"]().add, (1,))):
        with pytest.raises(RuntimeError, match=f"^{word}$"):
            unwritten(*given)
    tree = ast.parse(text)
    assert [cut.is_empty(cut.find(tree, name)) for name in ("scores", "Cache.add", "Cache.other")] \
        == [True, True, False]
    with pytest.raises(ValueError, match="no Cache.lost"):
        cut.emptied(SOURCE, ["Cache.lost"], "")


def test_of_a_submission_only_what_was_asked_for_and_what_is_new_comes_in():
    student = SOURCE.replace("import torch", "import math\nimport torch\nprint('passed')")
    student = student.replace("SIZE = 3", "SIZE = 4\nHALF = 0.5").replace("x + SIZE", "x - HALF")
    student = student.replace("        return 1", "        return 2\n\n    def more(self):\n"
                              "        return math.pi").replace("y = q @ k.T", "y = q @ q.T")
    text, places = cut.grafted(SOURCE, student, ["Cache.add"], "file.py")
    added = [line for line in text.splitlines() if line not in SOURCE.splitlines() and line]
    assert added == ["import math", "HALF = 0.5", "    def more(self):",
                     "        return math.pi", "    def add(self, x): return x - HALF"]
    for first, length, theirs in places:                # its lines, and those in the student's file
        assert text.splitlines()[first - 1:first - 1 + length] == \
            student.splitlines()[theirs - 1:theirs - 1 + length]


def test_what_is_defined_under_a_condition_comes_in():
    helpers = ("if SIZE > 2:\n    def half(x): return x / 2\nelse:\n    half = None\n"
               "try:\n    import fast\nexcept ImportError:\n    class Slow:\n        pace = 1\n")
    helpers += ("with open(__file__) as source:\n    text = source.read()\n"
                "TABLE = {}\nfor k in range(3):\n    TABLE[k] = k\nTABLE[SIZE] = 9\n"
                "match SIZE:\n    case 3:\n        three = True\n")
    known = ("if SIZE:\n    def scores(): inner = 1\n"     # what is ours already, and a local name
             "print([n for n in range(9)])\n")
    helpers += "try:\n    import torch, torch.nn, math\nfinally:\n    pass\n"
    student = SOURCE.replace("\n\n\nclass", f"\n\n\n{helpers}{known}\n\nclass")
    text, _ = cut.grafted(SOURCE, student, ["Cache.add"], "file.py")
    assert helpers in text and known not in text


@pytest.mark.parametrize("ours", ["SIZE, half = 4, 2", "if SIZE:\n    half = 2\n    SIZE = 4",
                                  "try:\n    half = 2\nfinally:\n    def scores(): pass",
                                  "for half in 'ab':\n    class Cache: pass"])
def test_what_is_ours_is_not_replaced_beside_something_new(ours):
    student = SOURCE.replace("\n\n\nclass", f"\n\n\n{ours}\n\nclass")
    with pytest.raises(ValueError, match=r"f.py, line 18: \w+ has a new meaning beside names"):
        cut.grafted(SOURCE, student, ["Cache.add"], "f.py")


@pytest.mark.parametrize("student, words", [
    ("def scores(:\n", "file.py, line 1"), ("x = 1", "there is no scores"), ("\0", "file.py"),
    ("(" * 9999, "file.py"), ("class A:\n    def scores(self): pass", "there is no scores")])
def test_a_submission_that_cannot_be_read_is_named(student, words):
    with pytest.raises(ValueError, match=words):
        cut.grafted(SOURCE, student, ["scores"], "file.py")


def test_tests_that_would_tell_go_with_all_that_uses_them():
    text = "def f(): pass\n\n\ndef g(): f()\n\n\ndef test_a(g): pass\n\n\ndef test_b(): pass\n"
    assert cut.removed(text, ["f"]) == "def test_b(): pass\n"
    with pytest.raises(ValueError, match="no h"):
        cut.removed(text, ["h"])


# ---- The hand-out

@pytest.mark.long
def test_no_hand_out_holds_a_line_of_its_solution():
    assert check.check_hand_out(ASSIGNMENTS) == []


def test_a_line_of_a_solution_that_stands_elsewhere_is_found(monkeypatch):
    monkeypatch.setattr(check, "without", lambda _: {"data.py": (ROOT / "loss.py").read_text()})
    faults = check.check_hand_out([FOCAL])
    assert any(": data.py still has 'return torch.where(counts" in fault for fault in faults)


def test_the_hand_out_is_a_copy_without_the_chosen_bodies_the_grader_and_the_history(tmp_path):
    changed = handout.hand_out(tmp_path / "out", [FOCAL])
    assert changed == ["loss.py"]
    for path in ("streamo.py", "assets/tiny/model.safetensors", ".ci/run", "course/README.md"):
        if (ROOT / path).exists():
            assert (tmp_path / "out" / path).read_bytes() == (ROOT / path).read_bytes()
    assert "to be written" in (tmp_path / "out/loss.py").read_text()
    names = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*")}
    assert not [name for name in names if name.startswith((".git/", "course/b", "course/g"))
                or name == "tests/test_course.py"]
    for words, code, said in (("list", 0, ""), ("grade x", 2, "grade is the teacher's"),
                              ("check", 2, "check is the teacher's")):
        done = subprocess.run([sys.executable, "-m", "course", *words.split()], text=True,
                              cwd=tmp_path / "out", capture_output=True)
        assert done.returncode == code and said in done.stderr and done.stderr.count("\n") < 2
    with pytest.raises(ValueError, match="is there already"):
        handout.hand_out(tmp_path, [FOCAL])
    with pytest.raises(ValueError, match="inside the repository"):
        handout.hand_out(ROOT / "handed-out", [FOCAL])


# ---- Grading

@pytest.fixture(scope="module")
def sandbox():
    with pytest.MonkeyPatch.context() as patch:             # as torch leaves it, once imported
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")
        with grade.Sandbox(check.SEED) as sandbox:
            yield sandbox


@pytest.mark.parametrize("assignment", ASSIGNMENTS, ids=lambda assignment: assignment.key)
def test_our_body_has_all_points_and_a_wrong_one_loses_some(sandbox, assignment):
    """The short form of `python -m course check`, which tries all bodies."""
    lines, faults = check.check_one(sandbox, assignment, short=True)
    assert faults == [] and len(lines) == 1
    assert len(check.bodies(assignment)) >= 8
    assert sum(one.points for one in grade.checks_of(assignment)) == 10


def test_no_cheat_has_a_point(sandbox):
    """The quick ones; `python -m course check` tries them all, by each of the two layers."""
    some = ("ends the process", "leaves a thread", "writes elsewhere",
            "answers in the exam's place", "puts modules in pytest's place",
            "looks for the answer in memory")
    lines, faults = check.check_cheats(sandbox, some)
    assert faults == [] and len(lines) == len(some)
    if sandbox.kernel:                      # each of the two alone holds them
        for layer in ("kernel", "hook"):
            assert check.check_cheats(sandbox, ["reads the solution"], [layer])[1] == []


def test_a_loop_without_end_costs_the_check_that_it_is_in(sandbox):
    loss = (ROOT / "loss.py").read_text()
    endless = loss.replace("    if kind not in KINDS", "    while True:\n        pass\n"
                           "    if kind not in KINDS")
    mark = sandbox.mark(FOCAL, {"loss.py": endless}, 1)
    assert mark.points == 3 and "takes too long" in mark.words


def submission(folder, text, **more):
    folder.mkdir(parents=True)
    for name, content in {"loss.py": text, **more}.items():
        (folder / name).write_text(content)


def test_a_folder_of_submissions_as_csv(tmp_path, sandbox, monkeypatch, capsys):
    """Tests and other files of a submission do not count; what cannot be read gets nothing."""
    loss = (ROOT / "loss.py").read_text()
    class_ = tmp_path / "class"
    submission(class_ / "ada", loss, **{"conftest.py": "raise SystemExit", "torch.py": "1 / 0"})
    submission(class_ / "=bob", loss.replace("(3.0 *", "(2.0 *"))
    submission(class_ / "carl", "def state_counts(:")
    submission(class_ / "dora", cut.emptied(loss, FOCAL.takes["loss.py"], "assignment 8: ..."))
    submission(class_ / "emil", "")
    (class_ / "emil/loss.py").unlink()
    (class_ / "emil/loss.py").symlink_to(ROOT / "loss.py")
    monkeypatch.setattr(grade.Sandbox, "__enter__", lambda self: sandbox)
    monkeypatch.setattr(grade.Sandbox, "__exit__", lambda self, *_: None)
    grade.grade(class_, [FOCAL], tmp_path / "points.csv")
    assert "ada: 10 of 10" in capsys.readouterr().out
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[0] == "submission,points,of,8,8: mend"
    of = {line.split(",")[0]: line for line in lines[1:]}
    assert of["ada"] == "ada,10,10,10," and of["'=bob"].startswith("'=bob,1,10,1,")
    assert "equation 4" in of["'=bob"] and "loss.py, line 1" in of["carl"]
    assert of["dora"].startswith("dora,0,10,0,") and "not written yet" in of["dora"]
    assert of["emil"] == "emil,0,10,0,loss.py: not in the submission"
    assert grade.submissions(class_ / "ada", [FOCAL]) == {"ada": class_ / "ada"}


def test_what_python_runs_is_graded(tmp_path, sandbox):
    """A mark of the encoding, an import that may fail, one for the head of a file, NumPy's numbers;
    and of an assignment in two files the changed one alone."""
    loss = (ROOT / "loss.py").read_text()
    loss = loss.replace("import torch\n", "from __future__ import annotations\nimport torch\n"
                        "try:\n    import numpy as np\nexcept ImportError:\n    np = None\n", 1)
    loss = loss.replace("    if kind not in", "    assert np and pi\n    if kind not in")
    loss = loss.replace("import torch\n", "import torch\nfrom contextlib import suppress\n"
                        "with suppress(ImportError):\n    from math import pi\n", 1)
    loss = loss.replace("kind=\"focal\"", "kind: Unknown = \"focal\"", 1)
    (tmp_path / "loss.py").write_text("\ufeff" + loss, encoding="utf-8")
    mark = sandbox.mark(FOCAL, grade.submitted_files(tmp_path, FOCAL))
    assert (mark.points, mark.words) == (mark.of, "")
    numbers = [np.float64(0.5), np.int64(3), np.bool_(True), np.zeros(2)]
    assert plain(numbers) == [0.5, 3, True, {"shape": [2], "numbers": [0, 0]}]
    two = next(one for one in ASSIGNMENTS if len(one.takes) > 1)
    path, *others = two.takes
    (tmp_path / Path(path).name).write_text((ROOT / path).read_text())
    submitted = grade.submitted_files(tmp_path, two)
    assert submitted == {path: (ROOT / path).read_text()}
    files, _ = grade.merged(two, submitted)             # and nothing of ours stands for the others
    for other in others:
        gone = (*two.takes[other], *(two.gone or {}).get(other, ()))
        tree = ast.parse(files[other])
        assert all(cut.is_empty(node) for name in gone if isinstance(
            node := cut.find(tree, name), cut.FUNCTIONS)) and gone
    mark = sandbox.mark(two, submitted)
    assert mark.points < mark.of and f"{other} is not in the submission" in mark.words


def test_no_grading_where_a_submission_may_read(monkeypatch):
    monkeypatch.setattr(grade, "libraries", lambda: [str(ROOT.parent)])
    with pytest.raises(ValueError, match="where a submission may read"):
        grade.Sandbox().__enter__()
    with pytest.raises(ValueError, match="where a submission may read"):
        grade.check_apart(ROOT / "tests")


def test_what_git_does_not_know_is_not_handed_out(tmp_path, monkeypatch):
    for name in ("loss.py", "points.csv"):
        (tmp_path / name).touch()
    monkeypatch.setattr(handout, "ROOT", tmp_path)
    assert handout.files() == [Path("loss.py"), Path("points.csv")]     # no repository of git's
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "loss.py"], cwd=tmp_path, check=True)
    assert handout.files() == [Path("loss.py")]
    (tmp_path / ".git/HEAD").unlink()
    with pytest.raises(ValueError, match="git ls-files: "):
        handout.files()


def test_a_measurement_is_not_written_over(tmp_path):
    measure.own_folder(tmp_path / "out", "task")
    measure.own_folder(tmp_path / "out", "task")
    (tmp_path / "out/scores.json").touch()
    with pytest.raises(ValueError, match="there is a measurement in it"):
        measure.own_folder(tmp_path / "out", "task")


def test_what_a_student_is_told_is_words_and_no_terminal_codes():
    error = {"type": "ValueError", "text": "\x1b[2Jgone " + "x" * 500, "lines": [["a.py", 12]]}
    words = grade.told(error, {"a.py": [(10, 5, 100)]})
    assert words.startswith("ValueError: ?[2Jgone xxx") and words.endswith(", a.py line 102")
    assert len(words) < 130
    assert grade.cell("=1+1\n") == "'=1+1"


@pytest.mark.parametrize("ours, theirs, words", [
    (1.0, 1.00001, ""), (3, 4, "a number is wrong"), (3, 3.0, ""), (float("nan"), 1.0, "wrong"),
    (float("nan"), float("nan"), ""), (float("inf"), 1.0, "wrong"), ("a", None, "nothing where"),
    ([1, 2], [1], "1 values where 2"), ({"shape": [2], "numbers": [1.0, 2.0]},
                                        {"shape": [1, 2], "numbers": [1.0, 2.0]}, "shape (1, 2)"),
    ({"shape": [2], "numbers": [1.0, 2.0]}, {"shape": [2], "numbers": [1.0, 3.0]}, "1 of 2"),
    ({"keys": ["a"], "values": [1]}, {"keys": ["b"], "values": [1]}, "other keys"),
    ({"outcome": "refused"}, {"outcome": "taken"}, "it is taken"), (1, {"type": "X"}, "a X where")])
def test_results_are_compared_by_kind_shape_and_number(ours, theirs, words):
    found = grade.differs(ours, theirs, 1e-4)
    assert words in found and bool(found) == bool(words)


# ---- The command line

@pytest.mark.parametrize("arguments, words", [
    (["hand-out", "x", "--only", "99"], "there is no assignment 99"),
    (["hand-out", str(ROOT)], "is there already"), (["grade", "nowhere"], "no such folder"),
    (["grade", str(ROOT / "assets/tiny"), "--only", "8"], "neither a submission"),
    (["measure-task", "Event Caption", "--out", str(ROOT / "assets")], "there is something else"),
    (["measure-connector", "--out", str(ROOT / "assets")], "there is something else")])
def test_bad_input_is_one_line_and_code_2(arguments, words, capsys):
    from course.__main__ import main
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize("words, what", [
    (["grade", ".", "--seconds", "nan"], "--seconds nan"),
    (["grade", ".", "--seconds", "0"], "--seconds 0"),
    (["measure-task", "x", "--films", "0"], "--films 0"), (["grade"], "folder"),
    (["measure-connector", "--steps", "0"], "--steps 0"),
    (["measure-connector", "--out", ""], "--out")])
def test_bad_options_are_one_line_and_code_2(words, what, capsys):
    from course.__main__ import main
    with pytest.raises(SystemExit) as end:
        main(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and what in err and err.count("\n") == 1


def test_a_table_is_not_written_over_what_is_graded(tmp_path, capsys):
    from course.__main__ import main
    for folder in (tmp_path / "one", tmp_path / "all" / "ann"):     # a submission, a folder of them
        folder.mkdir(parents=True)
        (folder / "loss.py").write_text("mine")
        place = folder if folder.name == "one" else folder.parent
        assert main(["grade", str(place), "--only", "8", "--csv", str(folder / "loss.py")]) == 2
        assert "would write over the submission's" in capsys.readouterr().err
        assert (folder / "loss.py").read_text() == "mine"


def test_the_syllabus_names_every_assignment_and_the_list_is_quick():
    done = subprocess.run([sys.executable, "-c", "import sys; from course.__main__ import main; "
                           "main(['list']); assert 'torch' not in sys.modules"], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    text = (ROOT / "course/README.md").read_text(encoding="utf-8")
    assert len(done.stdout.splitlines()) == len(ASSIGNMENTS)
    for assignment in ASSIGNMENTS:
        assert f"## {assignment.number}. {assignment.title}" in text
        for path in assignment.takes:
            assert path in text
        assert f"pytest -q {assignment.tests}" in text
    assert chosen([FOCAL.number]) == [FOCAL]
