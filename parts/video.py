"""Frames of files, folders of pictures, cameras, streams and pipes: (seconds, uint8 (H, W, 3))."""
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
from PIL import Image

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
WEB = "http://", "https://"


# ---- Files and folders

def frames(source, fps=1, rate=None):
    """Yield (seconds, image uint8 (H, W, 3) RGB) at k/fps, k = 0, 1, ..., of a video or folder, or
    of a video's http address.

    Frame k is the first that appears in [k/fps, (k+1)/fps), or else the one still on the screen.
    rate: images per second of a folder of images, in the order of the numbers in their names
    (None: fps). Raises OSError; ValueError naming a file that is no video, empty or truncated."""
    path = Path(source)
    if not path.exists() and not str(source).startswith(WEB):
        raise FileNotFoundError(f"{source}: no such file or folder")
    k, shown, rounding = 0, None, 1e-3      # containers round presentation times to a millisecond
    for start, frame in _folder(path, rate or fps) if path.is_dir() else _video(source):
        while shown and start >= (k + 1) / fps - rounding:      # nothing new has appeared in k
            yield k / fps, rgb(shown)
            k += 1
        if frame and start >= k / fps - rounding:               # the first that appears in k
            yield k / fps, rgb(frame)
            k += 1
        shown = frame or shown
    if not shown:
        raise ValueError(f"{source}: no picture in it")


def _folder(path, rate):
    """Yield (start, image path), and last (end, None)."""
    names = [p for p in path.iterdir() if p.suffix.lower() in IMAGES]
    names.sort(key=lambda p: [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", p.name)])
    for i, name in enumerate([*names, None]):
        yield i / rate, name


def _video(path):
    """Yield (seconds since the first frame, av.VideoFrame) as presented, and last (end, None)."""
    try:
        with av.open(str(path), timeout=(10, 5)) as container:
            # tty: how FFmpeg would show any text file
            if not container.streams.video or container.format.name == "tty":
                raise ValueError(f"{path}: no video stream in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            step = float(1 / (stream.average_rate or 25))
            first = end = 0.0
            for i, frame in enumerate(container.decode(stream)):
                time = i * step if frame.time is None else frame.time    # a bare H.264 has no times
                first = time if i == 0 else first
                length = float(frame.duration * frame.time_base) if frame.duration else step
                end = time - first + length
                yield time - first, frame
            declared = float((stream.duration or 0) * stream.time_base)
            if declared > end + 1:
                raise ValueError(f"{path}: truncated: {end:.1f} s of {declared:.1f} s are there")
            yield end, None
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from error


def rgb(frame):
    """An image file's path or an av.VideoFrame -> uint8 (H, W, 3), upright."""
    if isinstance(frame, Path):
        try:
            with Image.open(frame) as image:
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"{frame}: not a readable image ({error})") from error
    quarter_turns = round(frame.rotation / 90) % 4      # a phone stores upright films lying
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


def resized(image, size):
    """uint8 (H, W, 3) -> uint8 (size, size, 3), the bicubic resize of streamo.preprocess."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


# ---- Live sources

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
    return 30 if source.startswith(WEB) else 5


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
                    yield k / fps, rgb(frame)
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
    web = source.startswith(WEB)                    # a file, or live when it has no length
    if source.startswith(("camera:", "/dev/video")) or ("://" in source and not web):
        return received(source, fps), None, True
    pictures = frames(source, fps)
    pictures = pictures if web else chain([next(pictures)], pictures)
    if Path(source).is_dir():
        return pictures, None, False
    with av.open(source, timeout=(10, 5)) as container:
        seconds = (container.duration or 0) / 1e6 or None
    live = web and not seconds
    return received(source, fps) if live else pictures, seconds, live
