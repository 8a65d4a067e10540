"""The house: imports run downwards only, also those that are written inside a function."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up. A file may import what stands in a line above its own, or in its own line.
# What eval.py reads and scores benchmarks with stands under it.
FLOORS = (("parts",), ("streamo", "loss"), ("data",), ("toy",), ("train", "infer"),
          ("bench.answers", "bench.baselines", "bench.public", "bench.proactive", "bench.streams",
           "bench.report"),
          ("eval", "records"), ("bench", "course"), ("tests",))
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py")
               if path.parts[len(ROOT.parts)] not in ("runs", ".venv"))


def floor(module):
    """The number of a module's floor, by its longest known beginning; None: not ours."""
    for name in (".".join(module.split(".")[:n]) for n in (2, 1)):
        for number, names in enumerate(FLOORS):
            if name in names:
                return number
    return None


def imported(tree):
    """The modules that a file imports, anywhere in it: "from toy import world" is toy.world."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides the floor"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(source, module):
    """The imports of a module's source that run up the house."""
    return [name for name in imported(ast.parse(source))
            if floor(name) is not None and floor(name) > floor(module)]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downwards(path):
    module = ".".join(path.with_suffix("").parts)
    assert floor(module) is not None, f"{path} stands on no floor"
    assert upward((ROOT / path).read_text(encoding="utf-8"), module) == []


def test_an_import_that_runs_up_is_found():
    assert upward("from toy import world", "data") == ["toy.world"]
    assert upward("def f():\n    import train", "streamo") == ["train"]
    assert upward("from bench.claims import main", "eval") == ["bench.claims.main"]
    assert upward("from bench.public import score\nimport data, os", "eval") == []


def test_the_films_of_the_toy_world_import_nothing_of_ours():
    source = (ROOT / "toy/world.py").read_text(encoding="utf-8")
    assert [name for name in imported(ast.parse(source)) if floor(name) is not None] == []


# ---- The reader's budget: lines of a file, columns of a line, and comments where one sticks

BUDGETS = {"streamo.py": 500, "data.py": 500, "train.py": 500, "infer.py": 400, "loss.py": 80}
PRODUCT = [path for path in FILES if path.parts[0] != "tests"]


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_a_file_is_no_longer_than_a_reader_bears(path):
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= BUDGETS.get(str(path), 500)
    assert [n for n, line in enumerate(lines, 1) if len(line) > 100] == []


@pytest.mark.parametrize("name", BUDGETS)
def test_one_line_in_eight_of_a_course_file_has_a_comment_or_a_shape(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert 8 * sum("#" in line for line in lines) >= len(lines)
