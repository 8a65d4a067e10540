"""Benchmarks and their scorers. Running and scoring are separate; every score is 0-100.

    python eval.py toy --model assets/tiny --videos 300 --seed 7 --out toy.json
    python eval.py toy --model assets/tiny --data raw.json --videos-folder FOLDER --out own.json
    python eval.py run ovo --data ovo_bench_new.json --videos FOLDER --model DIR --out ovo.jsonl
    python eval.py run mvbench --offline --data json/ --videos FOLDER --model DIR --out mv.jsonl
    torchrun --nproc_per_node=8 eval.py run ovo ... --out ovo.jsonl     writes ovo.rank0.jsonl, ...
    python eval.py score ovo ovo.rank*.jsonl --out ovo.json             official result files too

`toy` and `run` write a JSON line per item, and go on where they stopped.
Scores follow the official rules to the letter; where a rule has a known fault, the corrected figure
stands beside.
"""
import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
from bench import public
from bench.streams import JUDGE, TASKS, score_stream, timing_table
from infer import STATES as NAMES
from infer import see, stream, unspoken
from parts.files import read_records, write_json
from parts.video import frames
from streamo import RESPONSE, SILENCE, STATES, KVCache, Streamo, Tokenizer
from toy import dialogues

# ---- Running

@lru_cache(1)
def load_model(folder, device):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return Streamo.from_pretrained(folder, dtype, device).eval(), Tokenizer.from_pretrained(folder)


@torch.inference_mode()
def encode(model, pictures):
    """(second, picture)s -> [(second, (tokens, hidden))]: the only vision pass over a video."""
    pictures, out = iter(pictures), []
    while chunk := list(islice(pictures, 32)):          # the pictures of an hour fit in no memory
        tokens, features = see(model, [picture for _, picture in chunk])
        out += zip([second for second, _ in chunk], features.split(tokens))
    return out


@torch.inference_mode()
def answer_at_once(model, tokenizer, features, question, max_new_tokens=64):
    """Offline: a silent turn with all frames, then one with the question, answered at once."""
    last, end = len(features) - 1, tokenizer.id("<|im_end|>")
    chunk = [*data.system_part(tokenizer),
             *data.user_part(tokenizer, last, [len(frame) for frame in features]),
             *data.assistant_part(tokenizer, SILENCE),
             *data.user_part(tokenizer, last + 1, [], question), tokenizer.id(RESPONSE)]
    need, config = len(chunk) + max_new_tokens, model.config.decoder
    if need > config.max_position_embeddings:
        raise ValueError(f"{need} tokens of frames, question and answer do not fit the decoder's "
                         f"{config.max_position_embeddings} positions; lower --max-frames")
    features, bias, said = torch.cat(features), unspoken(model, tokenizer), []
    cache = KVCache(config, 1, need, features.dtype, features.device)
    while len(said) < max_new_tokens and end not in chunk[-1:]:
        ids = torch.tensor([chunk], device=features.device)
        logits = model(ids, None if said else features, cache, "last")[0]
        said += (chunk := [int((logits + bias).argmax())])
    return tokenizer.decode([token for token in said if token != end]).strip()


def streamed(model, tokenizer, features, record, options):
    """A dialogue of Streamo-Bench: the annotation, and what the stream says (see score_stream)."""
    gold = data.turns_from_record(record, math.ceil(len(features) / options["fps"]))
    questions = [(turn.second, turn.question) for turn in gold if turn.question]
    turns = list(stream(model, tokenizer, features, questions, **options))
    return {"seconds": len(turns),
            "gold": {"states": "".join(str(STATES.index(turn.state)) for turn in gold),
                     "answers": [[t.second, t.text] for t in gold if t.state == RESPONSE]},
            "pred": {"states": "".join(str(NAMES.index(turn.state)) for turn in turns),
                     "answers": [[t.start, t.text] for t in turns if t.state == "response"],
                     "p": [round(turn.probs[2], 4) for turn in turns]}}


def asked(model, tokenizer, features, rows, patience, options):
    """Responses of rows that share a stream, which ends with the second of their moment.

    Without a plan (`ask`) the question comes in the last second; the picture then stands still
    for at most `patience` seconds until the model answers: the first Response counts."""
    if not rows[0].get("ask"):
        now, picture = int(features[-1][0]), features[-1][1]
        features = features + [(now + 1 + k, picture) for k in range(patience)]
        turns = stream(model, tokenizer, features, [(now, rows[0]["prompt"])], **options)
        return [next((t.text for t in turns if t.start >= now and t.state == "response"), None)]
    (second, question, read), responses = rows[0]["ask"], []
    turns = list(stream(model, tokenizer, features, [(second, question)], **options))
    for row in rows:
        seen = [turn for turn in turns if turn.end <= math.ceil(row["end"])]
        said = [turn.text for turn in seen if turn.state == "response"]
        yes = said if read == "any" else seen and seen[-1].state != "silence"
        responses.append((said or [None])[-1] if read == "last" else "Yes" if yes else "No")
    return responses


def run_group(group, run):
    """Answer all rows of one video, encoded once. `run` is all that a worker process is told."""
    model, tokenizer = load_model(run["model"], run["device"])
    began, fps, rows = time.perf_counter(), run["fps"], group["rows"]
    if run["bench"] == "toy":
        clip, size = dialogues.bench(run["seed"], group["video"])[0], model.config.vision.image_size
        pictures = ((k / fps, clip.frame(k / fps, size)) for k in range(clip.seconds * fps))
    else:                               # a record's fps is the rate of a folder of frames
        pictures = frames(group["video"], fps, rows[0].get("fps"))
    features, streams, done = encode(model, pictures), defaultdict(list), []
    options = {key: run[key] for key in ("fps", "threshold", "window")}
    for row in rows:
        streams[not run["offline"] and row.get("ask") or row["id"]].append(row)
    for rows in streams.values():
        start = math.floor(rows[0].get("start") or 0)
        end = max(math.inf if row.get("end") is None else row["end"] for row in rows)
        seen = [(second - start, f) for second, f in features if start <= second // 1 < end]
        if not seen:
            raise ValueError(f"{group['video']}: no frame from {start} to {end} s")
        if "record" in rows[0]:
            answers = [streamed(model, tokenizer, seen, rows[0]["record"], options)]
        elif run["offline"]:
            n = min(len(seen), run["max_frames"])
            some = [seen[k * len(seen) // n][1] for k in range(n)]
            answers = [{"response": answer_at_once(model, tokenizer, some, rows[0]["prompt"])}]
        else:
            answers = [{"response": response} for response in
                       asked(model, tokenizer, seen, rows, run["patience"], options)]
        done += [row | answer for row, answer in zip(rows, answers)]
    compute = round((time.perf_counter() - began) / len(done), 4)
    drop = {"record", "prompt", "ask"}
    return [{k: v for k, v in row.items() if k not in drop} | {"compute": compute} for row in done]


def groups_of(args):
    """[{"video", "rows"}]: what is to be run, video by video."""
    groups = defaultdict(list)
    if args.bench == "toy":
        for i in range(args.videos):
            groups[i] = [{"id": f"{args.seed}/{i}/{k}", "task": task, "record": record}
                         for k, (task, record) in enumerate(dialogues.bench(args.seed, i)[1])]
    elif args.bench == "raw":
        for i, record in enumerate(read_records(args.data)):
            if wrong := data.faults(record):
                raise ValueError(f"{args.data}: record {i}: {wrong[0]}")
            task, rate = record["task_type"], data.parse_rate(record.get("fps"))
            groups[str(data.video_path(record, args.folder))].append(
                {"id": f"{args.data.stem}/{i}", "task": TASKS.get(task, task), "record": record,
                 "fps": rate})
    else:
        paths = [str(path) for path in args.folder.absolute().rglob("*")]
        for row in public.read_rows(args.bench, args.data):
            found = [path for path in paths if path.endswith(os.sep + row["video"])]
            if len(found) != 1:
                raise ValueError(f"{args.folder}: {len(found)} files are called {row['video']}, "
                                 "wanted one; give --videos closer, and the --data of one task")
            groups[found[0]].append(row)
    return [{"video": video, "rows": rows} for video, rows in groups.items()]


def sha256(path, kind):
    """{name: digest} of a file, or of those of a kind in a folder."""
    files = [path] if path.is_file() else sorted(path.glob(f"*.{kind}"))
    if not files:
        raise ValueError(f"{path}: no {kind} file there")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run_bench(args):
    """Answer this process's share of a benchmark -> (rows, settings of the run, their file).

    The file has the settings in its first line, then an item a line; videos that were finished
    before are not run again, and no such line is lost."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    out = args.out.with_suffix(".jsonl" if world == 1 else f".rank{rank}.jsonl")
    cuda = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    run = {"device": cuda if torch.cuda.is_available() else "cpu", "processes": world,
           "sha256": sha256(args.model, "safetensors")}
    if getattr(args, "data", None):
        run["data_sha256"] = sha256(args.data, "json")
    run |= {name: getattr(args, name, None) for name in (
        "bench", "model", "data", "folder", "seed", "fps", "threshold", "window", "offline",
        "max_frames", "patience")}
    header = json.dumps({"run": run}, default=str)
    run, groups = json.loads(header)["run"], groups_of(args)[rank::world]
    lines = out.read_text(encoding="utf-8").split("\n")[:-1] if out.exists() else [header]
    if lines[:1] != [header]:
        raise ValueError(f"{out}: of another run, see its first line; remove it, or change --out")
    kept = {row["id"]: row for row in map(json.loads, lines[1:])}
    todo = [group for group in groups if any(row["id"] not in kept for row in group["rows"])]
    rows = [kept[row["id"]] for group in groups if group not in todo for row in group["rows"]]
    again = {row["id"] for group in todo for row in group["rows"]}
    lines = [json.dumps(row) for row in kept.values() if row["id"] not in again]
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".partial")                  # nothing that was done gets lost
    part.write_text("\n".join((header, *lines, "")), encoding="utf-8")
    part.replace(out)
    total, spawn = sum(len(group["rows"]) for group in groups), get_context("spawn")
    with (open(out, "a", encoding="utf-8") as file, tqdm(total=total, initial=len(rows)) as bar,
          ProcessPoolExecutor(args.workers, spawn, torch.set_num_threads, (1,)) as pool):
        share = map if args.workers == 1 else pool.map
        for answered in share(partial(run_group, run=run), todo):
            file.write("".join(json.dumps(row) + "\n" for row in answered))
            file.flush()
            rows += answered
            bar.update(len(answered))
    return rows, run, out

VERSIONS = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}


def report(bench, scores, out, **about):
    """Print a table of the scores; write them to `out` with all that is needed to repeat them."""
    beside = scores.get("corrected", {})
    print(f"{bench:34}{'score':>8}" + (f"{'corrected':>12}" if beside else ""))
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            print(f"{name:34}{value:8.2f}" + (f"{beside[name]:12.2f}" if name in beside else ""))
    for name, line in zip(NAMES, scores.get("confusion", ())):
        print(f"{name:10} of the annotation said as", *map("{}: {} ".format, NAMES, line))
    if "confusion" in scores:
        print(JUDGE)
    if "timing" in scores:
        print("", *timing_table(scores["timing"]), sep="\n")
    write_json(out, scores | about | {"versions": VERSIONS})


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True)
    commands = {name: subparsers.add_parser(name) for name in ("toy", "run", "score")}
    workers = 1 if torch.cuda.is_available() else min(2, os.cpu_count())

    def add(names, flag, **settings):
        for name in names.split():
            commands[name].add_argument(flag, **settings)

    add("run score", "bench", choices=("raw", *public.READERS))
    add("score", "files", nargs="+", type=Path)
    add("toy run", "--model", type=Path, required=True, help="checkpoint folder")
    add("run", "--data", type=Path, required=True, help="annotation file")
    add("run", "--videos", type=Path, required=True, dest="folder")
    add("toy", "--data", type=Path, help="raw records, in place of the toy videos")
    add("toy", "--videos-folder", type=Path, dest="folder", default=Path())
    add("toy", "--videos", type=int, default=300, help="how many")
    add("toy run", "--seed", type=int, default=10**6, help="of toy videos")
    add("toy run score", "--out", type=Path, required=True)
    add("toy run", "--workers", type=int, default=workers)
    add("toy run", "--fps", type=int, default=1, help="frames in a turn, a second")
    add("toy run", "--threshold", type=float, help="of P(Response)")
    add("toy run", "--window", type=int, help="seconds kept in the context")
    add("run", "--offline", action="store_true", help="all frames in one turn")
    add("run", "--max-frames", type=int, default=64, help="offline")
    add("run", "--patience", type=int, default=10,
        help="seconds that the last picture stands still until an answer comes")
    args = parser.parse_args(argv)
    try:
        if args.command == "score":
            rows, of = [], {}                       # the file that each item was first met in
            for file in args.files:
                rows += (more := public.read_rows(args.bench, file))
                if twice := [id for row in more if of.setdefault(id := row["id"], file) != file]:
                    raise ValueError(f"{file}: item {twice[0]} is in {of[twice[0]]}, too")
            scores = score_stream(rows) if args.bench == "raw" else public.score(args.bench, rows)
            report(args.bench, scores, args.out, files=[*map(str, args.files)])
        else:
            for flag in {"fps", "videos", "max_frames", "workers"} & vars(args).keys():
                if isinstance(n := getattr(args, flag), int) and n < 1:
                    raise ValueError(f"--{flag.replace('_', '-')} {n}: at least 1")
            if args.command == "toy" and args.out.suffix == ".jsonl":
                raise ValueError(f"--out {args.out}: the scores' file, .json; answers lie beside")
            args.bench = args.bench if args.command == "run" else "raw" if args.data else "toy"
            rows, run, out = run_bench(args)
            if args.command == "run" or "RANK" in os.environ:
                bench = "raw" if args.bench == "toy" else args.bench
                print(f"{len(rows)} items in {out}, to be scored by: eval.py score {bench}")
            else:
                report(args.bench, score_stream(rows), args.out, run=run)
    except (ValueError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
