"""Seconds that a text names: "from 3s to 9s", "between 34s to 50s", "since 2.5 seconds"."""
import re

# What is a moment, and not a length of time ("in 3s", "for 3 to 5 seconds", "up to 3s"), follows
# one of these words, where no word of a length stands before it ("takes between 3 and 5 seconds").
LENGTH = re.compile(r"\b(?:for|of|about|(?:tak|took|last|need|wait|spen|requir)\w*) $",
                    re.IGNORECASE)
MOMENT = re.compile(r"""
    (\b(?:from|since|until|between|at)\ )
    (\d+(?:\.\d+)?)                                                     # 34
    (?: ((?:\ ?s(?:ec(?:ond)?s?)?)?\ ?(?:to|and|-)\ ?) (\d+(?:\.\d+)?) )?   # "s to " and 50
    (?=\ ?s(?:ec(?:ond)?s?)?\b)                                         # s, sec, seconds
    """, re.VERBOSE | re.IGNORECASE)
# Anything that looks like a moment: "in 12 - 18", "3:20", "5 s", "at second 12".
TIMED = re.compile(r"\d ?(?:-|–|to|:) ?\d|\d ?s(?:ec(?:ond)?s?)?\b|\bseconds? \d", re.IGNORECASE)


def names_seconds(text):
    return bool(TIMED.search(text))


def is_length(match):
    """Whether what MOMENT has found is a length of time, by the word before it."""
    return bool(LENGTH.search(match.string[:match.start()]))


def fixed(question, answer):
    """Whether a turn names seconds that `shifted` leaves as they are: any in its question (None:
    there is none), in its answer those in other words than MOMENT knows."""
    def left(match):
        return match[0] if is_length(match) else ""

    return names_seconds(question or "") or names_seconds(MOMENT.sub(left, answer))


def shifted(text, offset):
    """The text with each moment `offset` (a whole number of) seconds later."""
    def later(number):
        whole, point, rest = number.partition(".")
        return f"{int(whole) + offset}{point}{rest}"

    def moved(match):
        if is_length(match):
            return match[0]
        lead, first, link, last = match.groups()
        return lead + later(first) + (link + later(last) if last else "")

    return MOMENT.sub(moved, text)
