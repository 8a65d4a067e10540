"""The files of one watched source: a JSON line for each second as it happens, a recording of what
came, and at the end subtitles, timeline and captioned video. Each is written on its own: one that
fails is told at once, and takes no other along."""
import io
import json
import threading
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from parts import render
from parts.files import appending, is_standard

LARGEST = 1280, 720             # of a recording: an hour of H.264 is then some hundred MB


class Outputs:
    def __init__(self, paths, tell):
        self.paths, self.tell, self.kept, self.failed = dict(paths), tell, [], []
        self.lines = self.recorder = None

    @contextmanager
    def attempt(self, flag):
        """A file that cannot be written is given up, and told."""
        try:
            yield
        except (OSError, ValueError, av.FFmpegError) as error:
            text, path = str(error), self.paths.pop(flag, None)
            if path is None:                            # told before; what was left cannot go
                return
            self.failed.append(text if str(path) in text else f"--{flag} {path}: {text}")
            self.tell(f"infer.py: {self.failed[-1]}")

    def add(self, turn, **more):
        """A second has been watched; more: what its JSON line says besides."""
        if self.paths.keys() & {"srt", "vtt", "timeline", "render"}:
            self.kept.append(turn)
        if "jsonl" in self.paths:
            row = {key: value for key, value in asdict(turn).items()
                   if key != "kv" and (value or key not in ("cut", "notes"))}
            with self.attempt("jsonl"):
                if self.lines is None:
                    path = self.paths["jsonl"]
                    file = appending(path) if is_standard(path) else open(path, "wb")
                    self.lines = io.TextIOWrapper(file, encoding="utf-8")
                self.lines.write(json.dumps(row | more, ensure_ascii=False) + "\n")
                self.lines.flush()

    def recorded(self, frames):
        """The frames as they are, and in the recording, too."""
        for second, image in frames:
            if "record" in self.paths:
                with self.attempt("record"):
                    self.recorder = self.recorder or Recorder(self.paths["record"])
                    self.recorder.add(second, image)
            yield second, image

    def close(self):
        """Ends what was written as it happened; then the subtitles and the timeline."""
        if self.lines:
            with self.attempt("jsonl"):
                self.lines.close()
        if self.recorder and "record" in self.paths:
            with self.attempt("record"):
                self.recorder.close()
        for flag, write in (("srt", render.write_srt), ("vtt", render.write_vtt),
                            ("timeline", render.timeline)):
            if flag in self.paths and self.kept:
                with self.attempt(flag):
                    write(self.kept, self.paths[flag])

    def render(self, film, sound):
        """film: the source's file, or its frames anew; sound: whether it is copied, too."""
        if "render" in self.paths and self.kept:
            with self.attempt("render"):
                render.captioned_video(film, self.kept, self.paths["render"], sound)


class Recorder:
    """Frames at their own times into an MP4 that can be played also when it ends at once."""

    def __init__(self, path):
        self.lock, self.last = threading.Lock(), -1
        self.file = av.open(str(path), "w", format="mp4",
                            options={"movflags": "frag_keyframe+empty_moov"})
        self.stream = self.file.add_stream("libx264", rate=30, options={"crf": "23", "bf": "0"})
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, 1000)
        self.size = None

    def add(self, second, image):
        """image: uint8 (H, W, 3)."""
        with self.lock:
            if self.file is None:                       # closed: the last frames come too late
                return
            image = Image.fromarray(np.asarray(image))
            if self.size is None:
                scale = min(1, LARGEST[0] / image.width, LARGEST[1] / image.height)
                self.size = [max(2, round(side * scale) // 2 * 2) for side in image.size]
                self.stream.width, self.stream.height = self.size
                if second > 0:                          # else a player would begin there
                    self.write(0, Image.new("RGB", image.size))
            self.write(second, image)

    def write(self, second, image):
        frame = av.VideoFrame.from_image(image.resize(self.size))
        self.last = max(self.last + 1, round(1000 * second))
        frame.pts, frame.time_base = self.last, Fraction(1, 1000)
        self.file.mux(self.stream.encode(frame))

    def close(self):
        with self.lock:
            file, self.file = self.file, None
            if file and self.size:
                file.mux(self.stream.encode())
            if file:
                file.close()
