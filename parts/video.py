"""Frames of video files and of folders of pictures: (seconds, uint8 (H, W, 3))."""
import re
from pathlib import Path

import av
import numpy as np
from PIL import Image

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
WEB = "http://", "https://"


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
