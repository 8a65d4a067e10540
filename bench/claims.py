"""The paper's claims in miniature: variants trained from one start, with the same seeds and budget.

    python -m bench.claims loss --model DIR --steps 1000 --seeds 3       trains, streams, compares
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

import torch
from PIL import Image, ImageDraw, ImageFont

from bench.public import mean
from bench.report import VERSIONS
from bench.streams import JUDGE, SIX, score_stream, threshold_curve
from eval import digests_in, run_bench
from parts.files import (check, check_folder, model_folder, read_records, replacing, write_json,
                         write_text)
from parts.options import LineParser, a_path, check_bounds
from parts.runs import to_the_end

OVO_MEANS = "OVO-Bench real-time / backward / forward / total"
ALL_STEPS = ("--ce-share", "0")         # the loss of all steps: a recipe's last have another
CLAIMS = {  # what the paper shows, and the variants: options of train.py, fps of the test, paper's
    "loss": ("table 4, 3B: OVO-Bench REC / SSR / CRR", {
        "focal": ("", 1, "27.94 / 50.72 / 82.5"),
        "fixed weights": ("--loss fixed", 1, "18.62 / 41.02 / 49.17"),
        "cross entropy": ("--loss ce", 1, "6.45 / 20.99 / 41.67")}),
    "factors": ("not in it", {
        "alpha and gamma": ("", 1, "-"),
        "alpha alone": ("--loss alpha", 1, "-"),
        "gamma alone": ("--loss gamma", 1, "-")}),
    "states": (f"table 7, 3B: {OVO_MEANS}; forward grounding", {
        "three states": ("", 1, "61.51 / 41.76 / 53.72 / 52.33; 14.7"),
        "no Standby": ("--states 2", 1, "60.93 / 39.43 / 45.22 / 48.52; 9.3")}),
    "tasks": (f"table 2, 3B, its tasks and ET-Instruct's: {OVO_MEANS}", {
        "six tasks": ("", 1, "61.51 / 41.76 / 53.72 / 52.33"),
        "grounding and caption": ("--tasks grounding+caption", 1,
                                  "46.47 / 28.52 / 46.62 / 40.54")}),
    "fps": (f"table 2, 7B: {OVO_MEANS}", {
        "tested at 1 fps": ("", 1, "65.98 / 46.10 / 54.77 / 55.61"),
        "tested at 2 fps": ("", 2, "67.44 / 49.18 / 56.96 / 57.86")}),
    # each from a start of its own, which is left the task, too
    "generalisation": ("not in it", {
        "all tasks": ("", 1, "-"),
        "no backward grounding": ("--tasks no-backward-grounding", 1, "-"),
        "no narration": ("--tasks no-narration", 1, "-")})}
COMPARED = ("response_precision", "response_recall", "response_f1", "state_f1", *SIX, "average",
            "false_alarms", "early_answers", "absent")
SHOWN = (.01, .05, .1, .3, .5, .7, .9, .95, .99)        # of the thresholds, in the table


def origin(model):
    """What a run starts from, for people: "nothing", or the folder's name and part of a digest."""
    if not model:
        return "nothing"
    digests = digests_in(model, "model*.safetensors").values()
    return "-".join([model.name, *(digest[:8] for digest in digests)])


def trained(args, options, seed):
    """The folder of a run of train.py, whose name tells options, start, steps and seed: begun, gone
    on with, or complete and left alone."""
    start = ["--model", str(args.model)] if args.model else []
    steps = ["--steps", str(args.steps)] if args.steps else []
    variant = "-".join(options.strip("-").split() or ["base"])
    name = f"{variant}-from-{origin(args.model)}-{args.steps or 'recipe'}-steps-seed-{seed}"
    folder = args.runs / name
    if not (folder / "model" / "run.json").exists():                        # written last of all
        again = ["--resume"] if (folder / "run.json").exists() else []
        share = max(1, torch.get_num_threads() // args.workers)
        line = args.lines.pop(0)                            # of the terminal, for its bar
        env = {**os.environ, "OMP_NUM_THREADS": str(share), "STREAMO_PARENT_PID": str(os.getpid()),
               "TQDM_DESC": f"{variant} {seed}", "TQDM_POSITION": str(line)}
        words = [sys.executable, Path(__file__).parent.with_name("train.py"), *options.split(),
                 *start, *steps, *ALL_STEPS, "--seed", str(seed), "--out", str(folder), *again]
        with subprocess.Popen(words, env=env) as process:
            args.running.add(process)
            code = process.wait()
            args.running.remove(process)
        args.lines.append(line)
        check(code == 0, f"{folder}: train.py ended with code {code}, for the reason that it gave "
                         "above; the same command of bench.claims goes on")
    return folder


def train_all(args, variants):
    """Train what is not there yet, --workers runs side by side: the first seed of all variants,
    then the next. An error of one, Ctrl-C or SIGTERM stops the others, which save their step."""
    runs = dict.fromkeys((options, seed) for seed in range(args.seeds) for options, *_ in variants)
    ended = Event()                                         # none is begun any more

    def train(run):
        try:
            if not ended.is_set():
                trained(args, *run)
        except ValueError:
            ended.set()                                     # before this thread takes the next
            raise

    with ThreadPoolExecutor(args.workers) as pool:
        try:
            for run in as_completed([pool.submit(train, run) for run in runs]):
                run.result()
        finally:
            ended.set()
            for process in [*args.running]:
                process.terminate()


def thinned(log, most=60):
    """The lines of a training log, many in one: the means of their figures, to four digits."""
    lines = [{key: value for key, value in line.items() if not isinstance(value, dict)}
             for line in read_records(log)]
    width = -(-len(lines) // most)
    parts = [lines[k:k + width] for k in range(0, len(lines), width)]
    return [{key: float(f"{mean([line[key] for line in part if key in line]):.4g}")
             for key in sorted(set().union(*part))} | {"step": part[-1]["step"]} for part in parts]


def claims(args):
    """Train what is not there yet, stream it, compare: {claim}.json, .md and logs in args.out."""
    (paper, variants), training, found = CLAIMS[args.claim], {}, {}
    train_all(args, variants.values())
    for name, (options, fps, theirs) in variants.items():
        seeds, pooled, training[name] = [], [], []
        for seed in range(args.seeds):
            folder = trained(args, options, seed)
            rows, *_ = run_bench(argparse.Namespace(**vars(args) | {
                "model": folder / "model", "fps": fps, "out": folder / f"toy-{fps}fps.jsonl",
                "strict": True}))
            seeds.append(score_stream(rows))
            pooled += rows
            training[name].append(thinned(folder / "log.jsonl"))
            write_json(args.out / "logs" / f"{folder.name}.json", training[name][-1])
        cells = {key: [scores[key] for scores in seeds] for key in (*COMPARED, "text_exact")
                 if key in seeds[0]}
        found[name] = {
            "options": options, "fps": fps, "paper": theirs, "seeds": dict(enumerate(seeds)),
            "mean": {key: mean(cell) for key, cell in cells.items()},
            "half_range": {key: (max(cell) - min(cell)) / 2 for key, cell in cells.items()},
            "curve": threshold_curve(pooled)}
    write_json(args.out / f"{args.claim}.json", {
        "command": args.line, "start": origin(args.model), "steps": args.steps,
        "videos": args.videos, "toy_seed": args.seed, "versions": VERSIONS, "paper": paper,
        "variants": found})
    table = claim_table(args, paper, found)
    write_text(args.out / f"{args.claim}.md", table)
    if args.claim in ("loss", "factors"):
        loss_figure(found, training, args.out / f"{args.claim}.png")
    print(table)


def best(curve):
    """(F1, threshold) of Response at the best of its thresholds, (0, 1) where it is never said."""
    return max(((2 * p * r / max(p + r, 1e-9), threshold) for threshold, p, r in curve),
               default=(0, 1))


def claim_table(args, paper, found):
    """Markdown: the scores, the paper's beside them, and precision and recall over the threshold:
    what differs there alone is calibrated otherwise; what differs at the best one knows more."""
    lines = [("toy world, %", *found), ["---"] * (len(found) + 1)]
    cell = "{:.1f} ± {:.1f}" if args.seeds > 1 else "{:.1f}"
    for key in COMPARED:
        if all(key in v["mean"] for v in found.values()):
            cells = [cell.format(v["mean"][key], v["half_range"][key]) for v in found.values()]
            lines.append((key.replace("_", " "), *cells))
    lines.append((f"the paper, {paper}", *(v["paper"] for v in found.values())))
    lines.append(("response f1 at the best threshold", *(
        "{:.1f} (p ≥ {:g})".format(*best(v["curve"])) for v in found.values())))
    curves = [{threshold: pair for threshold, *pair in v["curve"]} for v in found.values()]
    for threshold in SHOWN:
        lines.append((f"precision / recall, Response if p ≥ {threshold:g}", *(
            "{:.1f} / {:.1f}".format(*curve[threshold]) if threshold in curve else "never said"
            for curve in curves)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (
        f"\nTrained from {origin(args.model)}; steps: {args.steps or 'as the recipe'}; seeds: "
        f"{args.seeds}{' (mean ± half of the range)' * (args.seeds > 1)}; tested on {args.videos} "
        f"toy videos of seed {args.seed}. Response within 1 s, said where it is the likeliest "
        f"state; at a threshold, wherever it is that likely. {JUDGE}\n\n    {args.line}\n")


def loss_figure(found, training, path, sharp=4):
    """Recall in training, a shade for the range of the seeds, and precision by recall of all seeds
    together; a picture twice as large as it is shown."""
    image = Image.new("RGB", (1120 * sharp, 430 * sharp), "white")
    pen, ink, pale = ImageDraw.Draw(image, "RGBA"), "#1c222b", "#5b6470"
    small, large = (ImageFont.load_default(size * sharp) for size in (13, 15))
    last = max(log[-1]["step"] for logs in training.values() for log in logs)

    def at(panel, x, y):
        """Pixels of a point: x from 0 to 1, y in percent."""
        return (52 + 560 * panel + 480 * x) * sharp, (348 - 3 * y) * sharp

    for n, (title, label, most) in enumerate((
            ("Recall of Response in training, %", "optimiser step", last),
            ("Precision of Response on unseen clips, %",
             "recall, for every threshold; the dot: Response where it is likeliest", 100))):
        (left, bottom), (right, top) = at(n, 0, 0), at(n, 1, 100)
        pen.text((left - 40 * sharp, top - 20 * sharp), title, ink, large, "ls")
        pen.text((left + 240 * sharp, bottom + 26 * sharp), label, pale, small, "ma")
        for k in range(5):
            x, y = at(n, k / 4, 25 * k)
            pen.line((left, y, right, y), "#dfe3e8", sharp)
            pen.text((left - 8 * sharp, y), f"{25 * k}", pale, small, "rm")
            pen.text((x, bottom + 8 * sharp), f"{most * k / 4:,.0f}", pale, small, "ma")
    colours = "#0072b2", "#d55e00", "#009e73"
    for k, (colour, name) in enumerate(zip(colours, found)):
        recall, scores = defaultdict(list), found[name]["mean"]
        for line in (line for log in training[name] for line in log if "recall_response" in line):
            recall[line["step"] / last].append(100 * line["recall_response"])
        if recall:
            pen.polygon([at(0, x, max(of)) for x, of in recall.items()]
                        + [at(0, x, min(of)) for x, of in reversed(recall.items())], f"{colour}30")
            pen.line([at(0, x, mean(of)) for x, of in recall.items()], colour, 10, "curve")
        pen.line([at(1, r / 100, p) for _, p, r in found[name]["curve"]], colour, 10, "curve")
        dot = at(1, scores["response_recall"] / 100, scores["response_precision"])
        pen.circle(dot, 5 * sharp, colour, "white", sharp)
        x, y = (60 + 210 * k) * sharp, 408 * sharp
        pen.line((x, y, x + 24 * sharp, y), colour, 4 * sharp)
        pen.text((x + 32 * sharp, y), name, ink, large, "lm")
    with replacing(path) as partial:
        image.reduce(2).save(partial, "PNG")


def main(argv=None):
    parser = LineParser("bench.claims", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    workers, add = 1 if torch.cuda.is_available() else min(2, os.cpu_count()), parser.add_argument
    add("claim", choices=CLAIMS)
    add("--model", type=a_path, help="start of all runs; default: nothing")
    add("--videos", type=int, default=300, help="how many")
    add("--seed", type=int, default=10**6, help="of toy videos")
    add("--seeds", type=int, default=1, help="runs of each variant")
    add("--steps", type=int, help="of training; default: the recipe's")
    add("--runs", type=a_path, default="runs/claims", help="folder of the training runs")
    add("--out", type=a_path, default="assets/claims", help="of tables, figure and logs")
    add("--workers", type=int, default=workers, help="runs side by side, then streams")
    add("--threshold", type=float, help="of P(Response)")
    add("--window", type=int, help="seconds kept in the context")
    args = parser.parse_args(argv)
    if args.claim == "generalisation" and args.model:
        parser.error("generalisation: --model knows the tasks that are to be left out; without it "
                     "each variant makes a start of its own")
    check_bounds(parser, args, {"videos": (1, 10**6), "seeds": (1, 1000), "steps": (1, 10**9),
                                "workers": (1, 1024), "threshold": (0, 1), "window": 0})
    args.bench, args.running, args.lines = "toy", set(), [*range(args.workers)]
    words = sys.argv[1:] if argv is None else argv
    args.line = " ".join(["python -m bench.claims", *words])
    with to_the_end("bench.claims", "what was done is kept, the same command goes on"):
        if args.model:
            model_folder(args.model)
        for flag in ("runs", "out"):                    # before hours of training
            check_folder(f"--{flag}", getattr(args, flag))
        claims(args)


if __name__ == "__main__":
    main()
