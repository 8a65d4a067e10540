"""The paper's claims in miniature, without the training."""
import json
import os
import shutil
import signal
import sys
import time
from argparse import Namespace
from itertools import count
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_eval import folder  # noqa: F401 (a fixture)
from test_streams import GOLD, dialogue

from bench import claims, public, streams
from toy import dialogues


@pytest.fixture
def trained(folder, monkeypatch):
    """train.py without the training: the tiny random model, a log; what it was asked to do."""
    commands = []

    def train(command, env):
        commands.append([str(word) for word in command[2:]])
        out = Path(command[command.index("--out") + 1])
        shutil.copytree(folder, out / "model")
        log = [{"step": k, "recall_response": k / 1000, "mended": {}, "lr": 1e-3}
               for k in range(1, 151)]
        log[1].pop("recall_response")  # a step without a Response
        (out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        (out / "model" / "run.json").write_text("{}")

    bench = dialogues.bench
    monkeypatch.setattr(dialogues, "BENCH",                             # a task each
                        {"": lambda *of: (bench(*of)[0], bench(*of)[1][:5])})
    # not subprocess.Popen itself: the background runs torchrun with it at this time
    monkeypatch.setattr(claims, "subprocess", Namespace(Popen=Child))
    monkeypatch.setattr(Child, "work", staticmethod(train))
    return commands


class Child:
    """In the place of a process: wait() does its work, terminate() asks it to stop."""
    work = None

    def __init__(self, command, env):
        self.command, self.env, self.stopped = command, env, Event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        return Child.work(self.command, self.env) or 0

    def terminate(self):
        self.stopped.set()


def claim(tmp_path, name, *more):
    """Runs `bench.claims`; the result as JSON and as Markdown."""
    claims.main([name, "--steps", "150", "--videos", "1", "--workers", "1", "--seed", "30"]
            + ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *map(str, more)])
    out = tmp_path / "out"
    return json.loads((out / f"{name}.json").read_text()), (out / f"{name}.md").read_text()


def test_a_claim_trains_its_variants_alike_and_only_once(folder, tmp_path, trained, monkeypatch):
    rows = [dialogue(task, gold, gold) for task, gold in GOLD.items()]
    monkeypatch.setattr(claims, "run_bench", lambda args: (rows, {}, None))
    claim(tmp_path, "loss", "--seeds", "2")
    same = ["--steps", "150", "--ce-share", "0", "--seed"]
    assert [command[:command.index("--out")] for command in trained] == [
        [*loss, *same, seed]
        for seed in "01"
        for loss in ([], ["--loss", "fixed"], ["--loss", "ce"])]
    claim(tmp_path, "loss", "--seeds", "2")
    claim(tmp_path, "factors", "--seeds", "2")  # its first variant is the focal loss's
    kinds = ["--loss", "alpha"], ["--loss", "gamma"]
    assert [command[:2] for command in trained[6:]] == [*kinds, *kinds]
    claim(tmp_path, "states")  # and so is this one's
    assert len(trained) == 11 and trained[10][:2] == ["--states", "2"]
    claim(tmp_path, "states", "--model", folder)  # another start is another run
    folders = {command[command.index("--out") + 1] for command in trained}
    assert len(trained) == len(folders) == 13
    start = ["--model", str(folder)]
    assert trained[11][:2] == start and trained[12][2:4] == start
    unfinished = Path(trained[12][trained[12].index("--out") + 1])
    shutil.rmtree(unfinished)
    unfinished.mkdir()                              # killed before it had written anything
    claim(tmp_path, "states", "--model", folder)
    assert trained.pop() == trained[12]
    shutil.rmtree(unfinished / "model")
    (unfinished / "run.json").write_text("{}")
    (unfinished / "step-000100").mkdir()
    claim(tmp_path, "states", "--model", folder)
    assert len(trained) == 14 and trained[13] == [*trained[12], "--resume"]


def test_runs_go_side_by_side_each_with_its_share_of_the_cores(folder, tmp_path, trained,
                                                              monkeypatch):
    """Two are there at the same time, no more."""
    rows, both = [dialogue(task, gold, gold) for task, gold in GOLD.items()], Barrier(2, timeout=60)
    monkeypatch.setattr(claims, "run_bench", lambda args: (rows, {}, None))
    monkeypatch.setattr(claims.torch, "get_num_threads", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    train, threads, bars = Child.work, [], []

    def together(command, env):
        assert env["STREAMO_PARENT_PID"] == str(os.getpid())        # kill -9 ends them, too
        threads.append(env["OMP_NUM_THREADS"])
        bars.append((env["TQDM_DESC"], env["TQDM_POSITION"]))           # each has a line
        both.wait()
        train(command, env)

    monkeypatch.setattr(Child, "work", staticmethod(together))
    claim(tmp_path, "states", "--workers", 2)
    assert threads == ["3", "3"] and len(trained) == 2
    assert list(map(set, zip(*bars))) == [{"base 0", "states-2 0"}, {"0", "1"}]


def test_a_run_that_fails_stops_the_others_and_begins_none(tmp_path, trained, capsys, monkeypatch):
    """It is told in a line that names its folder, and not after an hour of the others."""
    begun, faults, failed = count(), [], Event()            # either may be the first to wait

    class Run(Child):
        def wait(self):
            if next(begun):
                faults.append(self.command[self.command.index("--out") + 1])
                failed.set()
                return 2
            assert failed.wait(60) and self.stopped.wait(60)
            time.sleep(0.3)                                 # time enough to begin a third
            return 143

    monkeypatch.setattr(claims.subprocess, "Popen", Run)
    with pytest.raises(SystemExit) as end:
        claim(tmp_path, "loss", "--seeds", 3, "--workers", 2)
    said = capsys.readouterr().err
    assert end.value.code == 2 and next(begun) == 2 and said.count("\n") == 1
    assert f"{faults[0]}: train.py ended with code 2" in said and "-150-steps-seed-0" in faults[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_runs_and_is_told(tmp_path, trained, capsys, monkeypatch, number):
    class Run(Child):
        def wait(self):
            os.kill(os.getpid(), number)                    # to bench.claims alone
            assert self.stopped.wait(60)
            return 143

    monkeypatch.setattr(claims.subprocess, "Popen", Run)
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        claim(tmp_path, "states")
    said = capsys.readouterr().err
    assert end.value.code == 128 + number and "the same command goes on" in said
    assert signal.getsignal(signal.SIGTERM) == former


def test_a_claim_tells_every_score_and_how_to_repeat_it(tmp_path, trained):
    """The table's figures are the mean and half the range of the seeds'; the curve is of all."""
    found, table = claim(tmp_path, "loss", "--seeds", "2")
    assert found["command"].startswith("python -m bench.claims loss --steps 150 --videos 1")
    assert found["start"] == "nothing" and {"torch", "python"} <= set(found["versions"])
    focal = found["variants"]["focal"]
    scores = [run["response_precision"] for run in focal["seeds"].values()]
    assert len(scores) == 2 and focal["mean"]["response_precision"] == sum(scores) / 2
    rows = []
    for path in sorted(tmp_path.glob("runs/base-*/toy-1fps.jsonl")):
        rows += public.read_rows("raw", path)
    assert focal["curve"] == [list(point) for point in streams.threshold_curve(rows)]
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if "|" in line}
    precision = f"| response precision | {scores[0]:.1f} ± 0.0 |"
    assert lines["response precision"].startswith(precision)
    theirs = next(line for name, line in lines.items() if name.startswith("the paper, table 4"))
    assert theirs.split(" | ")[1:] == ["27.94 / 50.72 / 82.5", "18.62 / 41.02 / 49.17",
                                       "6.45 / 20.99 / 41.67 |"]
    threshold, precision, recall = next(p for p in focal["curve"] if p[0] in claims.SHOWN)
    row = lines[f"precision / recall, Response if p ≥ {threshold:g}"]
    assert row.split(" | ")[1] == f"{precision:.1f} / {recall:.1f}"
    assert sum("Response if p ≥" in line for line in table.splitlines()) == len(claims.SHOWN)
    log = json.loads(next((tmp_path / "out" / "logs").glob("base-*seed-1.json")).read_text())
    assert len(log) == 50 and log[0] == {"step": 3, "recall_response": 0.002, "lr": 0.001}
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 6


def test_the_mean_of_different_runs_and_its_spread(tmp_path, trained, monkeypatch):
    texts = iter(["It starts.", "Nothing."] * 2)
    gold, made = [(3, "It starts."), (6, "It stops.")], []

    def rows(args):
        text = next(texts)
        p = [0.9 * (k == 3 and text == gold[0][1]) for k in range(20)]
        said = [dialogue("narration", gold, [(3, text)], p=p)]
        made.extend(said)
        return said + [dialogue(task, gold, gold) for task, gold in GOLD.items()], {}, None

    monkeypatch.setattr(claims, "run_bench", rows)
    found, table = claim(tmp_path, "fps", "--seeds", "2")
    scores = [100 * 2 * 3 / 7, 100 * 2 * 2 / 7]
    variant = found["variants"]["tested at 2 fps"]
    assert variant["mean"]["narration"] == pytest.approx(sum(scores) / 2)
    assert variant["half_range"]["narration"] == pytest.approx((scores[0] - scores[1]) / 2)
    both = [dialogue(task, gold, gold) for task, gold in GOLD.items()] * 2 + made[2:]
    assert variant["curve"] == [list(point) for point in streams.threshold_curve(both)]
    assert variant["curve"] != [list(point) for point in streams.threshold_curve(both[:6])]
    assert f"| narration | {sum(scores) / 2:.1f} ± {(scores[0] - scores[1]) / 2:.1f} |" in table
    assert "Response if p" in table and not (tmp_path / "out" / "fps.png").exists()


def test_the_best_threshold_tells_calibration_from_knowledge():
    """Two runs with one ranking have one best F1, wherever their probabilities lie."""
    timid = [(0.01, 80.0, 90.0), (0.5, 90.0, 20.0)]
    bold = [(0.01, 30.0, 95.0), (0.9, 80.0, 90.0)]
    f1 = pytest.approx(2 * 80 * 90 / 170)
    assert claims.best(timid) == (f1, 0.01) and claims.best(bold) == (f1, 0.9)
    assert claims.best([]) == (0, 1)


def test_the_claim_about_fps_tests_one_training_at_two_rates(tmp_path, trained):
    found, table = claim(tmp_path, "fps")
    assert len(trained) == 1 and [v["fps"] for v in found["variants"].values()] == [1, 2]
    assert "±" not in table.split("\n\n")[0]  # one seed has no spread
    headers = [json.loads(path.read_text().split("\n")[0])["run"]["fps"]
               for path in sorted(tmp_path.glob("runs/*/toy-?fps.jsonl"))]
    assert headers == [1, 2]


def test_the_figure_shows_recall_in_training_and_the_curve(tmp_path):
    """Where a line must pass there is its colour; where it cannot, there is not."""
    found, training = {}, {}
    for name, recall in (("a", 0.9), ("b", 0.4)):
        training[name] = [[{"step": 10 * k, "recall_response": recall} for k in range(11)]] * 2
        found[name] = {"curve": [(0.1, 20, 100 * recall), (0.9, 20, 0)],
                       "mean": {"response_recall": 50 * recall, "response_precision": 20}}
    found["c"], training["c"] = found["b"], [[{"step": 99}]]  # no Response to learn from
    claims.loss_figure(found, training, tmp_path / "x.png")
    picture = np.asarray(claims.Image.open(tmp_path / "x.png")).astype(int)
    assert picture.shape == (860, 2240, 3)

    def near(panel, x, y, colour):
        row, column = round(2 * (348 - 3 * y)), round(2 * (52 + 560 * panel + 480 * x))
        patch = picture[row - 3:row + 4, column - 3:column + 4]
        return (abs(patch - colour).sum(-1) < 30).any()

    blue, red = (0, 114, 178), (213, 94, 0)
    assert near(0, 0.53, 90, blue) and near(0, 0.53, 40, red)
    assert not near(0, 0.53, 40, blue) and not near(0, 0.53, 65, blue)
    assert near(1, 0.8, 20, blue) and not near(1, 0.8, 20, red)


@pytest.mark.parametrize("words, what", [
    (["generalisation", "--model", "assets/tiny"], "makes a start of its own"),
    (["loss", "--workers", "0"], "--workers 0"), (["loss", "--steps", "0"], "--steps 0"),
    (["loss", "--threshold", "nan"], "--threshold nan"), (["loss", "--window", "-1"], "--window"),
    (["loss", "--seeds", "0"], "--seeds 0"), (["fps", "--videos", "0"], "--videos 0"),
    (["loss", "--model", __file__], "that is a file"),
    (["fps", "--out", __file__], "no folder can be made"), (["fps", "--model", ""], "--model"),
    (["fps", "--runs", f"{__file__}/x"], "no folder can be made")])
def test_what_would_measure_nothing_is_refused(words, what, capsys):
    with pytest.raises(SystemExit) as end:
        claims.main(words)
    assert end.value.code == 2 and what in capsys.readouterr().err


@pytest.mark.parametrize("name", ["loss", "factors"])
def test_the_figure_has_room_for_the_names(tmp_path, name):
    found = {name: {"curve": [(0.1, 20 + 9 * k, 50)], "mean": {"response_recall": 50,
                                                             "response_precision": 20 + 9 * k}}
             for k, name in enumerate(claims.CLAIMS[name][1])}
    claims.loss_figure(found, {name: [[{"step": 9, "recall_response": .5}]] for name in found},
                       tmp_path / "x.png")
    picture = np.asarray(claims.Image.open(tmp_path / "x.png")).astype(int)
    assert len(found) == 3
    for k in (1, 2):                                    # no name runs into the next one's line
        x = 2 * (60 + 210 * k)
        assert (picture[-60:, x - 12:x - 4] == 255).all()
