"""Conversations: questions that close, streams stepped together, sessions saved, the decision's
rules, answers that are cut, what is refused. The models are tiny and random."""
import copy
import errno
import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_infer import SAY, build, pictures, scripted_states, shadow, tokenizer  # noqa: F401

import data
import infer
from infer import Session, step, stream
from parts import arguments, terminal
from parts.decision import Decision
from parts.outputs import Outputs, Recorder
from parts.program import Program
from parts.questions import Agenda, Questions
from streamo import STATES


def watched(session, frames, asks=None):
    """The turns of a session that sees one frame a second; asks: {second: text}."""
    turns = []
    for second, image in frames:
        if asks and second in asks:
            session.ask(asks[second])
        turns.append(session.step([image]))
    return turns


def said(turns):
    return [(t.start, t.state, t.text, t.question) for t in turns]


# ---- Many streams, one forward

def test_streams_stepped_together_say_what_each_says_alone(tokenizer):  # noqa: F811
    """Of unlike ages, windows, questions, prunings and lengths of answers; a vision forward and a
    decoder forward for all, and one more for each token of the longest answer."""
    model = build(tokenizer)
    kinds = [dict(window=6, threshold=0.0, max_new_tokens=3),
             dict(window=20, prune=3, max_new_tokens=5), dict(window=0, max_new_tokens=7),
             dict(window=9, compress=3.0, threshold=0.3, max_new_tokens=2)]
    asks = [{0: "What moves?"}, {4: "Describe it."}, {2: "Why?", 9: "What moves?"}, {}]
    late = [0, 5, 2, 0]                                  # the second in which each one begins
    films = [pictures(18, seed=n) for n in range(4)]
    alone = []
    for kind, ask, film, first in zip(kinds, asks, films, late):
        alone.append(watched(Session(model, tokenizer, **kind), film[:18 - first], ask))
    together, calls = [[] for _ in kinds], Counter()
    hooks = [model.vision_tower.register_forward_hook(lambda *_: calls.update(["vision"])),
             model.language_model.register_forward_hook(lambda *_: calls.update(["decoder"]))]
    sessions = [Session(model, tokenizer, **kind) for kind in kinds]
    for second in range(18):
        here = [n for n in range(4) if second >= late[n]]
        for n in here:
            if second - late[n] in asks[n]:
                sessions[n].ask(asks[n][second - late[n]])
        before, new = Counter(calls), any(second == late[n] for n in here)
        turns = step([sessions[n] for n in here],
                     [[films[n][second - late[n]][1]] for n in here])
        for n, turn in zip(here, turns):
            together[n].append(turn)
        assert calls["vision"] == before["vision"] + 1
        tokens = calls["decoder"] - before["decoder"] - 1 - new
        assert tokens <= 7 and bool(tokens) == any(t.state == "response" for t in turns)
    for hook in hooks:
        hook.remove()
    for mine, one in zip(together, alone):
        assert said(mine) == said(one) and any(turn.text for turn in alone[0])
        np.testing.assert_allclose([t.probs for t in mine], [t.probs for t in one], atol=1e-5)


def test_a_step_of_two_models_or_of_what_does_not_fit_together_is_refused(tokenizer):  # noqa: F811
    image, one, other = pictures(1)[0][1], build(tokenizer), build(tokenizer)
    with pytest.raises(ValueError, match="one model"):
        step([Session(one, tokenizer), Session(other, tokenizer)], [[image], [image]])
    session = Session(one, tokenizer)
    with pytest.raises(ValueError, match="given twice"):
        step([session, session], [[image], [image]])
    for sessions, images, seconds, fault in (
            ([], [], None, "none is given"), ([session], [], None, "1 streams, 0 lists of images"),
            ([session], [[image], [image]], None, "1 streams, 2 lists of images"),
            ([session], [[image]], [0, 1], "1 streams, 2 seconds")):
        with pytest.raises(ValueError, match=fault):
            step(sessions, images, seconds)
    assert session.cache.length == 0 and session.last == -1         # as it was


# ---- Questions

def test_closed_questions_leave_the_cache_and_nothing_else_does(
        tokenizer, monkeypatch, shadow):  # noqa: F811
    """Of a turn that is still there, of one that has left, and one of two of a turn: what lies in
    the cache is the dialogue as training writes it, had they never been asked."""
    scripted_states(monkeypatch, [0, 1, 2, 0, 0])
    model = build(tokenizer, layers=1, scripted=True)
    session = Session(model, tokenizer, window=8, max_new_tokens=len(model.words))
    handles, frames = {}, pictures(20)
    plan = {0: ["What moves?"], 9: ["Describe it.", "What is it?"], 15: ["Why?"]}
    closings = {11: "What is it?", 13: "What moves?", 19: "Describe it."}
    turns = []
    for second, (_, image) in enumerate(frames):
        for text in plan.get(second, ()):
            handles[text] = session.ask(text)
        if second in closings:
            handles[closings[second]].close()
        turn = session.step([image])
        state = [0, 1, 2, 0, 0][second % 5]
        turns.append(data.Turn(second, STATES[state], SAY if state == 2 else ""))
        open_now = [q for q in session.questions]
        assert [q.text for q in open_now] == [
            text for at, texts in plan.items() for text in texts if at <= second
            and not any(closed == text and when <= second for when, closed in closings.items())]
        kept = sorted(shadow.slots.turns())
        for t in turns:
            t.question = "\n".join(q.text for q in open_now if q.asked == t.second) or None
        pinned = {q.asked for q in open_now if q.asked < kept[0]}
        pinned = ["\n".join(q.text for q in open_now if q.asked == at) for at in sorted(pinned)]
        ids, _ = data.render(tokenizer, turns[kept[0]:], [[4]] * len(kept), pinned)
        assert shadow.ids + session.pending == ids
    assert turn.question is None and turns[15].question == "Why?"


def test_a_new_question_closes_the_one_answered_longest_ago(tokenizer):  # noqa: F811
    model, counts = build(tokenizer), Counter()
    session = Session(model, tokenizer, window=30, threshold=1.0, capacity=400, counts=counts)
    image, told, n = pictures(1)[0][1], [], 0
    while not told:
        session.ask(f"Question {n}?")
        told, n = session.step([image]).notes, n + 1
    assert n > 3 and "question 1 closed to make room: Question 0?" in told
    first, second = session.questions[:2]
    first.answered, second.answered = 100, 50
    handle = session.ask("Another?")
    turn = session.step([image])
    assert second.closed == "to make room" and not first.closed
    assert turn.question == "Another?" and handle.asked == turn.start
    assert counts["questions closed to make room"] == 2
    for text in ("Why " * 900, "Short?"):                # the short one is asked all the same
        session.ask(text)
    turn = session.step([image])
    assert turn.question == "Short?" and "refused, too long" in " ".join(turn.notes)
    assert counts["questions refused, for they were too long"] == 1


def test_the_last_open_question_may_be_closed_while_room_is_made():
    book = Questions()
    old, _ = book.ask("Who?", 0, False), book.admit(0, lambda question: 1, 1, Counter())
    new = book.ask("What?", 0, False)

    def size(question):
        if question is old:
            old.close()                                     # as another thread would
        return 1
    assert book.admit(1, size, 1, Counter())[0] == [new]


def test_once_closes_with_the_first_answer_to_it():
    book = Questions()
    every, first, second = (book.ask(text, 0, once) for text, once in (
        ("Describe all.", False), ("When?", True), ("Who?", True)))
    book.admit(3, lambda question: 1, 9, Counter())
    assert book.answer(4) == ["question 3 closed, answered: Who?"] and second.answered == 4
    assert book.answer(5) == ["question 2 closed, answered: When?"]
    assert book.answer(6) == [] and every.answered == 6 and book.open() == [every]
    assert first.closed == "answered"


def test_a_question_that_another_thread_closes_while_it_joins_leaves_with_the_next_second(
        tokenizer, monkeypatch):  # noqa: F811
    session, admit = Session(build(tokenizer), tokenizer), Questions.admit

    def closing(book, second, *more):
        found = admit(book, second, *more)
        for question in book.open(asked=True):              # as another thread would
            question.close()
        return found
    monkeypatch.setattr(Questions, "admit", closing)
    question = session.ask("What?")
    first, second = watched(session, pictures(2))
    assert first.question == "What?" and second.question is None
    assert question.closed and not (session.slots.owner == question.number).any()


def test_no_question_of_a_changed_list_is_lost_or_asked_twice():
    questions = [(0, "a"), (0, "b"), (5, "late")]
    agenda = Agenda(questions)
    assert agenda.due(0) == ["a", "b"]
    del questions[0]
    questions.append((0, "c"))
    assert agenda.due(1) == ["c"]
    questions.insert(0, (0, "d"))
    questions.append((0, "c"))                           # the same once more
    assert agenda.due(2) == ["d", "c"] and agenda.due(3) == []
    questions.clear()
    questions += [(4, "e")]
    assert agenda.due(9) == ["e"]


@pytest.mark.parametrize("pairs", ["What?", [("What?", 0)], [(0, "")], [(float("nan"), "Why?")],
                                   [(0, "half \ud83d")], [(0, None)], [7]])
def test_misshapen_questions_are_named_at_once(tokenizer, pairs):  # noqa: F811
    with pytest.raises(ValueError, match="question"):
        stream(build(tokenizer), tokenizer, pictures(1), pairs)


# ---- A day later

@pytest.mark.parametrize("at", [0, 7])
def test_a_saved_session_goes_on_with_the_same_bits(tokenizer, tmp_path, at):  # noqa: F811
    model, film = build(tokenizer), pictures(24)
    options = dict(window=9, prune=4, compress=3.0, patience=2, no_repeat=True, threshold=0.2)
    session = Session(model, tokenizer, max_new_tokens=4, **options)
    asks = {0: "What moves?", 5: "Why?"}
    watched(session, film[:at], asks)
    waiting = session.ask("Later?", second=12)
    session.save(tmp_path / "door")
    again = Session.load(tmp_path / "door", model, tokenizer)
    rest = {second: text for second, text in asks.items() if second >= at}
    one, other = (watched(s, film[at:], rest) for s in (session, again))
    assert said(one) == said(other) and [t.probs for t in one] == [t.probs for t in other]
    assert [t.notes for t in one] == [t.notes for t in other] and session.counts == again.counts
    assert waiting.asked == 12 and again.questions[-1].asked is not None
    assert torch.equal(session.cache.filled()[0], again.cache.filled()[0])


def test_a_session_of_numpy_numbers_is_saved_and_goes_on_as_it_would(
        tokenizer, tmp_path):  # noqa: F811
    session = Session(build(tokenizer), tokenizer, threshold=np.float32(0.3), window=np.int64(9))
    for second, image in zip(np.arange(2), pictures(2)):
        turn = session.step([image[1]], second)
    assert type(turn.start) is int
    session.ask("What?")
    session.save(tmp_path / "door")
    again = Session.load(tmp_path / "door", session.model, tokenizer)
    assert session.ask("Who?").number == again.ask("Who?").number == 2


def test_where_one_stream_is_full_the_others_have_heard_nothing(tokenizer):  # noqa: F811
    model, film = build(tokenizer), pictures(30)
    door, alone = (Session(model, tokenizer, threshold=0.4, compress=3.0) for _ in range(2))
    yard, full = Session(model, tokenizer, window=0, capacity=300), 0
    for second, image in film:
        for session in (door, alone):
            if second == 12:
                session.ask("What moves? " * 99)            # too long, and that is told
                session.ask("What moves?")
        try:
            turn = step([door, yard], [[image], [image]])[0]
        except ValueError as error:
            assert "the cache is full" in str(error)
            full, turn = full + 1, door.step([image])
        one = alone.step([image])
        assert said([turn]) == said([one]) and turn.probs == pytest.approx(one.probs, abs=1e-5)
        assert (turn.notes, turn.kv) == (one.notes, one.kv)
        assert bool(turn.notes) == (second == 12)
    assert 18 <= full < 30                              # also when the question came


def test_a_policy_that_gives_no_mask_is_told(tokenizer):  # noqa: F811
    for gives in (lambda seconds, *_: seconds * 0, lambda *_: None, lambda *_: [True]):
        session = Session(build(tokenizer), tokenizer, policy=gives)
        with pytest.raises(ValueError, match="a policy gives bool, one for each of .* slots"):
            watched(session, pictures(2))


def test_a_picture_of_pil_is_seen_as_its_file_would_be(tokenizer):  # noqa: F811
    model = build(tokenizer)
    clear, white = Image.new("RGBA", (9, 9), (0, 0, 0, 0)), Image.new("RGB", (9, 9), "white")
    (_, one), (_, other) = infer.see(model, [clear]), infer.see(model, [white])
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match="second 0, frame 0"):
        Session(model, tokenizer).step([torch.full((4, other.shape[1]), torch.nan)])


def test_a_session_of_another_model_or_a_damaged_file_is_named(tokenizer, tmp_path):  # noqa: F811
    model, path = build(tokenizer), tmp_path / "door"
    session = Session(model, tokenizer)
    session.step([pictures(1)[0][1]])
    session.save(path)
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<more>"])
    with pytest.raises(ValueError, match="door: a session of .* another tokenizer"):
        Session.load(path, model, other)
    model.language_model.model.embed_tokens.weight.data[-1, -1] += 1
    with pytest.raises(ValueError, match="door: a session of another model"):
        Session.load(path, model, tokenizer)
    with pytest.raises(ValueError, match="not a saved session, it is a folder"):
        Session.load(tmp_path, model, tokenizer)
    raw = path.read_bytes()
    for broken in (b"", b"no tensors", raw[:40], raw[:-100]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="door: not a saved session"):
            Session.load(path, model, tokenizer)


# ---- The decision, and answers that are cut

def test_patience_waits_for_seconds_that_agree():
    decision, want, quiet = Decision(patience=2), [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]
    states = [decision.state(probs) for probs in (want, quiet, want, want, want, want)]
    assert states == [1, 0, 1, 2, 1, 2]
    assert [Decision().state(probs) for probs in (want, quiet)] == [2, 0]


def test_an_answer_that_is_given_again_is_taken_back_from_the_cache(
        tokenizer, monkeypatch, shadow):  # noqa: F811
    scripted_states(monkeypatch, [2])
    model = build(tokenizer, scripted=True)
    session, heard = Session(model, tokenizer, no_repeat=True), []
    session.on_word = heard.append
    turns = watched(session, pictures(5), {3: "What moves?"})
    assert [turn.text for turn in turns] == [SAY, "", "", SAY, ""]
    assert [turn.state == "response" for turn in turns] == [True, False, False, True, False]
    assert "".join(heard) == SAY * 2
    told = [data.Turn(t.start, STATES[infer.STATES.index(t.state)], t.text, t.question)
            for t in turns]
    assert shadow.ids + session.pending == data.render(tokenizer, told, [[4]] * 5)[0]


def test_the_beginning_of_the_last_answer_is_heard_too(tokenizer, monkeypatch):  # noqa: F811
    scripted_states(monkeypatch, [2])
    session, heard = Session(build(tokenizer, scripted=True), tokenizer, no_repeat=True), []
    session.on_word, session.decision.last = heard.append, SAY + " And more."    # the last one
    (turn,) = watched(session, pictures(1))
    assert turn.text == SAY == "".join(heard)           # new only at its end


def test_words_come_as_they_are_decoded_and_a_question_cuts_them_short(
        tokenizer, monkeypatch, shadow):  # noqa: F811
    scripted_states(monkeypatch, [2])
    model = build(tokenizer, scripted=True)
    session, heard = Session(model, tokenizer), []

    def word(piece):
        heard.append(piece)
        if len(heard) == 2:                              # as another thread would
            session.ask("And now?", interrupt=True)
    session.on_word = word
    first, second = watched(session, pictures(2))
    assert first.cut == "question" and SAY.startswith(first.text) and first.text != SAY
    assert first.text == "".join(heard[:2]).strip()
    assert (second.question, second.text, second.cut) == ("And now?", SAY, None)
    ids = shadow.ids + session.pending
    turns = [data.Turn(t.start, STATES[2], t.text, t.question) for t in (first, second)]
    assert tokenizer.decode(ids) == tokenizer.decode(data.render(tokenizer, turns, [[4]] * 2)[0])


def test_a_question_for_later_cuts_no_answer(tokenizer, monkeypatch):  # noqa: F811
    scripted_states(monkeypatch, [2])
    session = Session(build(tokenizer, scripted=True), tokenizer)
    session.on_word = lambda _: session.ask("And later?", second=60, interrupt=True)
    (turn,) = watched(session, pictures(1))
    assert (turn.text, turn.cut) == (SAY, None)


def test_a_question_of_before_the_stream_is_asked_in_its_first_second():
    assert Agenda([(-1, "What?"), (3, "Who?")]).due(0) == ["What?"]


def test_an_answer_cut_by_length_ends_with_a_whole_letter(tokenizer):  # noqa: F811
    model = build(tokenizer, scripted=True)
    model.words = tokenizer.encode(" \u4f60\u597d", special=False)      # bytes: three for a letter
    n = len(model.words) - 1
    turn = next(stream(model, tokenizer, pictures(1), threshold=0.0, max_new_tokens=n))
    assert (turn.text, turn.cut) == ("\u4f60", "length")


def test_the_threshold_of_the_checkpoint_is_the_default(tokenizer):  # noqa: F811
    model = build(tokenizer, threshold=0.4)
    assert Session(model, tokenizer).threshold == 0.4
    session = Session(model, tokenizer, threshold=0.7)
    session.threshold = 0.2
    assert session.decision.threshold == 0.2
    session.threshold = "high"
    with pytest.raises(ValueError, match="threshold 'high'"):
        session.step([pictures(1)[0][1]])


# ---- What is refused by name

@pytest.mark.parametrize("image, name", [
    (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"), (np.zeros((8, 8, 4), np.uint8), "8, 8, 4"),
    (np.zeros((8, 8, 3)), "float64"), (np.zeros((0, 8, 3), np.uint8), "0, 8, 3"),
    (torch.zeros(8, 8, 3), "8, 8, 3"), ("a.png", "str"), (None, "NoneType")])
def test_frames_that_are_no_pictures_are_named(tokenizer, image, name):  # noqa: F811
    with pytest.raises(ValueError, match=f"second 3, frame 0: .*{name}"):
        next(stream(build(tokenizer), tokenizer, [(3, image)]))


@pytest.mark.parametrize("times, name", [
    ([5, 4], "frame 1: second 4 comes after second 5"), ([float("inf")], "frame 0: second inf"),
    ([-1], "second -1"), (["1"], "second '1'"), ([float("nan")], "second nan")])
def test_times_that_are_none_are_named(tokenizer, times, name):  # noqa: F811
    image = pictures(1)[0][1]
    with pytest.raises(ValueError, match=name):
        list(stream(build(tokenizer), tokenizer, [(time, image) for time in times]))
    with pytest.raises(ValueError, match="frame 0: a .second, frame. pair"):
        list(stream(build(tokenizer), tokenizer, "film.mp4"))


@pytest.mark.parametrize("setting", [
    dict(fps=0), dict(fps=1.5), dict(window=-1), dict(prune=0), dict(threshold=float("nan")),
    dict(max_new_tokens="9"), dict(patience=0), dict(compress=-1), dict(window=True)])
def test_settings_that_are_wrong_are_named_at_once(tokenizer, setting):  # noqa: F811
    with pytest.raises(ValueError, match=next(iter(setting))):
        stream(build(tokenizer), tokenizer, pictures(1), **setting)


def test_a_policy_of_ones_own_decides_what_leaves(tokenizer, shadow):  # noqa: F811
    """Attention sinks: the first two turns stay beside the last four."""
    def sinks(seconds, kinds, now, excess, window, prune):
        return (kinds != infer.PINNED) & (seconds > 1) & (seconds < now - 3)
    session = Session(build(tokenizer), tokenizer, threshold=1.0, policy=sinks)
    watched(session, pictures(12))
    assert sorted(shadow.slots.turns()) == [0, 1, 8, 9, 10, 11]


# ---- The command line's parts

def test_the_line_being_typed():
    line = terminal.Line()
    assert line.type("Whaa\x7ft?\x1b[A\x1bOB\n12: Wh") == ["What?"] and line.text == "12: Wh"
    assert line.type("o is\x17?\n/quit\n") == ["12: Who?", "/quit"]
    assert line.type("gone\x15") == [] and line.text == ""
    for text in ("Où\u00a0?", "何が\u3000ある", "می\u200cرود",
                 "\U0001f468\u200d\U0001f469?"):
        assert line.type(f"\ufeff\0{text}\n") == [text]     # letters alone, and all of them
    assert terminal.fitting("你好 there", 5) == "你好 "
    assert terminal.fitting("ab你", 3, True) == "b你"


def test_question_files_and_hints(tmp_path):
    path = tmp_path / "asks.txt"
    path.write_bytes(b"\xef\xbb\xbf12:What?\r\n\nWho?\n")
    assert arguments.lines(path) == ["12:What?", "Who?"]
    path.write_bytes(b"Who?\nO\xf9 ?\n")
    with pytest.raises(ValueError, match="asks.txt: line 2 is no UTF-8"):
        arguments.lines(path)
    assert "at 10" in arguments.hint("10:30 is on the clock?")
    assert arguments.hint("10: 30 men?") is arguments.hint("0:02:What?") is None
    with pytest.raises(ValueError, match="no UTF-8"):
        arguments.ask("O\udcf9 ?")
    assert arguments.names(["a/door.mp4", "b/door.mp4", "camera:0"])[2] == "camera-0"
    assert len(set(arguments.names(["door", "door", "door-2"]))) == 3


@pytest.mark.parametrize("source, flag", [
    ("list.ffconcat", "--render a.mp4"), ("list.m3u8", "--render b c.mp4"),
    ("master.m3u8", "--render b c.mp4"), ("live:list.m3u8", "--render b c.mp4"),
    ("live:a.mp4", "--record a.mp4"),
    ("slides", "--timeline slides/t.png"), ("a.mp4.partial", "--srt a.mp4")])
def test_what_is_read_by_another_name_is_not_written_over(tmp_path, monkeypatch, source, flag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slides").mkdir()
    for name in ("a.mp4", "b c.mp4", "a.mp4.partial"):
        (tmp_path / name).write_text("film")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile 'a.mp4'\nduration 3\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:3,\nb c.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "master.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlist.m3u8\n"
                                          "master.m3u8\n")
    with pytest.raises(ValueError, match="would write over the source|a picture of the source"):
        arguments.parse([source, *flag.split(" ", 1)], "")


def test_an_output_that_fails_takes_no_other_along(tmp_path, monkeypatch):
    told = []
    outputs = Outputs({"jsonl": tmp_path / "o.jsonl", "srt": tmp_path / "no" / "o.srt",
                       "vtt": tmp_path / "o.vtt"}, told.append)

    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, "No space left on device")
    outputs.lines = Full()
    for second in range(3):
        turn = infer.StreamTurn(second, second + 1, "response", (0, 0, 1), "A man.", None, 1.0)
        outputs.add(turn)
    outputs.close()
    assert (tmp_path / "o.vtt").read_text().count("-->") == 3
    assert len(told) == len(outputs.failed) == 2 and "o.jsonl" in told[0] and "o.srt" in told[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_lines_on_a_full_disk_are_given_up_once_and_the_rest_is_written(tmp_path):
    """What was left in the file's buffer failed again when it was closed: a traceback."""
    told = []
    outputs = Outputs({"jsonl": "/dev/full", "srt": tmp_path / "o.srt"}, told.append)
    for second in range(3):
        turn = infer.StreamTurn(second, second + 1, "response", (0, 0, 1), "A man.", None, 1.0)
        outputs.add(turn)
    outputs.close()
    assert len(told) == 1 and "No space left" in told[0]
    assert (tmp_path / "o.srt").read_text().count("-->") == 3


def test_a_recording_has_the_frames_at_their_own_seconds(tmp_path):
    """With frames that point forwards, a fragmented film began two pictures late."""
    recorder = Recorder(tmp_path / "a.mp4")
    for second in range(5):
        recorder.add(float(second), np.full((32, 32, 3), 40 * second, np.uint8))
    recorder.close()
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert [frame.time for frame in film.decode(video=0)] == [0, 1, 2, 3, 4]


def test_a_recording_whose_source_came_late_begins_at_its_start(tmp_path):
    """In black: captions are at the seconds of the stream."""
    recorder = Recorder(tmp_path / "a.mp4")
    for second in (3.0, 4.0):
        recorder.add(second, np.full((32, 32, 3), 200, np.uint8))
    recorder.close()
    with av.open(str(tmp_path / "a.mp4")) as film:
        frames = [(frame.time, frame.to_ndarray(format="gray").mean() > 99)
                  for frame in film.decode(video=0)]
    assert frames == [(0, False), (3, True), (4, True)]


def test_quit_is_said_once_and_only_to_what_watches(monkeypatch):
    """Not while files are written: a signal would end that."""
    sent, program = [], Program(None, SimpleNamespace(), (None, None, None))
    monkeypatch.setattr("parts.program.os.kill", lambda *of: sent.append(of))
    session = SimpleNamespace(questions=[])
    program.streams = [SimpleNamespace(session=session, by_second=None)]    # cannot be watched
    program.handle("/quit")                             # a line from before the first second
    assert program.quitting and not sent
    program.watch()
    program.quitting, program.watching = False, True
    program.handle("/quit")
    program.handle("/quit")
    assert len(sent) == 1


def test_questions_of_several_sources_are_told_for_each():
    """One may be open at one source and closed, for it was answered, at another."""
    told, streams = [], []
    for name, closed in (("door", False), ("yard", True)):
        book = Questions()
        what = book.ask("What?", 0, True)
        book.ask("Who?", 12, False)
        if closed:
            what.close("answered")
        streams.append(SimpleNamespace(name=name, session=SimpleNamespace(questions=book.open())))
    program = Program(None, SimpleNamespace(tell=told.append), (None, None, None))
    program.streams = streams
    program.handle("/questions")
    program.streams = streams[:1]
    program.handle("/questions")
    assert told == ["door 1 What? (comes next)\ndoor 2 Who? (waits for 00:12)\n"
                    "yard 2 Who? (waits for 00:12)",
                    "1 What? (comes next)\n2 Who? (waits for 00:12)"]
