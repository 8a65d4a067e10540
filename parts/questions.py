"""The questions of one stream: asked, answered, closed, and closed to make room for others."""
import math
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import count

from parts.checks import check_pair, check_question

TOO_LONG = "refused, too long"           # why a question was closed that never could be asked


@dataclass
class Question:
    """A question of a session, and the handle on it: close() may be called from anywhere."""
    number: int
    text: str
    second: float = 0                    # not before this one
    once: bool = False                   # its first answer closes it
    asked: int | None = None             # the second in which it was
    answered: int | None = None          # the last second that answered it
    closed: str | None = None            # why

    def close(self, why="by hand"):
        """Its text leaves the cache before the next second is read."""
        self.closed = self.closed or why


class Questions:
    """All that are open or wait for their second; closed ones until take_closed()."""

    def __init__(self, known=(), next_number=1):
        self.all = [Question(**question) for question in known]
        self.numbers, self.untold = count(next_number), []      # notes of a turn that came to none

    def ask(self, text, second, once):
        check_question(text, second)
        question = Question(next(self.numbers), text, second, once)
        self.all.append(question)                       # another thread may do this meanwhile
        return question

    def open(self, asked=None):
        """Those that are not closed; asked: of these, only those that stand in the cache."""
        return [q for q in self.all if not q.closed and (not asked or q.asked is not None)]

    def admit(self, second, size, room, counts):
        """Those that join the turn of `second` -> ([Question], those that were closed since the
        last time, what is to be told).

        size: a function, the slots of a question; room: slots for all of them. Where room is
        lacking the one that was answered longest ago is closed, or else the oldest; a new one is
        refused only when it would not fit alone."""
        notes = self.untold
        for new in self.open():
            if new.asked is not None or new.second > second:
                continue
            need = size(new)
            if need > room:
                new.close(f"{TOO_LONG}: {need} slots of the cache, which has {room} for questions")
                counts["questions refused, for they were too long"] += 1
                notes.append(f"question {new.number} {new.closed}")
                continue
            while need + sum(map(size, there := self.open(asked=True))) > room:
                old = min(there, key=lambda q: (
                    q.answered is None, q.answered or 0, q.asked, q.number))
                old.close("to make room")
                counts["questions closed to make room"] += 1
                notes.append(f"question {old.number} closed to make room: {old.text}")
            new.asked = second
        closed = self.take_closed()         # what another thread closes from here on joins, too,
        return [q for q in self.all if q.asked == second], closed, notes    # and leaves next time

    def answer(self, second):
        """An answer was given -> what is to be told. It does not say to what: it counts for the
        newest question that has none yet; where all have one, for all."""
        asked = sorted(self.open(asked=True), key=lambda q: (q.asked, q.number))
        waiting = [q for q in asked if q.answered is None]
        notes = []
        for question in waiting[-1:] or asked:
            question.answered = second
            if question.once:
                question.close("answered")
                notes.append(f"question {question.number} closed, answered: {question.text}")
        return notes

    def take_closed(self):
        """Those closed since the last time; they are forgotten here."""
        closed = [q for q in self.all if q.closed]
        for question in closed:
            self.all.remove(question)
        return closed


class Agenda:
    """(second, text) pairs in a list that others may append to, insert into and delete from."""

    def __init__(self, pairs):
        self.pairs, self.known, self.was_asked = pairs, [], []
        self.due(-math.inf)                             # what is wrong with them, at once

    def due(self, second):
        """The texts that are to be asked at `second`, each once."""
        pairs = [check_pair("question", n, pair) for n, pair in enumerate(self.pairs)]
        asked = [False] * len(pairs)
        same = SequenceMatcher(None, self.known, pairs, autojunk=False)
        for old, new, size in same.get_matching_blocks():    # what stayed has been asked, or not
            asked[new:new + size] = self.was_asked[old:old + size]
        texts = []
        for n, (when, text) in enumerate(pairs):
            check_question(text, when)
            if when <= second and not asked[n]:
                asked[n] = True
                texts.append(text)
        self.known, self.was_asked = pairs, asked
        return texts
