"""What a model answers to the questions of one video: all that eval.py's workers do.

A row is an item of a benchmark. Its "record" is a whole dialogue; "request" stands from the first
second on, and what the model says by itself is the answer; "ask" is a plan, one question whose
answers are read at several moments; else "prompt" is asked in the last second, or offline.
"""
import math
import time
from collections import Counter, defaultdict
from functools import lru_cache, partial
from itertools import islice

import av
import torch

import data
from bench import baselines
from infer import STATES as NAMES
from infer import Session, by_second, see, step, stream, unspoken
from parts import offline
from parts.files import in_words
from parts.video import frames
from streamo import RESPONSE, SILENCE, STATES, KVCache, Streamo
from toy import dialogues
from toy.world import moment

BAD_VIDEO = OSError, ValueError, av.FFmpegError, torch.OutOfMemoryError
ANSWER = 64                     # tokens of one answer at most, where --max-new-tokens is not said
TOGETHER = 16                   # dialogues of a film in one forward: each has a cache of its own


def longest_answer(run):
    return run.get("max_new_tokens") or ANSWER


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
def answer_at_once(model, tokenizer, features, question, max_new_tokens=ANSWER):
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
    cache, token = KVCache(config, 1, need, features.dtype, features.device), None
    while len(said) < max_new_tokens and token != end:
        ids = torch.tensor([chunk], device=features.device)
        logits = model(ids, None if said else features, cache, "last")[0]
        token = int((logits + bias).argmax())
        said.append(token)
        chunk = [token]
    return tokenizer.decode([token for token in said if token != end]).strip()


@torch.inference_mode()
def answer_in_own_prompt(model, tokenizer, prompt, video, rows, run):
    """The same of an offline model: its own prompt, pictures sampled as lmms-eval does."""
    (row,) = rows
    start, end = row.get("start") or 0.0, row.get("end")
    images = offline.sampled(video, run["max_frames"], start,
                             math.inf if end is None else math.ceil(end), row.get("fps"))
    features = torch.cat([feature for _, feature in encode(model, enumerate(images))])
    text = row.get("lmms_prompt", row["prompt"])
    most = longest_answer(run)
    stream = offline.OfflineStream(
        model, prompt, unspoken(model, tokenizer), window=0, max_new_tokens=most,
        capacity=len(prompt.head) + len(features) + len(prompt.question(text)) + most + 1)
    return [{"response": stream.answer_at_once(features, text)}]


def settings_of(model, tokenizer, prompt, run):
    """What `stream` is given: the settings of a Session, or the session of an offline model.

    Polled: asked in every second, and what says the same as before is silence."""
    settings = {key: run[key] for key in ("fps", "threshold", "window")}
    settings["max_new_tokens"] = longest_answer(run)
    if prompt:
        every = 1 if run["polled"] else run["every"]
        return {"session": offline.OfflineSession(
            model, prompt, unspoken(model, tokenizer), see, every=every, **settings)}
    settings |= {"patience": run.get("agreement") or 1, "no_repeat": bool(run.get("no_repeat"))}
    settings |= {key: run[key] for key in ("prune", "memory", "decider") if run.get(key)}
    return settings | ({"threshold": 0.0, "no_repeat": True} if run.get("polled") else {})


def own_session(model, tokenizer, settings, features, questions):
    """A stream with these settings and, where they say so, with the memory of a baseline, or its
    decider, which has then seen these features and been asked these questions."""
    settings = dict(settings)
    decider, memory = settings.pop("decider", None), settings.pop("memory", None)
    session = (baselines.SinksSession if memory else Session)(model, tokenizer, **settings)
    if decider:
        session.decision = baselines.Decided(baselines.seconds_to_speak(
            load_decider(decider, model), model, tokenizer, features, questions))
    return session


@lru_cache(1)
def load_decider(folder, model):
    return baselines.Decider.load(folder, model.config)


def refused(turn, counts):
    """ValueError when a stream has refused a question."""
    for what, n in counts.items():
        if n and "refused" in what:
            raise ValueError(f"second {turn.start}: {what}")


def turns_of(model, tokenizer, features, questions, settings):
    """The turns of a stream. ValueError when it refuses a question."""
    if "session" in settings:
        counts = settings["session"].counts
    else:
        counts = Counter()
        settings = settings | {"counts": counts}
    for turn in stream(model, tokenizer, features, questions, **settings):
        refused(turn, counts)
        yield turn


def dialogue(record, features, fps, turns):
    """A streamed dialogue as bench/streams.py reads it: the annotation, and what was said."""
    gold = data.turns_from_record(record, math.ceil(len(features) / fps))
    return {"seconds": len(turns),
            "gold": {"states": "".join(str(STATES.index(turn.state)) for turn in gold),
                     "answers": [[t.second, t.text] for t in gold if t.state == RESPONSE]},
            "pred": {"states": "".join(str(NAMES.index(turn.state)) for turn in turns),
                     "answers": [[t.start, t.text] for t in turns if t.state == "response"],
                     "p": [round(turn.probs[2], 4) for turn in turns]},
            "kv": max((turn.kv[0] for turn in turns), default=0),
            "cut": sum(turn.cut == "length" for turn in turns)}


def questions_of(record, features, fps):
    """[(second, question)] of a record."""
    turns = data.turns_from_record(record, math.ceil(len(features) / fps))
    return [(turn.second, turn.question) for turn in turns if turn.question]


def streamed(model, tokenizer, features, record, settings, fps=1):
    """One dialogue, alone."""
    questions = questions_of(record, features, fps)
    if settings.keys() & {"memory", "decider"}:
        settings = {"session": own_session(model, tokenizer, settings, features, questions)}
    turns = list(turns_of(model, tokenizer, features, questions, settings))
    return dialogue(record, features, fps, turns)


def streamed_together(model, tokenizer, features, records, settings):
    """Several dialogues of one film, each as if it were alone: one forward a second for all."""
    fps, n = settings["fps"], len(records)
    asked = [questions_of(record, features, fps) for record in records]
    sessions = [own_session(model, tokenizer, settings, features, mine) for mine in asked]
    turns = [[] for _ in records]
    for second, images in by_second(features, fps):
        for session, questions in zip(sessions, asked):
            while questions and questions[0][0] <= second:
                session.ask(questions.pop(0)[1])
        for session, mine, turn in zip(sessions, turns,
                                       step(sessions, [images] * n, [second] * n)):
            refused(turn, session.counts)
            mine.append(turn)
    return [dialogue(record, features, fps, mine) for record, mine in zip(records, turns)]


def watched(model, tokenizer, features, row, start, settings):
    """[[second, text]] of what is said to a request that stands from the beginning (see
    bench/proactive.py): the first Response or all, each at the second in which its turn ends."""
    said = []
    for turn in turns_of(model, tokenizer, features, [(0, row["request"])], settings):
        if turn.state == "response" and turn.start >= row.get("counts_from", 0):
            said.append([start + turn.end, turn.text])
            if row.get("first"):
                break
    return said


def asked(model, tokenizer, features, rows, patience, settings):
    """Responses of rows that share a stream, which ends with the second of their moment.

    Without a plan (`ask`) the question comes in the last second; the picture then stands still
    for at most `patience` seconds until the model answers: the first Response counts. At once: it
    does not, and silence is an answer, ""."""
    if not rows[0].get("ask"):
        now, picture = int(features[-1][0]), features[-1][1]
        at_once = rows[0].get("at_once")
        features = features + [(now + 1 + k, picture) for k in range(0 if at_once else patience)]
        turns = turns_of(model, tokenizer, features, [(now, rows[0]["prompt"])], settings)
        said = (t.text for t in turns if t.start >= now and t.state == "response")
        return [next(said, "" if at_once else None)]
    (second, question, read), responses = rows[0]["ask"], []
    turns = list(turns_of(model, tokenizer, features, [(second, question)], settings))
    for row in rows:
        seen = [turn for turn in turns if row["end"] is None or turn.end <= math.ceil(row["end"])]
        said = [turn.text for turn in seen if turn.state == "response"]
        if read == "last":
            responses.append(said[-1] if said else None)
        else:
            yes = said if read == "any" else seen and seen[-1].state != "silence"
            responses.append("Yes" if yes else "No")
    return responses


def seen_by(rows, features):
    """(first second, the features that the rows' stream sees, from second 0 on)."""
    start = math.floor(rows[0].get("start") or 0)
    end = max(math.inf if row.get("end") is None else row["end"] for row in rows)
    seen = [(second - start, f) for second, f in features if start <= second // 1 < end]
    if not seen:
        raise ValueError(f"no frame from {start} to {end} s")
    return start, seen


def answers_to(model, tokenizer, prompt, features, rows, run):
    """A dictionary for each of the rows, which share a stream: what it says of them."""
    start, seen = seen_by(rows, features)
    if run["offline"]:
        n = min(len(seen), run["max_frames"])
        some = [seen[k * len(seen) // n][1] for k in range(n)]
        return [{"response": answer_at_once(model, tokenizer, some, rows[0]["prompt"],
                                            longest_answer(run))}]
    settings = settings_of(model, tokenizer, prompt, run)
    if "record" in rows[0]:
        return [streamed(model, tokenizer, seen, rows[0]["record"], settings, run["fps"])]
    if "request" in rows[0]:
        return [{"said": watched(model, tokenizer, seen, rows[0], start, settings)}]
    return [{"response": response} for response in
            asked(model, tokenizer, seen, rows, run["patience"], settings)]


def pictures_of(group, run, size):
    """The pictures of a group's video, run["fps"] a second."""
    fps = run["fps"]
    if run["bench"] == "toy":
        film, i = group["video"]
        clip, _ = dialogues.BENCH[film](run["seed"], i)
        return ((k / fps, clip.frame(moment(k, fps), size)) for k in range(clip.seconds * fps))
    # a record's fps is the rate of a folder of frames
    return frames(group["video"], fps, group["rows"][0].get("fps"), trusted=False)


def answer_group(model, tokenizer, prompt, group, run):
    """The answered rows of one video, encoded once; an error of BAD_VIDEO where it is no good."""
    began, rows, done = time.perf_counter(), group["rows"], []
    if group.get("missing"):
        raise FileNotFoundError(group["missing"])
    if prompt and run["offline"]:
        answers_of = partial(answer_in_own_prompt, model, tokenizer, prompt, group["video"])
    else:
        features = encode(model, pictures_of(group, run, model.config.vision.image_size))
        answers_of = partial(answers_to, model, tokenizer, prompt, features)
        if all("record" in row for row in rows) and not prompt:
            done, rows = many_dialogues(model, tokenizer, rows, features, run)
    streams = defaultdict(list)
    for row in rows:
        plan = None if run["offline"] else row.get("ask")
        streams[plan or row["id"]].append(row)
    for rows in streams.values():
        try:
            answers = answers_of(rows, run)
            done += [row | answer for row, answer in zip(rows, answers, strict=True)]
        except BAD_VIDEO as error:                      # the other questions are asked all the same
            done += failed_rows(group["video"], rows, error)
    return timed(done, began)


def many_dialogues(model, tokenizer, rows, features, run):
    """(answered rows, rows that are to be tried alone): a film's dialogues, some at a time. Where
    one of them fails, which one is told when they are alone."""
    settings, done, left = settings_of(model, tokenizer, None, run), [], []
    for k in range(0, len(rows), TOGETHER):
        some = rows[k:k + TOGETHER]
        try:
            records = [row["record"] for row in some]
            answers = streamed_together(model, tokenizer, features, records, settings)
            done += [row | answer for row, answer in zip(some, answers, strict=True)]
        except BAD_VIDEO:
            left += some
    return done, left


def timed(done, began):
    """Answered rows as they are written: without what was needed to ask, with the time it took."""
    compute = round((time.perf_counter() - began) / len(done), 4)
    drop = {"record", "prompt", "lmms_prompt", "ask", "request", "first", "at_once", "counts_from"}
    return [{k: v for k, v in row.items() if k not in drop} | {"compute": compute} for row in done]


def failed_rows(video, rows, error):
    """Rows with the reason why there is no answer, in place of the answers."""
    reason = in_words(error) or type(error).__name__
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
