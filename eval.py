"""Benchmarks and their scorers. Running and scoring are separate; every score is 0-100.

    python eval.py toy --model assets/tiny --videos 300 --seed 7 --out toy.json
    python eval.py toy --model assets/tiny --data raw.json --videos-folder FOLDER --out own.json
    python eval.py run ovo --data ovo_bench_new.json --videos FOLDER --model DIR --out ovo.jsonl
    python eval.py run mvbench --offline --data json/ --videos FOLDER --model DIR --out mv.jsonl
    torchrun --nproc_per_node=8 eval.py run ovo ... --out ovo.jsonl     writes ovo.rank0.jsonl, ...
    python eval.py score ovo ovo.rank*.jsonl --out ovo.json             official result files too
    python eval.py score vispeak vs.jsonl --judged vs.judge.jsonl --out vs.json

`toy` and `run` write a JSON line per item, and go on where they stopped. A video that is missing or
broken ends nothing: its items are recorded as failed, and run again by the next call.
Scores follow the official rules to the letter; where a rule has a known fault, the corrected figure
stands beside.
"""
import os
import signal
import sys

if __name__ == "__main__":          # Ctrl-C while PyTorch is being imported, which takes seconds
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))

import argparse
import hashlib
import json
import math
import time
from collections import Counter, defaultdict
from contextlib import closing
from functools import lru_cache, partial
from itertools import islice, product
from pathlib import Path

import av
import torch
from tqdm import tqdm

import data
from bench import proactive, public
from bench.report import READERS, SIZES, failures, lacking, named_scores, read_answers, report, say
from bench.streams import TASKS
from infer import STATES as NAMES
from infer import see, stream, unspoken
from parts import offline
from parts.annotations import faults, parse_rate, read_annotations, task_of, video_path
from parts.files import MISSHAPEN, check_outputs, read_records, write_text
from parts.video import frames
from parts.workers import share
from streamo import RESPONSE, SILENCE, STATES, KVCache, Streamo
from toy import dialogues

BAD_VIDEO = OSError, ValueError, av.FFmpegError, torch.OutOfMemoryError


# ---- A video and its questions

@lru_cache(1)
def load_model(folder, device):
    """(model, tokenizer, prompt) of a checkpoint; prompt is an offline model's own, else None."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model, tokenizer = Streamo.from_pretrained(folder, dtype, device).eval(), offline.words(folder)
    prompt = None if offline.has_states(folder) else \
        offline.Prompt.from_pretrained(folder, tokenizer, dtype, device)
    return model, tokenizer, prompt


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


@torch.inference_mode()
def answer_in_own_prompt(model, tokenizer, prompt, group, row, run):
    """The same of an offline model: its own prompt, pictures sampled as lmms-eval does."""
    start, end = row.get("start") or 0.0, row.get("end")
    images = offline.sampled(group["video"], run["max_frames"], start,
                             math.inf if end is None else math.ceil(end))
    features = torch.cat([feature for _, feature in encode(model, enumerate(images))])
    text = row.get("lmms_prompt", row["prompt"])
    stream = offline.OfflineStream(
        model, prompt, unspoken(model, tokenizer), window=0,
        capacity=len(prompt.head) + len(features) + len(prompt.question(text)) + 65)
    return stream.answer_at_once(features, text)


def turns_of(model, tokenizer, features, questions, options):
    """The turns of a stream. ValueError when it refuses a question."""
    counts = Counter()
    for turn in stream(model, tokenizer, features, questions, counts=counts, **options):
        for what, n in counts.items():
            if n and "refused" in what:
                raise ValueError(f"second {turn.start}: {what}")
        yield turn


def streamed(model, tokenizer, features, record, options):
    """A dialogue: the annotation, and what the stream says (see bench/streams.py)."""
    gold = data.turns_from_record(record, math.ceil(len(features) / options["fps"]))
    questions = [(turn.second, turn.question) for turn in gold if turn.question]
    turns = list(turns_of(model, tokenizer, features, questions, options))
    return {"seconds": len(turns),
            "gold": {"states": "".join(str(STATES.index(turn.state)) for turn in gold),
                     "answers": [[t.second, t.text] for t in gold if t.state == RESPONSE]},
            "pred": {"states": "".join(str(NAMES.index(turn.state)) for turn in turns),
                     "answers": [[t.start, t.text] for t in turns if t.state == "response"],
                     "p": [round(turn.probs[2], 4) for turn in turns]}}


def watched(model, tokenizer, features, row, start, options):
    """[[second, text]] of what is said to a request that stands from the beginning (see
    bench/proactive.py): the first Response or all, each at the second in which its turn ends."""
    said = []
    for turn in turns_of(model, tokenizer, features, [(0, row["request"])], options):
        if turn.state == "response" and turn.start >= row.get("counts_from", 0):
            said.append([start + turn.end, turn.text])
            if row.get("first"):
                break
    return said


def asked(model, tokenizer, features, rows, patience, options):
    """Responses of rows that share a stream, which ends with the second of their moment.

    Without a plan (`ask`) the question comes in the last second; the picture then stands still
    for at most `patience` seconds until the model answers: the first Response counts. At once: it
    does not, and silence is an answer, ""."""
    if not rows[0].get("ask"):
        now, picture = int(features[-1][0]), features[-1][1]
        at_once = rows[0].get("at_once")
        features = features + [(now + 1 + k, picture) for k in range(0 if at_once else patience)]
        turns = turns_of(model, tokenizer, features, [(now, rows[0]["prompt"])], options)
        said = (t.text for t in turns if t.start >= now and t.state == "response")
        return [next(said, "" if at_once else None)]
    (second, question, read), responses = rows[0]["ask"], []
    turns = list(turns_of(model, tokenizer, features, [(second, question)], options))
    for row in rows:
        seen = [turn for turn in turns if row["end"] is None or turn.end <= math.ceil(row["end"])]
        said = [turn.text for turn in seen if turn.state == "response"]
        yes = said if read == "any" else seen and seen[-1].state != "silence"
        responses.append((said or [None])[-1] if read == "last" else "Yes" if yes else "No")
    return responses


def answers_to(model, tokenizer, rows, features, run):
    """A dictionary for each of the rows, which share a stream: what it says of them."""
    start = math.floor(rows[0].get("start") or 0)
    end = max(math.inf if row.get("end") is None else row["end"] for row in rows)
    seen = [(second - start, f) for second, f in features if start <= second // 1 < end]
    if not seen:
        raise ValueError(f"no frame from {start} to {end} s")
    options = {key: run[key] for key in ("fps", "threshold", "window")}
    if "record" in rows[0]:
        return [streamed(model, tokenizer, seen, rows[0]["record"], options)]
    if "request" in rows[0]:
        return [{"said": watched(model, tokenizer, seen, rows[0], start, options)}]
    if run["offline"]:
        n = min(len(seen), run["max_frames"])
        some = [seen[k * len(seen) // n][1] for k in range(n)]
        return [{"response": answer_at_once(model, tokenizer, some, rows[0]["prompt"])}]
    return [{"response": response} for response in
            asked(model, tokenizer, seen, rows, run["patience"], options)]


def answer_group(model, tokenizer, prompt, group, run):
    """The answered rows of one video, encoded once; an error of BAD_VIDEO where it is no good."""
    began, fps, rows = time.perf_counter(), run["fps"], group["rows"]
    if group.get("missing"):
        raise FileNotFoundError(group["missing"])
    if run["bench"] == "toy":
        (film, i), size = group["video"], model.config.vision.image_size
        clip, _ = dialogues.BENCH[film](run["seed"], i)
        pictures = ((k / fps, clip.frame(k / fps, size)) for k in range(clip.seconds * fps))
    else:                               # a record's fps is the rate of a folder of frames
        pictures = frames(group["video"], fps, rows[0].get("fps"), trusted=False)
    streams, done = defaultdict(list), []
    if prompt and run["offline"]:
        return timed([row | {"response": answer_in_own_prompt(model, tokenizer, prompt, group, row,
                                                              run)} for row in rows], began)
    features = encode(model, pictures)
    for row in rows:
        streams[not run["offline"] and row.get("ask") or row["id"]].append(row)
    for rows in streams.values():
        try:
            answers = answers_to(model, tokenizer, rows, features, run)
            done += [row | answer for row, answer in zip(rows, answers, strict=True)]
        except BAD_VIDEO as error:                      # the other questions are asked all the same
            done += failed_rows(group["video"], rows, error)
    return timed(done, began)


def timed(done, began):
    """Answered rows as they are written: without what was needed to ask, with the time it took."""
    compute = round((time.perf_counter() - began) / len(done), 4)
    drop = {"record", "prompt", "lmms_prompt", "ask", "request", "first", "at_once", "counts_from"}
    return [{k: v for k, v in row.items() if k not in drop} | {"compute": compute} for row in done]


def failed_rows(video, rows, error):
    """Rows with the reason why there is no answer, in place of the answers."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if str(video) not in reason:
        reason = f"{video}: {reason}"
    return [{"id": row["id"], "task": row["task"], "failed": reason} for row in rows]


def run_group(group, run):
    """The rows of one video, answered or failed. `run` is all that a worker process is told."""
    model, tokenizer, prompt = load_model(run["model"], run["device"])
    try:
        return answer_group(model, tokenizer, prompt, group, run)
    except BAD_VIDEO as error:
        return failed_rows(group["video"], group["rows"], error)


# ---- Many videos

def found_videos(folder, rows):
    """[{"video", "rows"}] of rows whose videos lie anywhere below a folder; {"missing": reason} in
    a group whose video is not there once. ValueError when there is none at all."""
    paths, groups = defaultdict(list), {}
    for path in folder.absolute().rglob("*"):
        paths[path.name].append(str(path))
    for row in rows:
        name = os.sep + row["video"]
        found = [path for path in paths[name.split(os.sep)[-1]] if path.endswith(name)]
        group = {"video": found[0], "rows": []} if len(found) == 1 else {
            "video": row["video"], "rows": [],
            "missing": f"{folder}: {len(found)} files are called {row['video']}, wanted one"
                       + "; give --videos closer, and the --data of one task" * (len(found) > 1)}
        groups.setdefault(group["video"], group)["rows"].append(row)
    if not any("missing" not in group for group in groups.values()):
        raise ValueError(f"{folder}: no video of the benchmark is there, as {rows[0]['video']}")
    return [*groups.values()]


def groups_of(args):
    """[{"video", "rows"}]: what is to be run, video by video."""
    groups = defaultdict(list)
    if args.bench == "toy":
        for film, i in product(dialogues.BENCH, range(args.videos)):
            _, rows = dialogues.BENCH[film](args.seed, i)
            groups[film, i] = [{"id": f"{args.seed}/{i}{film}/{k}", "task": task, "record": record}
                               for k, (task, record) in enumerate(rows)]
    elif args.bench == "raw":
        for i, record in enumerate(read_annotations(args.data)):
            if wrong := faults(record, args.folder):
                raise ValueError(f"{args.data}: record {i}: {wrong[0]}")
            task, rate = task_of(record), parse_rate(record.get("fps"))
            groups[str(video_path(record, args.folder))].append(
                {"id": f"{args.data.stem}/{i}", "task": TASKS.get(task, task), "record": record,
                 "fps": rate})
    else:
        rows = public.read_rows(args.bench, args.data, READERS)
        if not rows:
            raise ValueError(f"{args.data}: no item of {args.bench} in it")
        return found_videos(args.folder, rows)
    return [{"video": video, "rows": rows} for video, rows in groups.items()]


def sha256(path, *kinds):
    """{name: digest} of a file, or of those of some kinds in a folder."""
    files = [path] if path.is_file() else sorted(
        file for kind in kinds for file in path.glob(f"*.{kind}"))
    if not files:
        raise ValueError(f"{path}: no {kinds[0]} file there")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def files_in(path):
    """The files that a command reads at a path: itself, or all in a folder; none of None."""
    return [] if path is None else [*path.iterdir()] if path.is_dir() else [path]


def settings_of(args, world):
    """What a run's answers depend on: the first line of its file."""
    cuda = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    sha256(args.model, "safetensors")                   # an error names what is missing
    run = {"device": cuda if torch.cuda.is_available() else "cpu", "processes": world,
           "sha256": sha256(args.model, "safetensors", "json", "txt")}
    if getattr(args, "data", None):
        run["data_sha256"] = sha256(args.data, "json")
    return run | {name: getattr(args, name, None) for name in (
        "bench", "model", "data", "folder", "seed", "fps", "threshold", "window", "offline",
        "max_frames", "patience")}


def done_before(out, header):
    """{id: row} of a run's file; a last line that was cut short is none of it."""
    lines = out.read_text(encoding="utf-8").split("\n")[:-1] if out.exists() else [header]
    if lines[:1] != [header]:
        raise ValueError(f"{out}: of another run, see its first line; remove it, or change --out")
    rows = {}
    for n, line in enumerate(lines[1:], 2):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
        except MISSHAPEN:
            raise ValueError(f"{out}: line {n} is no answer; remove it, and it is run again"
                             ) from None
    return rows


def add_lines(out, rows):
    """Append rows to a file; an error, as of a full disk, names it."""
    try:
        with open(out, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def run_bench(args, also=None):
    """Answer this process's share of a benchmark -> (rows, settings of the run, their file).

    The file has the settings in its first line, then an item a line; videos that were finished
    before are not run again, and no such line is lost. args.strict: the first video that fails
    ends it. also: the other output of the command."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    out = args.out.with_suffix(".jsonl" if world == 1 else f".rank{rank}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    groups = groups_of(args)
    check_outputs({"the answers": out, "--out": also}, {
        "--data": files_in(getattr(args, "data", None)), "--model": files_in(args.model),
        "video": [group["video"] for group in groups if args.bench != "toy"]})
    run = settings_of(args, world)
    if args.bench != "toy":                             # so that scoring knows what is absent
        run["items"] = sum(len(group["rows"]) for group in groups)
    header, groups = json.dumps({"run": run}, default=str), groups[rank::world]
    run, rows = json.loads(header)["run"], done_before(out, header)
    todo = [group | {"rows": [row for row in group["rows"]
                              if "failed" in rows.get(row["id"], {"failed": "not yet asked"})]}
            for group in groups]
    todo = [group for group in todo if group["rows"]]
    again = {row["id"] for group in todo for row in group["rows"]}
    kept = [json.dumps(row) for id, row in rows.items() if id not in again]
    write_text(out, "\n".join([header, *kept, ""]))     # whole: nothing that was done gets lost
    wanted = [row["id"] for group in groups for row in group["rows"]]
    try:
        with (closing(share(partial(run_group, run=run), todo, args.workers,
                            partial(torch.set_num_threads, 1))) as answers,
              tqdm(total=len(wanted), initial=len(wanted) - len(again)) as bar):
            for _, answered in answers:
                failed = next((row["failed"] for row in answered if "failed" in row), None)
                if failed and getattr(args, "strict", False):
                    raise ValueError(failed)
                add_lines(out, answered)
                rows |= {row["id"]: row for row in answered}
                bar.update(len(answered))
    except ChildProcessError as error:
        raise ValueError(f"{out}: {error}; what was finished is kept: run the same command again, "
                         "perhaps with --workers 1") from None
    return [rows[id] for id in wanted], run, out


# ---- The commands

def parse(argv):
    """The arguments; ValueError for a bad one, before anything starts."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True)
    commands = {name: subparsers.add_parser(name) for name in ("toy", "run", "score")}
    workers = 1 if torch.cuda.is_available() else min(2, os.cpu_count())

    def add(names, flag, **settings):
        for name in names.split():
            commands[name].add_argument(flag, **settings)

    add("run score", "bench", choices=("raw", *READERS))
    add("score", "files", nargs="+", type=Path)
    add("toy run", "--model", type=Path, required=True, help="checkpoint folder")
    add("run", "--data", type=Path, required=True, help="annotation file")
    add("score", "--data", type=Path, help="annotations, for what answers lack and do not hold")
    add("score", "--judged", type=Path, help="vispeak: the file for a judge, with its marks")
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
    add("toy run", "--strict", action="store_true", help="end at the first video that fails")
    add("run", "--offline", action="store_true", help="all frames in one turn")
    add("run", "--max-frames", type=int, default=64, help="offline")
    add("run", "--patience", type=int, default=10,
        help="seconds that the last picture stands still until an answer comes")
    args = parser.parse_args(argv)
    for flag in {"fps", "videos", "max_frames", "workers"} & vars(args).keys():
        if isinstance(n := getattr(args, flag), int) and n < 1:
            raise ValueError(f"--{flag.replace('_', '-')} {n}: at least 1")
    if args.command == "toy" and args.out.suffix == ".jsonl":
        raise ValueError(f"--out {args.out}: the scores' file, .json; answers lie beside")
    if args.command == "run" and args.offline and args.bench in proactive.READERS:
        raise ValueError(f"--offline: {args.bench} asks when to speak, which only a stream tells")
    if args.command == "score" and args.bench == "raw" and args.data:
        raise ValueError("--data: the answers to raw records hold their annotations")
    if args.command == "score" and args.judged and args.bench != "vispeak":
        raise ValueError(f"--judged: nothing of {args.bench} is for a judge")
    if args.command == "toy":
        args.bench = "raw" if args.data else "toy"
    return args


def score(args):
    """Score files of answers; print and write the report."""
    judge = args.out.with_suffix(".judge.jsonl") if args.bench == "vispeak" else None
    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_outputs({"--out": args.out, "the judge's file": None if args.judged else judge}, {
        "the answers": args.files, "--data": files_in(args.data), "--judged": args.judged})
    rows, failed, of, items = read_answers(args.bench, args.files)
    sizes, absent, marks = {"": items} if items else SIZES.get(args.bench, {}), [], None
    if args.data:
        gold = {row["id"]: row for row in public.read_rows(args.bench, args.data, READERS)}
        for row in rows:
            if row["id"] not in gold:
                raise ValueError(f"{of[row['id']]}: item {row['id']} is not in {args.data}")
        rows = [gold[row["id"]] | {k: v for k, v in row.items() if v is not None} for row in rows]
        sizes = Counter(row["task"] for row in gold.values())
        tasks = {row["task"] for row in rows}
        absent = [row for id, row in gold.items() if id not in of and row["task"] in tasks]
    if not rows:
        raise ValueError(f"{args.files[0]}: no answered item of {args.bench}"
                         + (f"; {failed[0]['failed']}" if failed else ""))
    if args.judged:
        marks = proactive.judged(rows, read_records(args.judged), args.judged)
    scores = named_scores(args.bench, rows, of, absent, marks)
    about = {"absent": lacking(rows, failed, sizes), "failed": failed,
             "files": [*map(str, args.files)]}
    if (lines := scores.pop("to_judge", None)) is not None:
        write_text(judge, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        about["to_judge"] = f"{len(lines)} answers in {judge}"
    report(args.bench, scores, args.out, **about)


def run(args):
    """Run a benchmark, and score it where that is one command."""
    rows, settings, out = run_bench(args, args.out if args.command == "toy" else None)
    good, failed = ([row for row in rows if ("failed" in row) == bad] for bad in (False, True))
    if failed and not good:
        raise ValueError(f"all {len(failed)} items failed, the first: {failed[0]['failed']}")
    if args.command == "run" or "RANK" in os.environ:
        bench = "raw" if args.bench == "toy" else args.bench
        say(f"{len(good)} items in {out}, to be scored by: eval.py score {bench}",
            *failures(failed))
    else:
        scores = named_scores("raw", good, defaultdict(lambda: out))
        report(args.bench, scores, args.out, run=settings, failed=failed)


def main(argv=None):
    """Exit code: 0; 2 for bad input, with one line on stderr; 130 after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        args = parse(argv)
        score(args) if args.command == "score" else run(args)
    except KeyboardInterrupt:
        print("eval.py: interrupted; what was finished is kept", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        print("eval.py:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
