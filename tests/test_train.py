"""Training: the gradient however a step is split, exact resume, whole checkpoints, clear errors."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import data
import train
from streamo import FRAME, STATES, Streamo, Tokenizer, VisionConfig

ROOT = Path(__file__).parent.parent
SPLITS = [[0, 1, 2, 3, 4, 5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]


def parts():
    """A tokenizer and a model small enough to train in a blink."""
    tokenizer = Tokenizer.train(data.toy_texts(60), 1500)
    tokenizer.add_tokens([*STATES, FRAME])
    torch.manual_seed(1)
    config = train.tiny_config(tokenizer)
    decoder = replace(config.decoder, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                      num_attention_heads=2, num_key_value_heads=1, head_dim=12)
    return tokenizer, Streamo(replace(config, decoder=decoder, vision=VisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        image_size=16, patch_size=4)))


def gradient(groups):
    """All gradients, as one vector, of a step with these micro-batches of this rank."""
    tokenizer, model = parts()
    options = train.parse(["--no-autocast"])
    dataset = data.ToyDataset(tokenizer, model.config, 3)
    batches = []
    for group in groups:
        items = [dataset["one" if i < 2 else "short", i] for i in group]  # unequal lengths
        batches.append(data.collate(items, tokenizer.pad_id))
    learner = train.Learner(options, tokenizer, model)
    log = learner.backward(batches)
    return torch.cat([p.grad.flatten() for p in model.parameters()]), log["loss"]


def on_two_ranks(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = gradient(SPLITS[1][2 * rank : 2 * rank + 2])  # rank 0 holds the stills: no Standby
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def test_the_gradient_does_not_depend_on_how_a_step_is_split(tmp_path):
    """A mean of micro-batch means, or counts of a micro-batch alone, would change it."""
    whole, loss = gradient(SPLITS[0])
    micro, micro_loss = gradient(SPLITS[1])
    mp.spawn(on_two_ranks, (str(tmp_path / "store"), str(tmp_path / "out")), nprocs=2)
    ranks, ranks_loss = torch.load(tmp_path / "out")
    for other in (micro, ranks):
        assert (other - whole).norm() / whole.norm() < 2e-6
    assert micro_loss == pytest.approx(loss, rel=1e-6) == pytest.approx(ranks_loss, rel=1e-6)
    assert (gradient(SPLITS[1][:2])[0] - whole).norm() / whole.norm() > 0.05  # it can fail


def options(out, *more):
    return train.parse(
        [
            "--out",
            str(out),
            "--steps",
            "4",
            "--see-steps",
            "0",
            "--workers",
            "0",
            "--save-every",
            "2",
            "--keep",
            "9",
            *more,
        ]
    )


def losses(out):
    return [json.loads(line)["loss"] for line in open(out / "log.jsonl")]


def test_a_resumed_run_repeats_the_losses_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "start", lambda o: parts())
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 300, {"one": 0.5, "short": 0.5}),))
    train.run(options(tmp_path / "whole"))
    (tmp_path / "cut").mkdir()
    for name in ("step-000002", "log.jsonl"):
        source = tmp_path / "whole" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / "cut" / name)
    (tmp_path / "cut" / "step-000003.partial").mkdir()  # what a kill -9 while writing leaves
    train.run(options(tmp_path / "cut", "--resume"))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(set(losses(tmp_path / "whole"))) == 4
    for folder in ("whole", "cut"):
        assert (tmp_path / folder / "model" / "model.safetensors").exists()
    one, other = (
        Streamo.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "cut")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_only_the_last_checkpoints_are_kept_and_a_partial_one_is_never_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "start", lambda o: parts())
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 200, {"one": 1.0}),))
    o = options(tmp_path, "--save-every", "1", "--keep", "2")
    train.run(o)
    assert [p.name for p in train.checkpoints(o)] == ["step-000003", "step-000004"]
    about = json.loads((tmp_path / "model" / "run.json").read_text())
    assert about["config"]["keep"] == 2 and about["torch"] == torch.__version__


def test_frozen_parts_do_not_move():
    tokenizer, model = parts()
    learner = train.Learner(
        train.parse(["--train", "connector", "--no-autocast"]), tokenizer, model
    )
    before = {n: p.clone() for n, p in model.named_parameters()}
    dataset = data.ToyDataset(tokenizer, model.config, 3)
    learner.step([data.collate([dataset["one", 0]], tokenizer.pad_id)], 1e-2)
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"multi_modal_projector"}


def test_a_gradient_that_is_not_finite_names_step_samples_and_parameter():
    tokenizer, model = parts()
    learner = train.Learner(train.parse(["--no-autocast"]), tokenizer, model)
    with torch.no_grad():
        model.language_model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    batch = data.collate([data.ToyDataset(tokenizer, model.config, 3)["one", 0]], tokenizer.pad_id)
    with pytest.raises(ValueError, match=r"bad parameter: \S+.*toy 3/one/0"):
        learner.step([batch], 1e-3)


def test_two_states_leave_no_standby():
    tokenizer, model = parts()
    dataset = data.ToyDataset(tokenizer, model.config, 3)
    item = train.Loader(dataset, options("unused", "--states", "2"), tokenizer)["short", 5]
    plain = dataset["short", 5]
    standby = tokenizer.id("</Standby>")
    assert standby in plain["labels"] and standby not in item["labels"] + item["input_ids"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--vision", "x"], "--vision and --decoder together"),
        (["--data", "x.json"], "--data and --videos go together"),
        (["--no-such"], "--no-such"),
        (["--lr", "fast"], "--lr"),
        (["--resume", "--out", "nowhere", "--see-steps", "0"], "no checkpoint in nowhere"),
    ],
)
def test_bad_options_end_with_one_line_and_exit_code_2(arguments, words):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
