"""Benchmarks and their scorers. Running and scoring are separate; every score is 0-100.

    python eval.py toy --model assets/tiny --videos 300 --seed 7 --out toy.json
    python eval.py toy --model assets/tiny --data raw.json --videos-folder FOLDER --out own.json
    python eval.py run ovo --data ovo_bench_new.json --videos FOLDER --model DIR --out ovo.jsonl
    python eval.py run mvbench --offline --data json/ --videos FOLDER --model DIR --out mv.jsonl
    torchrun --nproc_per_node=8 eval.py run ovo ... --out ovo.jsonl     writes ovo.rank0.jsonl, ...
    python eval.py score ovo ovo.rank*.jsonl --out ovo.json             official result files too
    python eval.py claims loss --model DIR --steps 1000 --seeds 3       trains, streams, compares

`toy` and `run` write a JSON line per item, `claims` keeps its runs: all go on where they stopped.
Scores follow the official rules to the letter; where a rule has a known fault, the corrected figure
stands beside.
"""
import argparse
import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import data
from infer import STATES as NAMES
from infer import see, stream, unspoken
from streamo import RESPONSE, SILENCE, STATES, KVCache, Streamo, Tokenizer, write_json


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
THRESHOLDS = (0, .001, .002, .005, .01, .02, *(k / 20 for k in range(1, 20)), .98, .99, .995,
              .998, .999)


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


def span_iou(*texts):
    """IoU, as the paper writes it, of two texts like "... from 12s to 20s.": of the first two
    numbers of each; 0 when one has no two numbers."""
    spans = [[float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)[:2]] for text in texts]
    if any(len(span) < 2 for span in spans):
        return 0.0
    starts, ends = zip(*spans)
    union = max(ends) - min(starts)
    return max(0.0, min(ends) - max(starts)) / union if union > 0 else float(spans[0] == spans[1])


def score_stream(rows):
    """Streamo-Bench, and states and Response turns besides. Narration and captions: F1 of events
    with the annotation's exact text within 1 s, in place of the paper's judge."""
    totals, confusion = defaultdict(lambda: np.zeros(2)), Counter()
    for row in rows:
        task, pred, gold = row["task"], row["pred"]["answers"], row["gold"]["answers"]
        confusion.update(zip(row["gold"]["states"], row["pred"]["states"], strict=True))
        pairs = matched([s for s, _ in pred], [s for s, _ in gold], 1)
        found = {"response_precision": (len(pairs), len(pred)),         # part and whole of a score
                 "response_recall": (len(pairs), len(gold)),
                 "response_f1": (2 * len(pairs), len(pred) + len(gold)),
                 "text_exact": (sum(pred[i][1] == gold[j][1] for i, j in pairs), len(pairs))}
        if task in SIX[:2]:                                             # the first answer counts
            found[task] = span_iou(*(said[0][1] if said else "" for said in (pred, gold))), 1
        elif task in SIX[2:4]:
            hits = sum(len(matched([s for s, t in pred if t == text],
                                   [s for s, t in gold if t == text], 1))
                       for text in {text for _, text in gold})
            found[task] = 2 * hits, len(pred) + len(gold)
        elif task == "tsqa":
            right = [[t == text and abs(s - due) <= 3 for s, t in pred] for due, text in gold]
            hits = sum(map(any, right))
            found |= {"tsqa_accuracy": (hits, len(gold)),
                      "tsqa_recall": (hits / max(len(gold), 1), 1),
                      "tsqa_precision": (sum(map(any, zip(*right))), len(pred))}
        for name, part_and_whole in found.items():
            totals[name] += part_and_whole
    scores = {name: percent(*totals[name]) for name in (*SIX, *totals) if name in totals}
    if scores.keys() >= set(SIX):
        scores["average"] = mean([scores[name] for name in SIX])
    table = np.array([[confusion[gold, said] for said in "012"] for gold in "012"])
    hits, either = table.diagonal(), table.sum(0) + table.sum(1)
    scores["state_f1"] = mean([percent(2 * h, e) for h, e in zip(hits, either) if e])
    scores |= {f"{name}_rate": percent(k, table.sum()) for name, k in zip(NAMES, table.sum(0))}
    speed = sum(row["seconds"] for row in rows) / max(sum(row["compute"] for row in rows), 1e-9)
    return scores | {"stream_seconds_per_compute_second": speed, "dialogues": len(rows),
                     "confusion": table.tolist()}


def threshold_curve(rows):
    """[(threshold, precision, recall)] of Response turns within 1 s, were p(Response) >= threshold
    the rule; it ends where nothing would be said. Read off the probabilities of one run: its
    context stays as that run made it."""
    curve, gold = [], [[second for second, _ in row["gold"]["answers"]] for row in rows]
    for threshold in THRESHOLDS:
        said = [[k for k, p in enumerate(row["pred"]["p"]) if p >= threshold] for row in rows]
        hits = sum(len(matched(turns, due, 1)) for turns, due in zip(said, gold))
        if any(said):
            curve.append((threshold, *(percent(hits, sum(map(len, of))) for of in (said, gold))))
    return curve


# ---- The other benchmarks' official rules
# A row is {"id", "task", "response": str or None, "answer": str, ...}; a rule gives 1, 0, or None
# for an item that leaves the denominator.

PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer",
            "The best option is", "The correct option is", "Best answer:", "Best option:")


def ovo_rule(row):
    """A substring rule: "Answer: B" is right for A too. The digits of a count are joined."""
    response, answer = row["response"] or "", row["answer"]
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
        found = re.findall("^(?:yes|no)", text.lower())
    elif row["task"] == "multi-choice":
        found = [answer] if text == answer else re.findall(r"^[A-D](?=[.)]|\Z)", text)
        answer = answer if text == answer else answer[0]
    else:                                               # "Caption A: The ball falls.", or a part
        found = []
        for option in row["question"].split("\n")[1:]:
            index, sentence, *_ = option.split(": ")
            if (text == option or index in (text, text.replace(".", ""))
                    or sentence in (text, *text.split(") ")[1:2])):         # "(A) sentence" too
                found.append(option)
    return int(answer in found) if found else None


def letter_rule(row, letters, prefixes):
    """The first of the letters in a response without the prefixes is right; None: there is none."""
    text = row["response"] or ""
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found and int(found[0] == row["answer"])


def videomme_rule(row):
    """Two commas are missing in the official prefixes, so that four of them stay in the text and
    the B of "Best answer:" is an answer; no letter at all leaves the denominator."""
    glued = PREFIXES[4] + PREFIXES[5], PREFIXES[6] + PREFIXES[7]
    return letter_rule(row, "ABCD", PREFIXES[:4] + glued)


def longvideobench_rule(row):
    """No letter: a random choice, here drawn from the item's id so that it stays the same."""
    mark = letter_rule(row, "ABCDE", PREFIXES)
    guess = random.Random(row["id"]).choice("ABCDE"[:row["choices"]])
    return int(guess == row["answer"]) if mark is None else mark


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


RULES = {"ovo": ovo_rule, "mvbench": mvbench_rule, "videomme": videomme_rule,
         "longvideobench": longvideobench_rule,
         "tempcompass": lambda row: tempcompass_match(row) or 0}        # as with --disable_llm
OVO = {"backward": ("EPM", "ASI", "HLD"), "forward": ("REC", "SSR", "CRR"),
       "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR")}
DIVISIONS = "task", "duration", "domain", "sub_category", "duration_group"  # keys of a row


def averages(bench, rows, rule):
    """{name: score} of the tasks and divisions of a benchmark, and its own kind of average."""
    marks = defaultdict(list)
    for row in rows:
        names = "overall", *(str(row[key]) for key in DIVISIONS if row.get(key) is not None)
        for name in names if rule(row) is not None else ():
            marks[name].append(rule(row))
    scores = {name: 100 * mean(of) for name, of in marks.items()}
    overall = scores.pop("overall", 0.0)
    if bench == "ovo":                  # a category is the mean of its tasks, the total of three
        means = {category: mean([scores[task] for task in tasks if task in scores])
                 for category, tasks in OVO.items() if scores.keys() & set(tasks)}
        return scores | means | ({"total": mean([*means.values()])} if len(means) == 3 else {})
    if bench in ("mvbench", "tempcompass"):
        return scores | {"average": mean([*scores.values()])}
    return scores | {"overall": overall}


def score(bench, rows):
    """All scores of a benchmark's rows by its official rule; "corrected" beside a faulty one."""
    if bench == "raw":
        return score_stream(rows)
    scores = averages(bench, rows, RULES[bench]) | {"items": len(rows)}
    if bench == "tempcompass":
        known = [tempcompass_match(row) is not None for row in rows]
        return scores | {"matched_without_judge": 100 * mean(known)}
    return scores | {"corrected": averages(bench, rows, corrected)}


# ---- Data files and official result files, which are laid out alike: one reader does for both

BARE = "Do not include any additional text or explanation in your response.\n"
YES_NO = "Answer only with “Yes” or “No”.\n" + BARE
PROMPTS = {  # OVO-Bench's own
    "MCQ": "\nQuestion: {}\nOptions:\n{}\n\nRespond only with the letter corresponding to your "
           "chosen option (e.g., A, B, C). \n" + BARE,
    "REC": "\nYou're watching a video in which people may perform a certain type of action "
           "repetively. \nThe person performing this kind of action are referred to as 'they' in "
           "the following statement.\nYou're task is to count how many times have different people "
           "in the video perform this kind of action in total.\nOne complete motion counts as one. "
           "\nNow, answer the following question: {}\nProvide your answer as a single number "
           "(e.g., 0, 1, 2, 3…) indicating the total count.\n" + BARE,
    "SSR": "\nYou're watching a tutorial video which contain a sequential of steps. \nThe "
           "following is one step from the whole procedures: \n{}\nYour task is to determine if "
           "the man or woman in the video is currently performing this step.\n" + YES_NO,
    "CRR": "\nYou're responsible of answering questions based on the video content. \nThe "
           "following question are relevant to the latest frames, i.e. the end of the video.\n{}\n"
           "Decide whether existing visual content, especially latest frames, i.e. frames that "
           "near the end of the video, provide enough information for answering the question.\n"
           + YES_NO}


LETTERS = "ABCDEFGH"
CHOICES = {  # benchmark: an item's id, task and video, what else is kept; the prompt; an option
    "mvbench": (None, None, "video", ("start", "end", "fps"),
                "Question:{}\nOption:\n{}\nOnly give the best option.\n", "({}) {}"),
    "videomme": ("question_id", "task_type", "videoID", ("duration", "domain", "sub_category"),
                 "Select the best answer to the following multiple-choice question based on the "
                 "video. Respond with only the letter (A, B, C, or D) of the correct option.\n{}\n"
                 "{}\nThe best answer is:", "{1}"),
    "longvideobench": ("id", "question_category", "video_path", ("duration_group",),
                       "{}\n{}\nAnswer with the option's letter from the given choices directly.\n",
                       "{}. {}")}
NEWER = {"video_id": "videoID", "duration_category": "duration", "video_category": "domain",
         "video_subcategory": "sub_category"}                   # Video-MME's keys have two names


def choice_rows(bench, content, stem):
    """A row for each multiple-choice question. MVBench names its task in the file's name alone;
    Video-MME's is a list of videos with their questions; LongVideoBench's Hub copy pads options."""
    key, task, video, more, prompt, form = CHOICES[bench]
    items = [{NEWER.get(name, name): value for name, value in item.items()} | item | question
             for item in content if not item.get("missing")
             for question in item.get("questions", [item])]
    for i, r in enumerate(items):
        options = r.get("options") or r.get("candidates") or [r[f"option{k}"] for k in range(5)]
        options = [option for option in options if option != "N/A"]
        right = r.get("correct_choice", r.get("answer"))        # an index, a text or a letter
        right = options.index(right) if right in options else right
        right = [*LETTERS].index(right) if isinstance(right, str) else right
        lettered = "\n".join(map(form.format, LETTERS, options))
        yield {"id": r[key] if key else f"{stem}/{i}", "task": r[task] if task else stem,
               "video": r[video] + ".mp4" * (bench == "videomme"), "answer": LETTERS[right],
               "prompt": prompt.format(r["question"], lettered), "choices": len(options),
               "response": r.get("response"), **{name: r.get(name) for name in more}}


def ovo_rows(content, stem):
    """A row for each moment asked about. ask: (second, question, how the stream is read at the
    moment): its last answer (REC), was there any (CRR), is its state not Silence (SSR)."""
    for r in sum(([item] if isinstance(item, dict) else item[1] for item in content), []):
        for j, at in enumerate(r.get("test_info", [r])):
            kind, ask, options = r["task"], None, ""
            if at is r:
                kind, question = "MCQ", r["question"]
                answer = r["ground_truth"] if "ground_truth" in r else LETTERS[r["gt"]]
                options = " ".join(map("{}. {};".format, LETTERS, r.get("options", ())))
            elif kind == "REC":
                answer, question = str(at["count"]), f"How many times did they {r['activity']}?"
                ask = max(min(r.get("start_times") or [0]) - 3, 0), question, "last"
            else:
                answer, question = ("No", "Yes")[at["type"]], at.get("step", r.get("question"))
                ask = r.get("ask_time", 0), question, "any" if kind == "CRR" else "state"
            yield {"id": f"{r['id']}_{j}", "task": r["task"], "video": r["video"], "ask": ask,
                   "response": at.get("response"), "end": at.get("realtime"), "answer": answer,
                   "prompt": PROMPTS[kind].format(question, options)}


def tempcompass_rows(content, stem):
    """{video: {aspect: [question]}} in a file called as the task. Captioning needs a judge: it
    is left out, and the average is that of the other three tasks."""
    hint = "answer yes or no:" if stem == "yes_no" else "directly give the best option:"
    for video, aspects in content if stem != "captioning" else ():
        for aspect, items in aspects.items():
            for i, r in enumerate(items):
                yield {"id": f"{stem}/{video}/{aspect}/{i}", "task": stem, "video": f"{video}.mp4",
                       "prompt": f"{r['question']}\nPlease {hint}", "question": r["question"],
                       "answer": r["answer"], "response": r.get("prediction", r.get("response"))}


READERS = {"ovo": ovo_rows, "tempcompass": tempcompass_rows,
           **{bench: partial(choice_rows, bench) for bench in CHOICES}}


def read_rows(bench, path):
    """The rows of a data file (or a folder of them), of official results, or of a file of `run`."""
    if path.is_dir():
        return [row for file in sorted(path.glob("*.json")) for row in read_rows(bench, file)]
    content = list(data.read_records(path))
    try:
        if path.suffix == ".jsonl" and "run" in content[0]:
            if content[0]["run"]["bench"].replace("toy", "raw") != bench:
                raise ValueError(f"answers to {content[0]['run']['bench']}")
            return content[1:]
        return list(READERS[bench](content, path.stem))
    except data.MISSHAPEN as error:
        raise ValueError(f"{path}: not a file of {bench} ({error!r})") from None


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
        clip, size = data.toy.bench(run["seed"], group["video"])[0], model.config.vision.image_size
        pictures = ((k / fps, clip.frame(k / fps, size)) for k in range(clip.seconds * fps))
    else:                               # a record's fps is the rate of a folder of frames
        pictures = data.frames(group["video"], fps, rows[0].get("fps"))
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
                         for k, (task, record) in enumerate(data.toy.bench(args.seed, i)[1])]
    elif args.bench == "raw":
        for i, record in enumerate(data.read_records(args.data)):
            if wrong := data.faults(record):
                raise ValueError(f"{args.data}: record {i}: {wrong[0]}")
            task, rate = record["task_type"], data.parse_time(record.get("fps"))
            groups[str(data.video_path(record, args.folder))].append(
                {"id": f"{args.data.stem}/{i}", "task": TASKS.get(task, task), "record": record,
                 "fps": rate})
    else:
        paths = [str(path) for path in args.folder.absolute().rglob("*")]
        for row in read_rows(args.bench, args.data):
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
JUDGE = "Narration and captions: F1 against the annotations, in place of a judge's win rate."


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
    write_json(out, scores | about | {"versions": VERSIONS})


# ---- The paper's claims in miniature: variants trained from the same start, seeds and budget

OVO_MEANS = "OVO-Bench real-time / backward / forward / total"
CLAIMS = {  # what the paper shows, and the variants: options of train.py, fps of the test, paper's
    "loss": ("table 4, 3B: OVO-Bench REC / SSR / CRR", {
        "focal": ("", 1, "27.94 / 50.72 / 82.5"),
        "fixed weights": ("--loss fixed", 1, "18.62 / 41.02 / 49.17"),
        "cross entropy": ("--loss ce", 1, "6.45 / 20.99 / 41.67")}),
    "states": (f"table 7, 3B: {OVO_MEANS}; forward grounding", {
        "three states": ("", 1, "61.51 / 41.76 / 53.72 / 52.33; 14.7"),
        "no Standby": ("--states 2", 1, "60.93 / 39.43 / 45.22 / 48.52; 9.3")}),
    "tasks": (f"table 2, 3B, its tasks and ET-Instruct's: {OVO_MEANS}", {
        "six tasks": ("", 1, "61.51 / 41.76 / 53.72 / 52.33"),
        "grounding and caption": ("--tasks grounding+caption", 1,
                                  "46.47 / 28.52 / 46.62 / 40.54")}),
    "fps": (f"table 2, 7B: {OVO_MEANS}", {
        "tested at 1 fps": ("", 1, "65.98 / 46.10 / 54.77 / 55.61"),
        "tested at 2 fps": ("", 2, "67.44 / 49.18 / 56.96 / 57.86")})}
COMPARED = ("response_precision", "response_recall", "response_f1", "state_f1", *SIX, "average")


def origin(model):
    """What a run starts from, for people: "nothing", or the folder's name and part of a digest."""
    if not model:
        return "nothing"
    return "-".join([model.name, *(d[:8] for d in sha256(model, "safetensors").values())])


def trained(args, options, seed):
    """The folder of a run of train.py, whose name tells options, start, steps and seed: begun, gone
    on with, or complete and left alone."""
    start = ["--model", str(args.model)] if args.model else []
    steps = ["--steps", str(args.steps)] if args.steps else []
    variant = "-".join(options.strip("-").split() or ["base"])
    name = f"{variant}-from-{origin(args.model)}-{args.steps or 'recipe'}-steps-seed-{seed}"
    folder = args.runs / name
    if not (folder / "model" / "run.json").exists():                        # written last of all
        again = ["--resume"] if folder.exists() else []
        subprocess.run([sys.executable, Path(__file__).with_name("train.py"), *options.split(),
                        *start, *steps, "--seed", str(seed), "--out", str(folder), *again],
                       check=True)
    return folder


def thinned(log, most=60):
    """The lines of a training log, many in one: the means of their figures, to four digits."""
    lines = [{key: value for key, value in line.items() if not isinstance(value, dict)}
             for line in data.read_records(log)]
    width = -(-len(lines) // most)
    parts = [lines[k:k + width] for k in range(0, len(lines), width)]
    return [{key: float(f"{mean([line[key] for line in part if key in line]):.4g}")
             for key in sorted(set().union(*part))} | {"step": part[-1]["step"]} for part in parts]


def claims(args):
    """Train what is not there yet, stream it, compare: {claim}.json, .md and logs in args.out."""
    (paper, variants), training, found = CLAIMS[args.claim], {}, {}
    for name, (options, fps, theirs) in variants.items():
        seeds, pooled, training[name] = [], [], []
        for seed in range(args.seeds):
            folder = trained(args, options, seed)
            rows, *_ = run_bench(argparse.Namespace(**vars(args) | {
                "model": folder / "model", "fps": fps, "out": folder / f"toy-{fps}fps.jsonl"}))
            seeds.append(score_stream(rows))
            pooled += rows
            training[name].append(thinned(folder / "log.jsonl"))
            write_json(args.out / "logs" / f"{folder.name}.json", training[name][-1])
        cells = {key: [scores[key] for scores in seeds] for key in (*COMPARED, "text_exact")}
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
    (args.out / f"{args.claim}.md").write_text(table, encoding="utf-8")
    if args.claim == "loss":
        loss_figure(found, training, args.out / "loss.png")
    print(table)


def claim_table(args, paper, found):
    """Markdown: the scores, the paper's beside them; of the losses the curve over the threshold."""
    lines = [("toy world, %", *found), ["---"] * (len(found) + 1)]
    cell = "{:.1f} ± {:.1f}" if args.seeds > 1 else "{:.1f}"
    for key in COMPARED:
        cells = [cell.format(v["mean"][key], v["half_range"][key]) for v in found.values()]
        lines.append((key.replace("_", " "), *cells))
    lines.append((f"the paper, {paper}", *(v["paper"] for v in found.values())))
    curves = [{threshold: pair for threshold, *pair in v["curve"]} for v in found.values()]
    for threshold in THRESHOLDS if args.claim == "loss" else ():
        lines.append((f"precision / recall, Response if p ≥ {threshold:g}", *(
            "{:.1f} / {:.1f}".format(*curve[threshold]) if threshold in curve else "never said"
            for curve in curves)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + (
        f"\nTrained from {origin(args.model)}; steps: {args.steps or 'as the recipe'}; seeds: "
        f"{args.seeds} (mean ± half of the range); tested on {args.videos} toy videos of seed "
        f"{args.seed}. Response within 1 s. {JUDGE}\n\n    {args.line}\n")


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
    for k, (colour, name) in enumerate(zip(("#0072b2", "#d55e00", "#009e73"), found)):
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
        x, y = (300 + 200 * k) * sharp, 408 * sharp
        pen.line((x, y, x + 24 * sharp, y), colour, 4 * sharp)
        pen.text((x + 32 * sharp, y), name, ink, large, "lm")
    image.reduce(2).save(path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(dest="command", required=True)
    commands = {name: subparsers.add_parser(name) for name in ("toy", "run", "score", "claims")}
    workers = 1 if torch.cuda.is_available() else min(2, os.cpu_count())

    def add(names, flag, **settings):
        for name in names.split():
            commands[name].add_argument(flag, **settings)

    add("run score", "bench", choices=("raw", *READERS))
    add("score", "files", nargs="+", type=Path)
    add("claims", "claim", choices=CLAIMS)
    add("toy run", "--model", type=Path, required=True, help="checkpoint folder")
    add("claims", "--model", type=Path, help="start of all runs; default: nothing")
    add("run", "--data", type=Path, required=True, help="annotation file")
    add("run", "--videos", type=Path, required=True, dest="folder")
    add("toy", "--data", type=Path, help="raw records, in place of the toy videos")
    add("toy", "--videos-folder", type=Path, dest="folder", default=Path())
    add("toy claims", "--videos", type=int, default=300, help="how many")
    add("toy run claims", "--seed", type=int, default=10**6, help="of toy videos")
    add("claims", "--seeds", type=int, default=1, help="runs of each variant")
    add("claims", "--steps", type=int, help="of training; default: the recipe's")
    add("claims", "--runs", type=Path, default="runs/claims", help="folder of the training runs")
    add("toy run score", "--out", type=Path, required=True)
    add("claims", "--out", type=Path, default="assets/claims", help="of tables, figure and logs")
    add("toy run claims", "--workers", type=int, default=workers)
    add("toy run", "--fps", type=int, default=1, help="frames in a turn, a second")
    add("toy run claims", "--threshold", type=float, help="of P(Response)")
    add("toy run claims", "--window", type=int, help="seconds kept in the context")
    add("run", "--offline", action="store_true", help="all frames in one turn")
    add("run", "--max-frames", type=int, default=64, help="offline")
    add("run", "--patience", type=int, default=10,
        help="seconds that the last picture stands still until an answer comes")
    args = parser.parse_args(argv)
    try:
        if args.command == "claims":
            args.bench, line = "toy", sys.argv[1:] if argv is None else argv
            args.line = " ".join(["python eval.py", *line])
            claims(args)
        elif args.command == "score":
            rows, of = [], {}                       # the file that each item was first met in
            for file in args.files:
                rows += (more := read_rows(args.bench, file))
                if twice := [id for row in more if of.setdefault(id := row["id"], file) != file]:
                    raise ValueError(f"{file}: item {twice[0]} is in {of[twice[0]]}, too")
            report(args.bench, score(args.bench, rows), args.out, files=[*map(str, args.files)])
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
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
