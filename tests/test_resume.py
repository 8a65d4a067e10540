"""Runs that stop and go on: kill -9, signals, other ranks, other options, broken files."""
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import FORKS
from safetensors.torch import load_file, save_file
from small import films, launch, run_here, saved_parts, told
from torch.distributed.elastic.multiprocessing import api, errors

import train
from parts import runs, weights
from parts import torchrun as parts_torchrun
from parts.checkpoints import checkpoints, open_log
from toy import steps

ROOT = Path(__file__).parent.parent
MOMENTS = "optimizer.safetensors"


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """The arguments of a run of six steps that starts from a model in a folder."""
    return [*saved_parts(tmp_path_factory.mktemp("beginning")), "--steps", "6", "--save-every", "2",
            "--keep", "9"]


def one_rank(rank, arguments, end, step):
    """train.main in a group of processes of its own, which gets the signal `end` as step number
    `step` + 1 begins; for end = "torn" the process is killed when half of the checkpoint of `step`
    is written."""
    os.setpgrp()
    train.CURRICULUM, steps.POOL = ((1.0, 300, {"one": 0.5, "short": 0.5}),), 2
    rate, write = train.learning_rate, weights.save_file

    def last_rate(o, now):
        if now == step and end != "torn" and rank == 0:
            loaders = [str(child.pid) for child in multiprocessing.active_children()]
            # all of the group, as torchrun does it, and all of the job, as a cluster does
            subprocess.run(["kill", f"-{end:d}", *loaders, "0"])
        return rate(o, now)

    def torn(tensors, path, metadata):
        write(tensors, path, metadata)
        if metadata.get("step") == str(step):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    train.learning_rate, weights.save_file = last_rate, torn if end == "torn" else write
    train.main(arguments)


def assert_same_run(one, other):
    """Bit for bit: the log, the weights, the optimiser."""
    assert told(one) == told(other)
    assert len({line["loss"] for line in told(one)}) == 6
    for name in ("step-000006/model.safetensors", f"step-000006/{MOMENTS}",
                 "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(tmp_path, beginning):
    """By --resume and the folder alone: its run.json knows the rest."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    begin = [*beginning, "--workers", "0", "--out"]
    again = ["--resume", "--out", str(cut)]
    assert launch(1, one_rank, [*begin, str(whole)], "torn", 0) == [0]
    assert launch(1, one_rank, [*begin, str(cut)], signal.SIGKILL, 1) == [-9]  # nothing is saved
    assert launch(1, one_rank, again, signal.SIGKILL, 3) == [-9]  # step 3 is done again
    assert launch(1, one_rank, again, "torn", 4) == [-9]
    assert [p.name for p in sorted(cut.glob("step-*"))] == ["step-000002", "step-000004.partial"]
    with_loader = [*again, "--workers", "1"]                    # its process gets the signal, too
    assert launch(1, one_rank, with_loader, signal.SIGTERM, 4) == [128 + 15]  # ends its step first
    assert (cut / "step-000005").exists()
    assert launch(1, one_rank, again, "torn", 0) == [0]
    assert_same_run(whole, cut)
    assert not list(cut.glob("*.partial"))


def with_ranks(*arguments, **more):
    """A run of train.py on two ranks: its process, as a user would begin it."""
    words = [sys.executable, "-m", "parts.torchrun", "--nproc_per_node=2", "--rdzv-backend=c10d",
             "--rdzv-endpoint=localhost:0", "train.py", *arguments]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def run_by_torchrun(folder):
    """Two ranks on films, one of which is missing: frozen vision in chunks, recomputed layers,
    several micro-batches. Returns its arguments and its folder."""
    arguments = [*saved_parts(folder), *films(folder), "--batch", "4", "--micro-tokens", "300",
                 "--steps", "6", "--save-every", "2", "--keep", "9", "--lr", "1e-3",
                 "--vision-chunk", "3", "--checkpoint-layers", "--skip-bad", "--workers", "1",
                 "--no-autocast"]
    process = with_ranks(*arguments, "--out", str(folder / "whole"))
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return arguments, folder / "whole"


@pytest.mark.long
def test_two_ranks_killed_while_a_checkpoint_is_written_go_on_bit_for_bit(tmp_path, torchrun):
    arguments, whole = torchrun.result()
    codes = launch(2, one_rank, [*arguments, "--out", str(tmp_path)], "torn", 4)
    assert codes[0] == -9 and codes[1] != 0  # the other rank ends too
    assert (tmp_path / "step-000004.partial").exists()
    assert launch(2, one_rank, ["--resume", "--out", str(tmp_path)], "torn", 0) == [0, 0]
    assert_same_run(whole, tmp_path)
    for out in (whole, tmp_path):
        assert "film7" in (out / "bad.txt").read_text()
    line = told(whole)[-1]
    assert line["samples"] == 4 and line["loss"] == pytest.approx(
        line["loss_states"] + line["loss_text"])
    about = json.loads((whole / "model" / "run.json").read_text())
    assert about["config"]["batch"] == 4 and about["torch"] == torch.__version__
    assert len(about["data"][str(whole.with_name("raw.jsonl"))]) == 64
    model = json.loads((whole / "model" / "config.json").read_text())
    assert model["knows"] == ""         # its start knew the toy world alone, these films are others


@pytest.mark.long
def test_replicas_go_on_in_shards_and_shards_on_one_rank(tmp_path, torchrun):
    """What is stored is the same: the weights end within 1e-6 of those of two replicas all along.
    And in shards, too, a step that is done again is the same to the last bit."""
    _, whole = torchrun.result()
    out, shards = tmp_path / "mixed", tmp_path / "shards"
    later = shutil.ignore_patterns("step-000004", "step-000006", "model")
    shutil.copytree(whole, out, ignore=later)
    codes = launch(2, one_rank, ["--resume", "--shard", "--out", str(out)], signal.SIGKILL, 5)
    assert codes[0] == -9 and codes[1] != 0 and not (out / "step-000006").exists()
    shutil.copytree(out, shards)
    codes = launch(2, one_rank, ["--resume", "--out", str(shards)], signal.SIGKILL, 5)
    assert len(told(out)) == 5 and told(out) == told(shards)
    assert launch(1, one_rank, ["--resume", "--no-shard", "--out", str(out)], "torn", 0) == [0]
    for name in ("model.safetensors", MOMENTS):
        one, other = (load_file(folder / "step-000006" / name) for folder in (whole, out))
        assert one.keys() == other.keys()
        for key in one:
            assert (one[key] - other[key]).abs().max() <= 1e-6, key


# ---- Signals

def asleep(rank, arguments, printed):
    """train.main whose third step sleeps."""
    os.setpgrp()
    step = train.Learner.step

    def slow(self, *arguments, **more):
        if self.optimizers[0].state and len(told(Path(self.o.out))) == 2:
            time.sleep(60)
        return step(self, *arguments, **more)

    train.Learner.step = slow
    train.CURRICULUM = ((1.0, 200, {"one": 1.0}),)
    sys.stderr = open(printed, "w", buffering=1)
    train.main(arguments)


@pytest.mark.parametrize("slow", [("torch",), ("argparse", "json", "logging", "ctypes")])
def test_ctrl_c_while_a_program_imports_is_a_line(slow, tmp_path):
    """Of every program of ours: while it imports PyTorch, and what it imports first of all."""
    for name in slow:                                       # found first, and slow to import
        (tmp_path / f"{name}.py").write_text("import time\nprint('importing', flush=True)\n"
                                             "time.sleep(60)\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    programs = [["infer.py", "assets/demo.mp4"], ["train.py"], ["eval.py"], ["records.py"]]
    programs += [["-m", name] for name in ("toy.pretrain", "parts.torchrun", *(
        f"bench.{path.stem}" for path in (ROOT / "bench").glob("*.py")
        if "__main__" in path.read_text()))]
    assert len(programs) == 12
    if slow != ("torch",):
        programs += [["-m", "toy"], ["-m", "course"]]       # which need no PyTorch
    begun = [subprocess.Popen([sys.executable, *words], env=env, text=True, cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) for words in programs]
    for words, run in zip(programs, begun):
        with run:
            assert run.stdout.readline() == "importing\n", words
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=60)[1].splitlines()
            assert said[-1:] == ["interrupted"] and run.returncode == 130, (words, said)
            shown = words[0] == "infer.py" and slow == ("torch",)       # what it is to watch
            assert len(said) == 1 + shown, said


def test_what_has_begun_answers_ctrl_c_in_its_own_way(capsys):
    """Not as while it was imported."""
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    def measured():
        with runs.to_the_end("bench", "all is kept"):
            interrupted()

    former = signal.getsignal(signal.SIGINT)
    for work, said in ((measured, "bench: interrupted, all is kept"),
                       (lambda: runs.program("train.py", interrupted), "before its first step")):
        signal.signal(signal.SIGINT, lambda *_: os._exit(1))
        try:
            with pytest.raises(SystemExit) as end:
                work()
        finally:
            signal.signal(signal.SIGINT, former)
        assert end.value.code == 130 and said in capsys.readouterr().err


def test_a_second_signal_ends_a_run_at_once(tmp_path, beginning):
    out, said = tmp_path / "out", tmp_path / "said"
    process = FORKS.Process(target=asleep, args=(0, [*beginning, "--workers", "0", "--out",
                                                     str(out)], said))
    process.start()
    deadline = time.monotonic() + 60
    while not (out / "step-000002").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (out / "step-000003.partial").mkdir()
    (out / "see.safetensors.partial").touch()
    time.sleep(0.5)
    for words in ("stopping after this step", "ended at once"):
        os.kill(process.pid, signal.SIGINT)
        while words not in said.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.35)                                    # a key is not pressed twice at once
    process.join(10)
    assert process.exitcode == 130
    assert f"python train.py --resume --out {out}" in said.read_text()
    assert {path.name for path in out.glob("step-*")} == {"step-000002"}
    assert not list(out.glob("*.partial"))


def test_a_second_run_in_a_folder_is_refused_and_writes_nothing(tmp_path, monkeypatch, beginning):
    """Also one that would go on; after a kill -9 of the first one it does."""
    out, said = tmp_path / "out", tmp_path / "said"
    arguments = [*beginning, "--workers", "0", "--out", str(out)]
    process = FORKS.Process(target=asleep, args=(0, arguments, said))
    process.start()
    deadline = time.monotonic() + 60
    while not (out / "step-000002").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    def state():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    before = state()
    for more in (arguments, ["--resume", "--out", str(out)]):
        with pytest.raises(ValueError, match="another run is at work there"):
            run_here(monkeypatch, *more)
        assert state() == before
    process.kill()
    process.join()
    run_here(monkeypatch, "--resume", "--out", str(out))
    assert (out / "model" / "model.safetensors").exists() and not (out / ".lock").exists()


def enter_and_leave(folder):
    """Five hundred times; code 1 where somebody else was in it, too."""
    entered = 0
    while entered < 500:
        try:
            with runs.alone_in(folder):
                entered += 1
                os.close(os.open(folder / "somebody", os.O_CREAT | os.O_EXCL))
                os.unlink(folder / "somebody")
        except ValueError:
            continue
        except FileExistsError:
            os._exit(1)


def test_one_process_at_a_time_is_in_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    processes = [FORKS.Process(target=enter_and_leave, args=(tmp_path / "out",)) for _ in "123"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="--out .*notes.txt: no folder can be made there"):
        with runs.alone_in(tmp_path / "notes.txt"):
            pass
    with pytest.raises(KeyError), runs.alone_in(tmp_path / "new"):
        raise KeyError                                      # what is refused leaves no new folder
    assert not (tmp_path / "new").exists()


def test_torchrun_says_no_more_than_its_program_and_ends_with_its_code(monkeypatch, capsys):
    """Ours in one process, with what torch's raises: its own page and exit code 1 are lost."""
    def failing(error):
        def run(_):
            raise error
        return run

    train = str(Path(__file__).parent.parent / "train.py")
    monkeypatch.setattr("sys.argv", ["torchrun", "--nproc_per_node=2", train, "--lr", "fast"])
    for name in ("STREAMO_PARENT_PID", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")                       # to be as they were afterwards
    for code, wanted, line in ((2, 2, ""), (-9, 137, "torchrun: process 1 was ended by SIGKILL\n")):
        failure = errors.ProcessFailure(1, 99, code, "")
        error = errors.ChildFailedError("train.py", {1: failure})
        monkeypatch.setattr(parts_torchrun.run, "run", failing(error))
        with pytest.raises(SystemExit) as end:
            parts_torchrun.main()
        assert end.value.code == wanted and capsys.readouterr().err == line
    monkeypatch.setattr(parts_torchrun.run, "run", failing(api.SignalException("", signal.SIGINT)))
    with pytest.raises(SystemExit) as end:
        parts_torchrun.main()
    assert end.value.code == 130 and not capsys.readouterr().err


@pytest.mark.parametrize("words, says", [
    (["--nproc_per_node=2", "gone.py", "--lr", "1"], "gone.py: no such program"),
    (["tests"], "tests: no such program"), ([], "required"),
    (["--no-python", "no-such-thing"], "no-such-thing: no such program"),
    (["--nproc_per_node=two", "train.py"], "nproc_per_node value: two"),
    (["--nproc_per_node=0", "train.py"], "at least one process"),
    (["--nproc_per_node=1", "--nnodes=0", "train.py"], "min_nodes must be > 0")])
def test_what_torchrun_cannot_begin_is_a_line(words, says, monkeypatch, capsys):
    for name in ("STREAMO_PARENT_PID", "OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.chdir(Path(__file__).parent.parent)
    monkeypatch.setattr("sys.argv", ["torchrun", *words])
    with pytest.raises(SystemExit) as end:
        parts_torchrun.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and says in said and said.count("\n") == 1


def test_a_rank_ends_with_its_torchrun():
    """Else it would write on into the folder of the run that goes on."""
    parent = subprocess.Popen(["sleep", "60"])
    rank = FORKS.Process(target=runs.end_with, args=(parent.pid,))
    rank.start()                    # by another: as if its own parent had gone while it imported
    rank.join(60)
    ended = rank.exitcode
    for process in (rank, parent):
        process.kill()
    parent.wait()
    assert ended == 1


@pytest.mark.long
def test_what_was_told_its_parent_ends_with_it_and_its_own_children_do_not_know():
    """As a training that bench.claims began: kill -9 of bench.claims is the end of both."""
    words = [sys.executable, "-c", "import os, time; from parts.runs import join_ranks; join_ranks("
             "); print(os.environ.get('STREAMO_PARENT_PID'), flush=True); time.sleep(60)"]

    def told(parent):
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                env={**os.environ, "STREAMO_PARENT_PID": str(parent)})

    with told(os.getpid()) as ours, told(os.getppid()) as orphan:
        try:
            assert orphan.wait(30) == 1
            assert ours.stdout.readline() == "None\n"
            time.sleep(0.6)                                 # it looks every half second
            assert ours.poll() is None
        finally:
            ours.kill()
            orphan.kill()


# ---- What is refused, by name, and what goes on

@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run of six steps on films; tests copy it."""
    folder = tmp_path_factory.mktemp("done")
    records = films(folder)
    lines = (folder / "raw.jsonl").read_text().splitlines(keepends=True)
    (folder / "raw.jsonl").write_text("".join(lines[:4]))
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, *saved_parts(folder / "start"), *records, "--batch", "2", "--steps", "6",
                 "--save-every", "1", "--out", str(folder / "out"))
    return folder


@pytest.fixture
def out(done, tmp_path):
    shutil.copytree(done / "out", tmp_path / "out")
    return tmp_path / "out"


def test_only_the_last_checkpoints_are_kept_and_no_run_is_written_over(out, monkeypatch):
    assert [p.name for p in checkpoints(out)] == ["step-000005", "step-000006"]
    with pytest.raises(ValueError, match="holds the checkpoints of a run"):
        run_here(monkeypatch, "--out", str(out))
    for path in checkpoints(out):                           # to save room: the model is left
        shutil.rmtree(path)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for folder in (out, out / "model"):
        for more in ([], ["--resume"]):
            with pytest.raises(ValueError, match="holds a trained model"):
                run_here(monkeypatch, "--steps", "6", "--out", str(folder), *more)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments, words", [
    (["--lr", "0.002"], "--lr was 0.0005, and the run goes on with it; only"),
    (["--data", "other.json"], "--data was"), (["--model", "x"], "--model was"),
    (["--steps", "4"], "--steps 4: the run has done 6"), (["--seed", "1"], "--seed was 0"),
    (["--train", "all"], "--train was"), (["--shard"], "--shard: there is one process")])
def test_a_run_goes_on_with_its_options_alone(out, monkeypatch, arguments, words):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        run_here(monkeypatch, "--resume", "--out", str(out), *arguments)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_more_steps_and_what_changes_no_result_may_be_given_anew(out, monkeypatch, capsys):
    run_here(monkeypatch, "--resume", "--out", str(out), "--steps", "7", "--keep", "3",
             "--lr", "0.0005")
    assert [line["step"] for line in told(out)] == [1, 2, 3, 4, 5, 6, 7]
    assert len(checkpoints(out)) == 3
    begins = capsys.readouterr().out.splitlines()[0]        # nothing of it is new, or random
    assert begins.split() == ["start", str(out / "step-000006")]


def test_a_folder_of_the_users_is_no_checkpoint(out, monkeypatch):
    for name in ("step-best", "step-000004-copy", "step-9"):
        shutil.copytree(out / "step-000005", out / name)
    shutil.rmtree(out / "step-000006")
    run_here(monkeypatch, "--resume", "--out", str(out), "--keep", "1")
    assert [line["step"] for line in told(out)] == [1, 2, 3, 4, 5, 6]
    assert {p.name for p in out.glob("step-*")} == {"step-best", "step-000004-copy", "step-9",
                                                    "step-000006"}


def test_changed_data_is_refused(done, out, monkeypatch):
    path = done / "raw.jsonl"
    text = path.read_text()
    path.write_text(text.replace("Number 1", "Number 9"))
    try:
        with pytest.raises(ValueError, match="raw.jsonl has changed since the run began"):
            run_here(monkeypatch, "--resume", "--out", str(out))
    finally:
        path.write_text(text)


def damaged(path, how):
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "random":
        path.write_bytes(os.urandom(1000))
    elif how == "missing":
        path.unlink()
    else:
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("exp_avg"))
        if how == "misshapen":
            tensors[name] = tensors[name].flatten()[:3].clone()
        elif how == "other keys":
            tensors["more"] = tensors.pop(name)
        elif how == "not finite":
            tensors[name][:] = float("nan")
        elif how == "another type":
            tensors[name] = tensors[name].half()
        save_file(tensors, path, {"step": "5" if how == "of another step" else "6"}
                  if how != "no step" else None)


@pytest.mark.parametrize("how", ["truncated", "random", "missing", "misshapen", "other keys",
                                 "not finite", "another type", "of another step", "no step"])
def test_a_broken_state_is_named_and_never_loaded(out, monkeypatch, how):
    """Misshapen moments used to end the fused AdamW in a segmentation fault."""
    damaged(out / "step-000006" / MOMENTS, how)
    with pytest.raises(ValueError, match=f"step-000006/{MOMENTS}: "):
        run_here(monkeypatch, "--resume", "--out", str(out), "--steps", "7")
    assert [p.name for p in checkpoints(out)] == ["step-000005", "step-000006"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {"lr": "x"}}', '{"config": 3}',
                                  '{"config": {"speed": 1}}', '{"config": {"batch": 2.5}}'])
def test_a_broken_record_of_the_options_is_named(out, monkeypatch, text):
    (out / "run.json").write_text(text)
    with pytest.raises(ValueError, match="run.json: "):
        run_here(monkeypatch, "--resume", "--out", str(out))
    with pytest.raises(ValueError, match="there is no run in nowhere"):
        run_here(monkeypatch, "--resume", "--out", "nowhere")


@pytest.mark.parametrize("name, value", [
    ("train", "foo"), ("states", 7), ("states", 0), ("loss", "foo"), ("shard", 0),
    ("data", [5]), ("preset", "none")])
def test_an_edited_option_is_named(out, monkeypatch, name, value):
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(about | {"config": about["config"] | {name: value}}))
    with pytest.raises(ValueError, match=f"run.json: not the options .*{name} is "):
        run_here(monkeypatch, "--resume", "--out", str(out))
    (out / "run.json").write_text(json.dumps(about | {"data": None}))
    with pytest.raises(ValueError, match="run.json: .*data is no object"):
        run_here(monkeypatch, "--resume", "--out", str(out))


def test_a_broken_line_of_the_log_is_told_and_left_out(tmp_path, capsys):
    lines = ['{"step": 1}\n', '{"step": \n', "[]\n", '{"step": 2}\n', '{"step": 3}\n', '{"st']
    (tmp_path / "log.jsonl").write_text("".join(lines))
    open_log(tmp_path, 2).close()
    assert (tmp_path / "log.jsonl").read_text() == lines[0] + lines[3]
    assert "log.jsonl: line 2 is broken" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("".join([lines[0], lines[-1]]))     # what kill -9 leaves
    open_log(tmp_path, 2).close()
    assert (tmp_path / "log.jsonl").read_text() == lines[0] and not capsys.readouterr().err
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_an_evaluation_that_was_killed_is_done_and_one_that_fails_is_told(out, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(runs.subprocess, "run", lambda words, **_: asked.append(words[4]) or
                        subprocess.CompletedProcess(words, -9, stderr="x\nout of memory\n"))
    monkeypatch.setattr("parts.checkpoints.about_run", lambda *_: {})
    run_here(monkeypatch, "--resume", "--out", str(out), "--steps", "7", "--eval-every", "2")
    assert [folder.name for folder in asked] == ["step-000006"]
    assert "step 6 is not evaluated: out of memory" in capsys.readouterr().err


def test_a_toy_run_goes_on_with_as_many_ranks(tmp_path, monkeypatch, beginning):
    run_here(monkeypatch, *beginning, "--out", str(tmp_path))
    about = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**about, "processes": 2}))
    with pytest.raises(ValueError, match="the run has 2 processes, not 1"):
        run_here(monkeypatch, "--resume", "--out", str(tmp_path))


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, beginning):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parts.checkpoints.write_state", full)
    with pytest.raises(OSError, match="No space left"):
        run_here(monkeypatch, *beginning, "--out", str(tmp_path))
    assert not list(tmp_path.glob("step-*"))


def test_machines_that_see_different_folders_are_stopped(tmp_path, monkeypatch, beginning):
    monkeypatch.setattr("parts.checkpoints.all_gather", lambda value: [value, "step-000500"])
    with pytest.raises(ValueError, match="not one folder that all machines share"):
        run_here(monkeypatch, *beginning, "--out", str(tmp_path))


def test_durations():
    assert [runs.duration(n) for n in (12, 150, 7200 * 2, 86400 * 3)] == [
        "12 seconds", "2 minutes", "4.0 hours", "3.0 days"]


# ---- Folders of runs that are broken by chance

def spoil(rng, out):
    """Spoil one thing of a run's folder as a seeded rng has it; returns what."""
    last, path = out / "step-000006", rng.choice([
        "run.json", "log.jsonl", "step-000006/run.json", "step-000006/config.json",
        "step-000006/tokenizer.json", "step-000006/model.safetensors", f"step-000006/{MOMENTS}"])
    how = rng.choice(["cut", "bytes", "random", "empty", "gone", "tensor", "alien", "folder"])
    path = out / path
    if how == "tensor":
        path = rng.choice([last / MOMENTS, last / "model.safetensors"])
        damaged(path, rng.choice(["misshapen", "other keys", "not finite", "another type"])
                if path.name == MOMENTS else "truncated")
    elif how == "alien":
        name = rng.choice(["step-best", "step-000009.partial", "step-7", "step-", "step-000099x"])
        (out / name).mkdir()
        (out / name / "model.safetensors").write_bytes(rng.randbytes(50))
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "gone":
        path.unlink()
    else:
        old = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 8)):
            old[rng.randrange(min(len(old), 3000))] = rng.randrange(256)
        path.write_bytes({"cut": old[:rng.randrange(len(old))], "empty": b"", "bytes": old,
                          "random": rng.randbytes(rng.randint(1, 5000))}[how])
    return f"{how} {path.name}"


def test_a_run_in_a_broken_folder_goes_on_or_is_refused_in_one_line(done, tmp_path, monkeypatch,
                                                                    capsys):
    """Exit 0, or exit 2 and one line of a fault: STREAMO_FUZZ=2000 for a long run."""
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 200, {"one": 1.0}),))
    monkeypatch.setattr("parts.checkpoints.about_run", lambda *_: {})
    seen = Counter()
    for seed in range(int(os.environ.get("STREAMO_FUZZ", 14))):
        rng, out = random.Random(seed), tmp_path / f"run{seed}"
        shutil.copytree(done / "out", out)
        what, code = spoil(rng, out), 0
        others = {p: p.read_bytes() for p in out.glob("step-000005/*")}
        try:
            train.main(["--resume", "--out", str(out), "--steps", "7", "--keep", "3", "--workers",
                        "0"])
        except SystemExit as end:
            code = end.code
        said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines()
                if line.startswith("train.py: ")]
        seen[what.split()[0], code] += 1
        assert code in (0, 2) and (code == 0 or len(said) == 1), (seed, what, code, said)
        assert {p: p.read_bytes() for p in others} == others, (seed, what)
        assert code == 0 or not what.startswith("alien"), (seed, what, said)
        assert code == 0 or "log.jsonl" not in what or "folder" in what, (seed, what, said)
        assert code == 2 or (out / "model" / "model.safetensors").exists(), (seed, what)
        shutil.rmtree(out)
    assert {code for _, code in seen} == {0, 2}


def test_a_run_of_before_an_option_was_goes_on_as_it_was(tmp_path):
    """It says so of the option's neutral value, and refuses another."""
    config = vars(train.parse(["--out", str(tmp_path), "--muon", "0", "--steps", "5"]))
    was = {name: value for name, value in config.items() if name not in ("muon", "tasks")}
    (tmp_path / "run.json").write_text(json.dumps({"config": was}))
    again = ["--resume", "--out", str(tmp_path)]
    for more in ([], ["--muon", "0"], ["--tasks", "all"]):
        o = train.parse([*again, *more])
        assert (o.muon, o.tasks, o.steps) == (0, "all", 5)
    for more in (["--muon", "2"], ["--tasks", "no-narration"]):
        with pytest.raises(ValueError, match=f"--resume: {more[0]} was .*goes on with it"):
            train.parse([*again, *more])
