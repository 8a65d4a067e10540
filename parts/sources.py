"""Cameras, streams and pipes: frames as they come, and what opens any source by its name."""
import os
import queue
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import chain

import av
import numpy as np

from parts import video


class Live:
    """Frames read in a thread of their own: `size` wait, the oldest are dropped and counted.

    paced: a file's frames come at their own time, as if it happened now."""

    def __init__(self, frames, size, paced=False):
        self.waiting, self.dropped, self.came = queue.Queue(size), 0, 0.0
        threading.Thread(target=self.read, args=(frames, paced), daemon=True).start()

    def read(self, frames, paced):
        start = time.monotonic()
        try:
            for frame in chain(frames, [None]):
                if paced and frame:
                    time.sleep(max(0.0, start + frame[0] - time.monotonic()))
                self.put(frame)
        except Exception as error:                       # else its reader would wait for ever
            self.put(error)

    def put(self, item):
        with suppress(queue.Empty):                      # where the reader took the last just now
            if self.waiting.full():
                self.waiting.get_nowait()
                self.dropped += 1
        self.waiting.put((time.monotonic(), item))

    def __iter__(self):
        while True:
            self.came, item = self.waiting.get()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


def patience(source):
    """Seconds for which a live source may be silent, and of its frames that may wait: over http
    many come at once, by the segment."""
    return 30 if source.startswith(video.WEB) else 5


def received(source, fps, counts=None, film=None):
    """Frames of a live URL or a camera, by the time of their arrival, or by their own where they
    arrive by the segment. film: the source where it is open already."""
    counts, seen, sent = Counter() if counts is None else counts, False, -1
    try:
        with film or listen(source, counts) as film:
            by_arrival = film.form not in ("hls", "dash")
            clock = video.Clock(time.monotonic(), film.step, video.LONGEST_LIVE)
            for seconds, draw in film.pictures():
                if draw is None:                         # the sender has ended it
                    return
                seconds = clock(time.monotonic()) if by_arrival else seconds
                seen = True
                if (k := int(seconds * fps)) > sent:     # the first frame since k / fps
                    sent = k
                    with suppress(ValueError):           # damaged: the next one may be shown
                        yield k / fps, draw()
    except video.Silence:
        waited = patience(source) if seen else 10
        raise ValueError(f"{source}: nothing came for {waited} s") from None


def listen(source, counts):
    """The open Film of a live URL or a camera."""
    camera = re.fullmatch(r"(?:camera:|/dev/video)(\w+)", source)
    name, form = (f"/dev/video{camera[1]}", "v4l2") if camera else (source, None)
    if camera and sys.platform == "darwin":
        name, form = camera[1], "avfoundation"
    options = {"analyzeduration": "1000000", "overrun_nonfatal": "1"}        # 1 s of probing
    timeout = 10, patience(source)                       # to open it, and between two frames
    shown = f"{source} ({name})" if camera else source
    return video.Film(shown, counts, opener=lambda: av.open(
        name, format=form, timeout=timeout, options=options, metadata_errors="replace"))


def raw_frames(file, size, fps):
    """rgb24 frames of "WIDTHxHEIGHT" from a binary file, fps of them a second."""
    width, height = map(int, size.split("x"))
    for k, raw in enumerate(iter(lambda: file.read(3 * width * height), b"")):
        if len(raw) < 3 * width * height:
            raise ValueError(f"standard input ends in frame {k}: are the frames {size}, rgb24?")
        yield k / fps, np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def is_stdin(source):
    """Whether this is what stands on standard input, by whatever name: it holds no questions."""
    source = source.removeprefix("live:")
    with suppress(OSError, ValueError):                 # no such file; standard input is closed
        return source in ("-", "pipe:", "pipe:0") or os.path.samestat(os.fstat(0), os.stat(source))
    return False


def open_source(source, fps, size, counts=None):
    """-> (frames, seconds or None where unknown, whether it is live). A bad file fails here.

    A source is a file unless it says otherwise: by its name (camera:0, rtsp://..., live:http://...)
    or by its container (a list of segments that goes on). It is opened once."""
    if source == "-":
        return raw_frames(sys.stdin.buffer, size, fps), None, False
    there = os.path.exists(source)                      # whatever its name looks like
    named = source.startswith(("camera:", "live:", "/dev/video")) or (
        "://" in source and not source.startswith((*video.WEB, "file://")))
    if source.startswith("/dev/video") or named and not there:
        return received(source.removeprefix("live:"), fps, counts), None, True
    if os.path.isdir(source) or video.is_image(source):
        frames = video.frames(source, fps, counts=counts)
        return chain([next(frames)], frames), None, False
    film = video.Film(source, counts)
    if film.live:
        return received(source, fps, counts, film), None, True
    frames = video.frames(source, fps, counts=counts, film=film)
    return chain([next(frames)], frames), film.seconds, False
