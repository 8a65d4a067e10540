"""Cameras, streams and pipes: frames as they come, and what opens any source by its name."""
import queue
import re
import sys
import threading
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path

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
        while (entry := self.waiting.get())[1] is not None:
            self.came, item = entry
            if isinstance(item, Exception):
                raise item
            yield item


def patience(source):
    """Seconds for which a live source may be silent, and of its frames that may wait: over http
    many come at once, by the segment."""
    return 30 if source.startswith(video.WEB) else 5


def received(source, fps):
    """Frames of a live URL or a camera, by the time of their arrival, or by their own where they
    arrive by the segment."""
    camera = re.fullmatch(r"(?:camera:|/dev/video)(\w+)", source)
    name, form = (f"/dev/video{camera[1]}", "v4l2") if camera else (source, None)
    if camera and sys.platform == "darwin":
        name, form = camera[1], "avfoundation"
    options = {"analyzeduration": "1000000", "overrun_nonfatal": "1"}        # 1 s of probing
    last, seconds, sent = None, 0.0, -1
    try:
        timeout = 10, patience(source)                   # to open it, and between two frames
        with av.open(name, format=form, timeout=timeout, options=options) as container:
            if not container.streams.video:
                raise ValueError(f"{source}: no video stream in it")
            segments = container.format.name in ("hls", "dash")
            for frame in container.decode(video=0):
                now = frame.time if segments else time.monotonic()
                if last is not None and 0 <= now - last < 60:            # else the clock jumped
                    seconds += now - last
                last = now
                if (k := int(seconds * fps)) > sent:     # the first frame since k / fps
                    sent = k
                    yield k / fps, video.rgb(frame)
    except av.error.ExitError:                           # the timeout
        if last is None:
            raise ValueError(f"{source}: nothing came for 10 s") from None
        print(f"{source}: nothing came for {patience(source)} s, taken as its end", file=sys.stderr)


def raw_frames(file, size, fps):
    """rgb24 frames of "WIDTHxHEIGHT" from a binary file, fps of them a second."""
    width, height = map(int, size.split("x"))
    for k, raw in enumerate(iter(lambda: file.read(3 * width * height), b"")):
        if len(raw) < 3 * width * height:
            raise ValueError(f"standard input ends in frame {k}: are the frames {size}, rgb24?")
        yield k / fps, np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def open_source(source, fps, size):
    """-> (frames, seconds or None where unknown, whether it is live). A bad file fails here."""
    if source == "-":
        return raw_frames(sys.stdin.buffer, size, fps), None, False
    web = source.startswith(video.WEB)                    # a file, or live when it has no length
    if source.startswith(("camera:", "/dev/video")) or ("://" in source and not web):
        return received(source, fps), None, True
    pictures = video.frames(source, fps)
    pictures = pictures if web else chain([next(pictures)], pictures)
    if Path(source).is_dir():
        return pictures, None, False
    with av.open(source, timeout=(10, 5)) as container:
        seconds = (container.duration or 0) / 1e6 or None
    live = web and not seconds
    return received(source, fps) if live else pictures, seconds, live
