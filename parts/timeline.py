"""The timeline of a stream as one PNG: timeline(turns, "out.png").

`turns` is what `infer.stream` yields; see parts/render.py."""
import itertools

import numpy as np
from PIL import Image, ImageDraw

from parts.decision import STATES
from parts.drawing import COLOURS, FAINT, INK, PAPER, font_for, strip, told, wrap
from parts.files import replacing
from parts.subtitles import clock

WIDTH, MARGIN, RIGHT, PLOT, LINE = 1600, 40, 220, 72, 26  # pixels; the last labels need the right
LISTED = 600                # labels in the list below, so that the picture stays bounded


def timeline(turns, path):
    """The whole stream as one PNG: the states' probabilities by second, the questions above, the
    answers below, each at its second. A stream of more than 90 s stands in at most 12 rows, so that
    the picture stays bounded; where labels crowd, some are a mark, and told in a list below."""
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
    rows, crowded = [head], []
    for begin in range(start, start + length, row):
        image, without_room = _row(turns, kinds, begin, min(row, start + length - begin), row, font)
        rows.append(image)
        crowded += without_room
    if crowded:
        rows.append(_list(crowded, font))
    with replacing(path) as part:
        Image.fromarray(np.concatenate(rows)).save(part, "PNG", optimize=True)


def round_time(least):
    """The first of 1, 2, 5, 10, ... seconds, minutes, hours that is not less than `least`."""
    times = itertools.chain((1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
                            itertools.count(3600, 3600))
    return next(time for time in times if time >= least)


def _row(turns, kinds, start, seconds, row, font):
    """`seconds` of the timeline from `start`, at a scale at which `row` seconds fill the width ->
    (image, [(second, letter, text)] that there was no room for)."""
    scale, depth = (WIDTH - MARGIN - RIGHT) / row, 30 if row <= 90 else 6
    here = [[(second, text) for second, _, text in texts if start <= second < start + seconds]
            for texts in kinds]
    above, below = [_place([(MARGIN + round((second - start) * scale), text)
                            for second, text in texts], font, depth) for texts in here]
    crowded = [(second, letter, text) for letter, texts, labels in zip("QA", here, (above, below))
               for (second, text), (_, _, lines) in zip(texts, reversed(labels)) if not lines]
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
    return image, sorted(crowded)


def _list(crowded, font):
    """What had no room in the rows, in two columns, each with its second."""
    column = (WIDTH - 2 * MARGIN) // 2
    lines = []
    for second, letter, text in crowded[:LISTED]:
        shown = wrap(text, font, column - 150, 3)
        lines += [(clock(second), letter, shown[0]), *[("", "", line) for line in shown[1:]]]
    if len(crowded) > LISTED:
        lines.append(("", "", f"and {len(crowded) - LISTED} more: the subtitles have them all"))
    half = -(-len(lines) // 2)
    image = Image.new("RGB", (WIDTH, half * LINE + 40), PAPER)
    draw = ImageDraw.Draw(image)
    for i, (when, letter, line) in enumerate(lines):
        x, y = MARGIN + i // half * column, 10 + i % half * LINE
        draw.text((x, y), when, FAINT, font)
        draw.text((x + 90, y), letter, FAINT, font)
        draw.text((x + 120, y), line, INK, font)
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
