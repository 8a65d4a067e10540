"""An offline video model in the streaming loop. It has no states, so it is asked: every question at
its second and then every few seconds, in the model's own prompt, about the seconds in the cache.

    the cache:   head | frames of second 3 | of second 4 | ... | newline, question, answer
                 stays  \\______ leave with the window ______/   read, decoded, dropped again

A second costs one vision and one decoder forward, as with Streamo; a question costs its own tokens
and those of its answer, and no frame is read twice. Until the first second leaves the window this
is, token for token, the model's own prompt prefilled anew; later, what stays has seen what left.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from parts.files import check, read_json
from parts.tokenizer import FRAME, STATES, Tokenizer
from parts.video import drawn, pictures
from parts.weights import load_tensor

# The release's own prompt (conversation "qwen_1_5"), in which its scores were measured.
RELEASED = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n", "\n",
            "<|im_end|>\n<|im_start|>assistant\n")
# Where a converted folder keeps its chat template.
TEMPLATES = "chat_template.jinja", "chat_template.json", "processor_config.json"
SPACE = r"(\n|\\n| )?"                       # in a template: a line's end (two spellings), a space


def has_states(folder):
    """Whether a checkpoint was trained to say the three states, by its own config."""
    return read_json(Path(folder) / "config.json").get("model_type") == "streamo"


def words(folder):
    """A folder's tokenizer, with our tokens behind its last."""
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*STATES, FRAME])
    return tokenizer


class Prompt:
    """A model's own prompt: ids of what stands before the frames, and of a question after them.

    newline (hidden_size,): the learnt embedding that ends a video, or None. It is read as one more
    visual token, in front of the question."""

    def __init__(self, tokenizer, head, before, after, newline=None):
        self.tokenizer, self.head, self.newline = tokenizer, tokenizer.encode(head), newline
        self.before, self.after = before, tokenizer.encode(after)

    def question(self, text):
        """Ids of a question and of what asks for the answer; text holds no token of ours."""
        mark = [] if self.newline is None else [self.tokenizer.frame_id]
        return mark + self.tokenizer.encode(self.before + text, special=False) + self.after

    @classmethod
    def from_pretrained(cls, folder, tokenizer, dtype=None, device=None):
        """The prompt of a LLaVA-OneVision folder: its own chat template's, or the release's.

        ValueError names a template, or a way of ending a video, that is not known."""
        folder = Path(folder)
        config = read_json(folder / "config.json")
        ending = config.get("mm_newline_position", "one_token")
        check(ending in ("one_token", "no_token"), f"{folder / 'config.json'}: mm_newline_position "
              f"{ending!r} is not supported, only one_token and no_token")
        newline = None
        if ending == "one_token":
            newline = load_tensor(folder, r"(model\.)?image_newline", dtype, device)
        texts = RELEASED
        for path in (folder / name for name in TEMPLATES):
            if path.exists():
                template = path.read_text("utf-8") if path.suffix == ".jinja" else \
                    read_json(path).get("chat_template")
                if template is not None:
                    texts = template_texts(template, path)
                    break
        return cls(tokenizer, *texts, newline)


def template_texts(template, path):
    """(before the video, between video and question, after the question) of a known template.

    The known ones write a turn in four places, and differ in the white space of each."""
    parts = (rf"'<\|im_start\|>' \+ message\['role'\] \+ '{SPACE}'", rf"'<video>{SPACE}'",
             rf"\{{\{{ ?(?:'{SPACE}' \+ )?content\['text'\] ?\}}\}}",
             rf"'<\|im_end\|>{SPACE}'(?: \+ '{SPACE}')?")
    found = [re.search(part, template) for part in parts]
    asks = "add_generation_prompt" in template and "<|im_start|>assistant" in template
    check(all(found) and asks, f"{path}: its chat template is not one of LLaVA-OneVision's")
    role, video, text, end = ("".join(group or "" for group in match.groups()).replace("\\n", "\n")
                              for match in found)
    return (f"<|im_start|>user{role}", video + text, f"<|im_end|>{end}<|im_start|>assistant\n")


@dataclass
class Asked:
    """A question that stays open: when it came, and what was said to it last."""
    second: int
    text: str
    last: str = ""
    ids: list = field(default_factory=list)


def same(a, b):
    """Whether two answers say the same: without case, punctuation and white space."""
    return re.sub(r"\W+", " ", a).casefold().strip() == re.sub(r"\W+", " ", b).casefold().strip()


class OfflineStream:
    """One stream of an offline model. step() takes one second's visual tokens at a time.

    every: seconds from one asking of a question to the next. window: seconds that stay; when one
    must leave, an eighth more leave with it, for a drop moves all that is behind it."""

    def __init__(self, model, prompt, bias, *, every=5, window=None, max_new_tokens=64,
                 capacity=None, tokens=None):
        config, weight = model.config, next(model.parameters())
        self.model, self.prompt, self.bias, self.every = model, prompt, bias, every
        self.max_new_tokens, self.questions, self.held = max_new_tokens, [], []
        self.window = config.window if window is None else window
        limit = config.decoder.max_position_embeddings
        needed = len(prompt.head) + (self.window + 1) * (tokens or config.tokens(config.grid)) + 512
        self.capacity = capacity or (min(limit, needed + max_new_tokens) if self.window else limit)
        check(self.capacity <= limit, f"capacity {capacity}: the decoder has {limit} positions")
        self.cache = model.new_cache(self.capacity)
        self.end = prompt.tokenizer.id("<|im_end|>")
        self.newline = None if prompt.newline is None else prompt.newline[None].to(weight)
        self.read(prompt.head)

    def read(self, ids, features=None):
        """One decoder forward: append ids to the cache -> logits (V,) after the last of them."""
        ids = torch.tensor([ids], device=self.bias.device)
        return self.model(ids, features, cache=self.cache, select="last")[0]

    def ask(self, text, second):
        self.questions.append(Asked(second, text, ids=self.prompt.question(text)))
        return self.questions[-1]

    def step(self, second, features):
        """Read a second's visual tokens (N, hidden_size), and ask what is due.

        Returns [(question, answer, mean probability of its tokens)] of the answers that say
        something new."""
        due = [asked for asked in self.questions if (second - asked.second) % self.every == 0]
        longest = max([len(asked.ids) for asked in due], default=0)
        self.make_room(second, len(features) + longest + self.max_new_tokens)
        self.read([self.prompt.tokenizer.frame_id] * len(features), features)
        self.held.append((second, len(features)))
        said = []
        for asked in due:
            answer, p = self.answer(asked.ids)
            if answer and not same(answer, asked.last):
                asked.last = answer
                said.append((asked.text, answer, p))
        return said

    def answer(self, ids):
        """Ask, decode greedily, and drop both again -> (answer, mean probability of its tokens)."""
        start, logits = self.cache.length, self.read(ids, self.newline)
        tokens, probs = [], []
        while len(tokens) < self.max_new_tokens:
            spread = (logits + self.bias).float().softmax(-1)                   # (V,)
            token = int(spread.argmax())
            if token == self.end:
                break
            tokens.append(token)
            probs.append(float(spread[token]))
            if len(tokens) < self.max_new_tokens:       # the last one's successor is not asked for
                logits = self.read([token])
        self.cache.drop(start, self.cache.length)
        return self.prompt.tokenizer.decode(tokens).strip(), float(np.mean(probs or [0.0]))

    def make_room(self, second, need):
        """The oldest seconds leave: those out of the window, and what a full cache forces out."""
        leave = 0
        if self.window and self.held and self.held[0][0] <= second - self.window:
            last = second - self.window + self.window // 8
            leave = sum(held <= last for held, _ in self.held)
        size = sum(tokens for _, tokens in self.held[:leave])
        while self.cache.length - size + need > self.capacity:
            check(self.window and leave < len(self.held), f"second {second}: the cache is full "
                  f"({self.cache.length} + {need} of {self.capacity} slots): a --window, or less "
                  "--max-new-tokens")
            size += self.held[leave][1]
            leave += 1
        if leave:
            first = len(self.prompt.head)
            self.cache.drop(first, first + size)
            del self.held[:leave]

    def answer_at_once(self, features, text):
        """Offline: all frames (N, hidden_size), then the question -> the answer."""
        self.read([self.prompt.tokenizer.frame_id] * len(features), features)
        return self.answer(self.prompt.question(text))[0]


def sampled(source, most, start=0.0, end=float("inf")):
    """The images that lmms-eval shows an offline model of a video, or of its seconds start to end:
    `most` of all its pictures, evenly spaced, the first and the last among them; where there are
    fewer, some come twice. The video is read twice, and only these are drawn."""
    def clip():
        return ((second, draw) for second, draw in pictures(source)
                if draw is not None and start <= second < end)
    total = sum(1 for _ in clip())
    check(total, f"{source}: no picture from {start:g} to {end:g} s")
    wanted = np.linspace(0, total - 1, most, dtype=int)                     # (most,)
    chosen = (moment for k, moment in enumerate(clip()) if k in wanted)
    images = dict(zip(np.unique(wanted), (image for _, image in drawn(chosen, source))))
    return [images[k] for k in wanted]
