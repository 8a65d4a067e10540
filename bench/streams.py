"""Scores of streamed dialogues: Streamo-Bench (paper, section 5), the states, and the timing.

A row is a dialogue that was streamed: {"id", "task", "seconds", "compute", "kv": the most slots of
its cache in use, "gold": said, "pred": said}, said = {"states": "0012...", an index into STATES a
second, "answers": [[second, text]...]}; of pred also "p": P(Response) of each second.
"""
import re
from collections import Counter, defaultdict

import numpy as np

from bench.public import mean, percent
from infer import STATES as NAMES

SIX = ("forward_grounding", "backward_grounding", "narration", "dense_caption", "tsqa_accuracy",
       "tsqa_recall")
TASKS = {"Event Grounding": SIX[0], "Backward Grounding": SIX[1], "Real-time Narration": SIX[2],
         "Event Caption": SIX[3], "Action Caption": SIX[3], "Time-sensitive QA": "tsqa"}
BEYOND = {"denied": SIX[1], "forward_instant": SIX[0], "backward_instant": SIX[1],
          **{f"never_{why}": SIX[0] for why in ("another", "absent", "again", "empty")}}
EXACT = ("absent", "empty", "beside_captions", "two_at_once", "two_waits", "first_last",
         "late_alone")
NUMBER = r"\d+(?:\.\d+)?"
THRESHOLDS = (0, .001, .002, .005, .01, .02, *(k / 20 for k in range(1, 20)), .98, .99, .995,
              .998, .999)
TOLERANCES = range(6)                           # seconds
JUDGE = "Narration and captions: F1 against the annotations, in place of a judge's win rate."


def matched(predicted, gold, tolerance):
    """The most pairs (i, j), one to one, no further apart than tolerance; both lists are sorted."""
    pairs, j = [], 0
    for i, second in enumerate(predicted):
        while j < len(gold) and gold[j] < second - tolerance:
            j += 1
        if j < len(gold) and gold[j] <= second + tolerance:
            pairs.append((i, j))
            j += 1
    return pairs


# ---- Streamo-Bench

def span_iou(*texts):
    """IoU, as the paper writes it, of two texts like "... from 12s to 20s.": of the first two
    numbers of each; 0 when one has no two numbers."""
    spans = [[float(n) for n in re.findall(NUMBER, text)[:2]] for text in texts]
    if any(len(span) < 2 for span in spans):
        return 0.0
    starts, ends = zip(*spans)
    union = max(ends) - min(starts)
    return max(0.0, min(ends) - max(starts)) / union if union > 0 else float(spans[0] == spans[1])


def tsqa_marks(pred, gold):
    """{score: (part, whole)} of one time-sensitive question: an answer that was due counts when
    any answer of its text came within 3 s. Over many questions accuracy is the share of all answers
    that were due, recall the mean of each question's share, precision of all that was said."""
    right = [[t == text and abs(s - due) <= 3 for s, t in pred] for due, text in gold]
    hits = sum(map(any, right))
    return {"tsqa_accuracy": (hits, len(gold)),
            "tsqa_recall": (hits / max(len(gold), 1), 1),
            # a column: an answer that was said
            "tsqa_precision": (sum(any(column) for column in zip(*right)), len(pred))}


def task_marks(task, pred, gold):
    """{score: (part, whole)} of a task of Streamo-Bench; pred and gold: [[second, text], ...].
    Narration and captions: F1 of events with the annotation's exact text within 1 s, in place of
    the paper's judge. Groundings: the first answer counts."""
    if task in SIX[:2]:
        return grounding_marks(task, *(said[0][1] if said else "" for said in (pred, gold)))
    if task in SIX[2:4]:
        hits = sum(len(matched([s for s, t in pred if t == text],
                               [s for s, t in gold if t == text], 1))
                   for text in {text for _, text in gold})
        return {task: (2 * hits, len(pred) + len(gold))}
    return tsqa_marks(pred, gold) if task == "tsqa" else {}


def grounding_marks(task, pred, gold):
    """The same of a grounding's first answer and its annotation, "": none. An event that lasts has
    a span; one without duration is "at" a second, and is told by it, or as a span of seconds that
    holds it; one that never was is denied; one that never comes is not told at all."""
    if not gold:
        return {"false_alarms": (pred != "", 1)}
    if not (numbers := re.findall(NUMBER, gold)):
        return {"denied": (pred == gold, 1)}
    if len(numbers) > 1:
        return {task: (span_iou(pred, gold), 1)}
    told, at = [float(n) for n in re.findall(NUMBER, pred)[:2]], float(numbers[0])
    holds = bool(told) and told[0] <= at <= told[-1]                # in whole seconds
    score = 1 / (told[-1] - told[0] + 1) if holds else 0
    return {task.replace("grounding", "instant"): (score, 1)}


def response_marks(pred, gold):
    """{score: (part, whole)} of the Response turns within 1 s, and of their texts."""
    pairs = matched([s for s, _ in pred], [s for s, _ in gold], 1)
    return {"response_precision": (len(pairs), len(pred)),
            "response_recall": (len(pairs), len(gold)),
            "response_f1": (2 * len(pairs), len(pred) + len(gold)),
            "text_exact": (sum(pred[i][1] == gold[j][1] for i, j in pairs), len(pairs))}


def state_scores(rows):
    """Macro F1 of the states, how often each was said, and the confusion [annotation][said]."""
    confusion = Counter()
    for row in rows:
        confusion.update(zip(row["gold"]["states"], row["pred"]["states"], strict=True))
    table = np.array([[confusion[gold, said] for said in "012"] for gold in "012"])
    hits, either = table.diagonal(), table.sum(0) + table.sum(1)
    return {"state_f1": mean([percent(2 * h, e) for h, e in zip(hits, either) if e]),
            **{f"{name}_rate": percent(k, table.sum()) for name, k in zip(NAMES, table.sum(0))},
            "confusion": table.tolist()}


def early_marks(row):
    """Of a wait for an event that comes: whether anything is answered before it begins."""
    if row["task"] not in (SIX[0], "forward_instant") or not row["gold"]["answers"]:
        return {}
    begins = re.search("[12]", row["gold"]["states"]).start()
    return {"early_answers": (any(second < begins for second, _ in row["pred"]["answers"]), 1)}


def is_beyond(task):
    """Whether a dialogue is of the benchmark's second or third edition (toy.dialogues)."""
    return task in (*BEYOND, *EXACT) or task.startswith("reworded_")


def own_task(task):
    """The name under which a record's task is scored: one of the six, or its own, which is never
    one of the toy benchmark's."""
    ours = is_beyond(task) or task in TASKS.values()
    return TASKS.get(task, f"own {task}" if ours else task)


def beyond_marks(task, pred, gold):
    """{score: (part, whole)} of a dialogue of the later editions. Questions about what is not
    there, or several at a time: the annotation's text within 1 s, all of it where two answers are
    due. Of the six's tasks in new words: the dialogue's own score, of time-sensitive QA its
    accuracy."""
    if task.startswith("reworded_"):
        (part, whole), *_ = task_marks(task.removeprefix("reworded_"), pred, gold).values()
        return {"reworded": (part / max(whole, 1), 1)}
    if task in EXACT:
        right = [any(t == text and abs(s - due) <= 1 for s, t in pred) for due, text in gold]
        return {task: (sum(right), len(gold))}
    marks = task_marks(BEYOND[task], pred, gold)
    if task.startswith("never_"):
        marks[f"false_alarms_{task.removeprefix('never_')}"] = marks["false_alarms"]
    return marks


def score_stream(rows):
    """All scores of streamed dialogues: {name: 0 to 100}, "confusion" and "timing" besides. Those
    of the later editions stand apart: states, Responses and timing are of all the others. Numbers
    of all dialogues, and no percentages, are how many, slots of the cache, seconds a second, and,
    if there are any, the answers that were cut at the most tokens one may have."""
    totals, first = defaultdict(lambda: np.zeros(2)), []
    for row in rows:
        task, pred, gold = row["task"], row["pred"]["answers"], row["gold"]["answers"]
        if is_beyond(task):
            marks = beyond_marks(task, pred, gold)
        else:
            marks = response_marks(pred, gold) | task_marks(task, pred, gold)
            first.append(row)
        for name, part_and_whole in (marks | early_marks(row)).items():
            totals[name] += part_and_whole
    due = any(row["gold"]["answers"] for row in first)  # else silence is right, and no F1 is 0
    scores = {name: percent(*totals[name]) for name in (*SIX, *totals)
              if name in totals and (due or totals[name][1])}
    if scores.keys() >= set(SIX):
        scores["average"] = mean([scores[name] for name in SIX])
    speed = sum(row["seconds"] for row in rows) / max(sum(row["compute"] for row in rows), 1e-9)
    cut = sum(row.get("cut", 0) for row in rows)
    return scores | state_scores(first) | ({"answers_cut": cut} if cut else {}) | {
        "stream_seconds_per_compute_second": speed, "dialogues": len(rows),
        "kv_slots": mean([row.get("kv", 0) for row in rows]),
        "timing": timing([(row["task"], [second for second, _ in row["pred"]["answers"]],
                           [second for second, _ in row["gold"]["answers"]]) for row in first])}


def threshold_curve(rows):
    """[(threshold, precision, recall)] of Response turns within 1 s, were p(Response) >= threshold
    the rule; it ends where nothing would be said. Read off the probabilities of one run: its
    context stays as that run made it."""
    rows = [row for row in rows if not is_beyond(row["task"])]
    curve, gold = [], [[second for second, _ in row["gold"]["answers"]] for row in rows]
    for threshold in THRESHOLDS:
        said = [[k for k, p in enumerate(row["pred"]["p"]) if p >= threshold] for row in rows]
        hits = sum(len(matched(turns, due, 1)) for turns, due in zip(said, gold))
        if any(said):
            curve.append((threshold, *(percent(hits, sum(map(len, of))) for of in (said, gold))))
    return curve


# ---- Timing: when answers come, whatever they say

def delays(said, due):
    """Seconds from when an answer was due to when it came, one to one, the closest pairs first;
    pairs further apart than the largest tolerance are none."""
    said, due, found = list(said), list(due), []
    near = sorted((abs(s - d), s, d) for s in said for d in due if abs(s - d) <= TOLERANCES[-1])
    for _, s, d in near:
        if s in said and d in due:
            found.append(s - d)
            said.remove(s)
            due.remove(d)
    return found


def timing(streams):
    """When answers came, by task, of (task, seconds said, seconds due) of each stream:
    {task: {"due", "said", "paired", "on_time": pairs with no delay, "late" and "early": {"count",
    "mean", "spread": standard deviation, in seconds}, "f1": at tolerances of 0, 1, ... 5 s}};
    "all" are the tasks together. Streams without a dated answer count in what was said."""
    tasks = defaultdict(list)
    for task, said, due in streams:
        tasks[task].append((sorted(said), sorted(due)))
    if len(tasks) > 1:
        tasks["all"] = [pair for pairs in tasks.values() for pair in pairs]
    return {task: task_timing(pairs) for task, pairs in tasks.items()}


def task_timing(streams):
    """The timing of one task; streams: [(seconds said, seconds due)], sorted."""
    apart = [delay for said, due in streams for delay in delays(said, due)]
    sides = {"late": [d for d in apart if d > 0], "early": [-d for d in apart if d < 0]}
    n_said, n_due = (sum(map(len, of)) for of in zip(*streams))
    hits = [sum(len(matched(said, due, most)) for said, due in streams) for most in TOLERANCES]
    return {"due": n_due, "said": n_said, "paired": len(apart), "on_time": apart.count(0),
            **{side: {"count": len(of), "mean": mean(of), "spread": float(np.std(of or [0]))}
               for side, of in sides.items()},
            "f1": [percent(2 * n, n_said + n_due) for n in hits]}


def timing_table(found):
    """Lines of text for people, a task a line: how many answers were due, said, in time, late and
    early (mean ± spread), and F1 over the tolerances."""
    lines = [f"{'timing':20}{'due':>5}{'said':>6}{'in time':>8}{'late by s':>16}{'early by s':>16}"
             f"  F1 within {', '.join(map(str, TOLERANCES))} s"]
    for task, of in found.items():
        sides = [f"{of[side]['count']} x {of[side]['mean']:.1f} ± {of[side]['spread']:.1f}"
                 if of[side]["count"] else "none" for side in ("late", "early")]
        curve = "".join(f"{f1:6.1f}" for f1 in of["f1"])
        lines.append(f"{task:20}{of['due']:5}{of['said']:6}{of['on_time']:8}"
                     f"{sides[0]:>16}{sides[1]:>16}{curve}")
    return lines
