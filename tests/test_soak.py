"""The day-long soak's own arithmetic; what it streams is tested in test_infer.py."""
import pytest

from bench import offline, soak, speed
from bench.soak import told, told_by


def test_an_hours_recall_and_precision_by_hand():
    """Two events an hour. The first hour: one told a second late, one not, one never asked for.
    The second: both, one of them in the wrong words first."""
    due = [(10, "A red star appears."), (20, "It stops.")]
    answers = [(11, "A red star appears."), (23, "It stops."), (3000, "Nonsense."),
               (3609, "A red cross appears."), (3610, "A red star appears."), (3620, "It stops.")]
    assert told(due, answers, 0) == (1 / 2, 1 / 3)
    assert told(due, answers, 3600) == (1, 2 / 3)


def test_recall_of_each_five_minutes_by_hand():
    """Two events in the first five minutes, one at the beginning of the third; all of them in the
    second hour, whose second was told in the first alone."""
    due = [(10, "A red star appears."), (299, "It stops."), (600, "It grows.")]
    answers = [(10, "A red star appears."), (299, "It stops."), (3600 + 10, "A red star appears."),
               (3600 + 601, "It grows.")]
    assert told_by(due, answers, 3600) == [1 / 2, 0, 1] + [0] * 9
    assert told_by(due, answers, 0) == [1] + [0] * 11


@pytest.mark.parametrize("bench, words, what", [
    (soak, ["--hours", "0"], "--hours 0"), (soak, ["--window", "-1"], "--window -1"),
    (soak, ["--prune", "0"], "--prune 0"), (soak, ["--compress", "nan"], "--compress nan"),
    (soak, ["--model", "nowhere"], "nowhere"), (soak, ["--out", "none/x.json"], "no such folder"),
    (soak, ["--model", "MODEL", "--out", "MODEL/config.json"], "would write over --model"),
    (speed, ["stream", "--window", "5"], "--window 5"),
    (speed, ["train", "--seconds", "5"], "--seconds 5"),
    (speed, ["train", "--steps", "0"], "--steps 0"), (speed, ["stream", "--ages", "0"], "--ages 0"),
    (speed, ["streams", "--streams", "0"], "--streams 0"),
    (speed, ["stream", "--png", "none/x.png"], "no such folder"),
    (speed, ["stream", "--png", "x.jpg"], "--png x.jpg: a .png is wanted"),
    (speed, ["train", "--ages", "3"], "--ages: of stream"),
    (speed, ["stream", "--batch", "3"], "--batch: of train"),
    (speed, ["stream", "--threads", "100000"], "--threads 100000"),
    (speed, ["streams", "--png", "x.png"], "--png: of stream"), (soak, ["--out", ""], "--out"),
    (speed, ["streams", "--window", "3000", "--streams", "1"], "slots of the cache"),
    (offline, ["--seconds", "0"], "--seconds 0"), (offline, ["--window", "-5"], "--window -5")])
def test_what_would_be_found_after_hours_is_refused_at_once(bench, words, what, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as end:
        bench.main([word.replace("MODEL", str(tmp_path)) for word in words])
    assert end.value.code == 2 and what in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"
