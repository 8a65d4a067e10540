"""Training: the gradient however a step is split, one step, the recipe, clear errors."""
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from small import films, launch, parts, run_here, saved_parts, told

import data
import train
from infer import stream
from loss import state_focal_loss
from parts import devices, engine, runs
from streamo import Streamo, Tokenizer
from toy import datasets
from toy.dialogues import sample
from toy.steps import ToySteps
from toy.wordings import KNOWN

SPLITS = [[0, 1, 2, 3, 4, 5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]]


# ---- The gradient

def gradient(groups, *options, own=False):
    """(all gradients as one vector, loss, learner) of a step with these micro-batches of this
    rank."""
    tokenizer, model = parts()
    dataset = datasets.ToyDataset(tokenizer, model.config, 3)
    batches = []
    for group in groups:
        items = [dataset["one" if i < 2 else "short", i] for i in group]  # unequal lengths
        batches.append(data.collate(items, tokenizer.pad_id))
    learner = train.Learner(train.parse(["--no-autocast", "--train", "all", *options]), tokenizer,
                            model)
    log = learner.backward(batches, own)
    found = [engine.whole(p.grad).flatten() for p in learner.model.parameters()]
    return torch.cat(found), log["loss"], learner


def gradients_of_rank(rank, out):
    """As replicas, whose second step must use the buffers of the first; in shards; and in shards
    with recomputed layers."""
    dist.init_process_group("gloo")
    mine, found = SPLITS[1][2 * rank:2 * rank + 2], []     # rank 0 holds the stills: no Standby
    for options in ([], ["--shard"], ["--shard", "--checkpoint-layers"]):
        *results, learner = gradient(mine, *options)
        found.append(results)
        held = sum(p.grad.to_local().nbytes if "--shard" in options else p.grad.nbytes
                   for p in learner.learnt)
        places = [engine.whole(p.grad).data_ptr() for p in learner.learnt]
        learner.optimizers[0].zero_grad(set_to_none=learner.distributed is learner.model)
        if not options:                                     # kept once: buffers hold them
            assert all(p.grad.untyped_storage().nbytes() > p.grad.nbytes for p in learner.learnt)
            assert places == [p.grad.data_ptr() for p in learner.learnt]
        found[-1].append(held)
    # a past of one's own, which the model is asked for beside its wrapper
    replicas, shards = (gradient(mine, *options, own=True)[1] for options in ([], ["--shard"]))
    assert abs(replicas - shards) < 1e-4
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


@pytest.mark.long
def test_the_gradient_does_not_depend_on_how_a_step_is_split(tmp_path):
    """A mean of micro-batch means, or counts of a micro-batch alone, would change it."""
    whole, loss, _ = gradient(SPLITS[0])
    others = [gradient(SPLITS[1])[:2]]
    assert launch(2, gradients_of_rank, tmp_path / "out") == [0, 0]
    *ranks, = torch.load(tmp_path / "out")
    others += [found[:2] for found in ranks]
    for other, other_loss in others:
        assert (other - whole).norm() / whole.norm() < 1e-6
        assert other_loss == pytest.approx(loss, rel=1e-6)
    assert ranks[1][2] < 0.6 * ranks[0][2] == 0.6 * 4 * len(whole)      # a shard is a part
    assert (gradient(SPLITS[1][:2])[0] - whole).norm() / whole.norm() > 0.05  # it can fail


# ---- One step

def test_matrices_are_multiplied_in_bfloat16_only_where_the_hardware_does_it(monkeypatch):
    """A CPU without the instructions takes a hundred times as long as in float32."""
    o, square = train.parse([]), torch.ones(2, 2)

    def product(o):
        with devices.autocast(o, torch.device("cpu")):
            return (square @ square).dtype

    for names, dtype in ((["avx2"], torch.float32), (["avx2", "amx_bf16"], torch.bfloat16),
                         (["avx512_bf16"], torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
        assert product(o) == dtype
        assert product(train.parse(["--no-autocast"])) == torch.float32
        assert devices.in_bfloat16(o, gpu=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: emulated)     # a T4
    assert not devices.in_bfloat16(o, gpu=True)


def learner(*arguments):
    tokenizer, model = parts()
    dataset = datasets.ToyDataset(tokenizer, model.config, 3)
    learner = train.Learner(train.parse(["--no-autocast", *arguments]), tokenizer, model)
    return learner, dataset, data.collate([dataset["one", 0]], tokenizer.pad_id)


@pytest.mark.parametrize("train_, moving", [
    ("connector", {"multi_modal_projector"}),
    ("connector+decoder", {"multi_modal_projector", "language_model"}),
    ("all", {"multi_modal_projector", "language_model", "vision_tower"})])
def test_frozen_parts_do_not_move(train_, moving):
    learn, _, batch = learner("--train", train_)
    before = {n: p.clone() for n, p in learn.model.named_parameters()}
    learn.step([batch], 1e-2)
    assert {n.split(".")[0] for n, p in learn.model.named_parameters()
            if not torch.equal(p, before[n])} == moving


def test_a_past_of_its_own_changes_silence_and_standby_alone(monkeypatch):
    learn, dataset, _ = learner()
    quiet = learn.state_ids[:2]
    batch = next(batch for batch in (data.collate([dataset["short", i]], 0) for i in range(99))
                 if torch.isin(quiet, batch["labels"]).all())
    inputs = data.model_inputs(batch, "cpu")
    mask = torch.nn.functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    ids, (silence, standby, response) = batch["input_ids"], learn.state_ids
    said = torch.zeros(int((mask & torch.isin(ids.roll(-1, 1), quiet)).sum()),
                       learn.model.config.decoder.vocab_size)
    said[:, standby], said[:, response] = 1, 2
    with monkeypatch.context() as guess:
        guess.setattr(learn.model, "forward", lambda *_, **__: said)
        past = learn.own_past(inputs, mask)
    mine = (batch["labels"] != -100) & torch.isin(ids, quiet)
    assert (ids[mine] == silence).any() and (past[mine] == standby).all()
    assert torch.equal(past[~mine], ids[~mine]) and past is not ids
    plain, own = (learn.backward([batch], own)["loss"] for own in (False, True))
    assert plain == learn.backward([batch])["loss"] != own


def test_a_wrong_guess_leads_to_the_next_ones():
    """A model that stands by where its last words were Standby, and in the first second: each
    reading of its own past takes the error a second further. The film is seen once."""
    learn, _, _ = learner()
    (silence, standby, _), size = learn.state_ids.tolist(), learn.model.config.decoder.vocab_size
    ids = torch.tensor([[9, silence] * 6])
    mask = torch.tensor([[True, False] * 6])

    def guess(input_ids, features, select):
        said = torch.zeros(6, size)
        past = [standby, *input_ids[0, 1:-1:2].tolist()]
        for k, word in enumerate(past):
            said[k, word] = 1
        return said

    learn.model.forward, seen = guess, []
    learn.model.features = lambda *frames: seen.append(frames)
    past = learn.own_past({"input_ids": ids, "pixels": 1, "frames": 2, "grids": 3}, mask)
    assert seen == [(1, 2, 3)]
    assert train.GUESSES == 3
    assert past[0, 1::2].tolist() == [standby] * 3 + [silence] * 3
    assert (past[0, ::2] == 9).all() and (ids[0, 1::2] == silence).all()


def test_a_gradient_that_is_not_finite_names_samples_and_parameter():
    """The clipping spoils the gradients of all: the one at fault must be named all the same."""
    learn, _, batch = learner()
    norm = learn.model.language_model.model.layers[1].post_attention_layernorm
    norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = norm.weight.clone()
    with pytest.raises(ValueError, match=r"bad parameter: language_model.model.layers.1.post_att"
                                         r"ention_layernorm.weight; .*toy 3/one/0"):
        learn.step([batch], 1e-3)
    assert torch.equal(norm.weight, before)


def test_two_states_leave_no_standby():
    _, dataset, _ = learner()
    two, waited = data.Readable(dataset, 9999, states=2), 0
    standby = dataset.tokenizer.id("</Standby>")
    for i in range(20):
        item, three = two["short", i], dataset["short", i]
        head = len(data.system_part(dataset.tokenizer))         # the prompt that it is tested under
        assert item["input_ids"][:head] == data.system_part(dataset.tokenizer)
        assert standby not in [*item["labels"], *item["input_ids"][head:]]
        waited += standby in three["labels"]
    assert waited > 2


@pytest.mark.long
def test_four_clips_are_learnt_in_30_steps_and_streamed_back():
    tokenizer, model = parts(
        dict(hidden_size=64, intermediate_size=128, image_size=32, patch_size=8),
        dict(hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=4,
             head_dim=32))
    o = train.parse(["--steps", "30", "--lr", "0.004", "--warmup", "0.1", "--train", "all",
                     "--weight-decay", "0", "--no-autocast"])
    dataset = datasets.ToyDataset(tokenizer, model.config, 10, augment=data.PLAIN)
    batch = data.collate([dataset["short", i] for i in range(4)], tokenizer.pad_id)
    learn = train.Learner(o, tokenizer, model)
    for step in range(o.steps):
        log = learn.step([batch], train.learning_rate(o, step))
    assert log["loss"] < 0.01 and log["state_accuracy"] == log["text_accuracy"] == 1
    for i in range(4):
        clip, record = sample(10, i, "short")
        wanted = data.turns_from_record(record, clip.seconds)
        questions = [(turn.second, turn.question) for turn in wanted if turn.question]
        frames = ((second, clip.frame(second, 32)) for second in range(clip.seconds))
        for turn, want in zip(stream(model, tokenizer, frames, questions), wanted, strict=True):
            assert (turn.state, turn.text) == (want.state.strip("</>").lower(), want.text)


def test_a_sample_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"raw\.jsonl: record 7: .*film7: no such file"):
        run_here(monkeypatch, *saved_parts(tmp_path / "start"), *films(tmp_path), "--batch", "8",
                 "--out", str(tmp_path / "out"))
    _, dataset, _ = learner()
    with pytest.raises(ValueError, match=r"toy 3/short/5: \d+ tokens, more than --max-tokens 50"):
        data.Readable(dataset, 50)["short", 5]
    lengths = [dataset["short", i]["length"] for i in range(9)]
    i = next(i for i in range(8) if lengths[i] > lengths[i + 1])
    item = data.Readable(dataset, lengths[i + 1], bad_list=tmp_path / "bad.txt")["short", i]
    assert item["name"] == f"toy 3/short/{i + 1}"
    assert f"toy 3/short/{i}: {lengths[i]} tokens" in (tmp_path / "bad.txt").read_text()


def test_what_a_step_reads_is_as_many_micro_batches_for_each_rank():
    """Also where samples are longer than a micro-batch should be; all that is read is read once."""
    dataset = learner()[1]
    for step in ToySteps(dataset, ((1.0, 100, {"short": 1.0}),), 12, seed=0, world=2), \
            data.EpochSteps(dataset, 6, 300, world=2):
        for n in range(12):
            groups = step[n]
            assert len(groups) % 2 == 0 and all(groups)
    epoch = data.EpochSteps(dataset, 6, 300, world=3)
    keys = [key for n in range(4) for group in epoch[n] for key in group]
    assert sorted(keys) == list(range(24))
    seen = [[batch["names"] for batch in step]
            for step in data.loaded(dataset, dataset.tokenizer, epoch, [3, 1], 0, 1, 3)]
    assert seen == [[[f"toy 3/full/{key}" for key in group] for group in epoch[n][1::3]]
                    for n in (3, 1)]


@pytest.mark.parametrize("tasks, left_out", [("no-narration", "Real-time Narration"),
                                             ("no-backward-grounding", "Backward Grounding")])
def test_a_task_that_is_left_out_is_asked_for_in_no_dialogue(tasks, left_out):
    """By the questions' words; with all tasks it is asked for."""
    dataset, asked = learner()[1], {}
    forms = [re.sub(r"\\{.*?\\}", ".*", re.escape(wording)) for wording in KNOWN[left_out]]
    for which in ("all", tasks):
        steps = ToySteps(dataset, ((1.0, 2500, {"short": 9, "long": 1}),), 8, 0, 1, which)
        keys = [key for n in range(8) for group in steps[n] for key in group]
        asked[which] = sum(bool(re.fullmatch("|".join(forms), question["content"]))
                           for key in keys for question in sample(3, key[1], key[0])[1]["question"])
    assert asked["all"] >= 1 and asked[tasks] == 0


# ---- The recipe

def test_the_first_step_learns_whatever_the_schedule():
    for arguments in ([], ["--preset", "demo"], ["--steps", "1"], ["--warmup", "0"],
                      ["--batch", "4", "--steps", "7", "--warmup", "1"]):
        o = train.parse(arguments)
        rates = [train.learning_rate(o, step) for step in range(o.steps)]
        assert min(rates) > 0 and max(rates) <= o.lr
    o = train.parse([])
    assert train.learning_rate(o, 0) < 0.1 * o.lr                           # a rise
    assert train.learning_rate(o, 24) == pytest.approx(1e-3, rel=0.05)
    assert train.learning_rate(o, o.steps // 2) == pytest.approx(0.55e-3, rel=0.15)    # a cosine
    assert train.learning_rate(o, o.steps - 1) < 0.03 * o.lr


def test_the_last_steps_learn_by_cross_entropy_as_the_recipe_says(tmp_path, monkeypatch, capsys):
    """The share of --ce-share, to the step; a toy run has one, one of --data does not."""
    o = train.parse(["--steps", "10", "--ce-share", "0.25", "--loss", "alpha", "--save-every", "99",
                     "--model", "assets/tiny", "--out", str(tmp_path / "run"), "--lr", "0"])
    kinds = []

    def loss(*args):
        kinds.append(args[-1])
        return state_focal_loss(*args)

    monkeypatch.setattr(train, "state_focal_loss", loss)
    monkeypatch.setattr(train, "steps_of", lambda *_: [[[("one", n)]] for n in range(10)])
    train.run(o)
    assert kinds == ["alpha"] * 8 + ["ce"] * 2
    assert "; from step 9 on by cross entropy\n" in capsys.readouterr().out
    own = ["--data", "a.json", "--videos", "b"]
    shares = [train.parse(words).ce_share for words in (
        [], ["--preset", "demo"], own, ["--preset", "paper", *own])]
    assert shares == [0.3, 0.3, 0, 0]
    o = train.parse(["--ce-share", "0.7", "--steps", "10"])
    assert [train.loss_kind(o, step) for step in range(10)] == ["focal"] * 3 + ["ce"] * 7
    o = train.parse(["--ce-share", "0"])
    assert {train.loss_kind(o, step) for step in range(o.steps)} == {"focal"}


def test_a_small_data_set_of_ones_own_is_learnt(tmp_path, monkeypatch, capsys):
    """With nothing said but where it is: batches of at most a quarter, several epochs."""
    start, records = saved_parts(tmp_path / "start"), films(tmp_path)
    lines = (tmp_path / "raw.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "raw.jsonl").write_text("".join(lines[:3]))
    o = run_here(monkeypatch, *start, *records, "--out", str(tmp_path / "out"))
    assert (o.batch, o.steps, o.save_every) == (1, 60, 15)
    log, said = told(tmp_path / "out"), capsys.readouterr().out
    assert log[0]["lr"] > 0 and log[-1]["loss"] < 0.7 * log[0]["loss"]
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "out/model"))
    moved = {k.split(".")[0] for k in old if not torch.equal(old[k].bfloat16(), new[k])}
    assert moved == {"multi_modal_projector", "language_model"}
    words = [line.split()[0] for line in said.splitlines()]
    assert words == ["start", "data", "learns", "recipe", "time", "Trained."]
    assert "3 records, 12 seconds by their own times" in said and "frozen: vision encoder" in said
    assert said.rstrip().endswith(f"--model {tmp_path / 'out' / 'model'}")


@pytest.mark.parametrize("records, world, batch, steps", [
    (2, 1, 1, 40), (8, 1, 2, 80), (8, 2, 2, 80), (5, 4, 4, 25), (600, 1, 32, 94),
    (100_000, 8, 32, 3125)])
def test_the_recipe_fits_the_number_of_records(records, world, batch, steps):
    _, model = parts()
    o = train.parse(["--data", "x.json", "--videos", "x"])
    train.fit(o, model, range(records), world)
    assert (o.batch, o.steps) == (batch, steps) and not o.checkpoint_layers
    assert 1 <= o.save_every <= max(1, o.steps / 3) and o.lr == 5e-4
    o = train.parse(["--data", "x.json", "--videos", "x", "--preset", "paper"])
    train.fit(o, model, range(records), world)
    assert (o.batch, o.lr, o.steps) == (512, 1e-5, -(-records // 512))


# ---- Errors

@pytest.mark.parametrize("arguments, words", [
    (["--vision", "x"], "--vision and --decoder together"),
    (["--data", "x.json"], "--data and --videos go together"),
    (["--data", "x.json", "--videos", "x", "--model", "assets/tiny"], "x.json"),
    (["--no-such"], "--no-such"),
    (["--lr", "fast"], "--lr"),
    (["--model", ""], "--model: a name is wanted"),
    (["--out", ""], "--out: a name is wanted"),
    (["--lr", "nan"], "--lr nan: between 0 and 10"),
    (["--lr", "inf"], "--lr inf"),
    (["--save-every", "-1"], "--save-every -1: at least 0"),
    (["--vision-chunk", "-1"], "--vision-chunk -1: at least 0"),
    (["--batch", "8", "--tasks", "grounding+caption"], "--tasks"),
    (["--data", "x.json", "--videos", "x", "--tasks", "no-narration"], "without --data"),
    (["--muon", "2", "--train", "states"], "nothing to --muon"),
    (["--muon", "2", "--train", "connector"], "nothing to --muon"),
    (["--shard", "--model", "assets/tiny"], "--shard: there is one process"),
    (["--warmup", "7"], "--warmup 7.0: between 0 and 1"), (["--seed", "9" * 20], "--seed 99999"),
    (["--data", "x:0", "--videos", "x"], "x:0: a weight"),
    (["--data", "x:.", "--videos", "x"], "x:."),
    (["--model", "assets/tiny", "--see-steps", "9"], "--see-steps, --watch-steps: of"),
    (["--steps", "9", "--epochs", "9"], "--epochs and --steps"),
    (["--states", "2", "--own-every", "4"], "--own-every: of a past of Silence and Standby"),
    (["--model", "nowhere"], "nowhere")])
def test_bad_options_end_with_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        train.main(["--out", str(tmp_path / "out"), *arguments])
    said = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(said) == 1
    assert words in said[0] and said[0].startswith("train.py: ")


def wrong_on_one_rank(rank, arguments, wrong, said):
    """train.main on two ranks; the sample of rank `wrong` alone, or a flag of both, is wrong."""
    read = data.Readable.read

    def fails(self, key):
        if rank == wrong:
            raise ValueError(f"raw.jsonl: record {key}: spoilt")
        return read(self, key)

    data.Readable.read = fails
    with open(f"{said}-{rank}", "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", file)
        train.main(arguments)


@pytest.mark.parametrize("wrong, more, line", [
    (1, [], "train.py: raw.jsonl: record "), (None, ["--batch", "3"], "train.py: --batch 3: ")])
def test_of_several_ranks_one_says_what_is_wrong(tmp_path, wrong, more, line):
    arguments = [*saved_parts(tmp_path / "start"), *films(tmp_path), "--workers", "0", "--out",
                 str(tmp_path / "out"), *more]
    shutil.copytree(tmp_path / "film0", tmp_path / "film7")
    assert launch(2, wrong_on_one_rank, arguments, wrong, tmp_path / "said") == [2, 2]
    said = [text for rank in (0, 1) for text in (tmp_path / f"said-{rank}").read_text().split("\n")
            if text and "it/s" not in text and "s/it" not in text]
    assert len(said) == 1 and said[0].startswith(line)


def test_an_error_of_a_worker_is_its_last_line():
    page = ValueError("Caught ValueError in process 0.\nOriginal Traceback:\n  ...\n"
                      "ValueError: raw.json: record 3: spoilt\n")
    assert runs.in_a_line(page) == "raw.json: record 3: spoilt"
    assert "fewer --workers" in runs.in_a_line(RuntimeError("DataLoader worker (pid 3) is killed"))
    assert "--micro-tokens" in runs.in_a_line(torch.OutOfMemoryError("CUDA out of memory"))
    assert runs.in_a_line(RuntimeError("a fault of ours")) is None


def test_training_the_states_alone_changes_their_rows_and_the_last_norm(tmp_path):
    """Four matrices' worth of nothing else: no other weight, not even a bit of it."""
    tiny = Path(__file__).parents[1] / "assets/tiny"
    train.main(["--model", str(tiny), *films(tmp_path), "--out", str(tmp_path / "run"),
                "--steps", "2", "--train", "states", "--workers", "0", "--skip-bad"])
    before = Streamo.from_pretrained(tiny, torch.float32).state_dict()
    last = train.last_checkpoint(tmp_path / "run")
    after = Streamo.from_pretrained(last, torch.float32).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    head = "language_model.model.embed_tokens.weight"
    assert changed == {head, "language_model.model.norm.weight"}
    rows = (before[head] != after[head]).any(1).nonzero()[:, 0].tolist()
    assert rows == sorted(Tokenizer.from_pretrained(tiny).state_ids)


def test_of_the_states_alone_no_weight_decays():
    """A head that is not tied is a matrix, which decays where all of it learns."""
    for states, decays in (("states", {0.0}), ("all", {0.0, 0.1})):
        o = train.parse(["--train", states, "--weight-decay", "0.1", "--muon", "0"])
        tokenizer, model = parts()
        train.choose(o, model)
        (optimizer,) = train.Learner(o, tokenizer, model).optimizers
        assert {group["weight_decay"] for group in optimizer.param_groups} == decays


@pytest.mark.parametrize("name", ["log.jsonl", "run.json", "bad.txt"])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to, None])
def test_a_run_writes_over_no_annotations(tmp_path, capsys, name, link):
    """Neither where they lie in its folder, nor where a name in it leads to them."""
    start, records = saved_parts(tmp_path / "start"), films(tmp_path)
    raw, own = tmp_path / "raw.jsonl", tmp_path / "run" / name
    own.parent.mkdir()
    before = raw.read_bytes()
    if link:
        link(own, raw)
    else:
        raw.rename(own)
        records = [str(own) if word == str(raw) else word for word in records]
    with pytest.raises(SystemExit) as end:
        train.main([*start, *records, "--workers", "0", "--out", str(own.parent)])
    assert end.value.code == 2 and "would write over --data" in capsys.readouterr().err
    assert own.read_bytes() == before and [*own.parent.iterdir()] == [own]


@pytest.mark.parametrize("words, what", [
    (["--epochs", "1e308", *"--data x --videos y".split()], "--epochs 1e+308"),
    (["--data", "x:99999999999", "--videos", "y"], "--data x:99999999999: a weight"),
    (["--lr", "1e300"], "--lr 1e+300"), (["--batch", "1000000000"], "--batch 1000000000"),
    (["--fps", "1000000"], "--fps 1000000"), (["--workers", "100000"], "--workers 100000"),
    (["--epochs", "2"], "--epochs: of --data"), (["--eval-videos", "2"], "--eval-videos: of"),
    (["--train", "all", "--vision-chunk", "9"], "--vision-chunk: of a frozen encoder"),
    (["--micro-tokens", "300"], "--micro-tokens: of --data or --batch"),
    (["--skip-bad"], "--skip-bad: of --data"),
    (["--train", "states", "--checkpoint-layers"], "nothing to recompute")])
def test_what_no_run_could_use_is_refused(words, what):
    with pytest.raises(ValueError, match=re.escape(what)):
        runs.weighted(train.parse(words).data)


def test_a_threshold_is_of_the_weights_that_it_was_found_for(tmp_path, monkeypatch):
    """A training moves the probabilities: its model says a thing where it is likeliest, until
    eval.py threshold has looked again."""
    start = tmp_path / "start"
    saved_parts(start)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(config | {"threshold": 0.6, "window": 31}))
    assert Streamo.from_pretrained(start).config.threshold == 0.6
    run_here(monkeypatch, "--model", str(start), "--steps", "1", "--out", str(tmp_path / "run"))
    trained = Streamo.from_pretrained(tmp_path / "run" / "model").config
    assert trained.threshold is None and trained.window == 31


@pytest.mark.parametrize("arguments, words", [
    (["--out", "start"], "--out start: would write over --model"),
    (["--out", "run", "--estimate"], None)])
def test_a_run_writes_over_no_start_and_an_estimate_needs_one(tmp_path, monkeypatch, arguments,
                                                              words, capsys):
    monkeypatch.chdir(tmp_path)
    if words:
        saved_parts(tmp_path / "start")
        before = (tmp_path / "start/config.json").read_bytes()
        with pytest.raises(SystemExit) as end:
            train.main(["--model", "start", *films(tmp_path), "--workers", "0", *arguments])
        assert end.value.code == 2 and words in capsys.readouterr().err
        assert (tmp_path / "start/config.json").read_bytes() == before
        assert not (tmp_path / "start/run.json").exists()
    else:
        with pytest.raises((OSError, ValueError), match="gone"):
            train.start(train.parse(["--model", "gone", *arguments]))
