"""What is asked of each assignment. An exam calls the function with inputs that are drawn anew for
every grading, and returns what came out; the judge runs the same with the true function.

So an exam never says "right": it runs beside the student's code, which could say that as well.
"""
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Callable


class Outcome(str):
    """ "taken" or "refused": told to the student as it is."""


def taken_or_refused(function, *args, **more):
    """Whether a call is refused by a ValueError, as bad input must be."""
    try:
        function(*args, **more)
    except ValueError:
        return Outcome("refused by a ValueError")
    return Outcome("taken")


@dataclass(frozen=True)
class Check:
    """says: what does not work when the results differ, without how to mend it."""
    points: int
    says: str
    function: Callable
    close: float                                        # of numbers, relative and absolute
    seconds: float                                      # a check that takes longer has failed

    def run(self, seed):
        return self.function(random.Random(seed))


def exam(close=1e-4):
    """(CHECKS, check): {assignment: [Check]}, and the decorator that adds a function (rng) ->
    results to it: @check("focal", 3, "the words")."""
    checks, width = defaultdict(list), close

    def check(assignment, points, says, close=width, seconds=3):
        def add(function):
            checks[assignment].append(Check(points, says, function, close, seconds))
            return function
        return add
    return checks, check
