"""What people look at: subtitles, the captioned video and the timeline of a stream.

    write_srt(turns, "out.srt")                     write_vtt(turns, "out.vtt")
    captioned_video("in.mp4", turns, "out.mp4")     captioned_video("in.mp4", turns, "out.gif")
    timeline(turns, "out.png")

`turns` is the list of what `infer.stream` yields: objects with start and end (seconds), state
("silence", "standby" or "response"), probs (of those three, in that order), text (the answer) and
question (asked in this turn, or None). A turn fills one second. Every file is written beside its
place and renamed: an interrupted run leaves the old file or the new one, whole.
"""
import html
import itertools
import os
import re
from bisect import bisect_right
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

STATES = ("silence", "standby", "response")
COLOURS = ((205, 211, 219), (230, 159, 0), (0, 114, 178))  # orange and blue are Okabe and Ito's
PAPER, TRACK, INK, FAINT = (255, 255, 255), (240, 242, 245), (28, 34, 43), (112, 121, 134)
# Tried when Pillow's own font lacks a character; Pillow finds them in the system's folders.
FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf",
                  "wqy-microhei.ttc", "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc")


@contextmanager
def replacing(path):
    """A temporary name beside `path`: renamed to it when all went well, else removed."""
    part = Path(f"{path}.part")
    try:
        yield str(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def clock(seconds):
    """75 -> "01:15"; hours only when there are any."""
    hours, minutes, seconds = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def one_line(text):
    """`text` without line breaks and control characters, single-spaced."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# ---- Subtitles

def cues(turns):
    """The answers as (start, end, text), in seconds, in order and without overlap.

    A cue starts with its turn and lasts as long as a reader needs (15 characters a second, at
    least 1.5 s), unless the next answer comes sooner. Its text has no blank line."""
    said = []
    for turn in turns:
        lines = [line for line in map(one_line, (turn.text or "").splitlines()) if line]
        if turn.state == "response" and lines:
            said.append((turn.start, "\n".join(lines)))
    nexts = [start for start, _ in said[1:]] + [float("inf")]
    return [(start, min(start + max(1.5, len(text) / 15), following), text)
            for (start, text), following in zip(said, nexts)]


def _write_subtitles(turns, path, head, point, escape):
    def stamp(seconds):
        ms = round(1000 * seconds)
        return (f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}"
                f"{point}{ms % 1000:03d}")
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        file.write(head)
        for i, (start, end, text) in enumerate(cues(turns), 1):
            file.write(f"{i}\n{stamp(start)} --> {stamp(end)}\n{escape(text)}\n\n")


def write_srt(turns, path):
    """SubRip. It has no escapes: an invisible word joiner keeps "-->", "<i>", "{\\an8}" plain."""
    unsafe = re.compile(r"--(?=>)|<(?=[/!a-zA-Z])|\{(?=\\)")
    _write_subtitles(turns, path, "", ",", lambda text: unsafe.sub("\\g<0>\u2060", text))


def write_vtt(turns, path):
    """WebVTT, whose text is escaped as HTML's is."""
    _write_subtitles(turns, path, "WEBVTT\n\n", ".", lambda text: html.escape(text, quote=False))


# ---- Text and colours

def font_for(texts, size):
    """Pillow's own font at `size` pixels (Latin, no file needed). When `texts` have characters that
    it lacks: the font of FALLBACK_FONTS that lacks fewest, of those on this system. A character
    that no font has, colour emoji among them, is drawn as a box."""
    def missing(font):
        box = bytes(font.getmask("\U0010fffe"))  # a character that exists in no font
        return sum(bytes(font.getmask(c)) == box for c in set("".join(texts)) - set(" \n"))
    best = ImageFont.load_default(size)
    for name in FALLBACK_FONTS if missing(best) else ():
        try:
            best = min(best, ImageFont.truetype(name, size), key=missing)
        except OSError:  # not on this system
            continue
    return best


def wrap(text, font, width, most):
    """`text` as at most `most` lines of at most `width` pixels, "..." at the end if there was more.
    A word longer than a line is cut, as are scripts without spaces."""
    lines = [""]
    for word in re.findall(r"\S+\s*", one_line(text)):
        fits = font.getlength(word.rstrip()) <= width
        for piece in [word] if fits else word:
            if lines[-1] and font.getlength(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(last.rstrip() + "...") > width:
            last = last[:-1]
        lines[most - 1:] = [last.rstrip() + "..."]
    return [line.rstrip() for line in lines]


def told(turns):
    """-> the stream's first second, its length, and [questions, answers], each a list of (second,
    second until which it is news, text)."""
    start = int(turns[0].start) if turns else 0
    length = max(1, int(np.ceil(turns[-1].end)) - start) if turns else 1
    asked = [(turn.start, turn.start, turn.question) for turn in turns if turn.question]
    return start, length, [asked, cues(turns)]


def strip(turns, start, seconds, width, height):
    """Probabilities of the states stacked by second, response on top: RGB image (width, height)."""
    columns = np.full((height, seconds, 3), TRACK, np.uint8)  # a second without a turn stays so
    level = height - 0.5 - np.arange(height)  # of each pixel's middle, above the bottom
    for turn in turns:
        if start <= turn.start < start + seconds:
            silence, standby, _ = np.cumsum(turn.probs) * height
            state = (level > silence).astype(int) + (level > standby)
            columns[:, int(turn.start) - start] = np.array(COLOURS)[state]
    sampling = Image.Resampling.BOX if seconds > width else Image.Resampling.NEAREST
    return Image.fromarray(columns).resize((width, height), sampling)


# ---- The captioned video

class Panel:
    """What stands under the picture: state and clock, question, answer, the strip of states.

    As high as the longest question and answer need, at most three and six lines. A question stays
    until the next; so does an answer, in grey when its time as a subtitle is over."""

    def __init__(self, turns, width, size):
        self.turns, self.width, self.size, self.line = turns, width, size, round(1.3 * size)
        self.start, self.seconds, kinds = told(turns)
        self.font = font_for([text for texts in kinds for *_, text in texts], size)
        room = width - 4 * size  # margins, and a letter before the text
        self.texts = [[(*times, wrap(text, self.font, room, most)) for *times, text in texts]
                      for texts, most in zip(kinds, (3, 6))]
        self.lines = [max([len(lines) for *_, lines in texts], default=0) for texts in self.texts]
        self.strip = strip(turns, self.start, self.seconds, width - 2 * size, round(1.5 * size))
        self.height = self.line * (1 + sum(self.lines)) + self.strip.height + round(3.6 * size)

    def draw(self, seconds):
        """The panel at `seconds` of the stream: RGB image (width, height)."""
        image, size = Image.new("RGB", (self.width, self.height), PAPER), self.size
        draw, known = ImageDraw.Draw(image), self.start
        for turn in begun(self.turns, seconds, lambda turn: turn.start):
            colour, known = COLOURS[STATES.index(turn.state)], turn.end
            draw.rectangle((size, size + 1, 2 * size - 1, 2 * size), colour)
            draw.text((3 * size, 2 * size), turn.state, INK, self.font, anchor="ls")
        draw.text((self.width - size, 2 * size), clock(seconds), FAINT, self.font, anchor="rs")
        y = size + self.line + size // 2
        for letter, texts, most in zip("QA", self.texts, self.lines):
            for _, end, lines in begun(texts, seconds, lambda text: text[0]):
                draw.text((size, y), letter, FAINT, self.font)
                for i, line in enumerate(lines):
                    ink = INK if seconds < end else FAINT
                    draw.text((3 * size, y + i * self.line), line, ink, self.font)
            y += self.line * most
        bottom = self.height - size
        top = bottom - self.strip.height
        known, now = [round(np.clip((time - self.start) / self.seconds, 0, 1) * self.strip.width)
                      for time in (known, seconds)]
        draw.rectangle((size, top, self.width - size - 1, bottom - 1), TRACK)
        image.paste(self.strip.crop((0, 0, known, self.strip.height)), (size, top))
        draw.rectangle((size + now - 1, top - size // 4, size + now, bottom + size // 4), INK)
        return image


def begun(items, seconds, start):
    """[the last of `items` that has begun], or []; start(item) is when."""
    n = bisect_right(items, seconds, key=start)
    return items[n - 1:n] if n else []


def video_frames(path):
    """Every frame of a video file: (seconds since the first one, PIL image), upright."""
    with av.open(os.fspath(path)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
        for i, frame in enumerate(container.decode(video=0)):
            time = i / rate if frame.time is None else frame.time       # a bare H.264 has no times
            first = time if i == 0 else first
            yield time - first, frame.to_image().rotate(frame.rotation, expand=True)


def captioned_video(source, turns, path):
    """Writes `source` with its answers, the open question and the states to `path`: a .mp4 of all
    frames at their own times, or a .gif of at most 10 a second (in memory: minutes, not hours).

    source: a video file, or an iterable of (seconds, PIL image or uint8 array (H, W, 3)).
    Returns the number of frames. ValueError: no frame, or another ending than .mp4 and .gif."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".mp4", ".gif"):
        raise ValueError(f"{path}: a captioned video ends in .mp4 or .gif")
    frames = video_frames(source) if isinstance(source, (str, os.PathLike)) else source
    if ending == ".gif":
        tenths = itertools.groupby(frames, lambda frame: int(10 * frame[0] + 1e-6))
        frames = (next(tenth) for _, tenth in tenths)
    canvases = _compose(frames, list(turns), source)
    with replacing(path) as part:
        return _write_gif(canvases, part) if ending == ".gif" else _write_mp4(canvases, part)


def _compose(frames, turns, source):
    """-> (seconds, canvas): the picture, enlarged by a whole number to 320 pixels' width at least,
    over the panel; of even sizes as H.264 wants them."""
    panel = None
    for seconds, image in frames:
        image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        if panel is None:
            scale = max(1, -(-320 // image.width))
            width, height = image.width * scale, image.height * scale
            panel = Panel(turns, (width + 1) // 2 * 2, max(15, round((width * height) ** 0.5 / 28)))
        canvas = Image.new("RGB", (panel.width, (height + panel.height + 1) // 2 * 2), PAPER)
        canvas.paste(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        canvas.paste(panel.draw(seconds), (0, height))
        yield seconds, canvas
    if panel is None:
        raise ValueError(f"{source}: no frame to render")


def _write_mp4(canvases, path):
    """Frames keep their own times, so that a variable frame rate stays one."""
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 90000)
        for count, (seconds, canvas) in enumerate(canvases, 1):
            if count == 1:
                stream.width, stream.height = canvas.size
            frame = av.VideoFrame.from_image(canvas)
            frame.pts, frame.time_base = round(seconds * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return count


def _write_gif(canvases, path):
    """One palette for all frames and no dither: what does not change costs no bytes."""
    times, images = zip(*canvases)
    some = np.concatenate(images[::-(-len(images) // 16)])
    palette = Image.fromarray(some).quantize(128)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    ends = [round(100 * t) for t in times] + [round(100 * times[-1]) + 10]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], loop=0, optimize=True,
                   duration=[10 * (b - a) for a, b in zip(ends, ends[1:])])
    return len(images)


# ---- The timeline

WIDTH, MARGIN, RIGHT, PLOT, LINE = 1600, 40, 220, 72, 26  # pixels; the last labels need the right


def timeline(turns, path):
    """The whole stream as one PNG: the states' probabilities by second, the questions above, the
    answers below, each at its second. A stream of more than 90 s stands in at most 12 rows, so that
    the picture stays bounded; where labels crowd, some are only a mark."""
    turns, size = list(turns), 20
    start, length, kinds = told(turns)
    row = length if length <= 90 else max(60, round_time(length / 12))
    font = font_for([text for texts in kinds for *_, text in texts], size)
    head = Image.new("RGB", (WIDTH, 70), PAPER)
    draw, x = ImageDraw.Draw(head), MARGIN
    for state, colour in zip(STATES, COLOURS):
        draw.rectangle((x, 28, x + size - 1, 28 + size - 1), colour)
        draw.text((x + 30, 46), state, INK, font, anchor="ls")
        x += 60 + int(font.getlength(state))
    questions, answers = map(len, kinds)
    summary = f"{clock(length)}    questions {questions}    answers {answers}"
    draw.text((WIDTH - MARGIN, 46), summary if turns else "no turns", FAINT, font, anchor="rs")
    rows = [_row(turns, kinds, begin, min(row, start + length - begin), row, font)
            for begin in range(start, start + length, row)]
    with replacing(path) as part:
        Image.fromarray(np.concatenate([head, *rows])).save(part, "PNG", optimize=True)


def round_time(least):
    """The first of 1, 2, 5, 10, ... seconds, minutes, hours that is not less than `least`."""
    times = itertools.chain((1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
                            itertools.count(3600, 3600))
    return next(time for time in times if time >= least)


def _row(turns, kinds, start, seconds, row, font):
    """`seconds` of the timeline from `start`, at a scale at which `row` seconds fill the width."""
    scale, depth = (WIDTH - MARGIN - RIGHT) / row, 12 if row <= 90 else 6
    above, below = [_place([(MARGIN + round((second - start) * scale), text) for second, _, text
                            in texts if start <= second < start + seconds], font, depth)
                    for texts in kinds]
    highest, lowest = [LINE * max([level + len(lines) for _, level, lines in labels], default=0)
                       for labels in (above, below)]
    image = Image.new("RGB", (WIDTH, highest + lowest + PLOT + LINE + 50), PAPER)
    draw, top = ImageDraw.Draw(image), highest + 14
    bottom = top + PLOT
    image.paste(strip(turns, start, seconds, round(seconds * scale), PLOT), (MARGIN, top))
    labels = [(x, top - 8 - LINE * (level + len(lines)), lines) for x, level, lines in above]
    labels += [(x, bottom + 4 + LINE * (1 + level) if lines else bottom + 8, lines)
               for x, level, lines in below]
    # First the lines from the marks to their labels, then what must be legible over them.
    for x, y, lines in labels:
        ends = min(y, bottom), max(y + LINE * len(lines), bottom)
        draw.line((x, ends[0], x, ends[1]), INK if y < top else COLOURS[2], 2)
    halo, step = {"stroke_width": 2, "stroke_fill": PAPER}, round_time(90 / scale)
    for second in range(-(-start // step) * step, start + seconds, step):
        x = MARGIN + round((second - start) * scale)
        draw.line((x, bottom, x, bottom + 8), FAINT)
        draw.text((x + 7, bottom + 4), clock(second), FAINT, font, **halo)
    for x, y, lines in labels:
        for i, line in enumerate(lines):
            draw.text((x + 7, y + LINE * i), line, INK, font, **halo)
    return image


def _place(items, font, depth):
    """Labels (x, text) -> (x, level, lines), levels and lines counted away from the plot.

    From right to left, each label goes beyond those that it would touch: then no label covers
    another, and the line down to a label passes left of all labels before it. No lines: no room."""
    skyline, placed = np.zeros(WIDTH, int), []
    for x, text in reversed(items):
        lines = wrap(text, font, min(380, WIDTH - 20 - x), 3)
        span = slice(x, x + 24 + int(max(map(font.getlength, lines))))
        level = int(skyline[span].max())
        if level + len(lines) > depth:
            level, lines = 0, []
        else:
            skyline[span] = level + len(lines)
        placed.append((x, level, lines))
    return placed
