"""Benchmarks and their scorers. Running and scoring are separate; every score is 0-100.

    python eval.py toy --model assets/tiny --videos 300 --seed 7 --out toy.json
    python eval.py toy --model assets/tiny --data raw.json --videos-folder FOLDER --out own.json
    python eval.py run ovo --data ovo_bench_new.json --videos FOLDER --model DIR --out ovo.jsonl
    python eval.py run mvbench --offline --data json/ --videos FOLDER --model DIR --out mv.jsonl
    torchrun --nproc_per_node=8 eval.py run ovo ... --out ovo.jsonl     writes ovo.rank0.jsonl, ...
    python eval.py score ovo ovo.rank*.jsonl --out ovo.json             official result files too
    python eval.py threshold --model DIR --data held-out.json --videos-folder FOLDER --out t.json
    python eval.py score vispeak vs.jsonl --judged vs.judge.jsonl --out vs.json

`toy` and `run` write a JSON line per item, and go on where they stopped. A video that is missing or
broken ends nothing: its items are recorded as failed, and run again by the next call.
Scores follow the official rules to the letter; where a rule has a known fault, the corrected figure
stands beside.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from bench import baselines, proactive, public
from bench.answers import run_group
from bench.report import READERS, SIZES, failures, lacking, named_scores, read_answers, report, say
from bench.streams import own_task, threshold_curve
from parts import checks
from parts.annotations import faults, parse_rate, read_annotations, task_of, video_path
from parts.files import (MISSHAPEN, check_folder, check_outputs, counted, in_words, model_folder,
                         read_json, sha256, write_json, write_text)
from parts.offline import has_states
from parts.options import Parser, a_path, check_bounds
from parts.workers import share
from toy import dialogues

# what a model's answers depend on, of all that lies in its folder
MODEL_FILES = ("model*.safetensors", "*.index.json", "*config.json", "tokenizer.json", "vocab.json",
               "merges.txt", "chat_template.*")
# and what none of our outputs may replace there; scores may lie beside
KEPT = *MODEL_FILES, "*.safetensors", "run.json", "added_tokens.json", "special_tokens_map.json"

# ---- Many videos

def files_below(folder):
    """The paths of all that lies below a folder, also behind links, each of which is followed once:
    they may go round."""
    followed = {os.path.realpath(folder)}
    for at, folders, files in os.walk(folder, followlinks=True):
        yield from (os.path.join(at, name) for name in folders + files)
        for name in folders[:]:
            path = os.path.join(at, name)
            if os.path.islink(path):
                real = os.path.realpath(path)
                if real in followed:
                    folders.remove(name)
                followed.add(real)


def found_videos(folder, rows):
    """[{"video", "rows"}] of rows whose videos lie anywhere below a folder; {"missing": reason} in
    a group whose video is not there once. ValueError when there is none at all."""
    paths, groups = defaultdict(list), {}
    for path in files_below(str(folder.absolute())):
        paths[os.path.basename(path)].append(path)
    for row in rows:
        name = os.sep + row["video"]
        # by whatever names, each once
        found = [*{os.path.realpath(path): path for path in paths[name.split(os.sep)[-1]]
                   if path.endswith(name)}.values()]
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
            groups[(film, i), None] = [
                {"id": f"{args.seed}/{i}{film}/{k}", "task": task, "record": record}
                for k, (task, record) in enumerate(rows)]
    elif args.bench == "raw":
        for i, record in enumerate(read_annotations(args.data)):
            if wrong := faults(record, args.folder):
                raise ValueError(f"{args.data}: record {i}: {wrong[0]}")
            task, rate = task_of(record), parse_rate(record.get("fps"))
            groups[str(video_path(record, args.folder)), rate].append(      # watched at one rate
                {"id": f"{args.data.stem}/{i}", "task": own_task(task), "record": record,
                 "fps": rate})
    else:
        rows = public.read_rows(args.bench, args.data, READERS)
        if not rows:
            raise ValueError(f"{args.data}: no item of {args.bench} in it")
        for name, n in Counter(row["id"] for row in rows).items():
            if n > 1:
                raise ValueError(f"{args.data}: item {name} is there {n} times")
        return found_videos(args.folder, rows)
    return [{"video": video, "rows": rows} for (video, _), rows in groups.items()]


def digests_in(path, *patterns):
    """{name: SHA-256} of a file, or of those in a folder whose names are of these patterns.
    ValueError where none is of the first."""
    if path.is_file():
        return {path.name: sha256(path)}
    if not any(path.glob(patterns[0])):
        raise ValueError(f"{path}: no {patterns[0]} there")
    return {file.name: sha256(file) for pattern in patterns for file in sorted(path.glob(pattern))}


def files_in(path):
    """The files that a command reads at a path: itself, or all in a folder; none of None."""
    return [] if path is None else [*path.iterdir()] if path.is_dir() else [path]


def settings_of(args, world):
    """What a run's answers depend on: the first line of its file."""
    cuda = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    run = {"device": cuda if torch.cuda.is_available() else "cpu", "processes": world,
           "sha256": digests_in(args.model, *MODEL_FILES)}
    if getattr(args, "data", None):
        run["data_sha256"] = digests_in(args.data, "*.json")
    if getattr(args, "decider", None):
        digest = run["sha256"].get("model.safetensors")
        baselines.check_decider(args.decider, args.model, digest)
        run["decider_sha256"] = digests_in(args.decider, "*.safetensors")
    return run | {name: getattr(args, name, None) for name in (
        "bench", "model", "data", "folder", "seed", "fps", "threshold", "window", "offline",
        "max_frames", "patience", "polled", "every", "agreement", "no_repeat",
        "prune", "memory", "decider", "max_new_tokens")}


def differing(lines, header):
    """Which settings of a run are not as they were. lines: of its file; header: as it is now."""
    try:
        was, now = (json.loads(line)["run"] for line in (lines[0], header))
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    except MISSHAPEN:
        names = []
    return f"with another {', '.join(names)}" if names else "see its first line"


def nothing_answered(lines):
    """Whether the lines are a run's whose items have all failed: there is nothing to be lost."""
    try:
        first, *rows = map(json.loads, lines)
        return "run" in first and bool(rows) and all("failed" in row for row in rows)
    except MISSHAPEN:
        return False


def done_before(out, header):
    """{id: row} of a run's file; a last line that was cut short is none of it."""
    lines = [header]
    if out.exists():                                    # bytes that are no UTF-8: a broken line
        lines = out.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    if lines[:1] != [header]:
        if nothing_answered(lines):                         # a folder was mistyped, say
            return {}
        raise ValueError(f"{out}: of another run, {differing(lines[:1], header)}; remove it, or "
                         "change --out")
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
    check_folder("--out", out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    groups = groups_of(args)
    check_outputs({"the answers": out, "--out": also}, {
        "--data": files_in(getattr(args, "data", None)),
        "--model": [file for kind in KEPT for file in args.model.glob(kind)],
        "--decider": files_in(getattr(args, "decider", None)),
        "video": [group["video"] for group in groups if args.bench != "toy"]})
    if also:
        check_scores_file(also)
    run = settings_of(args, world)
    if args.bench != "toy":                             # so that scoring knows what is absent
        run["items"] = sum(len(group["rows"]) for group in groups)
    header, groups = json.dumps({"run": run}, default=str), groups[rank::world]
    run, rows = json.loads(header)["run"], done_before(out, header)
    todo = [group | {"rows": [row for row in group["rows"]
                              if row["id"] not in rows or "failed" in rows[row["id"]]]}
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
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True)
    commands = {name: subparsers.add_parser(name)
                for name in ("toy", "run", "score", "threshold")}
    workers = 1 if torch.cuda.is_available() else min(2, os.cpu_count())

    def add(names, flag, **settings):
        for name in names.split():
            commands[name].add_argument(flag, **settings)

    add("run score", "bench", choices=("raw", *READERS))
    add("score", "files", nargs="+", type=a_path)
    add("toy run threshold", "--model", type=a_path, required=True, help="checkpoint folder")
    add("run", "--data", type=a_path, required=True, help="annotation file")
    add("score", "--data", type=a_path, help="annotations, for what answers lack and do not hold")
    add("score", "--judged", type=a_path, help="vispeak: the file for a judge, with its marks")
    add("run", "--videos", type=a_path, required=True, dest="folder")
    add("toy threshold", "--data", type=a_path, help="raw records, in place of the toy videos")
    add("toy threshold", "--videos-folder", type=a_path, dest="folder", help="of the records (.)")
    add("toy threshold", "--videos", type=int, help="how many toy videos (300)")
    add("toy threshold", "--seed", type=int, help="of toy videos (1000000)")
    add("toy run score threshold", "--out", type=a_path, required=True)
    add("toy run threshold", "--workers", type=int, default=workers)
    add("toy run threshold", "--fps", type=int, default=1, help="frames in a turn, a second")
    add("toy run", "--threshold", type=float, help="of P(Response)")
    add("toy run threshold", "--window", type=int, help="seconds kept in the context")
    add("toy run threshold", "--max-new-tokens", type=int, help="of one answer (64)")
    add("toy run threshold", "--strict", action="store_true",
        help="end at the first video that fails")
    add("threshold", "--write", action="store_true",
        help="put the best one into the checkpoint's config.json, from where infer.py takes it")
    add("toy run", "--polled", action="store_true",
        help="ask in every second, not by states; what says the same as before is silence")
    add("toy", "--patience", type=int, default=1, dest="agreement", metavar="SECONDS",
        help="on end that must want an answer before it is given")
    add("toy", "--no-repeat", action="store_true",
        help="no answer equal to the last one, unless a question came between")
    add("toy", "--prune", type=int, help="seconds that keep their frames; of older ones the text "
                                         "stays")
    add("toy", "--memory", choices=("sinks",), help="in place of the window, StreamingVLM's")
    add("toy", "--decider", type=a_path, help="what says when to speak: python -m bench.baselines")
    add("toy run", "--every", type=int,
        help="seconds from one asking of an offline model to the next (5)")
    add("run", "--offline", action="store_true", help="all frames in one turn")
    add("run", "--max-frames", type=int, help="of a video, with --offline (64)")
    add("run", "--patience", type=int,
        help="seconds that the last picture stands still until an answer comes (10)")
    args = parser.parse_args(argv)
    check_options(parser, args)
    if args.command != "score":
        if args.folder and not args.folder.is_dir():
            flag = "--videos" if args.command == "run" else "--videos-folder"
            raise ValueError(f"{flag} {args.folder}: no such folder")
    for name, default in DEFAULTS.items():
        if getattr(args, name, None) is None and (hasattr(args, name) or name == "seed"):
            setattr(args, name, default)
    if args.command in ("toy", "threshold"):
        args.bench = "raw" if args.data else "toy"
    return args


# where nothing is said; some commands have no such option
DEFAULTS = {"videos": 300, "seed": 10**6, "folder": Path(), "every": 5, "max_frames": 64,
            "patience": 10}


def check_options(parser, args):
    """ValueError for options that are out of bounds, or do not go together."""
    check_bounds(parser, args, {**checks.BOUNDS, "videos": (1, 10**6), "workers": (1, 1024),
                                "max_frames": (1, 10**5), "every": 1, "patience": (0, 86400)})
    given = {name for name, value in vars(args).items() if value is not None}
    if args.command != "score":
        model_folder(args.model)
    toy = ", ".join(f"--{name}" for name in ("videos", "seed") if name in given)
    for wrong, message in (
            (toy and args.data,
             f"{toy}: of the toy world, go without it where --data is given"),
            ("folder" in given and args.command != "run" and not args.data,
             "--videos-folder: of --data, and the toy world draws its own"),
            ("max_frames" in given and not args.offline,
             "--max-frames: of --offline, a stream has all its frames"),
            (args.command == "run" and args.offline and (args.polled or given & {
                "window", "threshold", "every", "patience"}),
             "--offline: all frames in one turn; go without --window, --threshold, --every, "
             "--patience and --polled"),
            (getattr(args, "polled", False) and given & {"threshold", "every"},
             "--polled: asked in every second, go without --threshold and --every"),
            (args.command == "threshold" and "RANK" in os.environ,
             "threshold: it needs all answers; go without torchrun, with --workers"),
            (args.command == "threshold" and not has_states(args.model),
             "threshold: of P(Response); --model has no states, it is an offline model"),
            ("every" in given and has_states(args.model),
             "--every: of an offline model; this one says by itself when to speak")):
        if wrong:
            raise ValueError(message)
    if getattr(args, "agreement", 1) < 1:
        parser.error(f"--patience {args.agreement}: at least 1")
    if args.command == "toy":
        check_baselines(args)
    if args.command == "run" and args.offline and args.bench in ("raw", *proactive.READERS):
        raise ValueError(f"--offline: {args.bench} asks when to speak, which only a stream tells")
    if args.command == "score" and args.bench == "raw" and args.data:
        raise ValueError("--data: the answers to raw records hold their annotations")
    if args.command == "score" and args.judged and args.bench != "vispeak":
        raise ValueError(f"--judged: nothing of {args.bench} is for a judge")
    if args.command == "run" and args.out.suffix != ".jsonl":
        raise ValueError(f"--out {args.out}: the answers' file, .jsonl; `score` makes scores of it")


def check_scores_file(out):
    """ValueError for what may be something else, a film or notes: scores would replace it."""
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: the scores' file, .json; answers lie beside")
    if any(out.match(kind) for kind in KEPT):
        raise ValueError(f"--out {out}: a model's file is called so, take another name")
    if out.is_file() and out.stat().st_size:
        was = read_json(out)
        if not (isinstance(was, dict) and was.keys() & {"versions", "curve"}):
            raise ValueError(f"--out {out}: there is something else in it, take another name")


def check_baselines(args):
    """ValueError where one option of `toy` would have another ignored."""
    rules = {"--polled": args.polled, "--threshold": args.threshold is not None,
             "--patience": args.agreement > 1, "--no-repeat": args.no_repeat}
    if args.polled and args.no_repeat:
        raise ValueError("--polled: what says the same as before is silence already; go without "
                         "--no-repeat")
    memory = {"--window": args.window is not None, "--prune": args.prune, "--memory": args.memory}
    for flag, on, others, why in (
            ("--decider", args.decider, rules, "it alone says when to speak"),
            ("--memory", args.memory, {k: memory[k] for k in ("--window", "--prune")},
             "it has a length of its own")):
        for other in (other for other, given in others.items() if on and given):
            raise ValueError(f"{flag}: {why}; go without {other}")
    given = {"--decider": args.decider, **rules, **memory}
    known = {"--threshold", "--window", "--polled"}
    for flag in (flag for flag, on in given.items() if on and flag not in known):
        if not has_states(args.model):
            raise ValueError(f"{flag}: {args.model} has no states, it is an offline model")


def score(args):
    """Score files of answers; print and write the report."""
    judge = args.out.with_suffix(".judge.jsonl") if args.bench == "vispeak" else None
    files = [file.resolve() for file in args.files]             # by whatever names
    for n, file in enumerate(files):
        if file in files[:n]:
            raise ValueError(f"{args.files[n]}: each file once")
    check_folder("--out", args.out.parent)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    check_outputs({"--out": args.out, "the judge's file": None if args.judged else judge}, {
        "the answers": args.files, "--data": files_in(args.data), "--judged": args.judged})
    check_scores_file(args.out)
    rows, failed, of, items = read_answers(args.bench, args.files)
    sizes, absent, marks = {"": items} if items else SIZES.get(args.bench, {}), [], None
    if args.data:
        gold = {row["id"]: row for row in public.read_rows(args.bench, args.data, READERS)}
        for row in rows:
            if row["id"] not in gold:
                raise ValueError(f"{of[row['id']]}: item {row['id']} is not in {args.data}")
        rows = [gold[row["id"]] | {key: value for key, value in row.items()
                                   if value is not None or key == "response"} for row in rows]
        sizes = Counter(row["task"] for row in gold.values())
        tasks = {row["task"] for row in rows}
        absent = [row for id, row in gold.items() if id not in of and row["task"] in tasks]
    if not rows:
        raise ValueError(f"{args.files[0]}: no answered item of {args.bench}"
                         + (f"; {failed[0]['failed']}" if failed else ""))
    if args.judged:
        marks = proactive.judged(rows, args.judged)
    scores = named_scores(args.bench, rows, of, absent, marks)
    about = {"lacking": lacking(rows, failed, sizes), "failed": failed,
             "files": [*map(str, args.files)]}
    if (lines := scores.pop("to_judge", None)) is not None:
        kept = proactive.with_marks(lines, judge)           # what was judged before stays
        write_text(judge, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        about["to_judge"] = f"{counted(len(lines), 'answer')} in {judge}"
    report(args.bench, scores, args.out, **about)


def run(args):
    """Run a benchmark, and score it where that is one command."""
    rows, settings, out = run_bench(args, args.out if args.command == "toy" else None)
    good, failed = by_success(rows)
    if args.command == "run" or "RANK" in os.environ:
        bench = "raw" if args.bench == "toy" else args.bench
        say(f"{counted(len(good), 'item')} in {out}, to be scored by: eval.py score {bench}",
            *failures(failed))
    else:
        scores = named_scores("raw", good, defaultdict(lambda: out))
        report(args.bench, scores, args.out, run=settings, failed=failed)


def by_success(rows):
    """(answered rows, failed rows). ValueError where all have failed."""
    good, failed = ([row for row in rows if ("failed" in row) == bad] for bad in (False, True))
    if failed and not good:
        raise ValueError(f"nothing was answered, {counted(len(failed), 'item')} failed, the first: "
                         f"{failed[0]['failed']}")
    return good, failed


def threshold(args):
    """Find the P(Response) from which on to respond: the best F1 of Response turns within 1 s. Read
    off the probabilities of one run, whose context stays as its own decisions made it."""
    rows, settings, _ = run_bench(args, args.out)
    good, failed = by_success(rows)
    due = any(row["gold"]["answers"] for row in good)
    curve = [{"threshold": t, "precision": p, "recall": r, "f1": 2 * p * r / max(p + r, 1e-9)}
             for t, p, r in threshold_curve(good)]
    if not (curve and due):
        raise ValueError(f"{args.data or 'the toy world'}: nothing is ever to be said there")
    most = max(point["f1"] for point in curve)
    alike = [point for point in curve if point["f1"] == most]
    best = alike[len(alike) // 2]                           # as far from either end
    say("threshold  precision  recall     F1",
        *("{threshold:9g} {precision:10.1f} {recall:7.1f} {f1:6.1f}".format(**point)
          + " <" * (point is best) for point in curve), *failures(failed))
    write_json(args.out, {"best": best, "curve": curve, "run": settings})
    if args.write and not best["f1"]:
        raise ValueError(f"--write: no threshold has a Response in its place, {args.model} is left "
                         "as it is")
    if args.write:
        path = args.model / "config.json"
        write_json(path, read_json(path) | {"threshold": best["threshold"]})
        say(f"{path}: threshold {best['threshold']:g}")


def main(argv=None):
    """Exit code: 0; 2 for bad input, with one line on stderr; 130 after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        args = parse(argv)
        {"score": score, "threshold": threshold}.get(args.command, run)(args)
    except KeyboardInterrupt:
        print("eval.py: interrupted; what was finished is kept", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        print("eval.py:", in_words(error), file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
