"""The estimate: what a step takes, foretold from configs and annotations and measured."""
import contextlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small import films, parts, saved_parts
from torch.profiler import ProfilerActivity, profile

import data
import train
from bench import estimate
from streamo import Streamo, Tokenizer, VisionConfig
from toy import datasets, pretrain, steps

ROOT = Path(__file__).parent.parent


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
    states = [v for one in learn.optimizers for state in one.state.values() for v in state.values()]
    learn.backward([batch])                                 # makes the gradients
    measured = {"weights": sum(p.nbytes for p in model.parameters()),
                "gradients": sum(p.grad.nbytes for p in model.parameters() if p.requires_grad),
                "optimizer": sum(value.nbytes for value in states),
                "activations": peak_bytes(lambda: learn.backward([batch]))}
    assert {k: round(parts[k] / measured[k], 3) for k in measured} == {
        k: pytest.approx(1, abs=0.15) for k in measured}


@pytest.mark.long
def test_the_estimate_of_the_demo_is_what_a_step_of_it_takes(monkeypatch):
    """The micro-batch of the run's last steps that takes most is measured."""
    words = Tokenizer.from_pretrained(ROOT / "assets" / "tiny")         # no time to learn them
    monkeypatch.setattr(Tokenizer, "train", lambda *_: words)
    o = train.parse(["--out", "nowhere"])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        parts = estimate.estimate(replace(o, estimate=True))[1]
    said = out.getvalue()
    tokenizer = pretrain.new_tokenizer()
    model = pretrain.new_model(tokenizer)
    eye = sum(p.numel() for p in model.vision_tower.parameters())
    size = sum(p.numel() for p in model.parameters()) - eye
    assert f"steps       {o.steps} of about" in said
    assert f"parameters  {size} learn, {eye} are frozen" in said
    dataset = datasets.ToyDataset(tokenizer, model.config, o.seed)
    last = train.steps_of(o, dataset, 1)
    batches = [data.collate([dataset[key] for key in keys], tokenizer.pad_id)
               for step in range(o.steps - steps.POOL, o.steps) for keys in last[step]]
    train.choose(o, model)
    batch = max(batches, key=lambda batch: estimate.activations(o, model, batch, gpu=False))
    assert_within_15_percent(o, tokenizer, model, batch, parts)


@pytest.mark.long
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
    o = train.parse(["--vision-chunk", "1", "--muon", "0", *arguments])
    train.choose(o, model)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    learnt = sum(size for size, learns in sizes if learns)
    assert_within_15_percent(o, tokenizer, model, batch, {
        "weights": 4 * sum(size for size, _ in sizes), "gradients": 4 * learnt,
        "optimizer": 8 * learnt, "activations": estimate.activations(o, model, batch, gpu=False)})


@pytest.mark.long
def test_an_estimate_reads_configs_and_annotations_alone(tmp_path):
    films(tmp_path)
    start = saved_parts(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--estimate", *start, "--videos", "nowhere", "--epochs",
         "1", "--data", tmp_path / "raw.jsonl", "--batch", "4"],
        env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "steps       2 of 4 samples: 8 samples" in said and "each of 2 processes" in said
