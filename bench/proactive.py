"""Benchmarks made for a model that decides each second: ViSpeak-Bench, OmniMMI's proactive alerting
and turn-taking, StreamingBench's proactive output. Readers of their files, their official rules to
the letter, what a judge is to read.

They were made for models that are polled every second ("is it time?"). Here the stream runs: the
request stands from its first second on, and what the model says by itself is its answer. The time
of an answer is the end of its second, which is when a polled model would have seen as much.
"""
import math
import re
from functools import partial

from bench.public import GLUED, corrected, first_letter, mean
from bench.streams import timing
from parts.files import read_records

MARGIN = 2                              # seconds after the end of a window that are still in time


def offset(time, window):
    """Seconds by which a time is late (> 0) or early (< 0) for a window (start, end)."""
    return round(time - min(max(time, window[0]), window[1]), 3)


def span(window):
    """A window as (start, end): annotations may have one time."""
    return window if isinstance(window, (list, tuple)) else (window, window)


def first_answers(rows):
    """The timing of each stream's first answer; in its window it has no delay."""
    return timing([(row["task"], [offset(time, span(row["window"]))
                                  for time, text in row["said"][:1] if text is not None], [0])
                   for row in rows])


# ---- ViSpeak-Bench
# A row has a window, (start, end) or one time, and what was said, [[second, text], ...]; one of VR,
# a question with four options, has a response and the answer. The codes and files of its tasks:

VISPEAK = {"AW": "Anomaly_Warning", "VI": "Visual_Interruption", "HR": "Humor_Reaction",
           "VW": "Visual_Wake-Up", "VT": "Visual_Termination", "GU": "Gesture_Understanding",
           "VR": "Visual_Reference"}
REQUESTS = {  # the official second question, which stands from the beginning here
    "AW": "What unusual events occur in this video, and what is your suggestion based on these "
          "observations?",
    "HR": "What interesting events occurred in the video, and why?",
    "VW": "When you see greeting gesture, what should you respond to me? Directly output your "
          "response.",
    "VT": "When you see the goodbye gesture, what should you respond to me? Directly output your "
          "response.",
    "VI": "When you see the body language or gesture that indicates interruption, you should say "
          "stop. What should you respond to me now? Directly output your response.",
    "GU": "What gesture did the person in the video make, and what does it signify when "
          "considering the context of the preceding conversation?"}
MARKS = {code: {"score": 5} for code in ("VT", "VI", "VW", "HR")} | {   # of a judge, at most
    "AW": {"description": 3, "advice": 2}, "GU": {"gesture": 3, "context": 2}}
RUBRICS = {"VT": "TERMINATE", "VI": "INTERRUPT", "VW": "WAKE_UP", "AW": "ANOMALY", "HR": "HUMOR",
           "GU": "GESTURE"}             # their names in src/count.py of HumanMLLM/ViSpeak-Bench


def in_time(time, window):
    """The official rule. It has a fault where the annotation is one time: any later answer counts,
    and any at all where that time is 2 s or less."""
    if isinstance(window, (list, tuple)):
        return max(0.0, window[0]) <= time <= window[1] + MARGIN
    return time > window or window <= MARGIN


def vispeak_hit(row):
    """Whether the answer came in time; of VR, whether the first capital A to E is the option's."""
    if row["task"] == "VR":
        return first_letter((row["response"] or "").strip(), "ABCDE", GLUED) == row["answer"]
    return bool(row["said"]) and in_time(row["said"][0][0], row["window"])


def vispeak_fixed(row):
    """One time is a window of no width; an option is a capital on its own, no article."""
    if row["task"] == "VR":
        return bool(corrected(row))
    return bool(row["said"]) and in_time(row["said"][0][0], span(row["window"]))


def vispeak_accuracy(rows, rule):
    """{task: the share of its rows that the rule accepts, 0 to 100}."""
    hits = {code: [rule(row) for row in rows if row["task"] == code] for code in VISPEAK}
    return {code: 100 * mean(of) for code, of in hits.items() if of}


def vispeak_averages(time, text):
    """{"time_all", "text_all_of_5", "overall_of_5"} as the paper's table has them, of {task: time
    accuracy, 0 to 100} and {task: mean mark of the answers in time, 0 to 5; VR: 5 x its accuracy};
    what lacks a task is left out."""
    six, found = [code for code in VISPEAK if code != "VR"], {}
    if time.keys() >= set(six):
        found["time_all"] = mean([time[code] for code in six])
    if found and text.keys() >= set(VISPEAK):
        found["text_all_of_5"] = mean([text[code] for code in VISPEAK])
        scaled = [text[code] * time[code] / 100 for code in six]
        found["overall_of_5"] = mean([text["VR"], *scaled])
    return found


def vispeak_scores(rows, rule, marks=None):
    """marks: {id: a judge's mark, 0 to 5} of the answers in time; without them there is no text."""
    time, text, scores = vispeak_accuracy(rows, rule), {}, {}
    for code, accuracy in time.items():
        scores["VR_accuracy" if code == "VR" else f"{code}_time"] = accuracy
        if code == "VR":
            text[code] = accuracy / 20
        elif marks is not None:
            text[code] = mean([marks[row["id"]] for row in rows
                               if row["task"] == code and rule(row)])
            scores[f"{code}_text_of_5"] = text[code]
            scores[f"{code}_overall_of_5"] = text[code] * accuracy / 100
    return scores | vispeak_averages(time, text)


def vispeak_task(stem):
    """The code of the task that a file is named after: as the annotations, or by its code."""
    words = re.split(r"[^a-z]+", stem.lower())
    for code, name in VISPEAK.items():
        if name.lower() in stem.lower() or code.lower() in words:
            return code
    raise ValueError(f"its name tells the task: {', '.join(VISPEAK.values())} .json")


def vispeak_rows(content, stem):
    """Of annotations; of predictions, [{video: [answer, time, ...]}], which hold no window: they
    are scored together with the annotations."""
    code = vispeak_task(stem)
    for r in content:
        if "video" not in r:
            [(video, (answer, time, *_))] = r.items()
            yield {"id": f"{code}/{video}", "task": code, "response": answer,
                   "said": [[time, answer]]}
            continue
        row = {"id": f"{code}/{r['video']}", "task": code, "video": r["video"],
               "start": r.get("video_start_time") or 0}
        if code == "VR":
            yield row | {"prompt": r["questions"], "answer": r["ans"], "end": r["video_end_time"]}
            continue
        *before, last = r["conversations"]
        window = last.get("timespan", last["time"])
        history = "".join(f"From {turn['from']}: {turn['value']}\n" for turn in before)
        yield row | {"window": window, "end": math.floor(span(window)[1] + MARGIN),
                     "request": history + REQUESTS[code], "first": True,
                     "history": history, "truth": last["value"], "gesture": r.get("gesture")}


def vispeak_case(row):
    """What the official judge reads after the rubric."""
    said, code = row["said"][0][1], row["task"]
    said = "null" if said == "" else said
    if code == "GU":
        return (f"[Dialogue History]:\n{row['history']}\n[Gesture]:{row['gesture']}\n\n"
                f"[Reference Text]:{row['truth']}\n\n Here is the GPT response to evaluate: "
                f"{said}\n\n")
    gap, truth = " " * (code == "HR"), f"\n\nGround Truth:{row['truth']}"
    return f"GPT text:{gap}{said}{truth if code in ('AW', 'HR') else ''}"


def to_judge(rows):
    """The answers in time that a judge is to read: rubric and case together are its prompt; its
    marks, added to a line of this file, are read by --judged."""
    return [{"id": row["id"], "rubric": f"{RUBRICS[row['task']]} in ViSpeak-Bench's src/count.py",
             "case": vispeak_case(row), **{mark: None for mark in MARKS[row["task"]]}}
            for row in rows if row["task"] in MARKS and vispeak_hit(row)]


def judged_lines(path):
    """{(id, case): line} of a judge's file; ValueError for what is none."""
    found = {}
    for line in read_records(path):
        if not isinstance(line, dict) or not isinstance(line.get("id"), str):
            raise ValueError(f"{path}: {line!r:.60} is no line of a judge's file, it has no id")
        if found.setdefault((line["id"], line.get("case")), line) != line:
            raise ValueError(f"{path}: item {line['id']} is there twice, and not alike")
    return found


def with_marks(lines, path):
    """[line] of to_judge with all that a judge's file has by now for the same case, and behind them
    those of its lines that are judged and not among these."""
    known, found = judged_lines(path) if path.exists() else {}, []
    for line in lines:
        found.append(line | known.pop((line["id"], line["case"]), {}))
    names = {name for marks in MARKS.values() for name in marks}
    return found + [old for old in known.values()
                    if any(old.get(name) is not None for name in names)]


def judged(rows, path):
    """{id: mark} by the lines of a judge's file; ValueError names what has no mark."""
    given, marks = judged_lines(path), {}
    for row in rows:
        if row["task"] in MARKS and vispeak_hit(row):
            name, case, marks[row["id"]] = row["id"], vispeak_case(row), 0
            line = given.get((name, case)) or given.get((name, None)) or {}     # or with no case
            if not line and any(known == name for known, _ in given):
                raise ValueError(f"{path}: item {row['id']}: its marks are of another answer")
            for what, most in MARKS[row["task"]].items():
                mark = line.get(what)
                if type(mark) not in (int, float) or not 0 <= mark <= most:
                    raise ValueError(f"{path}: item {row['id']}: no {what} of 0 to {most}")
                marks[row["id"]] += mark
    return marks


# ---- OmniMMI: proactive alerting (PA), turn-taking (PT)

def alert_marks(times, window):
    """(accuracy, precision, IoU) of one item: the first answer in the window, the share of answers
    in it, the span from the first to the last. No margin; an item without an answer has 0."""
    if not times:
        return 0, 0, 0
    start, end = window
    hits = [start <= time <= end for time in times]
    union = max(times[-1], end) - min(times[0], start)          # 0: the official rule would crash
    overlap = max(0, min(times[-1], end) - max(times[0], start))
    return int(hits[0]), mean(hits), overlap / union if union else 0


def alert_fixed(times, window):
    """In the order of time, not of the list; a moment that is met exactly has an IoU of 1."""
    accuracy, precision, iou = alert_marks(sorted(times), window)
    point = len(set(times)) == 1 and times[0] == window[0] == window[1]
    return accuracy, precision, 1 if point else iou


def turn_kept(row):
    """Whether nothing was said to a remark that asks for nothing, as every item's is."""
    return row["response"] == "" or row["response"].startswith("<2>")


def turn_fixed(row):
    """Blanks and the names of the quiet states are silence, too."""
    text = row["response"].strip() if row["response"] is not None else "(no answer at all)"
    return text in ("", "</Silence>", "</Standby>") or text.startswith("<2>")


def omnimmi_scores(rows, alert, turn):
    """By rules of an alert and of a turn. Of alerts given as one number only accuracy is known."""
    for row in rows:
        for time, _ in row["said"] if row["task"] == "PA" else ():
            if not math.isfinite(time):
                raise ValueError(f"item {row['id']}: it was said at {time} s")
    alerts = [(row, alert([time for time, _ in row["said"]], row["window"]))
              for row in rows if row["task"] == "PA"]
    turns = [turn(row) for row in rows if row["task"] == "PT"]
    scores = {"PA_accuracy": [marks[0] for _, marks in alerts],
              "PA_precision": [marks[1] for row, marks in alerts if not row.get("scalar")],
              "PA_iou": [marks[2] for row, marks in alerts if not row.get("scalar")],
              "PT_accuracy": turns}
    return {name: 100 * mean(of) for name, of in scores.items() if of}


def omnimmi_rows(content, stem):
    """Of annotations or predictions, which are alike but for "pred"; a file may hold one object."""
    content = [dict(content)] if isinstance(content[0], tuple) else content
    for r in content:
        if "conversation" in r:
            lines = [f"{who}\n{text}\n" for turn in r["conversation"][-2:]
                     for who, text in turn.items()]
            row = {"id": f"PT/{r['video']}", "task": "PT", "video": r["video"],
                   "prompt": "".join(lines), "at_once": True}
            if "pred" in r and not isinstance(r["pred"], str):
                raise ValueError(f"item {row['id']}: its pred {r['pred']!r} is no text, as \"\" is")
            yield row | {"response": r.get("pred")}
            continue
        row = {"id": f"PA/{r['video']}", "task": "PA", "video": r["video"], "window": r["answer"],
               "request": r["question"], "counts_from": 1}      # its first second is left out
        if "pred" in r:
            times = r["pred"] if isinstance(r["pred"], list) else [r["pred"]]
            row |= {"said": [[float(time), ""] for time in times],
                    "scalar": not isinstance(r["pred"], list)}
        yield row


# ---- StreamingBench: proactive output

def clock(stamp):
    """Seconds of "H:MM:SS" or "MM:SS"."""
    return sum(int(part) * 60 ** i for i, part in enumerate(reversed(stamp.split(":"))))


def output_marks(row):
    """(in time, in time and right): within 2 s of the moment; the output is a part of the answer,
    so that "13" is right for "3". Of several answers the last counts, as of the polls."""
    time, text = row["said"][-1] if row["said"] else (math.inf, "")
    on_time = abs(time - row["window"][0]) <= MARGIN
    return on_time, on_time and row["answer"] in (text or "")


def output_fixed(row):
    """The output stands on its own in the answer; capitals do not matter."""
    on_time = output_marks(row)[0] and row["said"][-1][1] is not None   # None: it never said yes
    alone = rf"(?<!\w){re.escape(row['answer'].lower())}(?!\w)"
    return on_time, on_time and bool(re.search(alone, (row["said"][-1][1] or "").lower()))


def streamingbench_scores(rows, rule):
    time, right = zip(*map(rule, rows))
    return {"time_accuracy": 100 * mean(time), "answer_accuracy": 100 * mean(right)}


def streamingbench_rows(content, stem):
    """Of questions; of results, where a model's key holds what was said to the polls: the last."""
    for entry in content:
        for r in entry["questions"]:
            if "ground_truth_time_stamp" not in r:
                raise ValueError("not its proactive task (no ground_truth_time_stamp)")
            start, due = clock(r["time_stamp"]), clock(r["ground_truth_time_stamp"])
            video, output = entry["video_path"].split("/")[-1], r["ground_truth_output"]
            row = {"id": f"{video}/{start}-{due}/{r['question']}", "task": r["task_type"],
                   "video": video, "start": start, "end": due + 4, "window": [due, due],
                   "request": r["question"], "answer": output, "first": True}
            models = {name: of for name, of in r.items()
                      if isinstance(of, dict) and "dialog_history" in of}
            if len(models) > 1:
                raise ValueError(f"answers of several models: {', '.join(models)}; keep one")
            for of in models.values():                  # one that never said yes answered nothing
                row["said"] = [[turn["time"], None if of.get("answered") is False
                                else turn["content"]] for turn in of["dialog_history"][-1:]]
            yield row


# ---- All three

READERS = {"vispeak": vispeak_rows, "omnimmi": omnimmi_rows, "streamingbench": streamingbench_rows}
RULES = {"vispeak": partial(vispeak_scores, rule=vispeak_hit),
         "omnimmi": partial(omnimmi_scores, alert=alert_marks, turn=turn_kept),
         "streamingbench": partial(streamingbench_scores, rule=output_marks)}
FIXED = {"vispeak": partial(vispeak_scores, rule=vispeak_fixed),
         "omnimmi": partial(omnimmi_scores, alert=alert_fixed, turn=turn_fixed),
         "streamingbench": partial(streamingbench_scores, rule=output_fixed)}
SIZES = {"vispeak": {"AW": 200, "VI": 100, "HR": 100, "VW": 100, "VT": 100, "GU": 200, "VR": 200},
         "omnimmi": {"PA": 200, "PT": 200}, "streamingbench": {"Proactive Output": 250}}
MEANT = {
    "vispeak": "time_all: the mean of the six timed tasks. text_all_of_5: of their mean marks and "
               "of 5 x VR's accuracy; overall_of_5: the same, each mark times its task's time.",
    "omnimmi": "PA: the first answer (accuracy), the share of answers (precision) in the window, "
               "no margin. PT: every item expects silence, so a model that never speaks has 100.",
    "streamingbench": "of all items: an answer within 2 s; one that also holds the output."}


def answered(row):
    """Whether a row of a file holds an answer, as a silence is one."""
    return row["task"] == "VR" or row.get("response" if row["task"] == "PT" else "said") is not None


def score(bench, rows, absent=(), marks=None):
    """All scores of a benchmark's answered rows; "corrected": with faults of the rules mended, all
    items counting, the absent rows, too; "timing" of the first answers; "to_judge": lines for a
    judge. marks: {id: mark} of vispeak's judge, when it has read them."""
    for row in rows:
        if row["task"] not in ("VR", "PT") and "window" not in row:
            raise ValueError(f"item {row['id']}: predictions without windows: give the "
                             "annotations, too, with --data")
    every = [*rows, *(row | {"said": [], "response": None} for row in absent)]
    dated = [row for row in rows if "window" in row]
    scores = RULES[bench](rows, **({} if marks is None else {"marks": marks}))
    scores |= {"items": len(rows), "meant": MEANT[bench], "corrected": FIXED[bench](every)}
    if dated:
        scores["timing"] = first_answers(dated)
    if bench == "vispeak" and marks is None:
        scores["to_judge"] = to_judge(rows)
    return scores
