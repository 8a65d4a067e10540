"""The demo's lessons: what they move, that they go on, and what their extra losses measure."""
import json
import math
import os
import signal
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import films, launch, parts, run_here

import data
import train
from parts import devices, runs
from toy import datasets, pretrain, steps, world
from toy.world import PLACES


def make(folder, *more):
    """What `python -m toy.pretrain` does, but for its exit code."""
    pretrain.run(pretrain.parser_of(pretrain.Lessons, ""), ["--out", str(folder), *more])


@pytest.fixture
def tiny(monkeypatch):
    """The start before its lessons is a model small enough to train in a blink."""
    monkeypatch.setattr(pretrain, "new_tokenizer", lambda: parts()[0])
    monkeypatch.setattr(pretrain, "new_model", lambda tokenizer: parts()[1])
    monkeypatch.setattr(pretrain, "WATCHING", ((1.0, 200, {"busy": 1.0}),))


def test_the_demos_first_lessons(tmp_path):
    """Seeing changes what is seen with, and leaves visual tokens of no common part; watching
    changes what reads them, and nothing of its own stays behind."""
    tokenizer, model = parts()
    o = pretrain.Lessons(str(tmp_path), see_steps=3, watch_steps=2, workers=0)

    def moved(lesson, *arguments):
        before = {n: p.clone() for n, p in model.named_parameters()}
        lesson(o, *arguments, model, lambda: 0)
        return {n.split(".")[0] for n, p in model.named_parameters()
                if not torch.equal(p, before[n])}

    assert moved(pretrain.learn_to_see) == {"vision_tower", "multi_modal_projector"}
    images = np.stack([datasets.ToyStills(model.config)[i][0] for i in range(100)])
    tokens = model.encode_frames(pretrain.normalised(images)).flatten(0, 1)
    assert tokens.mean(0).norm() < 0.3 * tokens.norm(dim=1).mean()
    assert moved(pretrain.learn_to_watch, tokenizer) == {"multi_modal_projector", "language_model"}
    assert not any(module._forward_hooks for module in model.modules())


def test_numbers_begin_as_waves(monkeypatch):
    """All of one length and no two alike, in 28 directions: a single head can copy them all."""
    monkeypatch.setattr(pretrain, "toy_texts", lambda: [data.SYSTEM])   # a vocabulary made at once
    tokenizer = pretrain.new_tokenizer()
    model = pretrain.new_model(tokenizer)
    words = model.language_model.model.embed_tokens.weight.detach()
    numbers = words[[tokenizer.id(str(n)) for n in range(1000)]]
    likeness = numbers @ numbers.T
    assert torch.allclose(likeness.diagonal(), torch.ones(1000), atol=1e-4)
    assert (likeness - torch.eye(1000)).max() < 0.6
    assert torch.linalg.matrix_rank(numbers) == 28


def test_a_run_without_a_start_makes_one_first_and_once(tmp_path, monkeypatch, tiny, capsys):
    given = []
    for name in ("learn_to_see", "learn_to_watch"):
        monkeypatch.setattr(pretrain, name, lambda *_, name=name: given.append(name))
    arguments = ["--steps", "1", "--out", str(tmp_path)]
    run_here(monkeypatch, *arguments)
    assert "a start is made first" in capsys.readouterr().out
    made = {"config.json", "model.safetensors", "run.json", "tokenizer.json"}
    assert {path.name for path in (tmp_path / "start").iterdir()} == made
    run_here(monkeypatch, "--steps", "2", "--out", str(tmp_path), "--resume")
    assert given == ["learn_to_see", "learn_to_watch"]
    assert "No --model" not in capsys.readouterr().out
    for options in (["--see-steps", "7"], ["--seed", "1"]):
        with pytest.raises(ValueError, match="start/run.json: (see_steps|seed) was"):
            train.prepare(train.parse([*arguments[:2], "--out", str(tmp_path / "x"), *options]),
                          None) if (tmp_path / "x").mkdir(exist_ok=True) else \
                make(tmp_path / "start", *options)


def test_what_a_run_cannot_use_is_told_before_its_lessons(tmp_path, monkeypatch, tiny):
    """Not after an hour of them."""
    def lessons(*_):
        raise AssertionError("the lessons have begun")

    monkeypatch.setattr(pretrain, "make", lessons)
    (tmp_path / "other.json").write_text('{"films": [1, 2]}')
    files = ["--data", str(tmp_path / "other.json"), "--videos", str(tmp_path)]
    for options, ranks, said in (
            (files, 1, "other.json: record 0: no annotation: .* but 'films'; wanted are records"),
            (films(tmp_path), 1, "raw.jsonl: record 7: .*film7: no such file or folder"),
            (["--batch", "3"], 2, "--batch 3: wanted a multiple of .* ranks, 2")):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=said):
            patch.setattr(train, "own_rank", lambda: (0, ranks))
            run_here(monkeypatch, "--steps", "1", *options, "--out", str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_lessons_that_are_stopped_go_on_bit_for_bit(tmp_path, monkeypatch, tiny):
    """Of three steps each: killed in the last of seeing, SIGTERM in the first of watching, which
    is saved, killed in the last of it; by the same command, and by train.py --resume."""
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    descend, begun = pretrain.descend, []
    common = ["--see-steps", "3", "--watch-steps", "3"]

    def lessons(last, function, *arguments, end=None):
        """How many of their steps are begun; step number `last` gets `end`."""
        def until_last(*arguments):
            begun.append(arguments)
            if len(begun) == last:
                end()
            descend(*arguments)
        begun.clear()
        monkeypatch.setattr(pretrain, "descend", until_last)
        with suppress(Killed, runs.Stopped):
            function(*arguments)
        return len(begun)

    alone = [tmp_path / "whole", *common, "--workers", "0", "--save-every", "2"]
    assert lessons(None, make, *alone) == 6
    assert lessons(3, make, tmp_path / "run" / "start", *alone[1:], end=kill) == 3
    run = [monkeypatch, "--out", str(tmp_path / "run"), "--steps", "1"]
    assert lessons(2, run_here, *run, *common,
                   end=lambda: os.kill(os.getpid(), signal.SIGTERM)) == 2
    with safe_open(tmp_path / "run" / "start" / "watch.safetensors", "pt") as state:
        assert state.metadata() == {"step": "1"}
    assert lessons(2, run_here, *run, "--resume", end=kill) == 2
    with pytest.raises(ValueError, match="watch_steps was 3, is 4"):
        lessons(None, run_here, *run, "--see-steps", "3", "--watch-steps", "4")
    assert lessons(None, run_here, *run, "--resume") == 2
    whole, cut = ((tmp_path / out / "model.safetensors").read_bytes()
                  for out in ("whole", "run/start"))
    assert whole == cut and not list((tmp_path / "run" / "start").glob("[sw]*.safetensors"))


def test_a_model_that_can_watch_learns_on(tmp_path, monkeypatch, tiny):
    """It keeps its eyes and its words, and is left as it was; the mix has no drill of words."""
    old, new, mixes = tmp_path / "old", tmp_path / "new", []
    make(old, "--see-steps", "0", "--watch-steps", "0")
    config = json.loads((old / "config.json").read_text()) | {"threshold": 0.6}
    (old / "config.json").write_text(json.dumps(config))
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    for name in ("new_tokenizer", "new_model", "learn_to_see"):
        monkeypatch.setattr(pretrain, name, None)                       # not called any more
    monkeypatch.setattr(pretrain, "AGAIN", ((1.0, 200, {"short": 1.0}),))
    monkeypatch.setattr(pretrain, "ToySteps", lambda films, mix, *rest: mixes.append(mix) or
                        steps.ToySteps(films, mix, *rest))
    make(new, "--model", str(old), "--watch-steps", "2", "--workers", "0")
    assert mixes == [pretrain.AGAIN]
    was, now = (load_file(folder / "model.safetensors") for folder in (old, new))
    moved = {name.split(".")[0] for name in was if not torch.equal(was[name], now[name])}
    assert moved == {"multi_modal_projector", "language_model"}
    assert (new / "tokenizer.json").read_bytes() == before["tokenizer.json"]
    assert json.loads((new / "config.json").read_text()) == config | {"threshold": None}
    for words, error in ((["--model", str(old), "--see-steps", "3"], "--see-steps: "),
                         (["--model", f"{new}/../new"], "--model is read from there"),
                         (["--model", str(tmp_path / "none"), "--watch-steps", "2"],
                          "model was .*old, is .*none: take another folder")):
        with pytest.raises(ValueError, match=error):
            make(new, *words)
    make(new, "--model", f"{old}/../old", "--watch-steps", "2", "--workers", "0")     # it is made
    with pytest.raises(ValueError, match="none: no such folder"):
        make(tmp_path / "typo", "--model", str(tmp_path / "none"))
    assert not (tmp_path / "typo").exists()
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_what_tells_a_label_tells_it():
    """The loss of a head that is right is near 0; wrong in any one part it is not."""
    label = torch.tensor([[3.0, 2, 0.4, 0.6, 0.1, 5, 3, 2]])
    right = torch.zeros(1, sum(datasets.ToyStills.parts))
    right[0, 3] = right[0, 7 + 2] = right[0, 15 + 5] = 20
    right[0, 12:15] = label[0, 2:5]
    right[0, -9 + PLACES.index("in the centre")] = 20                       # of (0.4, 0.6)
    assert pretrain.shown_loss(right, label) < 1e-3
    for k in (3, 9, 12, 13, 14, 20, -5):
        wrong = right.clone()
        wrong[0, k] += 1 if 12 <= k < 15 else -40
        assert pretrain.shown_loss(wrong, label) > 1
    right[0, 0], label[0, 0] = 40, 0                        # an empty scene: no shape, no place
    assert pretrain.shown_loss(right, label) < 1e-3
    many = torch.cat([torch.full((1, 8), 2.0), torch.zeros(3, 8)])          # one cell of four
    told = torch.zeros(4, right.shape[1])
    uniform = [math.log(n) for n in datasets.ToyStills.parts if n > 3]
    assert pretrain.shown_loss(told, many).item() == pytest.approx(
        uniform[0] + uniform[1] + 20 + 3 * uniform[2] + uniform[3], rel=1e-5)


def test_a_lesson_steps_by_the_mean_of_the_ranks_gradients(monkeypatch):
    """Two parameters, two ranks, one message; the other rank's gradients are 0, 0.02, ... 0.18."""
    monkeypatch.setattr(devices.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(pretrain, "own_rank", lambda: (0, 2))
    others = iter([torch.arange(10) / 100])
    monkeypatch.setattr(devices.dist, "all_reduce", lambda own: own.add_(next(others)))
    matrix, vector = (torch.nn.Parameter(torch.zeros(size)) for size in ((2, 3), (4,)))
    loss = 0.1 * matrix.sum() + 0.3 * vector.sum()
    pretrain.descend([torch.optim.SGD([matrix, vector])], loss, 10)
    expected = -10 * (torch.tensor([0.1] * 6 + [0.3] * 4) + torch.arange(10) / 50) / 2
    torch.testing.assert_close(torch.cat([matrix.detach().flatten(), vector.detach()]), expected)


def lessons_of_rank(rank, folder):
    """A lesson of four steps as a whole, and as one that is stopped after two and goes on."""
    devices.dist.init_process_group("gloo")

    def learn(out, most):
        torch.manual_seed(0)
        model, begun = torch.nn.Linear(3, 2), []
        optimizers = [torch.optim.AdamW(model.parameters())]
        o = pretrain.Lessons(str(folder / out), save_every=100)

        def batches(first):
            return [torch.full((1, 3), 1.0 + step + rank) for step in range(first, 4)]

        with suppress(runs.Stopped):
            for step, batch, _ in pretrain.lesson(o, "watch", 4, lambda: len(begun) == most and 15,
                                                  batches, optimizers, model):
                pretrain.descend(optimizers, model(batch).square().sum(), 0.1)
                begun.append(step)
        devices.all_gather(None)                              # till the first has written
        return begun, model.weight.detach()

    whole, stopped, gone_on = (learn(*run) for run in (("a", 9), ("b", 2), ("b", 9)))
    assert (whole[0], stopped[0], gone_on[0]) == ([0, 1, 2, 3], [0, 1], [2, 3])
    assert torch.equal(whole[1], gone_on[1]) and not torch.equal(whole[1], stopped[1])
    devices.dist.destroy_process_group()


def test_lessons_of_several_ranks_go_on_too(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert launch(2, lessons_of_rank, tmp_path) == [0, 0]


def test_muon_moves_the_matrices_of_the_decoders_layers_at_a_rate_that_falls(tmp_path, monkeypatch):
    tokenizer, model = parts()
    steps, own = [], pretrain.descend
    monkeypatch.setattr(pretrain, "descend", lambda optimizers, loss, *rates: (
        steps.append((optimizers, rates)), own(optimizers, loss, *rates)))
    o = pretrain.Lessons(str(tmp_path), watch_steps=2, workers=0, lr=1, decay=100, muon=3)
    pretrain.learn_to_watch(o, tokenizer, model, lambda: 0)
    assert [rates for _, rates in steps] == [(0.01, 0.03), (0.005, 0.015)]
    adamw, muon = ({id(p) for p in one.param_groups[0]["params"]} for one in steps[0][0])
    layers = model.language_model.model.layers
    assert muon == {id(p) for p in layers.parameters() if p.ndim == 2} and not muon & adamw
    learnt = {id(p) for p in model.parameters() if p.requires_grad}
    assert learnt - muon <= adamw and len(adamw | muon) == len(learnt) + 6     # of the two heads
    assert len(pretrain.watching_optimizers(pretrain.Lessons("x", muon=0), model)) == 1


def test_the_command_that_goes_on_says_what_was_said():
    """Also a 0, which is no False, and a False."""
    parser = pretrain.parser_of(pretrain.Lessons, "")
    for o in (pretrain.Lessons(), pretrain.Lessons("x", muon=0.0, decay=0.0, workers=0, seed=0),
              pretrain.Lessons("my y", "m", 3, 4, 0.5, 1.0, 0.1, "no-narration", 7, 2, False, 9)):
        words = list(pretrain.spoken(o))
        assert pretrain.Lessons(**vars(parser.parse_args(words))) == o
    assert list(pretrain.spoken(pretrain.Lessons())) == []


def test_a_start_of_before_an_option_was_is_what_it_was(tmp_path):
    """It had all tasks, and no Muon."""
    o = pretrain.Lessons(str(tmp_path), muon=0.0, decay=0.0)
    was = {name: value for name, value in vars(o).items()
           if name not in ("model", "tasks", "muon", "decay")}
    (tmp_path / "run.json").write_text(json.dumps({"config": was, "processes": 1}))
    pretrain.check_same(o)
    for other in ({"muon": 2.0}, {"tasks": "no-narration"}, {"model": "x"}):
        with pytest.raises(ValueError, match=f"{[*other][0]} was .* take another folder"):
            pretrain.check_same(replace(o, **other))


def test_a_model_that_is_not_of_lessons_is_not_taken_for_a_start(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"of something else")
    with pytest.raises(SystemExit):
        pretrain.main(["--out", str(tmp_path)])
    assert "there is a model in it that is not of lessons" in capsys.readouterr().err


def test_what_a_token_is_to_say():
    """Worked by hand, for "a red circle grows .", a blue star that shrinks in second 7, one that
    turns red then, nothing, and "on the left", which is no action. Words 0 to 1019 are the colours,
    shapes, changes, numbers; 5000 is a frame."""
    colours, shapes, changes, _ = (list(part) for part in (
        world.COLOURS, world.SHAPES, world.CHANGES[1:], range(1000)))
    red, circle = colours.index("red"), shapes.index("circle")
    grows, shrinks = changes.index("grows"), changes.index("shrinks")
    n, m = len(colours), len(colours) + len(shapes)
    left, indices = m + changes.index("left"), pretrain.word_indices(torch.arange(1020), 5001)
    assert indices[n + circle].tolist() == [-1, circle, -1] and indices[1019].tolist() == [-1] * 3
    ids = torch.tensor([[3000, red, n + circle, m + grows, 3000, 5000, 5000, 5000, left]
                        + [3000] * 4])
    blue, star = colours.index("blue"), shapes.index("star")
    turns, thing = changes.index("turns"), (0.5, 0.5, 0.1)
    shown = torch.tensor([[1 + blue, star, *thing, 1 + shrinks, 1 + blue, star, 0, 7],
                          [1 + red, star, *thing, 1 + turns, 1 + blue, star, 0, 7],
                          [0.0, 0, 0, 0, 0, 0, 0, 0, 0, 7]])
    targets = pretrain.said_targets(ids, indices, ids == 5000, shown)[0].tolist()
    name, does, none = [red, circle, -1, -1], [red, circle, grows, -1], [-1] * 4
    assert targets == [none, none, name, does, does, [blue, star, shrinks, 7],
                       [blue, star, turns, 7], [-1, -1, -1, 7], does, does, does, none, none]


def test_sentences_of_what_goes_on_have_their_verb_as_captions_have():
    """Worked by hand: "a red circle is growing .", "... is moving left", "... on the left"."""
    changes = world.CHANGES[1:]
    m = len(world.COLOURS) + len(world.SHAPES)
    red, circle = [*world.COLOURS].index("red"), len(world.COLOURS)
    grows, left = (m + changes.index(word) for word in ("grows", "left"))
    growing, the, word = 1500, 1501, 1502
    indices = pretrain.word_indices(torch.arange(1020), 1600, [(growing, grows)], the)
    ids = torch.tensor([[word, red, circle, word, growing, word, word],
                        [word, red, circle, word, word, left, word],
                        [word, red, circle, word, the, left, word]])
    no = torch.zeros_like(ids, dtype=torch.bool)
    told = pretrain.said_targets(ids, indices, no, torch.zeros(0, 10))[..., 2].tolist()
    grow, go = changes.index("grows"), changes.index("left")
    assert told == [[-1] * 4 + [grow] * 3, [-1] * 5 + [go] * 2, [-1] * 7]


def test_a_token_that_says_it_has_no_loss():
    """Near 0 where every word is right, above 1 where one is wrong, 0 with nothing to say."""
    sizes = datasets.ToyFilms.said
    targets = torch.tensor([[[2, 4, 8, 999], [-1, -1, -1, -1], [0, 0, -1, -1]]])
    right = torch.zeros(1, 3, sum(sizes))
    firsts = np.cumsum([0, *sizes])
    for k, words in enumerate(targets[0].tolist()):
        for first, word in zip(firsts, words):
            if word >= 0:
                right[0, k, first + word] = 30
    assert pretrain.said_loss(right, targets) < 1e-3
    for k, part, word in ((0, 0, 2), (0, 1, 4), (0, 2, 8), (0, 3, 999), (2, 0, 0), (2, 1, 0)):
        wrong = right.clone()
        wrong[0, k, firsts[part] + word] = -30
        assert pretrain.said_loss(wrong, targets) > 1
    assert pretrain.said_loss(right, torch.full_like(targets, -1)) == 0
