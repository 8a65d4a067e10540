"""The day-long soak's own arithmetic; what it streams is tested in test_infer.py."""
from bench.soak import told


def test_an_hours_recall_and_precision_by_hand():
    """Two events an hour. The first hour: one told a second late, one not, one never asked for.
    The second: both, one of them in the wrong words first."""
    due = [(10, "A red star appears."), (20, "It stops.")]
    answers = [(11, "A red star appears."), (23, "It stops."), (3000, "Nonsense."),
               (3609, "A red cross appears."), (3610, "A red star appears."), (3620, "It stops.")]
    assert told(due, answers, 0) == (1 / 2, 1 / 3)
    assert told(due, answers, 3600) == (1, 2 / 3)
