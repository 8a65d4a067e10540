"""Frames of video files and of folders of pictures: (seconds, uint8 (H, W, 3)).

Seconds count from the start of the container, as players and annotations do: where the sound comes
first, the frames are black until the first picture (Film.pictures is the one place that says so).
"""
import errno
import os
import re
import select
import stat
import time
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
import numpy as np

from parts.pictures import MOST_PIXELS, animation, resized, seen, still  # noqa: F401
from parts.whole import check_whole, missing

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
WEB = "http://", "https://"
PLAYLISTS = b"#EXTM3U", b"ffconcat", b"<?xml"       # how files begin that name other files
ROUNDING = 1e-3             # seconds; containers round times to a millisecond
LONGEST = 900               # seconds of one picture: GIFs reach 655; a longer step is a jump
LONGEST_LIVE = 60           # the same, where clocks are known to jump (MPEG-TS, HLS)
BACK = 1                    # seconds; so much further back a clock has started again
STUCK = 8                   # pictures at one time, from which a clock stands still
PATIENCE = 10               # seconds for which a pipe may be silent
SPOILT = 0.1                # the share of damaged pictures from which a film is not what it was


# ---- Frames at so many a second

def frames(source, fps=1, rate=None, counts=None, trusted=True, film=None):
    """Yield (seconds, image uint8 (H, W, 3) RGB) at k/fps, k = 0, 1, ..., of a video, an image, a
    folder of images, or of a video's http address.

    Frame k is the first that appears in [k/fps, (k+1)/fps), or else the one still on the screen.
    rate: images per second of a folder of images, in the order of the numbers in their names
    (None: fps). counts: a Counter of what was skipped, left out, and of jumps of the clock.
    trusted: False refuses addresses and playlists, which open other places than the one named.
    film: the source where it is open already (a Film).
    Raises OSError; ValueError naming a file that is no video, empty, truncated or spoilt."""
    shown = pictures(source, rate or fps, counts, trusted, film)
    yield from drawn(at_rate(shown, fps), source, counts)


def pictures(source, rate=1, counts=None, trusted=True, film=None):
    """Yield (seconds, draw) of all pictures of a source, and last (end, None); draw() makes the
    uint8 (H, W, 3). See frames."""
    path = Path(local(source))
    if path.is_dir():
        yield from folder(path, rate, counts)
    elif is_image(path):
        for start, image in animation(path):
            yield start, None if image is None else partial(np.asarray, image)
    else:
        with film or Film(source, counts, trusted) as film:
            yield from film.pictures()


def is_image(path):
    return Path(path).suffix.lower() in IMAGES and os.path.isfile(path)


def at_rate(pictures, fps):
    """(start, draw), ..., (end, None) -> (k / fps, draw) for k = 0, 1, ...: the first picture that
    appears in [k/fps, (k+1)/fps), else the one still on the screen; draw is None before any."""
    k, shown = 0, None
    for start, draw in pictures:
        appears = int((start + ROUNDING) * fps)     # the frame in whose time it appears
        while k < appears:                          # until there, nothing new has
            yield k / fps, shown
            k += 1
        if draw and k == appears:                   # else an earlier one appeared in frame k - 1
            yield k / fps, draw
            k += 1
        shown = draw or shown


def drawn(moments, source, counts=None):
    """(seconds, draw) -> (seconds, image), black before the first one. A picture that is damaged
    leaves the one before it on the screen; ValueError at the end where too many are."""
    image, tried, early, errors, total = None, None, [], [], 0
    for second, draw in moments:
        if draw is not None and draw is not tried:
            tried, total = draw, total + 1
            try:
                image = draw()
            except ValueError as error:
                errors.append(error)
        if image is None:                           # its size is not yet known
            early.append(second)
            continue
        for waited in early:
            yield waited, np.zeros_like(image)
        early = []
        yield second, image
    if image is None:
        raise errors[0] if errors else ValueError(f"{source}: no picture in it")
    if counts is not None and errors:
        counts["damaged pictures skipped"] += len(errors)
    spoilt(source, len(errors), total, errors)


def spoilt(source, bad, total, errors=()):
    """ValueError when more than a tenth of the pictures are damaged."""
    if bad > SPOILT * total:
        first = f", the first: {errors[0]}" if errors else ""
        raise ValueError(f"{source}: {bad} of {total} pictures are damaged{first}")


def folder(path, rate, counts=None):
    """Yield (start, draw) of a folder's images, and last (end, None)."""
    if not rate >= 1 / LONGEST:
        raise ValueError(f"{path}: {rate:g} pictures a second: one stays {LONGEST} s at most")
    there = list(path.iterdir())
    names = [p for p in there if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
    names.sort(key=lambda p: ([int(s) if s.isdecimal() else s
                               for s in re.split(r"(\d+)", p.name.lower())], p.name))
    if counts is not None and len(names) < len(there):
        counts["files of the folder left out"] += len(there) - len(names)
    for i, name in enumerate(names):
        yield i / rate, partial(still, name)
    yield len(names) / rate, None


# ---- Opening

def local(source):
    """The file that a file:// address names; any other source as it is."""
    source = os.fspath(source)
    if source.startswith("file://") and not os.path.exists(source):
        return unquote(urlsplit(source).path)
    return source


class Bytes:
    """A file as FFmpeg reads it: a place before its start is an error code, no exception."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.name = "film" + Path(path).suffix      # the ending helps to tell what it is
        self.read, self.tell, self.close = self.file.read, self.file.tell, self.file.close

    def seek(self, offset, whence=os.SEEK_SET):
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


class Pipe:
    """What FFmpeg reads of a FIFO or a pipe: it may be silent for PATIENCE seconds."""

    def __init__(self, path):
        self.path, self.begun, self.name = path, False, "pipe"
        self.file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)      # does not wait for a writer

    def read(self, size):
        limit = time.monotonic() + PATIENCE
        while (left := limit - time.monotonic()) > 0:
            if select.select([self.file], [], [], left)[0]:
                block = os.read(self.file, size)
                if block or self.begun:
                    self.begun = True
                    return block
                time.sleep(0.02)                    # nobody writes into it yet
        raise ValueError(f"{self.path}: nothing came for {PATIENCE} s")

    def close(self):
        os.close(self.file)


def opened(source, trusted=True):
    """-> (av container, file to close or None). A file is opened by us and has no name for FFmpeg,
    which would take some names for protocols and patterns; nothing that it names is opened, but
    for a playlist that is trusted."""
    options = {"max_pixels": str(MOST_PIXELS)}
    more = {"metadata_errors": "replace"}           # a title may be no UTF-8: it is not shown
    path = Path(local(source))
    if not path.exists():
        if not trusted or not str(source).startswith(WEB):
            raise FileNotFoundError(f"{source}: no such file or folder")
        return av.open(source, options=options, timeout=(10, 30), **more), None
    if stat.S_ISFIFO(path.stat().st_mode):
        file = Pipe(path)
    else:
        file = Bytes(path)
        begins = file.read(16).lstrip(b"\xef\xbb\xbf")
        file.seek(0)
        if begins.startswith(PLAYLISTS):
            if not trusted:
                raise ValueError(f"{source}: a playlist, a film is wanted")
            file.close()
            options["protocol_whitelist"] = "file,crypto,data,http,https,tcp,tls"
            name = f"file:{path.absolute()}"
            return av.open(name, options=options, timeout=(10, 30), **more), None
    try:
        return av.open(file, options={**options, "protocol_whitelist": "none"}, **more), file
    except BaseException:
        file.close()
        raise


def picked(container):
    """The video stream that a player shows: the default one that is no cover; None: there is
    none."""
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video
             if stream.codec_context and not stream.disposition & covers]
    best = container.streams.best("video") if films else None
    if best is None or best.index in [stream.index for stream in films]:
        return best
    return max(films, key=lambda stream: stream.width * stream.height)


def reason(error, source):
    """What an error of FFmpeg's means for the reader of a message."""
    if isinstance(error, av.error.ArgumentError):
        return f"not a readable video, or its pictures have more than {MOST_PIXELS} pixels"
    path = Path(local(source))
    if path.is_file() and missing(path):
        return "truncated: not enough is there to be read"
    return f"not a readable video ({error.strerror or error})"


# ---- Films

class Silence(ValueError):
    """A source that nothing came from for as long as it may be silent."""


class Clock:
    """From the times that a container states for its pictures to seconds that never go back.

    A clock that starts again, jumps, runs backwards or stands still is let go: the film goes on
    at its own pace from where it was, and the jump is counted."""

    def __init__(self, origin, step, longest):
        self.origin, self.longest = origin, longest
        self.step = step                            # from one picture to the next, as last seen
        self.last, self.end, self.stood, self.jumps = 0.0, 0.0, 0, 0

    def __call__(self, time, length=None):
        """The second at which a picture appears. time: as stated, or None; length: how long it is
        shown, as stated, or None."""
        start = self.end if time is None else time - self.origin
        on = start - self.last                      # how far the clock went on
        self.stood = self.stood + 1 if on < 1e-6 else 0
        if not -BACK <= on <= self.longest or self.stood > STUCK:
            self.jumps += self.stood <= 1 or self.stood == STUCK + 1
            start = max(self.end, self.last + self.step)
            self.origin = start if time is None else time - start
        elif on > 1e-6:
            self.step = on
        self.last = max(start, self.last)
        self.end = self.last + (length if length and length <= self.longest else self.step)
        return self.last


class Film:
    """An open film, to be read once. seconds: its length as stated, None where unknown; live:
    whether its container says that it goes on as it is watched. See frames for the rest."""

    def __init__(self, source, counts=None, trusted=True, opener=None):
        self.source, self.counts = source, Counter() if counts is None else counts
        try:
            self.container, self.file = (opener(), None) if opener else opened(source, trusted)
        except av.error.ExitError as error:
            raise Silence(f"{source}: nothing came for 10 s") from error
        except av.error.FFmpegError as error:
            raise ValueError(f"{source}: {reason(error, source)}") from error
        self.stream = picked(self.container)
        self.form = self.container.format.name
        if self.stream is None or self.form == "tty":       # tty: how FFmpeg shows any text file
            self.close()
            raise ValueError(f"{source}: no video stream in it")
        self.jumpy = bool(self.container.format.flags & av.format.Flags.ts_discont.value)
        stated = self.container.duration
        self.live = self.form in ("hls", "dash") and not stated or self.form == "mpjpeg"
        self.seconds = stated / 1e6 if stated and (not self.jumpy or self.form == "hls") else None
        rate = float(self.stream.average_rate or 25)
        self.step = 1 / rate if 1 / LONGEST <= rate <= 1000 else 1 / 25
        self.total = self.bad = self.hurt = 0       # pictures: decoded, skipped, with damage
        if self.stream.width * self.stream.height > 1 << 23:    # beyond 4K, threads take memory
            self.stream.thread_type = "SLICE"
        else:
            self.stream.thread_type = "AUTO"
        self.stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.container.close()
        if self.file:
            self.file.close()

    def packets(self):
        """The packets of all streams. A damaged place of the file is skipped."""
        broken = 0
        while broken < 100:
            try:
                yield from (packet for packet in self.container.demux() if packet.size)
                return
            except av.error.InvalidDataError:
                broken += 1
                self.bad += 1
            except OSError:
                if not str(self.source).startswith(WEB) or self.container.size > 0:
                    raise
                return                              # without a length, the end looks like an error

    def decoded(self):
        """Yield (time as stated or None, av.VideoFrame), as presented. reached: the time up to
        which packets of any stream came."""
        order, self.reached = deque(), None         # AVI states the times of decoding only
        for packet in self.packets():
            if packet.pts is not None:
                until = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self.reached = max(self.reached or until, until)
            if packet.stream_index != self.stream.index:
                continue
            if packet.dts is not None:
                order.append(float(packet.dts * packet.time_base))
            self.hurt += bool(packet.is_corrupt and self.total)
            try:
                yield from self.timed(packet.decode(), order)
            except av.error.InvalidDataError:
                self.bad += self.total > 0          # before the first key frame, that is no damage
                if order:
                    order.pop()
        rest = av.Packet()                          # an empty one: what the decoder still held back
        rest.stream, rest.time_base = self.stream, self.stream.time_base
        with suppress(av.error.EOFError, av.error.InvalidDataError):
            yield from self.timed(rest.decode(), order)

    def timed(self, shown, order):
        for frame in shown:
            self.total += 1
            self.hurt += bool(frame.is_corrupt)
            yield order.popleft() if order and self.form == "avi" else frame.time, frame

    def pictures(self):
        """Yield (seconds since the container's start, draw), as presented, and last (end, None).

        The start is that of the stream that begins first: a picture after the sound comes late."""
        clock = None
        ratio = self.stream.sample_aspect_ratio
        try:
            for when, frame in self.decoded():
                length = float(frame.duration * frame.time_base) if frame.duration else None
                if clock is None:
                    clock = self.clock(when)
                yield clock(when, length), partial(self.draw, frame, ratio)
        except av.error.ExitError as error:
            raise Silence(f"{self.source}: nothing more came") from error
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.source}: {reason(error, self.source)}") from error
        if clock is None:
            return
        for what, n in (("damaged pictures skipped", self.bad),
                        ("packets or pictures with damage", self.hurt),
                        ("jumps of the film's clock", clock.jumps)):
            if n:
                self.counts[what] += n
        if not self.live:
            start, stated = self.container.start_time or 0, self.container.duration
            reached = None if self.reached is None else self.reached - start / 1e6
            check_whole(local(self.source), self.form, clock.end, reached,
                        stated and not clock.jumps and stated / 1e6 or None)
            spoilt(self.source, self.bad, self.bad + self.total)
        yield clock.end, None

    def clock(self, first):
        """The clock of a film whose first picture has the time `first`."""
        longest = LONGEST_LIVE if self.jumpy else LONGEST
        origin = self.container.start_time
        origin = first if origin is None or first is None else origin / 1e6
        if origin is not None and not 0 <= first - origin <= longest:
            origin = first
        return Clock(origin or 0.0, self.step, longest)

    def draw(self, frame, ratio):
        try:
            return seen(frame, ratio)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
