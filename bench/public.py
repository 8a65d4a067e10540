"""The public benchmarks: readers of their files, and their official rules to the letter."""
import json
import random
import re
from collections import defaultdict
from functools import partial

from parts.annotations import DAY
from parts.files import MISSHAPEN, check, fault, read_records


def percent(part, whole):
    return 100 * part / whole if whole else 0.0


def mean(values):
    return sum(values) / len(values) if values else 0.0


# ---- Official rules
# A row is {"id", "task", "response": str or None, "answer": str, ...}; a rule gives 1, 0, or None
# for an item that leaves the denominator.

PREFIXES = ("The best answer is", "The correct answer is", "The answer is", "The answer",
            "The best option is", "The correct option is", "Best answer:", "Best option:")
# Two commas are missing in the official lists, so that four prefixes stay in the text and the B of
# "Best answer:" is an answer.
GLUED = *PREFIXES[:4], PREFIXES[4] + PREFIXES[5], PREFIXES[6] + PREFIXES[7]
VIDEOMME = *GLUED, "Answer:", "Option:", "The correct answer", "The correct option"


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


def caption_match(text, question, answer):
    """Whether the caption that a text names is the answer; None when it names none. Options are
    lines like "Caption A: The ball falls."; the whole of one, its sentence ("(A) The ball falls."
    too) or its index will do ("Caption A", "A."). Of several names the last counts."""
    lines = question.split("\n")[1:]
    parts = [line.split(": ") for line in lines]
    sentence, index = text.split(") ")[1] if ") " in text else text, text.replace(".", "")
    ways = (lines, (text,)), ([part[1] for part in parts], (text, sentence)), (
        [part[0] for part in parts] + [part[0].split()[-1] for part in parts], (text, index))
    named = [name for names, forms in ways for name in names if name in forms]
    index, said, *_ = answer.split(": ")
    return named[-1] in (answer, said, index, index.split()[-1]) if named else None


def tempcompass_match(row):
    """1 or 0 when the official rules can tell, None when a language model would be the judge."""
    if row["response"] is None:
        return None
    text, answer = row["response"].replace("</s>", "").strip(), row["answer"]
    if row["task"] == "caption_matching":
        right = caption_match(text, row["question"], answer)
    elif row["task"] == "yes_no":
        found = re.match("yes|no", text.lower())
        right = found and found[0] == answer
    else:
        found = re.match(r"[A-D](?=[.)]|\Z)", text)
        right = text == answer or (found and found[0] == answer[0])
    return None if right is None else int(right)


def tempcompass_rule(row):
    """Where the rules cannot tell: the rating of the judge if the file has one, else 0, as the
    official scripts have it with --disable_llm."""
    match = tempcompass_match(row)
    return (row.get("rating") or 0) if match is None else match


def first_letter(text, letters, prefixes):
    """The first of the letters in a text without the prefixes; "": there is none."""
    for prefix in prefixes:
        text = text.replace(prefix, "")
    found = re.search(f"[{letters}]", text)
    return found[0] if found else ""


def videomme_rule(row):
    """No letter at all leaves the denominator."""
    letter = first_letter((row["response"] or "").strip(), "ABCD", VIDEOMME)
    return int(letter == row["answer"]) if letter else None


def longvideobench_rule(row):
    """No letter: a random choice, here drawn from the item's id so that it stays the same."""
    letter = first_letter(row["response"] or "", "ABCDE", PREFIXES)
    guess = random.Random(row["id"]).choice(LETTERS[:row["choices"]])
    return int((letter or guess) == row["answer"])


def corrected(row):
    """1 or 0: all items count, an option is a capital on its own, a count the first number."""
    text, answer = row["response"] or "", row["answer"]
    if answer in ("Yes", "No"):
        text, answer = text.upper(), answer[0]
        found = re.search(r"\b([YN])(?:ES|O)?\b", text)
    elif row["task"] == "REC":
        found = re.search(r"(\d+)", text)
    else:                                       # but not the article in "A man ...", as in "A is"
        found = re.search(r"\b([B-E]|A(?! [a-z])|A(?= (?:is|was|as|because|since)\b))\b", text)
    return int(found is not None and found[1] == answer)


# ---- Averages

RULES = {"ovo": ovo_rule, "mvbench": mvbench_rule, "videomme": videomme_rule,
         "longvideobench": longvideobench_rule, "tempcompass": tempcompass_rule}
OVO = {"backward": ("EPM", "ASI", "HLD"), "realtime": ("OCR", "ACR", "ATR", "STU", "FPD", "OJR"),
       "forward": ("REC", "SSR", "CRR")}
DIVISIONS = "task", "duration", "domain", "sub_category", "duration_group"  # keys of a row
SIZES = {  # scored items of the whole benchmark, by task; "": of all tasks together
    "ovo": {"EPM": 297, "ASI": 148, "HLD": 186, "OCR": 149, "ACR": 109, "ATR": 116, "STU": 178,
            "FPD": 101, "OJR": 184, "REC": 698, "SSR": 629, "CRR": 240},
    "tempcompass": {"multi-choice": 1580, "yes_no": 2453, "caption_matching": 1503},
    "mvbench": {"": 4000}, "videomme": {"": 2700}, "longvideobench": {"": 1337}}
MEANT = {  # which average is meant
    "ovo": "total: the mean of backward, realtime and forward, each the mean of its tasks; "
           "total_without_forward: of backward and realtime. Both are published as OVO-Bench's.",
    "tempcompass": "average: the mean of multi-choice, yes_no and caption_matching (captioning "
                   "needs a judge); all_questions: of all their questions, tasks unweighted.",
    "mvbench": "average: the mean of the tasks; an empty response leaves the official figure.",
    "videomme": "overall: right answers of those with a letter; without one an item leaves it.",
    "longvideobench": "overall: right answers of all; without a letter one is drawn at random."}


def averages(bench, rows, rule):
    """{name: score} of the tasks and divisions of a benchmark, and its own kinds of average."""
    marks = defaultdict(list)
    for row in rows:
        if (mark := rule(row)) is not None:
            divisions = [str(row[key]) for key in DIVISIONS if row.get(key) is not None]
            for name in ("overall", *divisions):
                marks[name].append(mark)
    scores = {name: 100 * mean(of) for name, of in marks.items()}
    overall = scores.pop("overall", 0.0)
    if bench == "ovo":
        means = {category: mean([scores[task] for task in tasks if task in scores])
                 for category, tasks in OVO.items() if scores.keys() & set(tasks)}
        totals = {"total": (*OVO,), "total_without_forward": ("backward", "realtime")}
        return scores | means | {name: mean([means[category] for category in of])
                                 for name, of in totals.items() if means.keys() >= {*of}}
    if bench == "tempcompass":
        return scores | {"average": mean([*scores.values()]), "all_questions": overall}
    if bench == "mvbench":
        return scores | {"average": mean([*scores.values()])}
    return scores | {"overall": overall}


def score(bench, rows):
    """All scores of a benchmark's rows by its official rule; "corrected" beside a faulty one;
    "meant": which average is meant."""
    scores = averages(bench, rows, RULES[bench]) | {"items": len(rows), "meant": MEANT[bench]}
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


LMMS_EVAL = {  # where it asks otherwise than the benchmark, of an offline model (see eval.py)
    "videomme": {"lmms_prompt": "Select the best answer to the following multiple-choice question "
                                "based on the video and the subtitles. Respond with only the "
                                "letter (A, B, C, or D) of the correct option.\n{}\n{}\n\nAnswer "
                                "with the option's letter from the given choices directly."}}


def choice_rows(bench, content, stem):
    """A row for each multiple-choice question. MVBench names its task in the file's name alone;
    Video-MME's is a list of videos with their questions; LongVideoBench's Hub copy pads options."""
    key, task, video, more, prompt, form = CHOICES[bench]
    items = [{NEWER.get(name, name): value for name, value in item.items()} | item | question
             for item in content if not item.get("missing")
             for question in item.get("questions", [item])]
    for i, r in enumerate(items):
        options = r.get("options") or r.get("candidates") or [
            r[f"option{k}"] for k in range(5) if r[f"option{k}"] != "N/A"]          # padding
        right = r.get("correct_choice", r.get("answer"))        # an index, a text or a letter
        right = options.index(right) if right in options else right
        right = [*LETTERS].index(right) if isinstance(right, str) else right
        check(0 <= right < len(options),
              f"item {i}: its answer is option {right} of {len(options)}, counted from 0")
        lettered = "\n".join(map(form.format, LETTERS, options))
        yield {"id": str(r[key]) if key else f"{stem}/{i}", "task": r[task] if task else stem,
               "video": r[video] + ".mp4" * (bench == "videomme"), "answer": LETTERS[right],
               "prompt": prompt.format(r["question"], lettered), "choices": len(options),
               **{name: text.format(r["question"], lettered)
                  for name, text in LMMS_EVAL.get(bench, {}).items()},
               **response_of(r), **{name: r.get(name) for name in more}}


def response_of(item, *keys):
    """{"response": ...} of an item of results, by the first of these keys; {} of an annotation,
    which has none. null is a response, a wrong one."""
    said = [item[key] for key in keys or ("response",) if key in item]
    return {"response": said[0]} if said else {}


def ovo_rows(content, stem):
    """A row for each moment asked about. ask: (second, question, how the stream is read at the
    moment): its last answer (REC), was there any (CRR), is its state not Silence (SSR). The turn
    that begins at that second has the question, and ends by the first moment."""
    for r in sum(([item] if isinstance(item, dict) else item[1] for item in content), []):
        for j, at in enumerate(r.get("test_info", [r])):
            kind, ask, options = r["task"], None, ""
            if at is r:
                kind, question = "MCQ", r["question"]
                named = "ground_truth" in r
                check(named or 0 <= r["gt"] < len(r.get("options", LETTERS)),
                      f"item {r['id']}: gt {r.get('gt')} is none of its options, counted from 0")
                answer = r["ground_truth"] if named else LETTERS[r["gt"]]
                options = " ".join(map("{}. {};".format, LETTERS, r.get("options", ())))
            elif kind == "REC":
                answer, question = str(at["count"]), f"How many times did they {r['activity']}?"
                moments = [moment.get("realtime") or 0 for moment in r["test_info"]]
                second = min(min(r.get("start_times") or [0]) - 3, min(moments) - 1)
                ask = max(second, 0), question, "last"
            else:
                check(at["type"] in (0, 1), f"item {r['id']}: type {at['type']} is neither 0 nor 1")
                answer, question = ("No", "Yes")[at["type"]], at.get("step", r.get("question"))
                second = max(r.get("ask_time", 0) - 1, 0)
                ask = second, question, "any" if kind == "CRR" else "state"
            yield {"id": f"{r['id']}_{j}", "task": r["task"], "video": r["video"], "ask": ask,
                   "end": at.get("realtime"), "answer": answer,
                   "prompt": PROMPTS[kind].format(question, options), **response_of(at)}


def tempcompass_rows(content, stem):
    """{video: {aspect: [question]}} in a file called as the task: of questions, of predictions, or
    of what the official judge made of them. Captioning needs a judge: it is left out."""
    hint = {"yes_no": "\nPlease answer yes or no:", "captioning": ""}
    hint = hint.get(stem, "\nPlease directly give the best option:")
    if stem not in (*SIZES["tempcompass"], "captioning"):
        raise ValueError("its name tells the task: multi-choice, yes_no, caption_matching or "
                         "captioning .json")
    for video, aspects in content if stem != "captioning" else ():
        for aspect, items in aspects.items():
            for i, r in enumerate(items):
                yield {"id": f"{stem}/{video}/{aspect}/{i}", "task": stem, "video": f"{video}.mp4",
                       "prompt": r["question"] + hint, "question": r["question"],
                       "answer": r["answer"] if "answer" in r else r["gt-answer"],
                       "rating": r.get("rating"),
                       **response_of(r, "prediction", "response", "video-llm-prediction")}


READERS = {"ovo": ovo_rows, "tempcompass": tempcompass_rows,
           **{bench: partial(choice_rows, bench) for bench in CHOICES}}


TEXTS = "id", "task", "video", "prompt", "request", "question", "answer", "response"
NUMBERS = "start", "end", "fps"


def sound(row, path):
    """The row, if its texts are texts and its times are numbers. Files of results may have a
    response in a list; None is no response."""
    said = row.get("response")
    if isinstance(said, list) and len(said) == 1:
        row["response"] = said[0]
    texts = {key: row[key] for key in TEXTS
                 if key in row and not (key == "response" and row[key] is None)}
    times = {key: row[key] for key in NUMBERS if row.get(key) is not None}
    if row.get("ask"):
        times["time of asking"], texts["question"], _ = row["ask"]
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{path}: item {row['id']}: the {key} is no text: {text!r:.60}")
    for key, time in times.items():
        if not isinstance(time, (int, float)) or not 0 <= time < DAY:
            raise ValueError(f"{path}: item {row['id']}: the {key} is no time: {time!r:.60}")
    return row


def records(path):
    """All records of a file; one called .json may hold a record a line, too, as OmniMMI's."""
    try:
        return list(read_records(path))
    except ValueError:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except (ValueError, RecursionError):
            pass
        raise


def read_rows(bench, path, readers=READERS):
    """The rows of a data file (or a folder of them), of official results, or of a file of `run`."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        return [row for file in files for row in read_rows(bench, file, readers)]
    content = records(path)
    if not content:
        raise ValueError(f"{path}: no record in it")
    try:
        if path.suffix == ".jsonl" and "run" in content[0]:
            answered = content[0]["run"]["bench"]
            if answered.replace("toy", "raw") != bench:
                raise ValueError(f"answers to {answered}")
            return content[1:]
        if bench not in readers:
            raise ValueError("wanted are the answers (.jsonl) that eval.py run, or toy, writes")
        rows = list(readers[bench](content, path.stem))
    except MISSHAPEN as error:
        raise ValueError(f"{path}: not a file of {bench}: {fault(error)}") from None
    return [sound(row, path) for row in rows]
