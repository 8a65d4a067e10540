"""Training: the gradient however a step is split, runs that are killed, estimates, clear errors."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import FORKS
from PIL import Image
from torch.profiler import ProfilerActivity, profile

import data
import train
from bench import estimate
from infer import stream
from parts import devices, runs
from streamo import FRAME, STATES, Streamo, Tokenizer, VisionConfig
from toy import datasets, dialogues, pretrain, world

ROOT = Path(__file__).parent.parent
SPLITS = [[0, 1, 2, 3, 4, 5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.fixture(scope="module", autouse=True)
def all_cores():
    """What ran in the background is over."""
    torch.set_num_threads(os.cpu_count())


def parts(vision=(), decoder=()):
    """A tokenizer and a model small enough to train in a blink."""
    tokenizer = Tokenizer.train(datasets.toy_texts(60), 1500)
    tokenizer.add_tokens([*STATES, FRAME])
    torch.manual_seed(1)
    config = pretrain.tiny_config(tokenizer)
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                  num_attention_heads=2, image_size=16, patch_size=4) | dict(vision)
    decoder = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, head_dim=12,
                   num_attention_heads=2, num_key_value_heads=1) | dict(decoder)
    return tokenizer, Streamo(replace(config, vision=VisionConfig(**vision),
                                      decoder=replace(config.decoder, **decoder)))


def launch(world, target, *arguments):
    """Run target(rank, *arguments) as the ranks of a group; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [FORKS.Process(target=as_rank, args=(rank, world, port, target, *arguments))
             for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    hanging = [process.kill() for process in ranks if process.exitcode is None]
    assert not hanging, f"{len(hanging)} of {world} ranks hang"
    return [process.exitcode for process in ranks]


def as_rank(rank, world, port, target, *arguments):
    torch.set_num_threads(1)
    mp.set_start_method("fork", force=True)  # of the loader's processes, as in a run by hand
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    target(rank, *arguments)


# ---- The gradient

def gradient(groups):
    """All gradients, as one vector, of a step with these micro-batches of this rank."""
    tokenizer, model = parts()
    dataset = datasets.ToyDataset(tokenizer, model.config, 3)
    batches = []
    for group in groups:
        items = [dataset["one" if i < 2 else "short", i] for i in group]  # unequal lengths
        batches.append(data.collate(items, tokenizer.pad_id))
    learner = train.Learner(train.parse(["--no-autocast", "--train", "all"]), tokenizer, model)
    log = learner.backward(batches)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), log["loss"]


def gradient_of_rank(rank, out):
    dist.init_process_group("gloo")
    found = gradient(SPLITS[1][2 * rank:2 * rank + 2])  # rank 0 holds the stills: no Standby
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def test_the_gradient_does_not_depend_on_how_a_step_is_split(tmp_path):
    """A mean of micro-batch means, or counts of a micro-batch alone, would change it."""
    whole, loss = gradient(SPLITS[0])
    micro, micro_loss = gradient(SPLITS[1])
    assert launch(2, gradient_of_rank, tmp_path / "out") == [0, 0]
    ranks, ranks_loss = torch.load(tmp_path / "out")
    for other in (micro, ranks):
        assert (other - whole).norm() / whole.norm() < 1e-6
    assert micro_loss == pytest.approx(loss, rel=1e-6) == pytest.approx(ranks_loss, rel=1e-6)
    assert (gradient(SPLITS[1][:2])[0] - whole).norm() / whole.norm() > 0.05  # it can fail


# ---- Runs that stop

def six_steps(folder):
    """The arguments of a run that starts from a model in this folder."""
    for part in parts()[::-1]:
        part.save_pretrained(folder)
    return ["--model", str(folder), "--steps", "6", "--save-every", "2", "--keep", "9"]


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    return six_steps(tmp_path_factory.mktemp("beginning"))


def one_rank(rank, arguments, end, step):
    """train.main in a group of processes of its own, which gets the signal `end` as step number
    `step` + 1 begins; for end = "torn" the process is killed when half of the checkpoint of `step`
    is written."""
    os.setpgrp()
    train.CURRICULUM, data.POOL = ((1.0, 300, {"one": 0.5, "short": 0.5}),), 2
    rate, write = train.learning_rate, torch.save

    def last_rate(o, now):
        if now == step and end != "torn" and rank == 0:
            subprocess.run(["kill", f"-{end:d}", "0"])  # all of the group, as torchrun does it
        return rate(o, now)

    def torn(state, path):
        write(state, path)
        if state["step"] == step:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    train.learning_rate, torch.save = last_rate, torn if end == "torn" else write
    train.main(arguments)


def told(out):
    """What log.jsonl says but for clocks and memory."""
    lines = [json.loads(line) for line in open(out / "log.jsonl")]
    clocks = {"seconds", "waited", "memory_MiB", "tokens_per_second", "samples_per_second"}
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def assert_same_run(one, other):
    """Bit for bit: the log, the weights, the optimiser."""
    assert told(one) == told(other)
    assert len({line["loss"] for line in told(one)}) == 6
    for name in ("step-000006/model.safetensors", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    states = [torch.load(out / "step-000006/state.pt")["optimizer"]["state"]
              for out in (one, other)]
    assert all(torch.equal(value, states[1][i][k])
               for i, state in states[0].items() for k, value in state.items())


def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(tmp_path, beginning):
    arguments = {name: [*beginning, "--workers", "0", "--out", str(tmp_path / name)]
                 for name in ("whole", "cut")}
    assert launch(1, one_rank, arguments["whole"], "torn", 0) == [0]
    again = [*arguments["cut"], "--resume"]
    assert launch(1, one_rank, arguments["cut"], signal.SIGKILL, 1) == [-9]  # nothing is saved yet
    assert launch(1, one_rank, again, signal.SIGKILL, 3) == [-9]  # step 3 is done again
    assert launch(1, one_rank, again, "torn", 4) == [-9]
    assert [p.name for p in sorted((tmp_path / "cut").glob("step-*"))] == [
        "step-000002", "step-000004.partial"]
    with_loader = [*again, "--workers", "1"]                    # its process gets the signal, too
    assert launch(1, one_rank, with_loader, signal.SIGTERM, 4) == [0]   # ends its step, saves it
    assert (tmp_path / "cut" / "step-000005").exists()
    assert launch(1, one_rank, again, "torn", 0) == [0]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def films(folder):
    """Eight records of short films, each film a folder of pictures; the last film is missing."""
    rng, records = np.random.default_rng(0), []
    for i in range(8):
        seconds = 3 + i % 4
        for k in range(seconds if i < 7 else 0):
            (folder / f"film{i}").mkdir(exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
            picture.save(folder / f"film{i}" / f"{k}.png")
        records.append({"video_name": f"film{i}", "video_path": f"film{i}", "source": "test",
                        "task_type": "Event Caption", "duration": seconds,
                        "question": [{"content": "Describe every event.", "time": "0"}],
                        "response": [{"content": f"Number {i}.", "st_time": 0, "end_time": 2,
                                      "time": ""}]})
    (folder / "raw.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return ["--data", str(folder / "raw.jsonl"), "--videos", str(folder)]


def run_by_torchrun(folder):
    """The paper's preset on films, one of which is missing: frozen vision in chunks, recomputed
    layers, a sharded optimiser, several micro-batches. Returns its arguments and its folder."""
    arguments = [*six_steps(folder), *films(folder), "--batch", "4", "--micro-tokens", "300",
                 "--lr", "1e-3", "--vision-chunk", "3", "--zero", "--skip-bad", "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
                           "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", ROOT / "train.py",
                           *arguments, "--out", folder / "whole"], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    return arguments, folder / "whole"


def test_two_ranks_killed_while_a_checkpoint_is_written_go_on_bit_for_bit(tmp_path, torchrun):
    arguments, whole = torchrun.result()
    cut = [*arguments, "--out", str(tmp_path)]
    codes = launch(2, one_rank, cut, "torn", 4)
    assert codes[0] == -9 and codes[1] != 0  # the other rank ends too
    assert (tmp_path / "step-000004.partial").exists()
    assert launch(2, one_rank, [*cut, "--resume"], "torn", 0) == [0, 0]
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


def run_here(monkeypatch, *arguments):
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 200, {"one": 1.0}),))
    o = train.parse([*arguments, "--workers", "0"])
    train.run(o)
    return o


def test_only_the_last_checkpoints_are_kept_and_no_run_is_overwritten(
        tmp_path, monkeypatch, beginning):
    arguments = [*beginning, "--save-every", "1", "--keep", "2", "--out", str(tmp_path)]
    o = run_here(monkeypatch, *arguments)
    assert [p.name for p in train.checkpoints(o)] == ["step-000005", "step-000006"]
    with pytest.raises(ValueError, match="holds the checkpoints of a run"):
        train.run(o)


def test_a_run_that_goes_on_with_other_options_says_so(tmp_path, monkeypatch, beginning, capsys):
    arguments = [*beginning, "--out", str(tmp_path), "--lr", "0.001"]
    run_here(monkeypatch, *arguments)
    shutil.rmtree(tmp_path / "step-000006")
    run_here(monkeypatch, *arguments, "--resume", "--save-every", "1")
    assert "was" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "step-000006")
    run_here(monkeypatch, *arguments, "--resume", "--lr", "0.002")
    assert "train.py: --resume: lr was 0.001, is 0.002\n" in capsys.readouterr().err


def test_machines_that_resume_from_different_folders_are_stopped(tmp_path, monkeypatch, beginning):
    monkeypatch.setattr(train, "gathered", lambda value: [value, "step-000500"])
    with pytest.raises(ValueError, match="not one folder that all machines share"):
        run_here(monkeypatch, *beginning, "--out", str(tmp_path))


def test_no_sample_is_longer_than_the_decoder_has_positions():
    tokenizer, model = parts()
    o = train.parse(["--max-tokens", "100000"])
    train.read_data(o, tokenizer, model.config, 1)
    assert o.max_tokens == model.config.decoder.max_position_embeddings


# ---- One step

def test_matrices_are_multiplied_in_bfloat16_only_where_the_hardware_does_it(monkeypatch):
    """A CPU without the instructions takes a hundred times as long as in float32."""
    o, square = train.parse([]), torch.ones(2, 2)

    def product(o):
        with devices.autocast(o, torch.device("cpu")):
            return (square @ square).dtype

    for names, dtype in ((["avx2"], torch.float32), (["avx2", "amx_bf16"], torch.bfloat16),
                         (["avx512_bf16"], torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
        assert product(o) == dtype
        assert product(train.parse(["--no-autocast"])) == torch.float32
        assert devices.in_bfloat16(o, gpu=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: emulated)     # a T4
    assert not devices.in_bfloat16(o, gpu=True)


def learner(*arguments):
    tokenizer, model = parts()
    dataset = datasets.ToyDataset(tokenizer, model.config, 3)
    learner = train.Learner(train.parse(["--no-autocast", *arguments]), tokenizer, model)
    return learner, dataset, data.collate([dataset["one", 0]], tokenizer.pad_id)


@pytest.mark.parametrize("train_, moving", [
    ("connector", {"multi_modal_projector"}),
    ("connector+decoder", {"multi_modal_projector", "language_model"}),
    ("all", {"multi_modal_projector", "language_model", "vision_tower"})])
def test_frozen_parts_do_not_move(train_, moving):
    learn, _, batch = learner("--train", train_)
    before = {n: p.clone() for n, p in learn.model.named_parameters()}
    learn.step([batch], 1e-2)
    assert {n.split(".")[0] for n, p in learn.model.named_parameters()
            if not torch.equal(p, before[n])} == moving


def test_a_past_of_its_own_changes_silence_and_standby_alone(monkeypatch):
    learn, dataset, _ = learner()
    quiet = learn.state_ids[:2]
    batch = next(batch for batch in (data.collate([dataset["short", i]], 0) for i in range(99))
                 if torch.isin(quiet, batch["labels"]).all())
    inputs = data.model_inputs(batch, "cpu")
    mask = torch.nn.functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    ids, (silence, standby, response) = batch["input_ids"], learn.state_ids
    said = torch.zeros(int((mask & torch.isin(ids.roll(-1, 1), quiet)).sum()),
                       learn.model.config.decoder.vocab_size)
    said[:, standby], said[:, response] = 1, 2
    with monkeypatch.context() as guess:
        guess.setattr(learn, "model", lambda **_: said)
        past = learn.own_past(inputs, mask)
    mine = (batch["labels"] != -100) & torch.isin(ids, quiet)
    assert (ids[mine] == silence).any() and (past[mine] == standby).all()
    assert torch.equal(past[~mine], ids[~mine]) and past is not ids
    plain, own = (learn.backward([batch], own)["loss"] for own in (False, True))
    assert plain == learn.backward([batch])["loss"] != own


def test_the_demos_first_lessons(tmp_path):
    """Seeing changes what is seen with, and leaves visual tokens of no common part; watching
    changes what reads them, and nothing of its own stays behind."""
    tokenizer, model = parts()
    o = train.parse(["--see-steps", "3", "--watch-steps", "2", "--workers", "0", "--out",
                     str(tmp_path)])

    def moved(lesson, *arguments):
        before = {n: p.clone() for n, p in model.named_parameters()}
        lesson(o, *arguments, model, lambda: False)
        return {n.split(".")[0] for n, p in model.named_parameters()
                if not torch.equal(p, before[n])}

    assert moved(pretrain.learn_to_see) == {"vision_tower", "multi_modal_projector"}
    images = np.stack([datasets.ToyStills(model.config)[i][0] for i in range(100)])
    tokens = model.encode_frames(pretrain.normalised(images)).flatten(0, 1)
    assert tokens.mean(0).norm() < 0.3 * tokens.norm(dim=1).mean()
    assert moved(pretrain.learn_to_watch, tokenizer) == {"multi_modal_projector", "language_model"}
    assert not any(module._forward_hooks for module in model.modules())


def test_numbers_begin_as_waves(monkeypatch):
    """All of one length and no two alike, in 28 directions: a single head can copy them all."""
    monkeypatch.setattr(pretrain, "toy_texts", lambda: [data.SYSTEM])   # a vocabulary made at once
    tokenizer, model = train.start(train.parse([]))
    words = model.language_model.model.embed_tokens.weight.detach()
    numbers = words[[tokenizer.id(str(n)) for n in range(1000)]]
    likeness = numbers @ numbers.T
    assert torch.allclose(likeness.diagonal(), torch.ones(1000), atol=1e-4)
    assert (likeness - torch.eye(1000)).max() < 0.6
    assert torch.linalg.matrix_rank(numbers) == 28


def test_a_run_stopped_after_the_lessons_does_not_repeat_them(tmp_path, monkeypatch):
    given = []
    for name in ("learn_to_see", "learn_to_watch"):
        monkeypatch.setattr(train, name, lambda *_, name=name: given.append(name))
    with monkeypatch.context() as small:
        small.setattr(train, "start", lambda o: parts())
        o = run_here(monkeypatch, "--steps", "1", "--out", str(tmp_path))
    assert [folder.name for folder in train.checkpoints(o)] == ["step-000000", "step-000001"]
    shutil.rmtree(tmp_path / "step-000001")
    shutil.rmtree(tmp_path / "model")
    run_here(monkeypatch, "--steps", "1", "--out", str(tmp_path), "--resume")
    assert given == ["learn_to_see", "learn_to_watch"] and (tmp_path / "model").exists()


def test_lessons_that_are_stopped_go_on_bit_for_bit(tmp_path, monkeypatch):
    """Of three steps each: killed in the last of seeing, SIGTERM in the first of watching, which
    is saved, killed in the last of it."""
    monkeypatch.setattr(train, "start", lambda o: parts())
    monkeypatch.setattr(pretrain, "WATCHING", ((1.0, 200, {"busy": 1.0}),))
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    descend, begun = pretrain.descend, []
    common = ["--see-steps", "3", "--watch-steps", "3", "--save-every", "2", "--steps", "1"]

    def lessons(out, last, *more, end=None):
        """How many of their steps are begun; step number `last` gets `end`."""
        def until_last(*arguments):
            begun.append(arguments)
            if len(begun) == last:
                end()
            descend(*arguments)
        begun.clear()
        monkeypatch.setattr(pretrain, "descend", until_last)
        with suppress(Killed, runs.Stopped):
            run_here(monkeypatch, *common, "--out", str(tmp_path / out), *more)
        return len(begun)

    assert lessons("whole", None) == 6
    assert lessons("cut", 3, end=kill) == 3
    assert lessons("cut", 2, "--resume", end=lambda: os.kill(os.getpid(), signal.SIGTERM)) == 2
    assert torch.load(tmp_path / "cut" / "watch.pt")["step"] == 1
    assert lessons("cut", 2, "--resume", end=kill) == 2
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {"see.pt", "watch.pt"}
    with pytest.raises(ValueError, match="holds the checkpoints of a run"):
        lessons("cut", None)  # a new run would later go on from this one's watching
    assert lessons("cut", None, "--resume") == 1
    whole, cut = ((tmp_path / out / "model/model.safetensors").read_bytes()
                  for out in ("whole", "cut"))
    assert whole == cut and not list((tmp_path / "cut").glob("*.pt"))


def test_what_tells_a_label_tells_it():
    """The loss of a head that is right is near 0; wrong in any one part it is not."""
    label = torch.tensor([[3.0, 2, 0.4, 0.6, 0.1, 5, 3, 2]])
    right = torch.zeros(1, sum(datasets.ToyStills.parts))
    right[0, 3] = right[0, 7 + 2] = right[0, 15 + 5] = 20
    right[0, 12:15] = label[0, 2:5]
    assert pretrain.shown_loss(right, label) < 1e-3
    for k in (3, 9, 12, 13, 14, 20):
        wrong = right.clone()
        wrong[0, k] += 1 if 12 <= k < 15 else -40
        assert pretrain.shown_loss(wrong, label) > 1


def test_a_lesson_steps_by_the_mean_of_the_ranks_gradients(monkeypatch):
    """Two parameters, two ranks; the other rank's gradients are 0, 0.02, ... 0.18."""
    monkeypatch.setattr(train.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(pretrain, "own_rank", lambda: (0, 2))
    monkeypatch.setattr(train.dist, "all_reduce", lambda whole: whole.add_(torch.arange(10) / 100))
    matrix, vector = (torch.nn.Parameter(torch.zeros(size)) for size in ((2, 3), (4,)))
    pretrain.descend(torch.optim.SGD([matrix, vector]), 0.1 * matrix.sum() + 0.3 * vector.sum(), 10)
    expected = -10 * (torch.tensor([0.1] * 6 + [0.3] * 4) + torch.arange(10) / 50) / 2
    torch.testing.assert_close(torch.cat([matrix.detach().flatten(), vector.detach()]), expected)


def test_tensors_of_the_ranks_are_added_up_in_messages(monkeypatch):
    """The small ones together, as many as fit; a large one alone."""
    sent, tensors = [], [torch.ones(shape) for shape in ((2, 3), (4,), (20,), (3,))]
    monkeypatch.setattr(train.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(train.dist, "all_reduce", lambda all: sent.append(all.mul_(2).numel()))
    devices.add_up(tensors, most=10)
    assert sent == [10, 20, 3] and all((tensor == 2).all() for tensor in tensors)


def test_what_a_token_is_to_say():
    """Worked by hand, for "a red circle grows .", a blue star that shrinks in second 7, one that
    turns red then, nothing, and "on the left", which is no action. Words 0 to 1019 are the colours,
    shapes, changes, numbers; 5000 is a frame."""
    colours, shapes, changes, _ = (list(part) for part in (
        world.COLOURS, world.SHAPES, world.CHANGES[1:], range(1000)))
    red, circle = colours.index("red"), shapes.index("circle")
    grows, shrinks = changes.index("grows"), changes.index("shrinks")
    n, m = len(colours), len(colours) + len(shapes)
    left, indices = m + changes.index("left"), pretrain.word_indices(torch.arange(1020), 5001)
    assert indices[n + circle].tolist() == [-1, circle, -1] and indices[1019].tolist() == [-1] * 3
    ids = torch.tensor([[3000, red, n + circle, m + grows, 3000, 5000, 5000, 5000, left]
                        + [3000] * 4])
    blue, star = colours.index("blue"), shapes.index("star")
    turns, thing = changes.index("turns"), (0.5, 0.5, 0.1)
    shown = torch.tensor([[1 + blue, star, *thing, 1 + shrinks, 1 + blue, star, 0, 7],
                          [1 + red, star, *thing, 1 + turns, 1 + blue, star, 0, 7],
                          [0.0, 0, 0, 0, 0, 0, 0, 0, 0, 7]])
    targets = pretrain.said_targets(ids, indices, ids == 5000, shown)[0].tolist()
    name, does, none = [red, circle, -1, -1], [red, circle, grows, -1], [-1] * 4
    assert targets == [none, none, name, does, does, [blue, star, shrinks, 7],
                       [blue, star, turns, 7], [-1, -1, -1, 7], does, does, does, none, none]


def test_a_token_that_says_it_has_no_loss():
    """Near 0 where every word is right, above 1 where one is wrong, 0 with nothing to say."""
    sizes = datasets.ToyFilms.said
    targets = torch.tensor([[[2, 4, 8, 999], [-1, -1, -1, -1], [0, 0, -1, -1]]])
    right = torch.zeros(1, 3, sum(sizes))
    firsts = np.cumsum([0, *sizes])
    for k, words in enumerate(targets[0].tolist()):
        for first, word in zip(firsts, words):
            if word >= 0:
                right[0, k, first + word] = 30
    assert pretrain.said_loss(right, targets) < 1e-3
    for k, part, word in ((0, 0, 2), (0, 1, 4), (0, 2, 8), (0, 3, 999), (2, 0, 0), (2, 1, 0)):
        wrong = right.clone()
        wrong[0, k, firsts[part] + word] = -30
        assert pretrain.said_loss(wrong, targets) > 1
    assert pretrain.said_loss(right, torch.full_like(targets, -1)) == 0


def test_a_gradient_that_is_not_finite_names_samples_and_parameter():
    """The clipping spoils the gradients of all: the one at fault must be named all the same."""
    learn, _, batch = learner()
    norm = learn.model.language_model.model.layers[1].post_attention_layernorm
    norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = norm.weight.clone()
    with pytest.raises(ValueError, match=r"bad parameter: language_model.model.layers.1.post_att"
                                         r"ention_layernorm.weight; .*toy 3/one/0"):
        learn.step([batch], 1e-3)
    assert torch.equal(norm.weight, before)


def test_two_states_leave_no_standby():
    learn, dataset, _ = learner("--states", "2")
    item = data.Loader(dataset, learn.o, dataset.tokenizer)["short", 5]
    plain = dataset["short", 5]
    standby = dataset.tokenizer.id("</Standby>")
    assert standby in plain["labels"] and standby not in item["labels"] + item["input_ids"]


def test_four_clips_are_learnt_in_30_steps_and_streamed_back():
    tokenizer, model = parts(
        dict(hidden_size=64, intermediate_size=128, image_size=32, patch_size=8),
        dict(hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=4,
             head_dim=32))
    o = train.parse(["--steps", "30", "--lr", "0.005", "--warmup", "0.1", "--train", "all",
                     "--weight-decay", "0", "--no-autocast"])
    dataset = datasets.ToyDataset(tokenizer, model.config, 10, augment=data.PLAIN)
    batch = data.collate([dataset["short", i] for i in range(4)], tokenizer.pad_id)
    learn = train.Learner(o, tokenizer, model)
    for step in range(o.steps):
        log = learn.step([batch], train.learning_rate(o, step))
    assert log["loss"] < 0.01 and log["state_accuracy"] == log["text_accuracy"] == 1
    for i in range(4):
        clip, record = dialogues.sample(10, i, "short")
        wanted = data.turns_from_record(record, clip.seconds)
        questions = [(turn.second, turn.question) for turn in wanted if turn.question]
        frames = ((second, clip.frame(second, 32)) for second in range(clip.seconds))
        for turn, want in zip(stream(model, tokenizer, frames, questions), wanted, strict=True):
            assert (turn.state, turn.text) == (want.state.strip("</>").lower(), want.text)


def test_a_sample_that_cannot_be_used_is_named(tmp_path, monkeypatch, beginning):
    with pytest.raises(ValueError, match=r"raw\.jsonl: record 7: .*film7: no such file"):
        run_here(monkeypatch, *beginning, *films(tmp_path), "--batch", "8", "--out",
                 str(tmp_path / "out"))
    learn, dataset, _ = learner("--max-tokens", "50")
    with pytest.raises(ValueError, match=r"toy 3/short/5: \d+ tokens, more than --max-tokens 50"):
        data.Loader(dataset, learn.o, dataset.tokenizer)["short", 5]
    lengths = [dataset["short", i]["length"] for i in range(9)]
    i = next(i for i in range(8) if lengths[i] > lengths[i + 1])
    o = replace(learn.o, max_tokens=lengths[i + 1], skip_bad=True, out=str(tmp_path))
    item = data.Loader(dataset, o, dataset.tokenizer)["short", i]
    assert item["name"] == f"toy 3/short/{i + 1}"
    assert f"toy 3/short/{i}: {lengths[i]} tokens" in (tmp_path / "bad.txt").read_text()


def test_a_step_has_its_micro_batch_where_samples_are_longer_than_it_should_be(monkeypatch):
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 100, {"short": 1.0}),))
    learn, dataset, _ = learner("--steps", "12")
    steps = data.Steps(learn.o, dataset, 1, 2, train.CURRICULUM)
    assert len(list(steps.batches(0))) == 12 and set(steps.sizes) == {1}


# ---- The estimate

def peak_bytes(function):
    """How many bytes of tensors there are at most while it runs, above those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def assert_within_15_percent(o, tokenizer, model, batch, parts):
    """The estimated parts of a process on the CPU, against what is measured."""
    learn = train.Learner(o, tokenizer, model)
    learn.step([batch], 1e-4)
    states = [v for state in learn.optimizer.state.values() for v in state.values()]
    learn.backward([batch])                                 # makes the gradients
    measured = {"weights": sum(p.nbytes for p in model.parameters()),
                "gradients": sum(p.grad.nbytes for p in model.parameters() if p.requires_grad),
                "optimizer": sum(value.nbytes for value in states),
                "activations": peak_bytes(lambda: learn.backward([batch]))}
    assert {k: round(parts[k] / measured[k], 3) for k in measured} == {
        k: pytest.approx(1, abs=0.15) for k in measured}


def test_the_estimate_of_the_demo_is_what_a_step_of_it_takes(capsys, monkeypatch):
    """The micro-batch of the run's last steps that takes most is measured."""
    words = Tokenizer.from_pretrained(ROOT / "assets" / "tiny")         # no time to learn them
    monkeypatch.setattr(Tokenizer, "train", lambda *_: words)
    o = train.parse([])
    parts = estimate.estimate(replace(o, estimate=True))[1]
    said = capsys.readouterr().out
    tokenizer, model = train.start(o)
    eye = sum(p.numel() for p in model.vision_tower.parameters())
    size = sum(p.numel() for p in model.parameters()) - eye
    assert f"steps       {o.steps} of about" in said
    assert f"parameters  {size} learn, {eye} are frozen" in said
    dataset = datasets.ToyDataset(tokenizer, model.config, o.seed)
    last = data.Steps(o, dataset, 0, 1, datasets.CURRICULUM).batches(o.steps - data.POOL)
    batches = [data.collate([dataset[key] for key in keys], tokenizer.pad_id) for keys in last]
    train.choose(o, model)
    batch = max(batches, key=lambda batch: estimate.activations(o, model, batch, gpu=False))
    assert_within_15_percent(o, tokenizer, model, batch, parts)


@pytest.mark.parametrize("arguments", [
    ["--train", "connector+decoder"], ["--train", "connector"],
    ["--train", "connector+decoder", "--checkpoint-layers", "--no-autocast"]])
def test_the_estimate_of_pretrained_widths(arguments):
    """SigLIP-base and Qwen2.5-0.5B, but for two layers, a smaller picture and vocabulary."""
    tokenizer, model = parts()
    config = model.config
    model = Streamo(replace(
        config, grid=7, decoder=replace(
            config.decoder, vocab_size=8192, hidden_size=896, intermediate_size=4864,
            num_attention_heads=14, num_key_value_heads=2, head_dim=64, attention_bias=True),
        vision=VisionConfig(num_hidden_layers=2, image_size=112)))
    item = datasets.ToyDataset(tokenizer, model.config, 3)["one", 0]
    batch = data.collate([item], tokenizer.pad_id)
    o = train.parse(["--vision-chunk", "1", *arguments])
    train.choose(o, model)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    learnt = sum(size for size, learns in sizes if learns)
    assert_within_15_percent(o, tokenizer, model, batch, {
        "weights": 4 * sum(size for size, _ in sizes), "gradients": 4 * learnt,
        "optimizer": 8 * learnt, "activations": estimate.activations(o, model, batch, gpu=False)})


def test_an_estimate_reads_configs_and_annotations_alone(tmp_path, beginning, capfd, monkeypatch):
    films(tmp_path)
    shutil.copytree(beginning[1], tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    train.main(["--estimate", "--model", str(tmp_path / "model"), "--videos", "nowhere",
                "--data", str(tmp_path / "raw.jsonl"), "--batch", "4"])
    said = capfd.readouterr().out
    assert "steps       2 of 4 samples: 8 samples" in said and "each of 2 processes" in said


# ---- Errors

@pytest.mark.parametrize("arguments, words", [
    (["--vision", "x"], "--vision and --decoder together"),
    (["--data", "x.json"], "--data and --videos go together"),
    (["--no-such"], "--no-such"),
    (["--lr", "fast"], "--lr"),
    (["--save-every", "0"], "--save-every 0: at least 1"),
    (["--vision-chunk", "-1"], "--vision-chunk -1: at least 0"),
    (["--batch", "8", "--tasks", "grounding+caption"], "--tasks"),
    (["--resume", "--out", "nowhere"], "--resume: there is no run in nowhere"),
    (["--model", "nowhere"], "nowhere")])
def test_bad_options_end_with_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        train.main(["--out", str(tmp_path / "out"), *arguments])
    assert end.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
