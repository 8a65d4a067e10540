"""The hand-out: a copy of the repository without the bodies that are to be written."""
import shutil
import subprocess
from pathlib import Path

from course import cut
from course.assignments import ROOT

# not handed out: what holds solutions, or is no part of the repository
LEFT = ("runs", "__pycache__", ".git", ".venv", "venv", "node_modules", "bodies", "test_course.py")
MEASURES = ("README.md", "__init__.py", "__main__.py", "assignments.py", "measure.py")  # of course/
MADE = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".DS_Store")


def kept(path):
    """Whether a path, relative to the repository, goes into a hand-out."""
    if path.name in (*LEFT, *MADE) or (ROOT / path / "pyvenv.cfg").exists():
        return False
    return path.parts[0] != "course" or path == Path("course") or path.name in MEASURES


def files():
    """The files of a hand-out, relative to the repository: of those that git knows, where there is
    git, so that points and submissions that lie about stay. What links to elsewhere is left."""
    todo, found, known = [ROOT], [], tracked()
    while todo:
        for path in sorted(todo.pop().iterdir()):
            if not path.is_symlink() and kept(path.relative_to(ROOT)):
                (todo if path.is_dir() else found).append(path)
    found = [path.relative_to(ROOT) for path in found]
    return found if known is None else [path for path in found if path in known]


def tracked():
    """The files of the repository that git knows; None where it is no repository of git's.
    ValueError where git does not tell them."""
    if not (ROOT / ".git").exists():
        return None
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"git ls-files: {error}") from None
    if listed.returncode:
        raise ValueError(f"git ls-files: {listed.stderr.strip()}")
    return {Path(name) for name in listed.stdout.split("\0")[:-1]}


def without(assignments):
    """{path: text} of the files that change when these assignments are handed out."""
    changed = {}
    for assignment in assignments:
        where = f"assignment {assignment.number}"
        for names, word in ((assignment.takes, f"{where}: to be written"),
                            (assignment.gone or {}, f"{where} does without this")):
            for path, functions in names.items():
                text = changed.get(path) or (ROOT / path).read_text(encoding="utf-8")
                try:
                    changed[path] = cut.emptied(text, functions, word)
                except ValueError as error:
                    raise ValueError(f"{where}: {path}: {error}") from None
        for path, names in (assignment.untold or {}).items():
            text = changed.get(path) or (ROOT / path).read_text(encoding="utf-8")
            changed[path] = cut.removed(text, names)
    return changed


def hand_out(folder, assignments):
    """Write the copy into a folder that is new or empty. Returns the changed files."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already; name a new or an empty folder")
    if folder.resolve().is_relative_to(ROOT):
        raise ValueError(f"{folder}: lies inside the repository, which it is to be a copy of")
    changed, there = without(assignments), files()
    if missing := changed.keys() - {path.as_posix() for path in there}:
        raise ValueError(f"{min(missing)}: git does not know it; git add it first")
    for path in there:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.as_posix() in changed:
            (folder / path).write_text(changed[path.as_posix()], encoding="utf-8")
        else:
            shutil.copyfile(ROOT / path, folder / path)
            shutil.copymode(ROOT / path, folder / path)
    return sorted(changed)
