"""What several tests train: a model small enough, films of a few pictures, ranks of one machine."""
import json
import os
import socket
from dataclasses import replace

import numpy as np
import torch
import torch.multiprocessing as mp
from conftest import FORKS
from PIL import Image

import train
from streamo import FRAME, STATES, Streamo, Tokenizer, VisionConfig
from toy import datasets, pretrain


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


def saved_parts(folder):
    """The arguments that start from a model in this folder."""
    for part in parts()[::-1]:
        part.save_pretrained(folder)
    return ["--model", str(folder)]


def run_here(monkeypatch, *arguments):
    """A run of train.py in this process, of micro-batches of 200 tokens."""
    monkeypatch.setattr(train, "CURRICULUM", ((1.0, 200, {"one": 1.0}),))
    o = train.parse([*arguments, "--workers", "0"])
    train.run(o)
    return o


def told(out):
    """What log.jsonl says but for clocks and memory."""
    lines = [json.loads(line) for line in open(out / "log.jsonl")]
    clocks = {"seconds", "waited", "memory_MiB", "tokens_per_second", "samples_per_second"}
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]
