"""The command line of infer.py: sources in, answers out, and a conversation with whoever types.

infer.py hands over what it can (see run); here is what is the same for any way of watching: several
sources at once, live ones that come back, questions and commands, what is told, exit codes.
"""
import math
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import datetime
from itertools import chain

import av

from parts import sources, video
from parts.arguments import DEFAULT, ask, complain, parse
from parts.checks import check_setting
from parts.files import counted
from parts.outputs import Outputs
from parts.questions import TOO_LONG
from parts.render import clock
from parts.terminal import Terminal

RECONNECT = 60          # seconds, where --reconnect says none
FAULTS = OSError, ValueError, av.FFmpegError            # what a bad source raises
HELP = """What? (12:What? waits for second 12)      a question, open until it is closed
/once What?         a question that its first answer closes
/questions          those that are open
/close 2            closes question 2
/threshold 0.4      answer when P(response) is at least this
/quit               ends the stream; the files are written"""


class Gone(Exception):
    """A live source that did not come back."""


class Watched:
    """One source: its frames by second, its session, its files and its numbers."""

    def __init__(self, args, number, tell, by_second):
        self.source, self.name = args.sources[number], args.names[number]
        self.counts, self.gap, self.partial = Counter(), None, ""
        self.said, self.n, self.worst, self.last, self.session = 0, 0, 0.0, None, None
        self.whole = True                               # no fault has ended it
        self.outputs, self.tell = Outputs(args.paths[number], tell), tell
        frames, self.seconds, self.live = sources.open_source(
            self.source, args.fps, args.size, self.counts)
        if "record" in self.outputs.paths and not self.live:
            raise ValueError(f"--record {self.outputs.paths['record']}: {self.source} is not live")
        if "render" in self.outputs.paths:
            if self.live and "record" not in self.outputs.paths:
                raise ValueError(f"--render: {self.source} is live, so it needs --record FILE.mp4")
            if not (self.live or os.path.isfile(self.source) or os.path.isdir(self.source)):
                raise ValueError(f"--render: {self.source} cannot be read twice")
        if self.live:
            frames = self.outputs.recorded(self.returning(frames, args))
        self.feed = None
        if self.live or args.realtime:
            size = sources.patience(self.source) * args.fps
            self.feed = frames = sources.Live(frames, size, args.realtime)
        self.by_second = by_second(frames, args.fps)

    def returning(self, frames, args):
        """Frames of a live source; after a gap of the source they go on at the time that it is by
        the clock. Gone: it did not come back within --reconnect seconds."""
        began, shift, last = time.monotonic(), 0.0, None
        most = RECONNECT if args.reconnect is None else args.reconnect
        while True:
            why = f"{self.source}: it ended"
            try:
                for second, image in frames:
                    if last is None:
                        began = time.monotonic() - second
                    last = second + shift
                    yield last, image
                if self.source.startswith(video.WEB):    # its list says that it has ended
                    return
            except FAULTS as error:
                if last is None:                         # it was never there
                    raise
                why = str(error)
            silent, pause = time.monotonic(), 1
            if most:
                self.tell(f"{why}; trying again for {most:g} s")
            while True:
                if time.monotonic() + pause - silent > most:
                    raise Gone(f"{why}, and was not back within {most:g} s")
                time.sleep(pause)
                pause = min(2 * pause, 16)
                with suppress(*FAULTS, StopIteration):
                    frames = iter(sources.open_source(self.source, args.fps, args.size,
                                                      self.counts)[0])
                    first = next(frames)
                    frames = chain([first], frames)
                    break
            self.gap = round(time.monotonic() - silent, 1)
            self.tell(f"{self.source}: back after {self.gap:g} s")
            shift = max(last + 1 / args.fps, time.monotonic() - began) - first[0]

    def lag(self):
        return time.monotonic() - self.feed.came if self.feed else 0.0


def rounds(streams):
    """Lists of (Watched, second, images), until all have ended: the next second of every source
    that is a file, and of live ones what is there. One that fails is yielded with its error."""
    if len(streams) == 1:
        for second, images in streams[0].by_second:
            yield [(streams[0], second, images)]
        return
    ready, gates = queue.Queue(), {stream: threading.Semaphore() for stream in streams}

    def feed(stream):
        try:
            for second, images in stream.by_second:
                gates[stream].acquire()                  # one second at a time
                ready.put((stream, second, images))
            ready.put((stream, None, None))
        except Exception as error:                       # told by the main thread
            ready.put((stream, error, None))
    for stream in streams:
        threading.Thread(target=feed, args=(stream,), daemon=True).start()
    going = set(streams)
    while going:
        batch = {}
        while not batch or not ready.empty() or any(
                not stream.live and stream not in batch for stream in going):
            stream, second, images = ready.get()
            if images is None:
                going.discard(stream)
                if second is not None:
                    yield [(stream, second, None)]
                if not going:
                    break
            else:
                batch[stream] = (stream, second, images)
        if batch:
            yield list(batch.values())
        for stream in batch:
            gates[stream].release()


class Program:
    def __init__(self, args, terminal, parts):
        self.args, self.terminal, self.failed, self.gone = args, terminal, [], []
        self.open_sessions, self.by_second, self.step = parts
        self.quitting, self.watching, self.began = False, False, time.monotonic()
        self.asked, self.lines = [], []                  # of --ask, and typed: (text, its handles)

    # ---- What is typed

    def handle(self, line):
        """A line of the terminal, or of a pipe; in the terminal's thread."""
        try:
            if line.startswith("/"):
                name, _, rest = line[1:].partition(" ")
                self.command(name, rest)
            else:
                self.ask(line)
        except ValueError as error:
            self.terminal.tell(f"refused: {error}")

    def ask(self, line, once=False):
        second, text = ask(line)
        made = [stream.session.ask(text, second, once, interrupt=self.terminal.keys)
                for stream in self.streams]
        self.typed = True
        self.lines.append((text, made))
        if self.terminal.live:
            self.terminal.tell(f"question {made[0].number}: {text}")

    def command(self, name, rest):
        sessions, rest = [stream.session for stream in self.streams], rest.strip()
        if name == "once" and rest:
            self.ask(rest, once=True)
        elif name == "questions":
            several = len(self.streams) > 1
            lines = [f"{stream.name} " * several + f"{q.number} {q.text} ({self.when(q)})"
                     for stream in self.streams for q in stream.session.questions]
            self.terminal.tell("\n".join(lines) or "no question is open")
        elif name == "close" and rest.isdecimal():
            closing = [q for session in sessions for q in session.questions
                       if q.number == int(rest)]
            if not closing:
                raise ValueError(f"/close {rest}: no such question is open")
            for question in closing:
                question.close()
            self.terminal.tell(f"question {rest} closed: {closing[0].text}")
        elif name == "threshold":
            try:
                value = float(rest)
                check_setting("threshold", value)
            except ValueError:
                raise ValueError(f"/threshold {rest}: a number from 0 to 1 is wanted") from None
            for session in sessions:
                session.threshold = value
            self.terminal.tell(f"threshold {value:g}")
        elif name == "quit":
            first, self.quitting = not self.quitting, True
            if first and self.watching:
                os.kill(os.getpid(), signal.SIGINT)      # wakes the main thread
        elif name == "help":
            self.terminal.tell(HELP)
        else:
            raise ValueError(f"/{name} {rest}".strip() + ": no such command; /help tells them")

    @staticmethod
    def when(question):
        if question.asked is None:
            return f"waits for {clock(question.second)}" if question.second else "comes next"
        answered = question.answered
        return (f"asked at {clock(question.asked)}, "
                + ("not answered yet" if answered is None else f"answered at {clock(answered)}"))

    # ---- What is told

    def mark(self, stream):
        """What a line begins with: the source, of several; with --clock the time of day."""
        name = f"{stream.name} " if len(self.streams) > 1 else ""
        return f"{datetime.now():%H:%M:%S} {name}" if self.args.clock else name

    def word(self, stream, piece):
        stream.partial += piece
        self.show()

    def show(self):
        """The answers that are growing, and a line of status for each source."""
        if not self.terminal.live:
            return
        growing = [f"{self.mark(s)}{s.partial}" for s in self.streams if s.partial]
        self.terminal.status(*growing, *(self.status(s) for s in self.streams if s.last))

    def status(self, stream):
        """State, its probabilities as bars, x real time, lag, share of the cache in use."""
        turn = stream.last
        bars = "".join(" ▁▂▃▄▅▆▇█"[round(8 * p)] for p in turn.probs)
        part = f" of {clock(stream.seconds)}" if stream.seconds else ""
        speed = stream.n / (time.monotonic() - self.began)
        begin = f"{self.mark(stream)}{clock(turn.start)}{part}"
        return (f"{begin} {turn.state:8} |{bars}| {speed:.1f} x real time, "
                f"lag {stream.lag():.1f} s, KV {turn.kv[0] / turn.kv[1]:.0%}")

    def take(self, stream, turn):
        """A second has been watched: what there is to tell, and its line in the files."""
        stream.n, stream.worst = stream.n + 1, max(stream.worst, turn.ms)
        stream.last, stream.partial = turn, ""
        more = {}
        if stream.live or self.args.realtime or self.args.clock:
            more["wall"] = datetime.now().astimezone().isoformat(timespec="milliseconds")
        if stream.gap is not None:
            more["gap"], stream.gap = stream.gap, None
        stream.outputs.add(turn, **more)
        for note in turn.notes:
            self.terminal.tell(f"{self.mark(stream)}[{clock(turn.start)}] {note}")
        if turn.state == "response":
            stream.said += 1
            cut = " ..." if turn.cut else ""
            self.terminal.say(f"{self.mark(stream)}[{clock(turn.start)}-{clock(turn.end)}] "
                              f"{turn.text}{cut}")

    def summary(self, stream):
        stream.counts["frames dropped, for they came too fast"] = getattr(stream.feed, "dropped", 0)
        notes = "".join(f", {count} {what}" for what, count in stream.counts.items() if count)
        name = f"{stream.name}: " if len(self.streams) > 1 else ""
        self.terminal.say(
            f"{name}{stream.n} s of video, {counted(stream.said, 'answer')}, "
            f"{stream.n / (time.monotonic() - self.began):.1f} x real time, slowest second "
            f"{stream.worst:.0f} ms{notes}")

    # ---- From the first second to the last

    def run(self):
        """-> the exit code."""
        args = self.args
        self.streams = [Watched(args, n, self.terminal.tell, self.by_second)
                        for n in range(len(args.sources))]
        live = [stream.live for stream in self.streams]
        if args.reconnect is not None and not any(live):
            raise ValueError(f"--reconnect {args.reconnect:g}: no source is live")
        if args.realtime and all(live):
            raise ValueError("--realtime: of files, and every source is live")
        ends = [stream.seconds for stream in self.streams]
        late = [text for when, text, _ in args.ask if all(ends)
                and when > math.ceil(max(ends)) - 1]
        if late:
            raise ValueError(f"--ask {late[0]!r}: the video has no second that begins then or "
                             f"later, it ends after {max(ends):.1f} s")
        self.terminal.status(f"loading {args.model} ...")
        sessions = self.open_sessions(args, [stream.counts for stream in self.streams])
        for stream, session in zip(self.streams, sessions):
            stream.session = session
            session.on_word = lambda piece, stream=stream: self.word(stream, piece)
        for hint in args.hints:
            self.terminal.tell(f"infer.py: {hint}")
        self.typed, self.began = False, time.monotonic()
        for when, text, once in args.ask:
            self.asked.append((text, [session.ask(text, when, once) for session in sessions]))
        with self.terminal.listening(self.handle, not any(map(sources.is_stdin, args.sources))):
            if not args.ask and (self.terminal.keys or not self.typed):
                self.asked.append((DEFAULT, [session.ask(DEFAULT) for session in sessions]))
            try:
                self.watching = True
                self.watch()
            except KeyboardInterrupt:
                if not self.quitting:
                    raise
            finally:
                self.watching = False
                self.close()
        failed = self.failed + ([self.terminal.broken] if self.terminal.broken else [])
        if not failed and not self.gone and not self.quitting and not self.terminal.gone:
            failed = self.unasked()
        for message in [*failed, *self.gone]:
            complain(message)
        for text, handles in self.lines if not self.quitting else ():
            if all(question.asked is None and not question.closed for question in handles):
                complain(f"{text[:80]!r}: never asked, it was for later than the stream's end")
        given_up = any(stream.outputs.failed for stream in self.streams)     # and told
        return 2 if failed or given_up else 3 if self.gone else 0

    def watch(self):
        if self.quitting:
            return
        try:
            for batch in rounds(self.streams):
                for stream, error, images in [entry for entry in batch if entry[2] is None]:
                    if isinstance(error, Gone):
                        self.gone.append(error)
                    elif isinstance(error, FAULTS):
                        self.failed.append(error)
                        stream.whole = False
                    else:
                        raise error
                batch = [entry for entry in batch if entry[2] is not None]
                if batch:
                    streams, seconds, images = zip(*batch)
                    turns = self.step([stream.session for stream in streams], images, seconds)
                    for stream, turn in zip(streams, turns):
                        self.take(stream, turn)
                    self.show()
                if self.terminal.gone or self.quitting:
                    return
        except Gone as error:
            self.gone.append(error)
        except FAULTS as error:                         # of the model: of all
            self.failed.append(error)
            for stream in self.streams:
                stream.whole = False

    def close(self):
        """The files, then the numbers: what is printed last comes last."""
        self.terminal.status()
        for stream in self.streams:
            stream.outputs.close()
        whole = [stream for stream in self.streams if stream.whole]
        for stream in whole if sys.exc_info()[0] is None else ():
            again = stream.outputs.paths.get("record") if stream.live else stream.source
            if again:                                   # None: its recording failed, and was told
                again = video.frames(again, self.args.fps) if os.path.isdir(again) else again
                stream.outputs.render(again, not self.args.no_sound)
        for stream in self.streams:
            if stream.n and not self.args.quiet:
                self.summary(stream)

    def unasked(self):
        """What is wrong with a question of the command line that no stream was asked."""
        for text, handles in self.asked:
            name = f"{'--ask ' * bool(self.args.ask)}{text[:80]!r}"
            if any(question.asked is not None for question in handles):
                continue
            closed = [question.closed for question in handles if question.closed]
            if not closed:
                longest = max(stream.n for stream in self.streams)
                return [f"{name}: never asked, the stream ended after {longest} s"]
            if closed[0].startswith(TOO_LONG):              # and not by the user
                return [f"{name}: {closed[0]}"]
        return []


def run(argv, doc, *parts):
    """parts: open_sessions(args, counts) -> sessions, by_second and step of infer.py.

    Exit code: 0; 2 for bad input, with one line on stderr; 3 for a live source that did not come
    back; 130 after Ctrl-C or SIGTERM. A question later than the end is bad input: before the start
    where the length is known, else when the end has come."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in {"SIGTTIN", "SIGTTOU"} & set(dir(signal)):       # they stop a job in the background
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        args = parse(sys.argv[1:] if argv is None else argv, doc)
        return Program(args, Terminal(args.quiet), parts).run()
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except FAULTS as error:
        complain(error)
        return 2
