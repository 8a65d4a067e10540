"""What the captioned video and the timeline are drawn with: colours, fonts, lines of text, the
strip of the three probabilities."""
import re
import unicodedata

import numpy as np
from PIL import Image, ImageFont

from parts.subtitles import cues, one_line

COLOURS = ((205, 211, 219), (230, 159, 0), (0, 114, 178))  # orange and blue are Okabe and Ito's
PAPER, TRACK, INK, FAINT = (255, 255, 255), (240, 242, 245), (28, 34, 43), (112, 121, 134)
# Tried when Pillow's own font lacks a character; Pillow finds them in the system's folders.
FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf",
                  "wqy-microhei.ttc", "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc")


def lacking(font, text):
    """The characters of `text` that `font` draws as a box."""
    box = bytes(font.getmask("\U0010fffe"))         # a character that exists in no font
    return {c for c in set(text) - set(" \n") if bytes(font.getmask(c)) == box}


def invisible(c):
    """A joiner, a mark of direction, ...: seen only by what it does to its neighbours."""
    return unicodedata.category(c) == "Cf"


def font_for(texts, size):
    """Pillow's own font at `size` pixels (Latin, no file needed). When `texts` have characters that
    it lacks: the font of FALLBACK_FONTS that lacks fewest, of those on this system. A character
    that no font has, colour emoji among them, is drawn as a box."""
    text = "".join(c for text in texts for c in text if not invisible(c))
    best = ImageFont.load_default(size)
    for name in FALLBACK_FONTS if lacking(best, text) else ():
        try:
            best = min(best, ImageFont.truetype(name, size), key=lambda f: len(lacking(f, text)))
        except OSError:  # not on this system
            continue
    return best


def letters(text):
    """The letters of `text`, each with its marks and joiners and what these join: no cut parts a
    family of emoji, or a letter from its vowel."""
    found = []
    for c in text:
        skin = "\U0001f3fb" <= c <= "\U0001f3ff"
        mark = skin or unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf")
        if found and (mark or found[-1].endswith("\u200d")):
            found[-1] += c
        else:
            found.append(c)
    return found


def wrap(text, font, width, most):
    """`text` as at most `most` lines of at most `width` pixels, "..." at the end if there was more.
    A word longer than a line is cut, as are scripts without spaces."""
    text = one_line(text)
    boxes = {c for c in lacking(font, text) if invisible(c)}
    text = "".join(c for c in text if c not in boxes)
    lines = [""]
    for word in re.findall(r"\S+\s*", text):
        fits = font.getlength(word.rstrip()) <= width
        for piece in [word] if fits else letters(word):
            if lines[-1] and font.getlength(lines[-1] + piece.rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    if len(lines) > most:
        last = letters(lines[most - 1])
        while last and font.getlength("".join(last).rstrip() + "...") > width:
            last.pop()
        lines[most - 1:] = ["".join(last).rstrip() + "..."]
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
