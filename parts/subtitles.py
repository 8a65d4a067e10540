"""The answers of a stream as subtitles: write_srt(turns, "out.srt"), write_vtt(turns, "out.vtt").

`turns` is what `infer.stream` yields; see parts/render.py. A file is written whole or not at all.
"""
import html
import re
import unicodedata

from parts.files import write_text


def clock(seconds):
    """75 -> "01:15"; hours only when there are any."""
    hours, minutes, seconds = int(seconds) // 3600, int(seconds) // 60 % 60, int(seconds) % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def one_line(text):
    """`text` without line breaks and control characters, single-spaced. What joins or parts other
    letters, turns the direction of writing, or is newer than this Python stays."""
    def control(c):
        return unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    return " ".join("".join(" " if control(c) else c for c in text).split())


def cues(turns):
    """The answers as (start, end, text), in seconds, in order and without overlap.

    A cue starts with its turn and lasts as long as a reader needs (15 characters a second, at
    least 1.5 s), unless the next answer or the end comes sooner. Its text has no blank line."""
    said, end = [], 0
    for turn in turns:
        end = turn.end
        lines = [line for line in map(one_line, (turn.text or "").splitlines()) if line]
        if turn.state == "response" and lines:
            said.append((turn.start, "\n".join(lines)))
    nexts = [start for start, _ in said[1:]] + [end]
    return [(start, min(start + max(1.5, len(text) / 15), following), text)
            for (start, text), following in zip(said, nexts)]


def stamp(seconds, point):
    ms = round(1000 * seconds)
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


def write_srt(turns, path):
    """SubRip. It has no escapes: an invisible word joiner keeps "-->", "<i>", "{\\an8}" plain."""
    unsafe = re.compile(r"--(?=>)|<(?=[/!a-zA-Z])|\{(?=\\)")
    blocks = [f"{i}\n{stamp(start, ',')} --> {stamp(end, ',')}\n"
              + unsafe.sub("\\g<0>\u2060", text) + "\n\n"
              for i, (start, end, text) in enumerate(cues(turns), 1)]
    write_text(path, "".join(blocks))


def write_vtt(turns, path):
    """WebVTT, whose text is escaped as HTML's is."""
    blocks = [f"{i}\n{stamp(start, '.')} --> {stamp(end, '.')}\n"
              + html.escape(text, quote=False) + "\n\n"
              for i, (start, end, text) in enumerate(cues(turns), 1)]
    write_text(path, "WEBVTT\n\n" + "".join(blocks))
