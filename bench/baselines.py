"""The paper's baselines in miniature: what one pass with states of its own is compared with.

    python eval.py toy --model assets/tiny --polled --out polled.json
    python -m bench.baselines --model assets/tiny --out runs/decider
    python eval.py toy --model assets/tiny --decider runs/decider --out decider.json
    python eval.py toy --model assets/tiny --memory sinks --out sinks.json

Polled: asked in every second, as an offline model is; what says the same as before is silence. A
decider: a separate module that reads the frozen features and says when to speak, as in Dispider
(Qian et al., 2025); the language model then speaks, and decides nothing. Sinks: the memory of
StreamingVLM (Xu et al., 2025), a few seconds of frames, more of text, and the beginning for good.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from data import turns_from_record, user_part
from infer import ANSWER, QUESTIONS, Session, see
from parts.config import whole_config
from parts.decision import RESPONSE, SILENCE, Decision
from parts.files import check, check_folder, read_json, reading, sha256, write_json
from parts.offline import has_states
from parts.options import SEEDS, LineParser, a_path, check_bounds
from parts.runs import to_the_end
from parts.slots import FRAME, TEXT
from parts.tokenizer import RESPONSE as RESPONSE_TOKEN
from parts.weights import write_tensors
from streamo import Streamo, Tokenizer
from toy.datasets import CURRICULUM, ToyDataset
from toy.dialogues import sample
from toy.steps import ToySteps

# ---- The memory of StreamingVLM

RECENT_FRAMES = 16          # seconds
RECENT_TEXT = 512           # tokens; its sinks are ours: the system part and the open questions


def sinks(seconds, kinds, now, excess, window, prune):
    """A policy of eviction, as infer.sliding_window: old frames leave, then the text of the oldest
    turns, as much as is beyond RECENT_TEXT."""
    gone = (kinds == FRAME) & (seconds <= now - RECENT_FRAMES)
    text = kinds == TEXT
    for second in np.unique(seconds[text]):                 # the oldest first
        if (text & ~gone).sum() > RECENT_TEXT:
            gone |= text & (seconds == second)
    return gone


class SinksSession(Session):
    """A stream with this memory: also the frames of a second in which it spoke are only frames."""

    def __init__(self, model, tokenizer, policy=sinks, **settings):
        super().__init__(model, tokenizer, **settings, policy=sinks)

    def slots_wanted(self):
        """What the memory, the turn that is being read and the longest answer need."""
        frames = [self.model.config.tokens(self.model.config.grid)] * self.fps
        turn = len(user_part(self.tokenizer, 99_999, frames)) + ANSWER
        return (len(self.system) + QUESTIONS + RECENT_FRAMES * sum(frames) + RECENT_TEXT
                + 2 * (turn + self.max_new_tokens))

    def finish(self, began):
        frames = np.flatnonzero((self.slots.second == self.last) & (self.slots.kind == FRAME))
        turn = super().finish(began)
        self.slots.kind[frames] = FRAME
        return turn


# ---- A decision module of its own

class Decider(nn.Module):
    """When to speak, by what is seen, how that changed and what was asked last: a GRU over the
    seconds of a stream."""

    def __init__(self, hidden, tokens, size=256):
        super().__init__()
        self.asked = nn.GRU(hidden, size)                           # over the words of a question
        self.look = nn.Linear(size, 2 * hidden)                     # where the question looks
        self.picture = nn.Linear(2 * tokens * hidden, size)
        self.seconds = nn.GRU(2 * size + 2 * hidden, size, num_layers=2)
        self.head = nn.Linear(size, 1)

    def forward(self, frames, questions):
        """frames (T, tokens, hidden) of T seconds; questions: {second: (words, hidden)}, in order
        -> logits (T,) of speaking at the end of each second. It looks back only."""
        none = frames.new_zeros(1, frames.shape[2])
        at = sorted({0, *questions})
        words = [self.asked(questions.get(second, none))[1] for second in at]       # (1, size) each
        lasts = np.diff([*at, len(frames)]).tolist()                # seconds, until the next one
        asked = torch.cat([word.expand(n, -1) for word, n in zip(words, lasts)])    # (T, size)
        changed = frames.diff(dim=0, prepend=frames[:1])            # since the second before
        frames = torch.cat([frames, changed], 2)                            # (T, tokens, 2 hidden)
        scores = (frames @ self.look(asked)[:, :, None])[:, :, 0]                   # (T, tokens)
        found = (scores.softmax(1)[:, None] @ frames)[:, 0]                         # (T, 2 hidden)
        seen = torch.cat([self.picture(frames.flatten(1)), found, asked], 1)
        return self.head(F.silu(self.seconds(seen)[0]))[:, 0]

    def save(self, folder, about):
        write_tensors(folder / "decider.safetensors", self.state_dict())
        write_json(folder / "run.json", about)

    @classmethod
    def load(cls, folder, config):
        """The decider of a model of this StreamoConfig. ValueError if its file is damaged."""
        path, found = Path(folder) / "decider.safetensors", cls(*features_of(config))
        try:
            found.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:    # RuntimeError: misshapen
            raise ValueError(f"{path}: not a decider of this model, train one anew") from error
        check(all(weight.isfinite().all() for weight in found.parameters()),
              f"{path}: some weights are no numbers, train it anew")
        return found.eval()


def features_of(config):
    """(hidden_size, visual tokens of a frame): what a decider reads of a model."""
    return config.decoder.hidden_size, config.tokens(config.grid)


def check_decider(folder, model, digest):
    """ValueError or OSError unless a folder is that of a decider of the model in that folder, whose
    weights have this digest."""
    path = Path(folder) / "run.json"
    with reading(path):
        was = path.exists() and read_json(path).get("model_sha256")
    check(was, f"{folder}: no decider, see python -m bench.baselines")
    check(was == digest, f"{folder}: the decider of other weights than --model's; train one beside "
          "these")
    Decider.load(folder, whole_config(model)[0])


class Decided(Decision):
    """The states of a stream that a decider has chosen: it speaks in these seconds."""

    def __init__(self, speaks):
        super().__init__()
        self.speaks = iter(speaks)

    def state(self, probs):
        self.quiet = SILENCE
        return RESPONSE if next(self.speaks) else SILENCE


def embedded(model, tokenizer, questions):
    """[(second, text)] -> {second: (words, hidden)}, the embeddings of what is asked in it."""
    texts = {}
    for second, text in questions:
        texts[second] = f"{texts.get(second, '')}{text}\n"
    words = model.language_model.model.embed_tokens.weight
    return {second: words[tokenizer.encode(text, special=False)].float().cpu()
            for second, text in texts.items()}


@torch.no_grad()
def seconds_to_speak(decider, model, tokenizer, features, questions):
    """features: [(seconds, (tokens, hidden))] of a stream -> [whether it speaks], a second each,
    by its last frame."""
    latest = {int(at + 1e-6): feature for at, feature in features}
    frames = torch.stack([*latest.values()]).float().cpu()
    asked = embedded(model, tokenizer, [q for q in questions if q[0] < len(frames)])
    return (decider(frames, asked) > 0).tolist()


def lesson(dataset, model, tokenizer, key):
    """(frames, questions, speaks) of a dialogue that a training also reads."""
    clip, record = sample(dataset.seed, *dataset.split(key))
    images = [clip.frame(t, model.config.vision.image_size) for t in range(clip.seconds)]
    with torch.no_grad():
        tokens, features = see(model, images)
        turns = turns_from_record(record, clip.seconds)
        asked = embedded(model, tokenizer, [(t.second, t.question) for t in turns if t.question])
    speaks = torch.tensor([float(turn.state == RESPONSE_TOKEN) for turn in turns])
    return torch.stack(features.split(tokens)), asked, speaks


def train_decider(args):
    """On the dialogues that train.py draws, a micro-batch of them in a step."""
    if (args.out / "run.json").exists():
        was = read_json(args.out / "run.json")
        check(isinstance(was, dict) and "model_sha256" in was,
              f"--out {args.out}: there is something else in it, name another folder")
    check(not (args.out / "model.safetensors").exists() and not (args.out / "config.json").exists(),
          f"--out {args.out}: there is a model in it, name another folder")
    check_folder("--out", args.out)
    check(has_states(args.model), f"--model {args.model}: it has no states to decide, it is an "
          "offline model")
    args.out.mkdir(parents=True, exist_ok=True)             # before the work, not after it
    digest = sha256(args.model / "model.safetensors")
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_pretrained(args.model)
    model = Streamo.from_pretrained(args.model, torch.float32).requires_grad_(False)
    decider = Decider(*features_of(model.config))
    dataset = ToyDataset(tokenizer, model.config, args.seed)
    optimizer = torch.optim.AdamW(decider.parameters(), weight_decay=0.01)
    steps, bar = ToySteps(dataset, CURRICULUM, args.steps, args.seed, 1), tqdm(range(args.steps))
    for step in bar:
        lessons = [lesson(dataset, model, tokenizer, key) for key in steps[step][0]]
        logits = torch.cat([decider(frames, asked) for frames, asked, _ in lessons])
        speaks = torch.cat([speaks for *_, speaks in lessons])
        loss = F.binary_cross_entropy_with_logits(logits, speaks)
        loss.backward()
        nn.utils.clip_grad_norm_(decider.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50, 1.02 - step / args.steps)
        optimizer.step()
        optimizer.zero_grad()
        right = ((logits > 0) == (speaks > 0.5)).float().mean()
        bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.3f}")
    size = sum(p.numel() for p in decider.parameters())
    decider.save(args.out, {"model_sha256": digest, "steps": args.steps, "seed": args.seed,
                            "parameters": size})
    print(f"{args.out}: a decider of {size} weights")


def main(argv=None):
    parser = LineParser("bench.baselines", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=a_path, required=True, help="checkpoint folder")
    parser.add_argument("--out", type=a_path, required=True, help="folder of the decider")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the dialogues")
    args = parser.parse_args(argv)
    check_bounds(parser, args, {"steps": (1, 10**9), "seed": SEEDS})
    with to_the_end("bench.baselines"):
        train_decider(args)


if __name__ == "__main__":
    main()
