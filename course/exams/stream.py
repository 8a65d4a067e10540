"""Exams of infer.py: deciding, one second of the loop, a policy of eviction."""
import numpy as np
import torch

from course.exams import exam
from infer import Decision, Session, sliding_window, step, stream
from parts.config import DecoderConfig, StreamoConfig, VisionConfig
from parts.slots import FRAME, PINNED, TEXT
from parts.tokenizer import FRAME as FRAME_TOKEN
from parts.tokenizer import STATES, Tokenizer
from streamo import Streamo

CHECKS, check = exam()


# ---- Deciding

def three(rng):
    """Probabilities of the three states."""
    parts = [rng.random() + 0.01 for _ in range(3)]
    return [part / sum(parts) for part in parts]


@check("loop", 1, "Decision.state: without a threshold")
def likeliest(rng):
    return [Decision().state(three(rng)) for _ in range(40)]


@check("loop", 2, "Decision.state: with a threshold")
def threshold(rng):
    out = [Decision(threshold=rng.random()).state(three(rng)) for _ in range(60)]
    exact = [Decision(threshold=p).state([0.3, 0.7 - p, p]) for p in (0.25, 0.5)]
    return [out, exact, Decision(threshold=0.0).state([0.6, 0.3, 0.1])]


@check("loop", 1, "Decision.state: with patience, over several seconds")
def patience(rng):
    out = []
    for most in (2, 3):
        decision = Decision(threshold=rng.choice((None, 0.4)), patience=most)
        out.append([decision.state(three(rng) if rng.random() < 0.4 else [0.1, 0.2, 0.7])
                    for _ in range(30)])
    return out


# ---- One second

class Counted(Streamo):
    """Streamo that counts its forwards: (of the vision tower, of the decoder)."""

    def __init__(self, config):
        super().__init__(config)
        self.calls = [0, 0]
        self.vision_tower.register_forward_hook(lambda *_: self.count(0))
        self.language_model.register_forward_hook(lambda *_: self.count(1))

    def count(self, which):
        self.calls[which] += 1


def a_world(rng):
    """A tokenizer and a random model that says something of everything."""
    texts = ["user\n", "assistant\n", "system\n", "A red star moves left. Where is it?"] * 5
    tokenizer = Tokenizer.train(texts, 1300)
    tokenizer.add_tokens([*STATES, FRAME_TOKEN])
    torch.manual_seed(rng.randrange(2 ** 31))
    vision = VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                          num_attention_heads=2, image_size=16, patch_size=4)
    decoder = DecoderConfig(len(tokenizer) + 3, 32, 48, 2, 4, 2, 8, max_position_embeddings=4096)
    config = StreamoConfig(vision, decoder, tokenizer.frame_id, grid=2, coarse_grid=1,
                           pooling="average")
    return Counted(config).eval(), tokenizer


def pictures(rng, n):
    made = np.random.default_rng(rng.randrange(2 ** 31))
    return [made.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(n)]


def told(turn):
    return [turn.start, turn.end, turn.state, list(turn.probs), turn.text, turn.question,
            list(turn.kv)]


@check("loop", 1, "step: silent seconds of one stream", close=1e-3)
def silent_seconds(rng):
    model, tokenizer = a_world(rng)
    session = Session(model, tokenizer, threshold=1.0)
    return [told(turn) for image in pictures(rng, 4) for turn in step([session], [[image]])]


@check("loop", 1, "step: more forwards of the vision tower or of the decoder than it needs")
def forwards(rng):
    model, tokenizer = a_world(rng)
    sessions = [Session(model, tokenizer, threshold=1.0, fps=2) for _ in range(3)]
    calls = []
    for _ in range(3):
        step(sessions, [pictures(rng, 2) for _ in sessions])
        calls.append(list(model.calls))
    speaker = Session(model, tokenizer, threshold=0.0, max_new_tokens=4)
    step([speaker], [pictures(rng, 1)])
    return [calls, list(model.calls)]


@check("loop", 2, "step: a second with an answer, and the seconds after it", close=1e-3)
def answers(rng):
    model, tokenizer = a_world(rng)
    session = Session(model, tokenizer, threshold=0.4, max_new_tokens=5)
    session.ask("Where is it?", 2)
    session.ask("A red star?", 4)
    return [told(turn) for image in pictures(rng, 9) for turn in step([session], [[image]])]


@check("loop", 1, "step: several streams together do not give what each gives alone", close=1e-3)
def together(rng):
    model, tokenizer = a_world(rng)
    sessions = [Session(model, tokenizer, threshold=p, max_new_tokens=k)
                for p, k in ((0.0, 6), (0.35, 3), (None, 5))]
    sessions[1].ask("Where is it?", 1)
    step(sessions[:1], [pictures(rng, 1)])              # the first is older than the others
    return [told(turn) for _ in range(4)
            for turn in step(sessions, [pictures(rng, 1) for _ in sessions])]


@check("loop", 1, "stream: what it yields, with the seconds of its frames", close=1e-3)
def a_stream(rng):
    model, tokenizer = a_world(rng)
    frames = list(zip((0, 1, 2, 5, 6, 7), pictures(rng, 6)))
    turns = stream(model, tokenizer, frames, [(1, "Where is it?")], threshold=0.3, window=3,
                   max_new_tokens=3)
    return [told(turn) for turn in turns]


# ---- Eviction

def a_cache(rng, seconds, pinned=2, answers=0.2, first=0):
    """second and kind of each slot: a pinned head, then turns of words, frames and some answers."""
    second, kind = [-1] * pinned, [PINNED] * pinned
    for now in range(first, seconds):
        frames = FRAME if rng.random() > answers else TEXT
        row = [TEXT, TEXT, frames, frames, frames, TEXT]
        if rng.random() < 0.1:
            row = [PINNED, PINNED, *row]
        second += [now] * len(row)
        kind += row
    return np.array(second), np.array(kind)


def leave(*args):
    gone = np.asarray(sliding_window(*args))
    return gone.astype(int)


@check("policy", 2, "sliding_window: a window, and no more to do")
def window(rng):
    out = []
    for seconds in (5, 15, 16, 17, 18, 40):
        cache = a_cache(rng, seconds)
        out.append(leave(*cache, seconds, 0, 16, None))
    return out


@check("policy", 2, "sliding_window: old frames leave by prune, their turns' words stay")
def prune(rng):
    out = []
    for seconds in (7, 8, 9, 10, 12, 30):
        cache = a_cache(rng, seconds)
        out.append(leave(*cache, seconds, 0, 100, rng.choice((8, 9))))
    return out


@check("policy", 1, "sliding_window: prune and window together")
def both(rng):
    cache = a_cache(rng, 40)
    return [leave(*cache, 40, 0, 24, 8), leave(*cache, 40, -5, 16, 30)]


@check("policy", 2, "sliding_window: slots that must leave (excess), beyond the window")
def excess(rng):
    cache = a_cache(rng, 30)
    return [leave(*cache, 30, much, 60, None) for much in (1, 7, 40, 90)]


@check("policy", 1, "sliding_window: what is pinned leaves, or the turns of pinned slots stay")
def pinned(rng):
    cache = a_cache(rng, 30, pinned=9)
    return [leave(*cache, 30, 1000, 8, 4), leave(*cache, 30, 0, 8, None)]


@check("policy", 1, "sliding_window: with a window of 0")
def no_window(rng):
    cache = a_cache(rng, 30)
    return [leave(*cache, 30, 50, 0, None), leave(*cache, 30, 50, 0, 8)]


@check("policy", 1, "sliding_window: an empty cache, or one that holds pinned slots alone")
def nothing(rng):
    n = rng.randrange(1, 5)
    return [leave(np.zeros(0, int), np.zeros(0, int), 3, 5, 16, 4),
            leave(np.full(n, -1), np.full(n, PINNED), 30, 5, 16, 4)]
