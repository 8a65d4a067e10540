"""An offline video model in the streaming loop. It has no states, so it is asked: every question at
its second and then every few seconds, in the model's own prompt, about the seconds in the cache.

    the cache:   head | frames of second 3 | of second 4 | ... | newline, question, answer
                 stays  \\______ leave with the window ______/   read, decoded, dropped again

A second costs one vision and one decoder forward, as with Streamo; a question costs its own tokens
and those of its answer, and no frame is read twice. Until the first second leaves the window this
is, token for token, the model's own prompt prefilled anew; later, what stays has seen what left.
"""
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from parts.checks import check_settings, check_step
from parts.compressor import Compressor
from parts.decision import Decision, unspoken
from parts.files import check, model_folder, read_json
from parts.questions import Questions
from parts.tokenizer import FRAME, STATES, Tokenizer
from parts.turns import StreamTurn, all_or_none
from parts.video import drawn, pictures
from parts.weights import load_tensor

# The release's own prompt (conversation "qwen_1_5"), in which its scores were measured.
RELEASED = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n", "\n",
            "<|im_end|>\n<|im_start|>assistant\n")
# Where a converted folder keeps its chat template.
TEMPLATES = "chat_template.jinja", "chat_template.json", "processor_config.json"
OPTIONS = "fps", "every", "window", "prune", "compress", "threshold", "max_new_tokens"
QUESTION = 512                              # slots that a default cache has for a question
SPACE = r"(\n|\\n| )?"                       # in a template: a line's end (two spellings), a space


def has_states(folder):
    """Whether a checkpoint was trained to say the three states, by its own config."""
    return read_json(model_folder(folder) / "config.json").get("model_type") == "streamo"


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


def same(a, b):
    """Whether two answers say the same: without case, punctuation and white space."""
    return re.sub(r"\W+", " ", a).casefold().strip() == re.sub(r"\W+", " ", b).casefold().strip()


class OfflineStream:
    """One stream of an offline model: its cache, what lies in it, its open questions.

    every: seconds from one asking of a question to the next. window: seconds that stay; when one
    must leave, an eighth more leave with it, for a drop moves all that is behind it. threshold: the
    least mean probability of an answer that is said."""

    def __init__(self, model, prompt, bias, *, every=5, window=None, max_new_tokens=64,
                 capacity=None, threshold=None):
        config, weight = model.config, next(model.parameters())
        check(every >= 1, f"every {every}: at least a second")
        self.model, self.prompt, self.bias, self.every = model, prompt, bias, every
        self.max_new_tokens, self.threshold = max_new_tokens, threshold
        self.book, self.answers, self.held = Questions(), {}, []    # answers: by question
        self.window = config.window if window is None else window
        limit = config.decoder.max_position_embeddings
        needed = len(prompt.head) + (self.window + 1) * config.tokens(config.grid) + QUESTION
        self.capacity = capacity or (min(limit, needed + max_new_tokens) if self.window else limit)
        check(self.capacity <= limit, f"capacity {capacity}: the decoder has {limit} positions")
        self.cache = model.new_cache(self.capacity)
        self.end = prompt.tokenizer.id("<|im_end|>")
        self.newline = None if prompt.newline is None else prompt.newline[None].to(weight)
        self.read(prompt.head)

    @torch.inference_mode()
    def read(self, ids, features=None):
        """One decoder forward: append ids to the cache -> logits (V,) after the last of them."""
        ids = torch.tensor([ids], device=self.bias.device)
        return self.model(ids, features, cache=self.cache, select="last")[0]

    def ask(self, text, second=0, once=False, interrupt=False):
        """Ask at the next second, or at the first from `second` on -> questions.Question, whose
        close() ends it. interrupt is for sessions whose answers can be cut short."""
        return self.book.ask(text, second, once)

    def due(self, second):
        """The questions that are asked in this second: new ones, and every few seconds again."""
        for question in self.book.take_closed():
            self.answers.pop(question.number, None)
        for question in self.book.open():
            if question.asked is None and question.second <= second:
                question.asked = second
        return [question for question in self.book.open(asked=True)
                if (second - question.asked) % self.every == 0]

    def watch(self, second, features):
        """Read a second's visual tokens (N, hidden_size), and ask what is due.

        Returns [(question, answer, mean probability of its tokens)] of the answers that say
        something new."""
        due = [(question, self.prompt.question(question.text)) for question in self.due(second)]
        longest = max([len(ids) for _, ids in due], default=0)
        self.make_room(second, len(features) + longest + self.max_new_tokens)
        self.read([self.prompt.tokenizer.frame_id] * len(features), features)
        self.held.append((second, len(features)))
        said = []
        for question, ids in due:
            answer, p = self.answer(ids)
            new = answer and not same(answer, self.answers.get(question.number, ""))
            if new and (self.threshold is None or p >= self.threshold):
                self.answers[question.number] = answer
                question.answered = second
                if question.once:
                    question.close("answered")
                said.append((question, answer, p))
        return said

    @torch.inference_mode()
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


class OfflineSession(OfflineStream):
    """An OfflineStream with what the programs use of infer.Session: pictures in, turns out.

    see: infer.see. prune: seconds that stay, where that is fewer than the window. compress: as for
    Session. An answer is Response, with its probability; all else is Silence."""

    def __init__(self, model, prompt, bias, see, *, fps=1, prune=None, compress=None,
                 counts=None, window=None, **settings):
        window = model.config.window if window is None else window
        shorter = prune if prune and (prune < window or not window) else window
        super().__init__(model, prompt, bias, window=shorter, **settings)
        self.see, self.fps, self.compress = see, fps, compress
        self.counts, self.on_word, self.last = Counter() if counts is None else counts, None, -1
        self.compressor = Compressor(model.config.grid, model.config.coarse_grid)
        self.prune, self.decision = prune, Decision()       # whose rules are for states
        check_settings(self)

    questions = property(lambda self: self.book.open())

    @torch.inference_mode()
    def step(self, images, second=None):
        """The next second (or this later one) of the stream: at most fps images -> StreamTurn."""
        began, second = time.perf_counter(), self.last + 1 if second is None else second
        check_step(self, self.model, second, images)
        second, self.compressor.threshold = int(second), self.compress      # it may be NumPy's
        compressors = None if self.compress is None else [self.compressor] * len(images)
        before = len(self.held) + 1
        with all_or_none([self]):
            tokens, features = self.see(self.model, images, compressors)
            said = self.watch(second, features)
        self.last, full = second, self.model.config.tokens(self.model.config.grid)
        self.counts["frames compressed"] += sum(n < full for n in tokens)
        self.counts["seconds dropped"] += before - len(self.held)
        asked = [question.text for question in self.book.all if question.asked == second]
        p = float(np.mean([p for *_, p in said])) if said else 0.0
        return StreamTurn(second, second + 1, "response" if said else "silence", (1 - p, 0.0, p),
                         "\n".join(answer for _, answer, _ in said), "\n".join(asked) or None,
                         1000 * (time.perf_counter() - began),
                         (self.cache.length, self.capacity))


def offline_sessions(model, args, counts, see):
    """A session for each Counter of counts, of an offline model, by the options of infer.py."""
    if args.patience > 1 or args.no_repeat:
        flag = "--patience" if args.patience > 1 else "--no-repeat"
        raise ValueError(f"{flag}: of a model that says the states each second; {args.model} is an "
                         "offline one, see --every")
    weight, tokenizer = next(model.parameters()), words(args.model)
    prompt = Prompt.from_pretrained(args.model, tokenizer, weight.dtype, weight.device)
    bias = unspoken(model, tokenizer)
    settings = {name: getattr(args, name) for name in OPTIONS}
    if args.every is None:
        del settings["every"]                               # the session has a default
    sessions = [OfflineSession(model, prompt, bias, see, counts=own, **settings) for own in counts]
    args.hints.append(f"{args.model} was not trained to say the states: it is asked every "
                      f"{sessions[0].every} s, in its own prompt; Standby is not said")
    return sessions


def sampled(source, most, start=0.0, end=float("inf"), rate=None):
    """The images that lmms-eval shows an offline model of a video, or of its seconds start to end:
    `most` of all its pictures, evenly spaced, the first and the last among them; where there are
    fewer, some come twice. The video is read twice, and only these are drawn. rate: images per
    second of a folder of images (None: 1). No addresses and playlists: a benchmark names none."""
    def clip():
        return ((second, draw) for second, draw in pictures(source, rate or 1, trusted=False)
                if draw is not None and start <= second < end)
    total = sum(1 for _ in clip())
    check(total, f"{source}: no picture from {start:g} to {end:g} s")
    wanted = np.linspace(0, total - 1, most, dtype=int)                     # (most,)
    chosen = (moment for k, moment in enumerate(clip()) if k in wanted)
    images = dict(zip(np.unique(wanted), (image for _, image in drawn(chosen, source))))
    return [images[k] for k in wanted]
