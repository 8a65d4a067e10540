"""Watch videos and live streams with Streamo: every second it is silent, stands by, or answers.

    python infer.py assets/demo.mp4                                  describes every event
    python infer.py video.mp4 --ask "What is happening?" --ask "1:05:What did the man do?"
    python infer.py video.mp4 --jsonl out.jsonl --srt out.srt --render out.mp4 --timeline out.png
    python infer.py camera:0                              questions and /commands while it runs
    python infer.py door.mp4 rtsp://host/yard             several at once, one forward for all
    python infer.py rtsp://host/stream --window 120 --prune 30 --compress --record seen.mp4
    ffmpeg -i in.mp4 -r 1 -s 64x64 -pix_fmt rgb24 -f rawvideo - | python infer.py - --size 64x64

As a library, a whole stream, or second by second:
    for turn in stream(model, tokenizer, video.frames("video.mp4"), [(0, "Describe every event.")]):
        print(turn.start, turn.end, turn.state, turn.probs, turn.text)

    door, yard = Session(model, tokenizer), Session(model, tokenizer)
    question = door.ask("Who comes in?")
    turns = step([door, yard], [[picture], [another]])    # a second of both
    question.close()
"""
import sys

if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()
    from parts.arguments import announce
    announce(sys.argv[1:], __doc__)

import codecs
import time
from collections import Counter
from itertools import groupby, islice

import numpy as np
import torch
from PIL import Image

import data
from parts import checks, pictures, program, saved
from parts.compressor import Compressor
from parts.decision import RESPONSE, SILENCE, STATES, Decision, unspoken
from parts.devices import check_device
from parts.offline import OfflineSession, has_states, offline_sessions
from parts.questions import Agenda, Questions
from parts.slots import FRAME, PINNED, TEXT, Piece, Slots
from parts.turns import StreamTurn, all_or_none
from streamo import Streamo, Tokenizer, normalised

# ---- What is seen

def see(model, images, compressors=None):
    """F images -> (tokens of each, features (N, hidden) of all): one vision forward.

    An image is uint8 (H, W, 3), PIL, or was encoded before: (tokens, hidden). compressors: for
    each image the Compressor of its stream, or None."""
    weight, config = next(model.parameters()), model.config
    shown, sides = [], []
    for image, compressor in zip(images, compressors or [None] * len(images)):
        if torch.is_tensor(image):
            if compressor:
                raise ValueError("compress needs pictures, not encoded frames")
            continue
        image = pictures.upright(image) if isinstance(image, Image.Image) else np.asarray(image)
        shown.append(pictures.resized(image, config.vision.image_size))
        sides.append(compressor(shown[-1]) if compressor else config.grid)
    seen = []
    if shown:
        pixels = torch.from_numpy(np.stack(shown)).to(weight.device)         # (F, S, S, 3)
        features = model.features(normalised(pixels).to(weight.dtype), torch.arange(len(sides)),
                                  torch.tensor(sides))
        seen = list(features.split([config.tokens(side) for side in sides]))
    parts = [image.to(weight) if torch.is_tensor(image) else seen.pop(0) for image in images]
    return [len(part) for part in parts], torch.cat(parts)       # (N, hidden)


# ---- What stays in the cache
#
# The cache of a stream at the end of second 6, with a window of 3 seconds; "What?" was asked at
# second 1 and "Who?" at second 5. A turn is <|im_start|>user\n <4s-5s>\n, frames (f),
# <|im_end|>\n <|im_start|>assistant\n, the state, <|im_end|>\n:
#
#    system | user What? end | user <4s-5s> f f end assistant S end | user Who? <5s-6s> ...
#    PINNED | PINNED.......  | TEXT........ F F TEXT............... | PINNED... TEXT... F F ...
#
#    ... | user <6s-7s> f f end assistant    | pending: S end
#
# The state of second 6 is chosen but not yet read: it and its end go through the model together
# with the user part of second 7, so a silent second costs one forward. Of the turn of second 1 only
# the question is left, as data.pinned_part writes it.

SPARE = 8               # a drop moves all later keys: 1/8 of the window more makes it rarer
ANSWER = 16             # slots that a default cache has for the answer of each second, on average
QUESTIONS = 256         # and for the open questions


def sliding_window(seconds, kinds, now, excess, window, prune):
    """The policy of eviction: before the turn of second `now`, which slots leave? (n,) bool.

    seconds, kinds: (n,), of each slot in use: the second of its turn, and TEXT, FRAME or PINNED.
    excess: slots that must be freed for the turn to fit (0 or less: none). First frames older than
    `prune` leave, then turns older than `window`, then the oldest turns until the excess is
    covered. With a window of 0 no turn ever leaves; frames still do, by `prune`."""
    gone = np.zeros(len(kinds), bool)                    # (n,)
    turns, frames = kinds != PINNED, kinds == FRAME
    for leaving, most in ((frames, prune), (turns, window)):
        if most and (leaving & (seconds <= now - most)).any():
            gone |= leaving & (seconds <= now - most + most // SPARE)
    while window and gone.sum() < excess and (turns & ~gone).any():
        held = np.unique(seconds[turns & ~gone])         # the oldest first
        gone |= turns & (seconds <= held[len(held) // SPARE])
    return gone


class Session:
    """One stream: its cache, what lies in it, its open questions. `step` takes it a second on.

    Settings are those of `stream` and may be changed while it runs (but fps and capacity);
    `decision` has the rules of speaking. ask(), and close() of what it returns, may be called from
    another thread. on_word, where set, is called with each new piece of an answer."""

    def __init__(self, model, tokenizer, *, fps=1, threshold=None, patience=1, no_repeat=False,
                 max_new_tokens=64, window=None, prune=None, compress=None, capacity=None,
                 policy=sliding_window, counts=None):
        config = model.config
        self.model, self.tokenizer, self.policy = model, tokenizer, policy
        self.decision = Decision(config.threshold if threshold is None else threshold, patience,
                                 no_repeat)
        self.fps, self.max_new_tokens = fps, max_new_tokens      # of an answer
        self.window = config.window if window is None else window
        self.prune, self.compress, self.capacity = prune, compress, capacity
        checks.check_settings(self)
        self.system = data.system_part(tokenizer)
        limit = config.decoder.max_position_embeddings           # slots are positions
        if capacity is None:
            self.capacity = min(limit, self.slots_wanted()) if self.window else limit
        if not len(self.system) < self.capacity <= limit:
            raise ValueError(f"capacity {capacity}: the decoder has {limit} positions, and the "
                             f"system part needs {len(self.system)}")
        self.cache = model.new_cache(self.capacity)
        self.slots, self.pending, self.last = Slots(self.cache), [], -1      # last: second
        self.book, self.counts = Questions(), Counter() if counts is None else counts
        self.compressor = Compressor(config.grid, config.coarse_grid)
        self.bias, self.end = unspoken(model, tokenizer), tokenizer.encode("<|im_end|>\n")
        self.on_word, self.interrupted = None, False             # a question came meanwhile

    threshold = property(lambda self: self.decision.threshold,
                         lambda self, value: setattr(self.decision, "threshold", value))
    questions = property(lambda self: self.book.open())          # also those that wait

    def slots_wanted(self):
        """What the window, the turn that is being read and the longest answer need."""
        frames = [self.model.config.tokens(self.model.config.grid)] * self.fps
        turn = len(data.user_part(self.tokenizer, 99_999, frames)) + ANSWER
        return len(self.system) + QUESTIONS + (self.window + 1) * turn + self.max_new_tokens

    def ask(self, text, second=0, once=False, interrupt=False):
        """Ask in the next turn, or in the first one from `second` on -> questions.Question.

        once: the first answer closes it. interrupt: an answer that is being given stops here."""
        question = self.book.ask(text, second, once)
        self.interrupted |= interrupt and second <= self.last + 1       # not by one for later
        return question

    # ---- One second, in the order of `step`

    def hear(self, second, tokens):
        """What goes through the model: the end of the last turn and this one's user part, [Piece].

        Of a turn with a question, its head, the question and the <|im_end|> behind the frames are
        PINNED: they stay when the rest of the turn leaves, as data.pinned_part writes them."""
        def size(question):
            return len(data.pinned_part(self.tokenizer, question.text))
        second = int(second)                                 # it may be NumPy's
        room = (self.capacity - len(self.system)) // 4       # more would crowd out the frames
        joining, closed, notes = self.book.admit(second, size, room, self.counts)
        self.interrupted = False         # what was to be asked at once is asked now
        self.slots.close(closed, self.book.all)
        plain = data.user_part(self.tokenizer, second, tokens)       # as if nothing were asked
        tag = len(self.tokenizer.encode("<|im_start|>user\n"))       # where each part begins
        frames = plain.index(self.tokenizer.frame_id)
        end = frames + sum(tokens)
        assistant = end + len(self.end)
        around = PINNED if joining else TEXT             # so that data.pinned_part is left
        asked = [Piece(self.tokenizer.encode(question.text + "\n", special=False), second, PINNED,
                       question.number) for question in joining]
        pieces = [Piece(plain[:tag], second, around), *asked, Piece(plain[tag:frames], second),
                  Piece(plain[frames:end], second, FRAME),
                  Piece(plain[end:assistant], second, around), Piece(plain[assistant:], second)]
        self.make_room(second, sum(len(piece.ids) for piece in pieces))
        pieces, self.last = [Piece(self.pending, self.last), *pieces], second
        if joining:
            self.decision.last = None                    # the same answer may come again
        question = "\n".join(question.text for question in joining) or None
        self.turn = StreamTurn(second, second + 1, "", (), "", question, 0.0, notes=tuple(notes))
        return pieces

    def make_room(self, second, need):
        """Before a turn of `need` slots: what the policy says leaves."""
        slots, counts = self.slots, self.counts
        need += len(self.pending) + self.max_new_tokens
        # the seconds that are in the cache now, and those that have their frames
        turns, framed = slots.turns(), slots.turns((FRAME,))
        excess = self.cache.length + need - self.capacity
        if self.window and excess > 0 and turns and min(turns) > second - self.window:
            counts["times the cache was full before the window"] += 1
        slots.drop(self.policy(slots.second, slots.kind, second, excess, self.window, self.prune))
        left = turns - slots.turns()
        counts["turns dropped"] += len(left)
        counts["turns without their frames"] += len(framed - left - slots.turns((FRAME,)))
        if self.last in left:
            self.pending = []                            # the turn that it ends
        if self.cache.length + need > self.capacity:
            advice = "less --fps" if len(self.system) + need > self.capacity else \
                "a --window, fewer questions"
            raise ValueError(f"second {second}: the cache is full ({self.cache.length} + {need} of "
                             f"{self.capacity} slots): {advice}, or less --max-new-tokens")

    def choose(self, logits):
        """The state, by the logits (V,) at the end of the user part."""
        probs = logits[list(self.tokenizer.state_ids)].float().softmax(-1).tolist()  # of three
        self.turn.probs, self.state = tuple(probs), self.decision.state(probs)
        self.token = self.tokenizer.state_ids[self.state]        # chosen, not yet in the cache
        self.begin, self.said, self.told = self.cache.length, [], ""    # slot, tokens, text heard

    def speaks(self):
        """Whether the answer goes on."""
        return (self.state == RESPONSE and self.token != self.end[0] and not self.interrupted
                and len(self.said) < self.max_new_tokens)

    def say(self, token):
        self.token = token                               # of the answer, or its end
        if token != self.end[0]:
            self.said.append(token)
            text = self.text()
            if self.on_word and text != self.told and not self.decision.may_repeat(text):
                self.on_word(text[len(self.told):])
                self.told = text

    def text(self):
        """The answer so far, up to the last letter whose bytes are all there."""
        raw = b"".join(self.tokenizer.bytes[token] for token in self.said)
        return codecs.utf_8_decode(raw, "replace", False)[0].strip()

    def finish(self, began):
        """-> the StreamTurn of this second."""
        turn, turn.text = self.turn, self.text()
        if self.state == RESPONSE and self.decision.repeats(turn.text):
            self.slots.drop(np.arange(self.cache.length) >= self.begin)      # as if never begun
            self.state, turn.text = self.decision.quiet, ""
            self.token = self.tokenizer.state_ids[self.state]
        if self.state == RESPONSE and self.token != self.end[0]:
            turn.cut = "question" if self.interrupted else "length"
        if self.state != SILENCE:                        # its frames stay as long as its text
            mine = (self.slots.second == self.last) & (self.slots.kind == FRAME)
            self.slots.kind[mine] = TEXT
        if turn.text:
            if self.on_word and turn.text != self.told:      # it might have been a repetition
                self.on_word(turn.text[len(self.told):])
            self.decision.last = turn.text
            turn.notes += tuple(self.book.answer(turn.start))
        # read with the next second: this one costs no forward for it
        self.pending = self.end if self.token == self.end[0] else [self.token, *self.end]
        turn.state, turn.kv = STATES[self.state], (self.cache.length, self.capacity)
        turn.ms = 1000 * (time.perf_counter() - began)
        return turn

    def step(self, images, second=None):
        """The next second of the stream, or this later one: 1 to fps images -> StreamTurn."""
        return step([self], [images], None if second is None else [second])[0]

    # ---- A stream that goes on another day

    def save(self, path):
        """All but the model, the tokenizer and the policy, in one file (parts/saved.py)."""
        saved.write(path, self)

    @classmethod
    def load(cls, path, model, tokenizer, policy=sliding_window):
        """The session that was saved; it goes on with the same bits."""
        settings, rest = saved.read(path, model, tokenizer)
        return saved.restore(cls(model, tokenizer, policy=policy, **settings), rest)


# ---- The loop

def read(sessions, chunks, features=None):
    """One decoder forward: append chunk i, [Piece], to the cache of session i -> logits (n, V) at
    the last token of each chunk."""
    ids = [session.slots.note(pieces) for session, pieces in zip(sessions, chunks)]
    caches = [(session.cache, len(new)) for session, new in zip(sessions, ids)]
    together = torch.tensor([sum(ids, [])], device=sessions[0].cache.keys.device)    # (1, T)
    return sessions[0].model(together, features, cache=caches, select="last")


@torch.inference_mode()
def step(sessions, images, seconds=None):
    """A second of each of these streams of one model -> a StreamTurn each, as if each were alone.

    images: for each session a list of 1 to fps frames (see `see`). One vision forward and one
    decoder forward for all, and one more for each token of the longest answer. Sessions of an
    offline model are asked one by one."""
    began = time.perf_counter()
    seconds = [session.last + 1 for session in sessions] if seconds is None else seconds
    checks.check_together(sessions, images, seconds)
    if any(isinstance(session, OfflineSession) for session in sessions):
        return [session.step(some, second)
                for session, some, second in zip(sessions, images, seconds)]
    model, flat, compressors = sessions[0].model, [], []
    for session, some in zip(sessions, images):
        session.compressor.threshold = session.compress
        flat.extend(some)
        compressors += [session.compressor if session.compress is not None else None] * len(some)
    if new := [session for session in sessions if not session.cache.length]:
        read(new, [[Piece(session.system, -1, PINNED)] for session in new])
    chunks = []
    with all_or_none(sessions):
        tokens, features = see(model, flat, compressors)     # of all frames, stream after stream
        for session, second, some in zip(sessions, seconds, images):
            mine, tokens = tokens[:len(some)], tokens[len(some):]
            chunks.append(session.hear(second, mine))
            if session.compress is not None:
                session.counts["frames compressed"] += sum(n < model.config.tokens(
                    model.config.grid) for n in mine)
    for session, logits in zip(sessions, read(sessions, chunks, features)):
        session.choose(logits)
    # greedily, until the last one has ended
    while speaking := [session for session in sessions if session.speaks()]:
        logits = read(speaking, [[Piece([session.token], session.last)] for session in speaking])
        for session, token in zip(speaking, (logits + speaking[0].bias).argmax(-1).tolist()):
            session.say(token)
    return [session.finish(began) for session in sessions]


def by_second(frames, fps):
    """(seconds, image), ... -> (second, [at most fps images]), ...

    A second is yielded at its last frame, not when the next one begins: nothing live waits."""
    for second, group in groupby(checks.ordered(frames), lambda frame: int(frame[0] + 1e-6)):
        yield second, [image for _, image in islice(group, fps)]


def stream(model, tokenizer, frames, questions=(), session=None, **settings):
    """Yield a StreamTurn a second; a silent one costs one vision and one decoder forward.

    frames: (seconds, image), fps a second; an image is uint8 RGB (H, W, 3), PIL, or (tokens,
        hidden), encoded before.
    questions: (second, text) pairs; each joins the first turn with start >= second. They are read
        anew every second, so another thread may append or delete. A question stays open, and in the
        cache, until the stream ends, or it is closed to make room for another.
    session: one that was begun before, also of an offline model; it has its settings.
    settings, and their defaults: fps=1,
    threshold=None: respond when P(response) reaches it. None: config.threshold, and where that is
        None, too, when it is the likeliest state. patience=1, no_repeat=False: see Decision.
    max_new_tokens=64: of one answer.
    window=None: seconds that stay (at times an eighth less), as far as the decoder's positions
        reach. None: config.window. 0: all, and ValueError when the cache is full.
    prune=None: seconds that keep their frames (at times an eighth less); of older ones that were
        silent only the text stays. None: all.
    compress=None: a frame that differs less from the last kept one is coarse (Compressor).
    capacity=None: slots of the cache, never exceeded: the oldest turns leave. None: as the window
            needs. policy=sliding_window: which ones leave.
    counts=None: a Counter of what was dropped, compressed, closed and refused."""
    if session and settings:
        raise ValueError(f"stream: {', '.join(settings)}: the session has its own settings")
    session = session or Session(model, tokenizer, **settings)
    agenda = Agenda(questions)

    def turns():
        for second, images in by_second(frames, session.fps):
            for text in agenda.due(second):
                session.ask(text)
            yield session.step(images, second)
    return turns()


# ---- The command line

def open_sessions(args, counts):
    """A session for each Counter of counts, all of one model."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    dtype = args.dtype or ("bfloat16" if device == "cuda" else "float32")
    model = Streamo.from_pretrained(args.model, getattr(torch, dtype), device)
    if not has_states(args.model):
        return offline_sessions(model, args, counts, see)
    if args.every:
        raise ValueError(f"--every {args.every}: how often an offline model is asked; {args.model} "
                         "says by itself, each second, when to speak")
    if model.config.knows and not args.quiet:
        args.hints.append(f"{args.model}: this model knows {model.config.knows} only")
    tokenizer = Tokenizer.from_pretrained(args.model)
    settings = {name: getattr(args, name) for name in checks.BOUNDS} | {"no_repeat": args.no_repeat}
    return [Session(model, tokenizer, counts=own, **settings) for own in counts]


def main(argv=None):
    """-> exit code: see parts/program.py, which has what need not be read first."""
    return program.run(argv, __doc__, open_sessions, by_second, step)

if __name__ == "__main__":
    sys.exit(main())
