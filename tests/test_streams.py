"""Streamo-Bench, the states and the timing, against dialogues written by hand."""
import itertools
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import streams


def dialogue(task, gold, pred, seconds=20, standby=(), p=None, compute=1.0):
    def said(answers, standby):
        states = ["0"] * seconds
        for k in standby:
            states[k] = "1"
        for second, _ in answers:
            states[second] = "2"
        return {"states": "".join(states), "answers": [list(answer) for answer in answers]}

    pred = said(pred, standby if pred == gold else ()) | {"p": p or [0.0] * seconds}
    return {"id": task, "task": task, "gold": said(gold, standby), "pred": pred,
            "seconds": seconds, "compute": compute}


SPAN = "The event took place from {}s to {}s."
GOLD = {"forward_grounding": [(9, SPAN.format(4, 9))],
        "backward_grounding": [(12, SPAN.format(2, 6))],
        "narration": [(3, "It starts."), (6, "It stops.")],
        "dense_caption": [(7, "The ball falls.")],
        "tsqa": [(2, "No."), (8, "Yes."), (15, "No.")]}


@pytest.mark.parametrize("a, b, iou", [
    (SPAN.format(12, 20), SPAN.format(12, 20), 1),
    (SPAN.format(10, 20), SPAN.format(15, 25), 5 / 15),
    (SPAN.format(1, 3), SPAN.format(5, 9), 0),
    (SPAN.format(20, 12), SPAN.format(12, 20), 0),
    ("I do not know.", SPAN.format(1, 3), 0), ("At 5s.", SPAN.format(1, 3), 0),
    ("", SPAN.format(1, 3), 0), ("1.5s - 3.5s", SPAN.format(1, 3), 1.5 / 2.5),
    (SPAN.format(5, 5), SPAN.format(5, 5), 1)])
def test_span_iou_is_the_papers_formula(a, b, iou):
    assert streams.span_iou(a, b) == pytest.approx(iou)


def test_matching_is_one_to_one_and_the_largest():
    assert streams.matched([3, 4, 5], [4], 1) == [(0, 0)]
    rng = random.Random(0)
    for _ in range(300):
        a, b = (sorted(rng.choices(range(9), k=rng.randint(0, 4))) for _ in range(2))
        pairs = streams.matched(a, b, 1)
        assert all(abs(a[i] - b[j]) <= 1 for i, j in pairs)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        short, long = sorted((a, b), key=len)
        best = max(sum(abs(x - y) <= 1 for x, y in zip(short, order))
                   for order in itertools.permutations(long, len(short)))
        assert len(pairs) == best


def test_a_perfect_stream_scores_100():
    scores = streams.score_stream([dialogue(task, gold, gold, standby=(0, 1))
                              for task, gold in GOLD.items()])
    for name in (*streams.SIX, "tsqa_precision", "average", "state_f1", "response_precision",
                 "response_recall", "response_f1", "text_exact"):
        assert scores[name] == 100, name
    assert scores["response_rate"] == pytest.approx(100 * 8 / 100)
    assert scores["standby_rate"] == pytest.approx(10)
    assert scores["stream_seconds_per_compute_second"] == 20


def test_a_silent_stream_scores_what_the_formula_says():
    scores = streams.score_stream([dialogue(task, gold, []) for task, gold in GOLD.items()])
    for name in (*streams.SIX, "tsqa_precision", "average", "response_f1"):
        assert scores[name] == 0, name
    silence = 2 * 92 / (92 + 100)  # 92 silent seconds of 100; no Standby anywhere
    assert scores["state_f1"] == pytest.approx(100 * silence / 2)
    assert (scores["silence_rate"], scores["response_precision"], scores["text_exact"]) == (
        100, 0, 0)
    assert scores["confusion"] == [[92, 0, 0], [0, 0, 0], [8, 0, 0]]


def test_the_first_grounding_answer_counts():
    said = [(9, SPAN.format(4, 6)), (11, SPAN.format(4, 9))]
    scores = streams.score_stream([
        dialogue("forward_grounding", GOLD["forward_grounding"], said),
        dialogue("forward_grounding", GOLD["forward_grounding"], [(8, "Well.")] + said)])
    assert scores["forward_grounding"] == pytest.approx(100 * (2 / 5 + 0) / 2)


def test_captions_need_the_exact_text_within_a_second_one_to_one():
    gold = [(3, "It starts."), (6, "It stops."), (12, "It starts.")]
    said = [(4, "It starts."), (5, "It starts."), (8, "It stops."), (12, "It begins.")]
    scores = streams.score_stream([dialogue("narration", gold, said),
                              dialogue("dense_caption", gold, said)])
    assert scores["narration"] == scores["dense_caption"] == pytest.approx(100 * 2 * 1 / (4 + 3))
    again = streams.score_stream([dialogue("narration", gold, said),
                                  dialogue("narration", gold, gold)])
    assert again["narration"] == pytest.approx(100 * 2 * 4 / (7 + 6))  # micro over all events


def test_dated_questions_count_within_three_seconds():
    """Accuracy over all answers, recall over questions, precision of what was said."""
    first = dialogue("tsqa", [(2, "No."), (8, "Yes.")],
                     [(3, "No."), (5, "No."), (12, "Yes."), (13, "Maybe.")])
    second = dialogue("tsqa", [(4, "Red.")], [(1, "Red.")])
    scores = streams.score_stream([first, second])
    assert scores["tsqa_accuracy"] == pytest.approx(100 * 2 / 3)
    assert scores["tsqa_recall"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert scores["tsqa_precision"] == pytest.approx(100 * 3 / 5)
    assert "average" not in scores


def test_response_turns_and_their_text():
    gold, said = [(5, "a"), (9, "b"), (15, "c")], [(4, "a"), (10, "x"), (18, "c")]
    scores = streams.score_stream([dialogue("other", gold, said)])
    assert scores["response_precision"] == scores["response_recall"] == pytest.approx(200 / 3)
    assert scores["response_f1"] == pytest.approx(200 / 3)
    assert scores["text_exact"] == 50


def test_threshold_curve_by_hand():
    p = [0.0] * 20
    p[5], p[9], p[16] = 0.9, 0.5, 0.7
    rows = [dialogue("x", [(5, "a"), (10, "b")], [], p=p)]
    curve = {t: pair for t, *pair in streams.threshold_curve(rows)}
    assert curve[0.4] == pytest.approx((200 / 3, 100))
    assert curve[0.6] == pytest.approx((50, 50))
    assert curve[0.8] == pytest.approx((100, 50))
    assert max(curve) == 0.9  # above it nothing is said, and precision is no number


# ---- Timing

def test_answers_are_paired_with_what_they_are_closest_to():
    assert streams.delays([3], [0, 3]) == [0]
    assert sorted(streams.delays([4, 9, 20], [3, 11, 30])) == [-2, 1]      # 20 and 30: no pair
    assert streams.delays([5, 5], [5]) == [0] and streams.delays([], [4]) == []


def test_timing_by_hand():
    """Late by 1 and 3 s, early by 2 s, one in time, one never, one that nobody waited for."""
    found = streams.timing([("a", [6, 13, 30], [5, 10, 40]), ("b", [8, 20, 50], [10, 20])])
    a, b = found["a"], found["b"]
    assert (a["due"], a["said"], a["paired"], a["on_time"]) == (3, 3, 2, 0)
    assert a["late"] == {"count": 2, "mean": 2, "spread": 1} and a["early"]["count"] == 0
    assert b["early"] == {"count": 1, "mean": 2, "spread": 0} and b["on_time"] == 1
    assert a["f1"] == pytest.approx([0, 100 / 3, 100 / 3, 200 / 3, 200 / 3, 200 / 3])
    assert found["all"]["f1"] == pytest.approx([200 / 11, 400 / 11, 600 / 11] + [800 / 11] * 3)
    assert found["all"]["late"] == a["late"] and [*found] == ["a", "b", "all"]
    assert "all" not in streams.timing([("a", [1], [1])])                  # one task is all
    table = streams.timing_table(found)
    assert len(table) == 4 and "2 x 2.0 ± 1.0" in table[1] and table[1].split()[0] == "a"


def test_silence_where_silence_is_right_is_not_scored_as_a_fault():
    silent = [dialogue(task, [], []) for task in ("narration", "dense_caption")]
    scores = streams.score_stream(silent)
    assert not scores.keys() & {"narration", "dense_caption", "response_f1", "response_recall"}
    assert scores["state_f1"] == 100
    spoke = streams.score_stream([dialogue("narration", [], [(7, "x")])])
    assert spoke["narration"] == spoke["response_f1"] == spoke["response_precision"] == 0


def test_timing_stands_beside_the_scores_of_a_stream():
    """Whatever was said: the text counts elsewhere."""
    scores = streams.score_stream([dialogue("narration", [(5, "a"), (9, "b")], [(7, "x")])])
    assert scores["timing"]["narration"]["late"] == {"count": 1, "mean": 2, "spread": 0}
    assert scores["timing"]["narration"]["f1"] == pytest.approx([0, 0] + [200 / 3] * 4)
