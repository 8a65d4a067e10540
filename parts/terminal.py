"""The terminal: answers on stdout, a status below them on stderr, and the line being typed below
that, whole whatever is printed meanwhile.

    terminal = Terminal(quiet=False)
    with terminal.listening(handle):            # handle(line), called in a thread, for each line
        terminal.status("00:12 silence")        # repainted in place
        terminal.say("[00:12-00:13] A man.")    # a line of its own, above
        terminal.tell("a note")                 # on stderr

Where stderr is no terminal there is no status; where stdin is none, its lines are read all the
same. A stream that is closed, or whose disk is full, is given up: `broken` says so, `gone` that its
reader has left.
"""
import codecs
import os
import select
import shutil
import signal
import sys
import threading
import time
import unicodedata
from contextlib import contextmanager, suppress

try:
    import termios
except ImportError:                                     # not a POSIX system: lines are read whole
    termios = None


def width(text):
    """Columns of the terminal that the text takes."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def fitting(text, columns, end=False):
    """As much of the beginning (or the end) of the text as so many columns show."""
    text = text[::-1] if end else text
    kept = ""
    for c in text:
        if width(kept + c) > columns:
            break
        kept += c
    return kept[::-1] if end else kept


class Line:
    """The line being typed: characters in, whole lines out."""

    def __init__(self):
        self.text, self.escape = "", ""

    def type(self, characters):
        """-> the lines that these characters end."""
        lines = []
        for c in characters:
            if self.escape:                             # of an arrow or a function key: no letter
                self.escape += c
                if (c.isalpha() or c == "~") and self.escape != "\x1bO":
                    self.escape = ""
            elif c in "\r\n":
                lines.append(self.text)
                self.text = ""
            elif c in "\x7f\b":
                self.text = self.text[:-1]
            elif c == "\x15":                           # Ctrl-U
                self.text = ""
            elif c == "\x17":                           # Ctrl-W
                self.text = self.text.rstrip().rpartition(" ")[0]
            elif c == "\x1b":
                self.escape = c
            elif c == "\t" or c != "\ufeff" and unicodedata.category(c) != "Cc":
                self.text += c.replace("\t", " ")
        return lines


class Terminal:
    def __init__(self, quiet=False):
        self.lock, self.line, self.area, self.shown = threading.RLock(), Line(), [], 0
        self.broken, self.gone, self.saved = None, False, None
        self.quiet, self.live = quiet, is_terminal(sys.stderr) and not quiet
        self.keys = self.live and is_terminal(sys.stdin) and termios is not None

    # ---- Out

    def write(self, stream, text):
        """Into a stream, if it can take it."""
        if stream is None:                              # closed before the start
            return
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError:                      # of a terminal that knows less
            code = stream.encoding or "ascii"
            self.write(stream, text.encode(code, "replace").decode(code))
        except (OSError, ValueError) as error:
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                self.broken = f"standard output: {getattr(error, 'strerror', None) or error}"
            elif stream is sys.stdout:
                self.gone = True
            give_up(stream)

    def say(self, text):
        """A line on stdout."""
        with self.lock:
            self.erase()
            self.write(sys.stdout, text + "\n")
            self.paint()

    def tell(self, text):
        """A line on stderr."""
        with self.lock:
            self.erase()
            self.write(sys.stderr, text + "\n")
            self.paint()

    def status(self, *lines):
        """What stands below all else from now on, above the line being typed."""
        with self.lock:
            if self.live:
                self.erase()
                self.area = lines
                self.paint()

    def erase(self):
        if self.shown:
            up = f"\x1b[{self.shown - 1}A" if self.shown > 1 else ""
            self.write(sys.stderr, f"\r{up}\x1b[J")
            self.shown = 0

    def paint(self):
        if not self.live or not self.area:
            return
        columns = shutil.get_terminal_size().columns - 1
        lines = [fitting(line, columns) for line in self.area]
        if self.saved is not None:
            lines.append("> " + fitting(self.line.text, columns - 2, end=True))
        self.write(sys.stderr, "\r\n".join(lines))
        self.shown = len(lines)

    # ---- In

    @contextmanager
    def listening(self, handle, read=True):
        """Lines of stdin go to handle, from a thread; the terminal is as before at the end."""
        if read and sys.stdin is not None:
            with suppress(OSError, ValueError):         # a stand-in for stdin that is no file
                self.start(sys.stdin.fileno(), handle)
        try:
            yield
        finally:
            with self.lock:
                self.erase()
                self.area = []
                self.restore()

    def start(self, descriptor, handle):
        if self.keys:
            for name in ("SIGTSTP", "SIGCONT"):         # Ctrl-Z, and back again
                signal.signal(getattr(signal, name), self.stopped)
            self.take(descriptor)
        if not os.isatty(descriptor):                   # what is piped is there before second 0
            select.select([descriptor], [], [], 0.1)
        first = threading.Event()
        threading.Thread(target=self.read, args=(descriptor, handle, first), daemon=True).start()
        if not os.isatty(descriptor):
            first.wait(0.1)

    def read(self, descriptor, handle, first):
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        while True:
            try:
                if self.keys:
                    self.take(descriptor)
                raw = os.read(descriptor, 4096)
            except OSError:                             # of a job in the background: try later
                if not os.isatty(descriptor):
                    return
                time.sleep(0.5)
                continue
            lines = self.line.type(decoder.decode(raw, final=not raw))
            if not raw and self.line.text:              # the last line may lack its end
                lines += self.line.type("\n")
            for line in filter(str.strip, lines):
                handle(line.strip())
            first.set()
            if not raw:
                return
            with self.lock:
                self.erase()
                self.paint()

    def take(self, descriptor):
        """Characters come as they are typed and are shown by paint(): in the foreground only."""
        with self.lock:
            if self.saved is None and in_foreground(descriptor):
                self.saved = descriptor, termios.tcgetattr(descriptor)
                mode = termios.tcgetattr(descriptor)
                mode[3] &= ~(termios.ICANON | termios.ECHO)
                termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)

    def restore(self):
        if self.saved is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self.saved[0], termios.TCSADRAIN, self.saved[1])
            self.saved = None

    def stopped(self, number, frame):
        if number == signal.SIGCONT:
            signal.signal(signal.SIGTSTP, self.stopped)
            with self.lock, suppress(OSError, termios.error):
                self.take(sys.stdin.fileno())
                self.paint()
            return
        with self.lock:
            self.erase()
            self.restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)


def in_foreground(descriptor):
    """Whether the keyboard is ours; also where this terminal controls no jobs."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True


def is_terminal(stream):
    try:
        return stream is not None and stream.isatty()
    except ValueError:                                  # closed
        return False


def give_up(stream):
    """Nothing more goes to where this stream went: Python would fail again at its own end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
