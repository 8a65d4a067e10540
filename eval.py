"""Benchmarks and their scorers. Running and scoring are separate; every score is 0-100.

    python eval.py toy --model assets/tiny --videos 300 --seed 7 --out toy.json
    python eval.py toy --model assets/tiny --data raw.json --videos-folder FOLDER --out raw.json
    python eval.py run ovo --data ovo_bench_new.json --videos FOLDER --model DIR --out ovo.jsonl
    python eval.py run mvbench --offline --data json/ --videos FOLDER --model DIR --out mv.jsonl
    torchrun --nproc_per_node=8 eval.py run ovo ... --out ovo.jsonl     writes ovo.rank0.jsonl, ...
    python eval.py score ovo ovo.rank*.jsonl --out ovo.json             official result files too
    python eval.py claims loss --minutes 30 --out runs/claims           trains, streams, compares

Toy and run write a JSON line per item and go on where they stopped. Scores follow the official rules
to the letter; where a rule has a known fault, the corrected figure stands beside.
"""
import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import data
import toy
from infer import see, stream, unspoken
from streamo import RESPONSE, STATES, KVCache, Streamo, Tokenizer, write_json

NAMES = ("silence", "standby", "response")


def percent(part, whole):
    return 100 * part / whole if whole else 0.0


def mean(values):
    return sum(values) / len(values) if values else 0.0


# ---- Streamo-Bench (paper, section 5)
# A row is a streamed dialogue: {"id", "task", "seconds", "compute", "gold": said, "pred": said},
# said = {"states": "0012...", an index into STATES a second, "answers": [[second, text], ...]}.

SIX = ("forward_grounding", "backward_grounding", "narration", "dense_caption", "tsqa_accuracy",
       "tsqa_recall")
TASKS = {"Event Grounding": SIX[0], "Backward Grounding": SIX[1], "Real-time Narration": SIX[2],
         "Event Caption": SIX[3], "Action Caption": SIX[3], "Time-sensitive QA": "tsqa"}


def matched(predicted, gold, tolerance):
    """The most pairs (i, j), one to one, with |predicted[i] - gold[j]| <= tolerance; both sorted."""
    pairs, i, j = [], 0, 0
    while i < len(predicted) and j < len(gold):
        if abs(predicted[i] - gold[j]) <= tolerance:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif predicted[i] < gold[j]:
            i += 1
        else:
            j += 1
    return pairs


def span_iou(*texts):
    """IoU of two texts like "... from 12s to 20s.": of their first two numbers, as the paper
    writes it. 0 when a text has no two numbers or they run backwards."""
    spans = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)[:2]] for text in texts]
    if any(len(span) < 2 or span[0] > span[1] for span in spans):
        return 0.0
    starts, ends = zip(*spans)
    union = max(ends) - min(starts)
    return max(0.0, min(ends) - max(starts)) / union if union else 1.0


def score_stream(rows):
    """Streamo-Bench, and states and Response turns besides. Narration and captions: F1 of events
    with the annotation's exact text within 1 s, in place of the paper's judge."""
    ious, events, recalls, n = defaultdict(list), defaultdict(Counter), [], Counter()
    confusion = np.zeros((3, 3), int)                                       # [gold][said]
    for row in rows:
        task, pred, gold = row["task"], row["pred"]["answers"], row["gold"]["answers"]
        for g, p in zip(row["gold"]["states"], row["pred"]["states"], strict=True):
            confusion[int(g), int(p)] += 1
        pairs = matched([s for s, _ in pred], [s for s, _ in gold], 1)
        n.update(matched=len(pairs), exact=sum(pred[i][1] == gold[j][1] for i, j in pairs),
                 said=len(pred), due=len(gold))
        if task in SIX[:2]:                                                 # the first answer counts
            ious[task].append(span_iou(pred[0][1] if pred else "", gold[0][1]))
        elif task in SIX[2:4]:
            hits = sum(len(matched([s for s, t in pred if t == text],
                                   [s for s, t in gold if t == text], 1))
                       for text in {text for _, text in gold})
            events[task].update(hits=hits, either=len(pred) + len(gold))
        elif task == "tsqa":
            right = [[t == text and abs(s - due) <= 3 for s, t in pred] for due, text in gold]
            recalls.append(mean([any(line) for line in right]))
            n.update(tsqa_hits=sum(map(any, right)), tsqa_right=sum(map(any, zip(*right))),
                     tsqa_due=len(gold), tsqa_said=len(pred))
    scores = {task: 100 * mean(values) for task, values in ious.items()}
    scores |= {task: percent(2 * count["hits"], count["either"]) for task, count in events.items()}
    if recalls:
        scores |= {"tsqa_accuracy": percent(n["tsqa_hits"], n["tsqa_due"]),
                   "tsqa_recall": 100 * mean(recalls),
                   "tsqa_precision": percent(n["tsqa_right"], n["tsqa_said"])}
    if set(SIX) <= set(scores):
        scores["average"] = mean([scores[key] for key in SIX])
    hits, either = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    scores |= {"state_f1": mean([percent(2 * h, e) for h, e in zip(hits, either) if e]),
               "response_precision": percent(n["matched"], n["said"]),
               "response_recall": percent(n["matched"], n["due"]),
               "response_f1": percent(2 * n["matched"], n["said"] + n["due"]),
               "text_exact": percent(n["exact"], n["matched"])}
    scores |= {f"{name}_rate": percent(k, len(rows) and confusion.sum())
               for name, k in zip(NAMES, confusion.sum(0).tolist())}
    speed = sum(row["seconds"] for row in rows) / max(sum(row["compute"] for row in rows), 1e-9)
    return scores | {"stream_seconds_per_compute_second": speed, "dialogues": len(rows),
                     "confusion": confusion.tolist()}


def threshold_curve(rows, steps=50):
    """[(threshold, precision, recall)] of Response turns within 1 s, were p(Response) >= threshold
    the rule. Read off the probabilities of one run: its context stays as that run made it."""
    curve = []
    for threshold in (k / steps for k in range(1, steps)):
        hits = said = due = 0
        for row in rows:
            turns = [k for k, p in enumerate(row["pred"]["p"]) if p >= threshold]
            gold = [second for second, _ in row["gold"]["answers"]]
            hits += len(matched(turns, gold, 1))
            said, due = said + len(turns), due + len(gold)
        curve.append((threshold, percent(hits, said), percent(hits, due)))
    return curve


# ---- The other benchmarks' official rules
# A row is {"id", "task", "response": str or None, "answer": str, ...}; a rule gives 1, 0, or None
# for an item that leaves the denominator.

PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer",
            "The best option is", "The correct option is", "Best answer:", "Best option:")


def ovo_rule(row):
    """A substring rule: "Answer: B" is right for A too. The digits of a count are joined."""
    response, answer = row["response"], row["answer"]
    if response is None:
        return 0
    if row["task"] == "REC":
        return int("".join(re.findall(r"\d+", response)) == answer)
    bare = row["task"] in ("SSR", "CRR") and response == answer[0]          # "Y" and "N" will do
    return int(bare or answer in response)


def mvbench_rule(row):
    """lmms-eval's: the article "a" is option A; an empty response leaves the denominator."""
    text = row["response"] or ""
    if text == "":
        return None
    option = re.match(r"([A-E])\.\s*(.+)$", text.strip(), re.IGNORECASE)
    if option is None:
        whole = text = text.replace("\n", " ").replace("\t", " ").strip()
        comma = re.search(r"\d,\d", whole)
        for mark in ";/[]\"{}()=+\\_-><@`,?!":
            glue = comma or mark + " " in whole or " " + mark in whole
            text = text.replace(mark, "" if glue else " ")
        text = re.sub(r"(?!<=\d)\.(?!\d)", "", text, count=32)              # 32 is re.UNICODE
        option = re.search(r"\b([A-E])\b", text, re.IGNORECASE)
    return int(option is not None and option[1].upper() == row["answer"])


def tempcompass_match(row):
    """1 or 0 when the official rules can tell, None when a language model would be the judge."""
    text, answer = (row["response"] or "").replace("</s>", ""), row["answer"]
    if row["task"] == "yes_no":
        word = re.match("yes|no", text.lower())
        return int(word[0] == answer) if word else None
    if row["task"] == "multi-choice":
        known = text == answer or re.match(r"[A-D]([.)]|\Z)", text)
        return int(text == answer or text[0] == answer[0]) if known else None
    found, options = None, [line.split(": ") for line in row["question"].split("\n")[1:]]
    for whole in map(": ".join, options):
        found = whole if whole == text else found
    for _, sentence, *_ in options:                                         # "(A) sentence" too
        found = sentence if sentence == text or sentence in text.split(") ")[1:2] else found
    for index, *_ in options:
        found = index if index in (text, text.replace(".", "")) else found
    return None if found is None else int(found in (answer, *answer.split(": ")[:2]))


def tempcompass_rule(row):
    """As with --disable_llm: 0 without a match. Captioning needs the judge, so it is left out."""
    return None if row["task"] == "captioning" else tempcompass_match(row) or 0


def first_letter(text, letters, prefixes):
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else ""


def videomme_rule(row):
    """Two commas are missing in the official prefixes, so that four of them stay in the text and
    the B of "Best answer:" is an answer; no letter at all leaves the denominator."""
    glued = PREFIXES[:4] + (PREFIXES[4] + PREFIXES[5], PREFIXES[6] + PREFIXES[7])
    letter = first_letter((row["response"] or "").strip(), "ABCD", glued)
    return int(letter == row["answer"]) if letter else None


def longvideobench_rule(row):
    """No letter: a random choice, here drawn from the item's id so that it stays the same."""
    letter = first_letter((row["response"] or "").strip(), "ABCDE", PREFIXES)
    return int((letter or random.Random(row["id"]).choice("ABCDE"[:row["choices"]])) == row["answer"])


def corrected(row):
    """1 or 0: all items count, an option is a capital on its own, a count the first number."""
    text, answer = row["response"] or "", row["answer"]
    if answer in ("Yes", "No"):
        text, answer = text.upper(), answer[0]
        found = re.search(r"\b([YN])(?:ES|O)?\b", text)
    elif row["task"] == "REC":
        found = re.search(r"(\d+)", text)
    else:                                                   # but not the article in "A man ..."
        found = re.search(r"\b([B-E]|A(?! [a-z]))\b", text)
    return int(found is not None and found[1] == answer)


RULES = {"ovo": ovo_rule, "mvbench": mvbench_rule, "tempcompass": tempcompass_rule,
         "videomme": videomme_rule, "longvideobench": longvideobench_rule}
OVO = {"backward": ("EPM", "ASI", "HLD"), "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
       "forward": ("REC", "SSR", "CRR")}


def averages(bench, rows, rule):
    """{name: score} of the tasks and divisions of a benchmark, and its own kind of average."""
    groups = defaultdict(list)
    for row in rows:
        for key in ("task", "duration", "domain", "sub_category", "duration_group"):
            if key in row and rule(row) is not None:
                groups[str(row[key])].append(rule(row))
    scores = {name: 100 * mean(marks) for name, marks in groups.items()}
    if bench == "ovo":                      # a category is the mean of its tasks, the total of three
        means = {category: mean([scores[task] for task in tasks if task in scores])
                 for category, tasks in OVO.items() if scores.keys() & set(tasks)}
        return scores | means | ({"total": mean(list(means.values()))} if len(means) == 3 else {})
    if bench in ("mvbench", "tempcompass"):
        return scores | {"average": mean(list(scores.values()))}
    return scores | {"overall": 100 * mean([rule(row) for row in rows if rule(row) is not None])}


def score(bench, rows):
    """All scores of a benchmark's rows by its official rule, "corrected" beside where it is faulty."""
    if bench == "raw":
        return score_stream(rows)
    scores = averages(bench, rows, RULES[bench]) | {"items": len(rows)}
    if bench == "tempcompass":
        known = [tempcompass_match(row) is not None for row in rows if row["task"] != "captioning"]
        return scores | {"matched_without_judge": 100 * mean(known)}
    return scores | {"corrected": averages(bench, rows, corrected)}


# ---- Data files and official result files: both are laid out alike, so one reader does for both

ONLY = "Do not include any additional text or explanation in your response.\n"
PROMPTS = {  # of OVO-Bench, verbatim
    "MCQ": "\nQuestion: {}\nOptions:\n{}\n\nRespond only with the letter corresponding to your "
           "chosen option (e.g., A, B, C). \n" + ONLY,
    "REC": "\nYou're watching a video in which people may perform a certain type of action "
           "repetively. \nThe person performing this kind of action are referred to as 'they' in the "
           "following statement.\nYou're task is to count how many times have different people in the "
           "video perform this kind of action in total.\nOne complete motion counts as one. \nNow, "
           "answer the following question: {}\nProvide your answer as a single number (e.g., 0, 1, 2, "
           "3…) indicating the total count.\n" + ONLY,
    "SSR": "\nYou're watching a tutorial video which contain a sequential of steps. \nThe following is "
           "one step from the whole procedures: \n{}\nYour task is to determine if the man or woman in "
           "the video is currently performing this step.\nAnswer only with “Yes” or “No”.\n" + ONLY,
    "CRR": "\nYou're responsible of answering questions based on the video content. \nThe following "
           "question are relevant to the latest frames, i.e. the end of the video.\n{}\nDecide whether "
           "existing visual content, especially latest frames, i.e. frames that near the end of the "
           "video, provide enough information for answering the question.\nAnswer only with “Yes” or "
           "“No”.\n" + ONLY}


def lettered(options, form="{}. {}"):
    return [form.format(letter, option) for letter, option in zip("ABCDEFGH", options)]


def ovo_rows(content, stem):
    """A row for each moment asked about. online: (second, question, how the stream is read at the
    moment): its last answer (REC), was there one (CRR), is it not silent (SSR)."""
    for r in sum(content.values(), []) if isinstance(content, dict) else content:
        for j, at in enumerate(r.get("test_info", [r])):
            row = {"id": str(r["id"]), "task": r["task"], "video": r["video"],
                   "response": at.get("response"), "end": at.get("realtime")}
            if at is r:
                answer = r["ground_truth"] if "ground_truth" in r else chr(65 + r["gt"])
                options = "; ".join(lettered(r.get("options", ()))) + ";"
                yield row | {"answer": answer, "prompt": PROMPTS["MCQ"].format(r["question"], options)}
                continue
            if r["task"] == "REC":
                answer, question = str(at["count"]), f"How many times did they {r['activity']}?"
                online = max(min(r.get("start_times") or [0]) - 3, 0), question, "last"
            else:
                answer, question = ("No", "Yes")[at["type"]], at.get("step", r.get("question"))
                online = (r.get("ask_time", 0), question, "any" if r["task"] == "CRR" else "state")
            yield row | {"id": f"{r['id']}_{j}", "answer": answer, "online": online,
                         "prompt": PROMPTS[r["task"]].format(question)}


def mvbench_rows(content, stem):
    """json/{task}.json, or the samples that lmms-eval logs, ..._samples_{task}.jsonl."""
    for i, r in enumerate(content):
        row, logged = {"id": f"{stem}/{i}", "task": stem.split("samples_")[-1]}, r.get("mvbench_accuracy")
        if logged:
            yield row | {"response": logged["pred_answer"], "answer": logged["gt_answer"]}
            continue
        options = "\n".join(lettered(r["candidates"], "({}) {}"))
        yield row | {"prompt": f"Question:{r['question']}\nOption:\n{options}\nOnly give the best option.\n",
                     "answer": chr(65 + r["candidates"].index(r["answer"])), "video": r["video"],
                     "start": r.get("start"), "end": r.get("end"), "rate": r.get("fps")}


def tempcompass_rows(content, stem):
    """{video: {aspect: [question]}}, in a file called as the task."""
    hints = {"yes_no": "\nPlease answer yes or no:", "captioning": ""}
    hint = hints.get(stem, "\nPlease directly give the best option:")
    for video, aspect, i, r in ((video, aspect, i, r) for video, aspects in content.items()
                                for aspect, items in aspects.items() for i, r in enumerate(items)):
        yield {"id": f"{stem}/{video}/{aspect}/{i}", "task": stem, "video": f"{video}.mp4",
               "prompt": r["question"] + hint, "question": r["question"], "answer": r["answer"],
               "response": r.get("prediction", r.get("response"))}


def videomme_rows(content, stem):
    """A list of questions, or the official list of videos with theirs (old and new names of keys)."""
    for video, r in ((v, r) for v in content if not v.get("missing") for r in v.get("questions", [v])):
        new, old = ("duration", "domain", "sub_category"), ("_category", "video_category", "video_subcategory")
        prompt = "\n".join((
            "Select the best answer to the following multiple-choice question based on the video. "
            "Respond with only the letter (A, B, C, or D) of the correct option.", r["question"],
            *r["options"], "The best answer is:"))
        yield {"id": r["question_id"], "task": r["task_type"], "answer": r["answer"], "prompt": prompt,
               "response": r.get("response"), "video": f"{video.get('videoID', video['video_id'])}.mp4",
               "duration": video.get("duration", video.get("duration_category")),
               "domain": video.get("domain", video.get("video_category")),
               "sub_category": video.get("sub_category", video.get("video_subcategory"))}


def longvideobench_rows(content, stem):
    """lvb_val.json, or the samples that lmms-eval logs."""
    for r in content:
        logged = r.get("lvb_acc", r)
        row = {"id": logged["id"], "task": logged["question_category"], "choices": 5,
               "duration_group": logged["duration_group"]}
        if "lvb_acc" in r:
            yield row | {"response": logged["parsed_pred"], "answer": logged["answer"]}
            continue
        options = r.get("candidates") or [r[f"option{i}"] for i in range(5) if r[f"option{i}"] != "N/A"]
        prompt = "\n".join((r["question"], *lettered(options),
                            "Answer with the option's letter from the given choices directly.\n"))
        yield row | {"video": r["video_path"], "prompt": prompt, "choices": len(options),
                     "answer": chr(65 + r["correct_choice"])}


READERS = {"ovo": ovo_rows, "mvbench": mvbench_rows, "tempcompass": tempcompass_rows,
           "videomme": videomme_rows, "longvideobench": longvideobench_rows}


def read_rows(bench, path):
    """The rows of a data file (or a folder of them), of official results, or of a file of `run`."""
    if path.is_dir():
        return [row for file in sorted(path.glob("*.json")) for row in read_rows(bench, file)]
    try:
        if path.suffix == ".jsonl":
            content = list(data.read_records(path))
            if content and "run" in content[0]:
                return content[1:]
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
        return list(READERS[bench](content, path.stem))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a file of {bench} ({type(error).__name__}: {error})") from None


# ---- Running

@lru_cache(1)
def load_model(folder, device):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return Streamo.from_pretrained(folder, dtype, device).eval(), Tokenizer.from_pretrained(folder)


@torch.inference_mode()
def encode(model, pictures):
    """[(second, picture)] -> [(second, (tokens, hidden))]: the one vision pass over a video."""
    out = []
    for k in range(0, len(pictures), 32):
        tokens, features = see(model, [picture for _, picture in pictures[k:k + 32]])
        out += features.split(tokens)
    return [(second, features) for (second, _), features in zip(pictures, out)]


@torch.inference_mode()
def answer_at_once(model, tokenizer, features, question, max_new_tokens=64):
    """Offline: all frames in one turn, the question last, the state forced to Response -> text."""
    tail, limit = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"), model.config.decoder.max_position_embeddings
    turn = data.user_part(tokenizer, len(features) - 1, [len(f) for f in features])[:-len(tail)]
    chunk = [*data.system_part(tokenizer), *turn, *tokenizer.encode("\n" + question, special=False),
             *tail, tokenizer.id(RESPONSE)]
    features, bias, said = torch.cat(features), unspoken(model, tokenizer), []
    if len(chunk) + max_new_tokens > limit:
        raise ValueError(f"{len(chunk)} tokens of frames and question are too many for the decoder's "
                         f"{limit} positions: use a smaller --max-frames")
    cache = KVCache(model.config.decoder, 1, limit, features.dtype, features.device)
    while len(said) < max_new_tokens:
        logits = model(torch.tensor([chunk], device=features.device), None if said else features, cache, "last")
        chunk = [int((logits[0] + bias).argmax())]
        if chunk[0] == tokenizer.id("<|im_end|>"):
            break
        said += chunk
    return tokenizer.decode(said).strip()


def streamed(model, tokenizer, features, record, fps, options):
    """One dialogue of Streamo-Bench: what is annotated and what the stream says (see score_stream)."""
    gold = data.turns_from_record(record, len(features) // fps)
    questions = [(turn.second, turn.question) for turn in gold if turn.question]
    turns = list(stream(model, tokenizer, features[:len(gold) * fps], questions, **options))
    return {"gold": {"states": "".join(str(STATES.index(turn.state)) for turn in gold),
                     "answers": [[turn.second, turn.text] for turn in gold if turn.state == RESPONSE]},
            "pred": {"states": "".join(str(NAMES.index(turn.state)) for turn in turns),
                     "answers": [[turn.start, turn.text] for turn in turns if turn.state == NAMES[2]],
                     "p": [round(turn.probs[2], 3) for turn in turns]}, "seconds": len(turns)}


def asked(model, tokenizer, features, rows, patience, options):
    """The responses of rows that share a stream, which never sees a frame from after their moment.

    Without a plan of its own (`online`) the question comes in the last second; the picture then
    stands still for at most `patience` seconds until the model answers: the first Response counts."""
    last, picture = int(features[-1][0]), features[-1][1]
    second, question, read = rows[0].get("online") or (last, rows[0]["prompt"], "first")
    if read == "first":
        features = features + [(last + 1 + k, picture) for k in range(patience)]
    turns, responses = [], []
    for turn in stream(model, tokenizer, features, [(second, question)], **options):
        turns.append(turn)
        if read == "first" and turn.state == NAMES[2] and turn.start >= second:
            return [turn.text]
    for row in rows:
        before = [turn for turn in turns if turn.end <= math.ceil(row["end"])]
        said = [turn.text for turn in before if turn.state == "response"]
        yes = bool(said) if read == "any" else bool(before) and before[-1].state != "silence"
        responses.append(None if read == "first" else (said or [None])[-1] if read == "last" else ("No", "Yes")[yes])
    return responses


def run_group(group, run):
    """Answer all rows of one video, encoded once. `run` is all that a worker process is told."""
    model, tokenizer = load_model(run["model"], run["device"])
    began, fps, rows = time.perf_counter(), run["fps"], group["rows"]
    if run["bench"] == "toy":
        clip, records = toy.bench(run["seed"], group["video"])
        size = model.config.vision.image_size
        pictures = [(k / fps, clip.frame(k / fps, size)) for k in range(clip.seconds * fps)]
        rows = [row | {"task": task, "record": r} for row, (task, r) in zip(rows, records, strict=True)]
    else:
        pictures = list(data.frames(group["video"], fps, rows[0].get("rate")))
    features, plans, done = encode(model, pictures), defaultdict(list), []
    encoding = (time.perf_counter() - began) / len(rows)
    for row in rows:
        plans[row["id"] if run["offline"] else row.get("online", row["id"])].append(row)
    options = {key: run[key] for key in ("fps", "threshold", "window")}
    for rows in plans.values():
        began, start = time.perf_counter(), rows[0].get("start") or 0
        end = max(math.ceil(row.get("end") or 10**9) for row in rows)
        seen = [(second - start, f) for second, f in features if start <= second < end]
        if not seen:
            raise ValueError(f"{rows[0]['id']}: {group['video']} has no frame from {start} to {end} s")
        if "record" in rows[0]:
            answers = [streamed(model, tokenizer, seen, rows[0]["record"], fps, options)]
        elif run["offline"]:
            n = min(len(seen), run["max_frames"])
            some = [seen[k * len(seen) // n][1] for k in range(n)]
            answers = [{"response": answer_at_once(model, tokenizer, some, rows[0]["prompt"])}]
        else:
            answers = [{"response": r} for r in
                       asked(model, tokenizer, seen, rows, run["patience"], options)]
        each = encoding + (time.perf_counter() - began) / len(rows)
        done += [{k: v for k, v in row.items() if k not in ("record", "prompt", "online")} | answer
                 | {"compute": round(each, 4)} for row, answer in zip(rows, answers)]
    return done


def results(groups, run, workers):
    """Yield the rows of each group when they are done. Several workers have one thread each."""
    if workers == 1:
        yield from (run_group(group, run) for group in groups)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))
    try:
        for done in as_completed([pool.submit(run_group, group, run) for group in groups]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache
def files_below(folder):
    return [Path(base) / name for base, folders, files in os.walk(folder) for name in folders + files]


def find_video(folder, name):
    """The one file or folder below `folder` whose path ends in `name`: copies differ in their trees."""
    parts = Path(name).parts
    found = [str(path) for path in files_below(folder) if path.parts[-len(parts):] == parts]
    if len(found) != 1:
        raise ValueError(f"{folder}: {len(found)} files are called {name}, wanted one")
    return found[0]


def groups_of(args):
    """[{"video", "rows"}]: what is to be run, video by video."""
    if args.bench == "toy":
        return [{"video": i, "rows": [{"id": f"{args.seed}/{i}/{k}"} for k in range(10)]}
                for i in range(args.videos)]
    if args.bench == "raw":
        rows = [{"id": f"{args.data.stem}/{i}", "video": str(data.video_path(r, args.folder)), "record": r,
                 "task": TASKS.get(r.get("task_type"), r.get("task_type"))}
                for i, r in enumerate(data.read_records(args.data))]
    else:
        rows = [row | {"video": find_video(args.folder, row["video"])}
                for row in read_rows(args.bench, args.data) if row["task"] != "captioning"]
    groups = defaultdict(list)
    for row in rows:
        groups[row["video"]].append(row)
    return [{"video": video, "rows": rows} for video, rows in groups.items()]


def run_bench(args):
    """Answer this process's share, a JSON line per item; finished videos are not run again.
    -> (rows, settings of the run, file of the rows)."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    out = args.out.with_suffix(".jsonl" if world == 1 else f".rank{rank}.jsonl")
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    with open(args.model / "model.safetensors", "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    names = "bench", "model", "data", "seed", "fps", "offline", "max_frames", "patience", "threshold", "window"
    run = {name: getattr(args, name) for name in names} | {"device": device, "sha256": digest}
    run = {key: str(value) if isinstance(value, Path) else value for key, value in run.items()}
    groups, lines, header = groups_of(args)[rank::world], [], json.dumps({"run": run})
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        first, *lines = out.read_text(encoding="utf-8").split("\n")[:-1]        # the last may be cut short
        if first != header:
            raise ValueError(f"{out}: rows of another run (its first line says which); use another --out")
    rows = {row["id"]: row for row in map(json.loads, lines)}
    todo = [group for group in groups if not all(row["id"] in rows for row in group["rows"])]
    with open(out.with_suffix(".partial"), "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in [header, *map(json.dumps, rows.values())])
    os.replace(out.with_suffix(".partial"), out)
    with open(out, "a", encoding="utf-8") as file, tqdm(
            total=sum(len(group["rows"]) for group in groups), initial=len(rows), unit="item") as bar:
        for done in results(todo, run, args.workers):
            file.write("".join(json.dumps(row) + "\n" for row in done))
            file.flush()
            rows |= {row["id"]: row for row in done}
            bar.update(len(done))
    return list(rows.values()), run, out


def report(bench, scores, out, **about):
    """Print a table of the scores; write them to `out` with all that is needed to repeat them."""
    beside = scores.get("corrected", {})
    print(f"{bench:34}{'score':>8}" + (f"{'corrected':>12}" if beside else ""))
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            print(f"{name:34}{value:8.2f}" + (f"{beside[name]:12.2f}" if name in beside else ""))
    for name, line in zip(NAMES, scores.get("confusion", ())):
        print(f"seconds annotated {name:10} said " + "  ".join(f"{n} {n_}" for n_, n in zip(NAMES, line)))
    if "confusion" in scores:
        print("narration, dense_caption: F1 against exact annotations, in place of a judge's win rate")
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    write_json(out, scores | about | {"versions": versions})


# ---- The paper's claims, in miniature: arms trained from the same seeds with the same budget

CLAIMS = {"loss": {loss: ["--loss", loss] for loss in ("focal", "fixed", "ce")},        # table 4
          "states": {"three states": [], "no standby": ["--states", "2"]},              # table 7
          "tasks": {"six tasks": [], "grounding and caption": ["--tasks", "grounding+caption"]},
          "fps": {"1 fps": [], "2 fps": []}}                                            # of the test
COLUMNS = ("response_precision", "response_recall", "response_f1", "state_f1", *SIX, "average")


def claims(args):
    """Train what is not there, stream it, write FOLDER/{claim}.md and a figure, {claim}.png."""
    lines, training, tradeoff = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"], {}, {}
    for arm, options in CLAIMS[args.claim].items():
        scores = []
        for seed in range(args.seeds):
            folder = args.out / f"{'-'.join(options).strip('-') or 'base'}-seed{seed}"
            if not (folder / "model.safetensors").exists():
                subprocess.run([sys.executable, "train.py", *options, "--seed", str(seed), "--minutes",
                                str(args.minutes), "--out", str(folder)], check=True)
            fps, out = 2 if arm == "2 fps" else 1, folder / f"{arm}.json"
            rows, run, _ = run_bench(argparse.Namespace(**vars(args) | {
                "bench": "toy", "model": folder, "out": out, "fps": fps, "seed": 10**6}))
            scores.append(score_stream(rows))
            report("toy", scores[-1], out, run=run)
        cells = [[run[name] for run in scores] for name in COLUMNS]
        lines.append(f"| {arm} | " + " | ".join(f"{mean(c):.1f} ± {(max(c) - min(c)) / 2:.1f}" for c in cells) + " |")
        log = [line for line in data.read_records(folder / "log.jsonl") if "response_recall" in line]
        training[arm] = [(line["minutes"], 100 * line["response_recall"]) for line in log]
        tradeoff[arm] = [(recall, precision) for _, precision, recall in threshold_curve(rows)]
    (args.out / f"{args.claim}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw({"Response recall in training, %, by minute": training,
          "Response precision, %, by recall, over all thresholds": tradeoff}, args.out / f"{args.claim}.png")
    print("\n".join(lines))


def draw(panels, path, width=560, height=400):
    """Line charts side by side, {title: {label: [(x, y)]}}, as a picture file."""
    image, font = Image.new("RGB", (width * len(panels), height), "white"), ImageFont.load_default(14)
    pen, colours = ImageDraw.Draw(image), ("#1b6ca8", "#d1495b", "#3a9d5d")
    for n, (title, lines) in enumerate(panels.items()):
        points = [point for line in lines.values() for point in line] or [(0, 0)]
        low, span = np.min(points, 0), np.ptp(points, 0) + 1e-9
        corner, room = np.array([n * width + 50, height - 40]), np.array([width - 70, 80 - height])
        pen.rectangle((corner[0], 40, corner[0] + room[0], corner[1]), outline="#999999")
        pen.text((corner[0], 12), title, "black", font)
        for k in range(5):
            (x, y), value = corner + room * k / 4, low + span * k / 4
            pen.text((x, corner[1] + 6), f"{value[0]:.4g}", "black", font, anchor="ma")
            pen.text((corner[0] - 6, y), f"{value[1]:.4g}", "black", font, anchor="rm")
        for k, (label, line) in enumerate(lines.items()):
            pen.line([tuple(corner + room * (point - low) / span) for point in line], colours[k % 3], 3)
            pen.text((corner[0] + room[0] - 8, corner[1] - 24 - 18 * k), label, colours[k % 3], font, anchor="ra")
    image.save(path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, *options):
        sub = commands.add_parser(name)
        for flag, settings in (*options, ("--out", {"type": Path, "required": True})):
            sub.add_argument(flag, **settings)
    workers = 1 if torch.cuda.is_available() else min(2, os.cpu_count())
    shared = (
        ("--workers", {"type": int, "default": workers, "help": "processes"}),
        ("--fps", {"type": int, "default": 1, "help": "frames a second; a turn stays a second"}),
        ("--threshold", {"type": float, "help": "respond when P(Response) reaches it"}),
        ("--window", {"type": int, "help": "seconds kept in the context"}),
        ("--offline", {"action": "store_true", "help": "all frames in one turn, answered at once"}),
        ("--max-frames", {"type": int, "default": 64, "help": "of a video, offline"}),
        ("--patience", {"type": int, "default": 10, "help": "seconds that the last picture stands "
                        "still for an answer that is due"}),
        ("--seed", {"type": int, "default": 1, "help": "of the toy videos"}))
    model, path = ("--model", {"type": Path, "required": True}), {"type": Path, "default": None}
    benches, number = {"choices": ("raw", *READERS)}, ("--videos", {"type": int, "default": 300})
    command("toy", model, number, ("--data", path), ("--videos-folder", path | {"dest": "folder"}), *shared)
    command("run", ("bench", benches), model, ("--data", path | {"required": True}),
            ("--videos", path | {"required": True, "dest": "folder"}), *shared)
    command("score", ("bench", benches), ("files", {"nargs": "+", "type": Path}))
    command("claims", ("claim", {"choices": CLAIMS}), ("--seeds", {"type": int, "default": 1}), number,
            ("--minutes", {"type": float, "default": 30, "help": "of training, each"}), ("--data", path), *shared)
    args = parser.parse_args(argv)
    try:
        if args.command == "claims":
            claims(args)
        elif args.command == "score":
            rows = [row for file in args.files for row in read_rows(args.bench, file)]
            report(args.bench, score(args.bench, rows), args.out, files=[str(file) for file in args.files])
        else:
            args.bench = args.bench if args.command == "run" else "raw" if args.data else "toy"
            rows, run, out = run_bench(args)
            if args.command == "run" or "RANK" in os.environ:
                print(f"{len(rows)} rows in {out}; next: eval.py score {args.bench} {out} --out FILE")
            else:
                report(args.bench, score_stream(rows), args.out, run=run)
    except (ValueError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
