"""Every command of README runs, in a folder that shares this repository's files; long ones are cut
short by the options below, which change how much is done, not what."""
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from conftest import FORKS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"python train.py": ["--steps", "1", "--see-steps", "1",
                               "--watch-steps", "1", "--workers", "0"],
           "python eval.py": ["--videos", "1", "--workers", "1"], "python -m toy": ["--n", "1"]}
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)) + \
    "\n".join(line.strip() for line in TEXT.splitlines() if line.startswith("    python "))
COMMANDS = sorted({re.sub(r" --videos \d+| --seed \d{4,}", "", line.split("   #")[0].strip())
                   for line in BLOCKS.splitlines() if line.startswith("python ")})


def test_readme_has_the_two_commands_and_names_only_files_that_exist():
    assert TEXT.count("pip install -r requirements.txt && python infer.py assets/demo.mp4") == 1
    assert TEXT.count("pip install -r requirements.txt && python -m pytest -q tests") == 1
    for name in re.findall(r"\]\((\w[^):]*)\)", TEXT):
        assert (ROOT / name).exists(), name
    assert len(COMMANDS) >= 8 and "@@" not in TEXT


def test_the_list_of_files_names_all_of_them_and_no_other():
    text = TEXT.split("## The files")[1]
    for name in re.findall(r"^    (\S+)  ", text, re.MULTILINE):
        assert (ROOT / name).exists(), name
    for folder in ("parts", "toy", "bench"):
        for path in (ROOT / folder).glob("[!_]*.py"):
            assert re.search(rf"\b{path.stem}\b", text), path
    modules = {path.stem for path in ROOT.glob("parts/*.py")}
    for line in re.findall(r"^ {20}[a-z]+ {4,}(.*)", text, re.MULTILINE):
        assert set(line.split(", ")) <= modules, line


def test_the_table_of_ideas_names_what_there_is():
    rows = re.search(r"\| idea \|.*?\n\|[-|]+\n(.*?)\n\n", TEXT, re.DOTALL)[1].splitlines()
    assert len(rows) >= 10
    for row in rows:
        where, test = row.split(" | ")[1:3]
        for file, names in re.findall(r"(\S+\.py) ((?:`[^`]+`,? ?)+)", where):
            source = (ROOT / file).read_text(encoding="utf-8")
            for name in re.findall(r"`([^`]+)`", names):
                head = "|".join(("def", "class"))
                assert re.search(rf"\b({head}) {name.split('.')[-1]}\b", source), (file, name)
        assert (ROOT / "tests" / f"{test.split(':')[0]}.py").exists(), test


def run(command, folder):
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("parts", "toy", "bench"):
            (folder / path.name).symlink_to(path)
    (folder / "assets").mkdir()
    for path in (ROOT / "assets").iterdir():
        (folder / "assets" / path.name).symlink_to(path)
    words = shlex.split(command)
    for start, options in SHORTER.items():
        words += options if command.startswith(start) else []
    if "assets/demo.gif" in words:                           # never into the repository's own files
        words = [word.replace("assets/demo.gif", "demo.gif").replace("assets/timeline", "timeline")
                 for word in words]
    process = FORKS.Process(target=run_script, args=(words[1:], folder))
    process.start()
    process.join()
    return process.exitcode, (folder / "printed").read_text()


def run_script(words, folder):
    """`python WORDS` in this process and this folder, where it leaves what it prints."""
    os.chdir(folder)
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.path.insert(0, str(folder))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, readme_runs):
    code, printed = readme_runs[command].result()
    assert code == 0, printed[-2000:]


@pytest.mark.parametrize("number, says", [(0, " s "), (1, "yard ")])
def test_the_library_examples_run(number, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    exec(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[number], {})
    assert says in capsys.readouterr().out
