"""Exams of bench/streams.py: what Streamo-Bench gives for an answer."""
from bench.streams import span_iou, tsqa_marks
from course.exams import exam

CHECKS, check = exam()

WORDS = ("The event lasts from {}s to {}s.", "from {}s to {}s", "It was seen between {} and {}.",
         "{} to {}")


def spoken(rng, start, end):
    return rng.choice(WORDS).format(start, end)


@check("score", 2, "span_iou: two spans that overlap in part")
def overlapping(rng):
    out = []
    for _ in range(20):
        a, length, b = rng.randrange(30), rng.randrange(5, 20), rng.randrange(1, 5)
        out.append(span_iou(spoken(rng, a, a + length), spoken(rng, a + b, a + length + b)))
    return out


@check("score", 1, "span_iou: one span in the other, the same twice, apart, or touching")
def special_spans(rng):
    a = rng.randrange(1, 30)
    pairs = (((a, a + 9), (a + 2, a + 5)), ((a, a + 9), (a, a + 9)),
             ((a, a + 3), (a + 50, a + 60)), ((a, a + 3), (a + 3, a + 9)),
             ((a + 50, a + 60), (a, a + 3)))
    return [span_iou(spoken(rng, *one), spoken(rng, *two)) for one, two in pairs]


@check("score", 1, "span_iou: spans without length")
def moments(rng):
    a = rng.randrange(1, 30)
    return [span_iou(spoken(rng, *one), spoken(rng, *two)) for one, two in (
        ((a, a), (a, a)), ((a, a), (a + 1, a + 1)), ((a, a), (a, a + 4)))]


@check("score", 1, "span_iou: fractions, more than two numbers, or fewer")
def odd_texts(rng):
    a = rng.randrange(1, 20)
    return [span_iou(one, f"from {a}s to {a + 4}s") for one in (
        f"from {a}.5s to {a + 2}.25s", f"{a + 1} to {a + 4}, 3 times", f"at {a}s", "", "no number")]


def answers(rng, times, texts):
    return [[time, rng.choice(texts)] for time in times]


@check("score", 2, "tsqa_marks: answers in time and too late, right and wrong")
def in_time(rng):
    out = []
    for _ in range(30):
        gold = answers(rng, sorted(rng.sample(range(5, 90), 4)), "ABCD")
        pred = [[max(0, second + rng.randrange(-6, 7)), text if rng.random() < 0.7 else "A"]
                for second, text in gold]
        out.append(tsqa_marks(sorted(pred), gold))
    return out


@check("score", 1, "tsqa_marks: answers three and four seconds early or late")
def at_the_edge(rng):
    due = rng.randrange(10, 50)
    return [tsqa_marks([[due + late, "red"]], [[due, "red"]]) for late in (-4, -3, 0, 3, 4)]


@check("score", 1, "tsqa_marks: an answer given twice, or one answer near two that are due")
def several(rng):
    a = rng.randrange(10, 50)
    return [tsqa_marks([[a, "red"], [a + 1, "red"], [a + 2, "blue"]],
                       [[a, "red"], [a + 30, "blue"]]),
            tsqa_marks([[a + 1, "red"]], [[a, "red"], [a + 2, "red"]]),
            tsqa_marks([[a, "red"], [a + 2, "red"]], [[a + 1, "red"]])]


@check("score", 1, "tsqa_marks: nothing said, or nothing due")
def nothing(rng):
    a = rng.randrange(10, 50)
    return [tsqa_marks([], [[a, "red"], [a + 9, "blue"]]), tsqa_marks([[a, "red"]], []),
            tsqa_marks([], [])]
