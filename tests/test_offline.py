"""An offline model in the loop: its own prompt, its cache against the prompt read anew.

    pip install transformers && python tests/test_offline.py      # writes tests/golden/offline.*
"""
import json
from itertools import count
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from make_golden import GOLDEN, weight, write_folder
from PIL import Image

import eval as ev
import infer
from parts.offline import OfflineSession, OfflineStream, Prompt, same, sampled, template_texts
from streamo import FRAME, STATES, Streamo, Tokenizer

FRAMES, QUESTION, NEW = 5, "What is shown?", 8
TEXTS = ["<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
         "\nWhat is shown?<|im_end|>\n<|im_start|>assistant\n"] * 30


def vocabulary():
    """A small vocabulary with the video's token, as a converted folder has it."""
    tokenizer = Tokenizer.train(TEXTS, 1300)
    tokenizer.add_tokens(["<image>", "<video>"])
    return tokenizer


def pixels():
    rng = np.random.default_rng(11)
    return torch.from_numpy(rng.uniform(-1, 1, (FRAMES, 3, 38, 38)).astype(np.float32))


def template(role="\\n", video="\\n", text="", end="' + '\\n"):
    """A chat template as LLaVA-OneVision's converted folders hold it, in one of its spellings."""
    said = f"{{{{ '{text}' + content['text'] }}}}" if text else "{{ content['text'] }}"
    return ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '" + role + "'}}"
            "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
            "{{ '<video>" + video + "' }}{% endfor %}" + said + "{{'<|im_end|>" + end + "'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


@pytest.mark.parametrize("spelling, texts", [
    ({}, ("<|im_start|>user\n", "\n", "<|im_end|>\n<|im_start|>assistant\n")),
    (dict(role=" ", video="", text="\\n", end=""),
     ("<|im_start|>user ", "\n", "<|im_end|><|im_start|>assistant\n")),
    (dict(video="", text="\n", end=""),
     ("<|im_start|>user\n", "\n", "<|im_end|><|im_start|>assistant\n"))])
def test_the_known_templates(spelling, texts):
    assert template_texts(template(**spelling), "x") == texts


@pytest.mark.parametrize("unknown", [
    "{{ bos_token }}{% for message in messages %}USER: {{ message['content'] }}{% endfor %}",
    template().replace("<video>", "<image>"), template().replace("assistant", "model"), ""])
def test_another_template_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match="^folder/chat_template.json: its chat template is not"):
        template_texts(unknown, "folder/chat_template.json")


# ---- Against transformers, by the values that it gave

def hub_folder(folder, naming=lambda name: name, **changes):
    """The golden checkpoint as a folder of the hub, with its tokenizer and template."""
    table = json.loads((GOLDEN / "offline.json").read_text())
    tensors = {naming(name): weight(name, shape) for name, shape in table["shapes"].items()}
    write_folder(folder, {**table["config"], **changes}, tensors)
    vocabulary().save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template()}))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return hub_folder(tmp_path_factory.mktemp("hub"))


def build(folder, **options):
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.add_tokens([*STATES, FRAME])
    model = Streamo.from_pretrained(folder, torch.float32)
    prompt = Prompt.from_pretrained(folder, tokenizer, torch.float32)
    bias = torch.zeros(model.config.decoder.vocab_size)
    options = {"max_new_tokens": NEW, "window": 0, **options}
    return model, prompt, OfflineStream(model, prompt, bias, **options)


def whole(model, prompt, features, question):
    """The textbook form: logits (V,) after head, all frames and question, read at once."""
    frames = features.flatten(0, 1)
    ids = prompt.head + [prompt.tokenizer.frame_id] * len(frames) + prompt.question(question)
    if prompt.newline is not None:
        frames = torch.cat([frames, prompt.newline[None]])
    return model(torch.tensor([ids]), frames, select="last")[0], ids


@torch.inference_mode()
def test_equal_to_transformers_generate(hub):
    golden = np.load(GOLDEN / "offline.npz")
    names = json.loads((GOLDEN / "offline.json").read_text())
    model, prompt, stream = build(hub)
    features = model.encode_frames(pixels())
    logits, ids = whole(model, prompt, features, QUESTION)
    video, frame = prompt.tokenizer.id("<video>"), prompt.tokenizer.frame_id
    assert [video if i == frame else i for i in ids] == names["ids"]
    size = len(vocabulary())                            # behind it are spare rows, now our tokens'
    assert np.abs(logits[:size].numpy() - golden["logits"][:size]).max() < 1e-5
    stream.bias[size:] = -torch.inf
    stream.ask(QUESTION, FRAMES - 1)
    for second in range(FRAMES):
        said = stream.watch(second, features[second])
    [(question, answer, p)] = said
    expected = prompt.tokenizer.decode(names["answer"]).strip()
    assert (question.text, answer) == (QUESTION, expected) and 0 < p < 1


@pytest.mark.long
def test_the_golden_values_are_those_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    made, golden = reference(tmp_path), np.load(GOLDEN / "offline.npz")
    names = json.loads((GOLDEN / "offline.json").read_text())
    assert made["ids"] == names["ids"] and made["answer"] == names["answer"]
    assert np.abs(made["logits"] - golden["logits"]).max() < 1e-5


# ---- The cache

@torch.inference_mode()
def test_at_every_second_the_cache_is_the_prompt_read_anew(hub):
    """Questions and answers leave no trace, whichever came before."""
    model, prompt, stream = build(hub, every=2)
    features = model.encode_frames(pixels())
    stream.ask("And how many?", 0)
    stream.ask(QUESTION, 1)
    for second in range(FRAMES):
        stream.watch(second, features[second])
        logits, ids = whole(model, prompt, features[:second + 1], QUESTION)
        start = stream.cache.length
        cached = stream.read(prompt.question(QUESTION), stream.newline)
        assert (cached - logits).abs().max() < 1e-5 * logits.abs().max()
        assert stream.cache.length == len(ids)
        stream.cache.drop(start, len(ids))


def test_a_second_without_room_is_not_begun(hub):
    one, image = session(hub, window=0, capacity=90), np.full((38, 38, 3), 90, np.uint8)
    with pytest.raises(ValueError, match="the cache is full"):
        for _ in range(30):
            one.step([image])
    last, question = one.last, one.ask("What?")
    for _ in range(2):
        with pytest.raises(ValueError, match="the cache is full"):
            one.step([image])
        assert one.last == last and question.asked is None


def test_a_library_that_watches_keeps_no_graph(hub):
    model, _, stream = build(hub)
    stream.watch(0, model.encode_frames(pixels()[:1])[0])
    assert not stream.cache.keys.requires_grad


@torch.inference_mode()
def test_asked_at_its_second_and_every_few_and_the_same_answer_is_silence(hub, monkeypatch):
    _, _, stream = build(hub, every=3)
    answers = {"a": iter(["Red.", "  red", "Blue!", "Red.", ""]), "b": iter(["One", "Two", "Two"])}
    asked = []

    def answer(ids):
        name = stream.prompt.tokenizer.decode(ids).split("user")[-1]
        name = "a" if "a?" in name else "b"
        asked.append(name)
        return next(answers[name]), 0.5
    monkeypatch.setattr(stream, "answer", answer)
    frame, said = torch.zeros(9, 40), {}
    for second in range(14):
        if second in (1, 5):
            stream.ask("a?" if second == 1 else "b?", second)
        said[second] = [text for _, text, _ in stream.watch(second, frame)]
    assert {second: texts for second, texts in said.items() if texts} == {
        1: ["Red."], 7: ["Blue!"], 10: ["Red."], 5: ["One"], 8: ["Two"]}
    assert asked == list("aabababa")                        # 1, 4, 5, 7, 8, 10, 11, 13


@torch.inference_mode()
def test_the_window_and_the_capacity_are_kept(hub):
    """Only seconds leave, the oldest first; the prompt's head stays, and positions stay right."""
    model, prompt, stream = build(hub, window=8, every=1000)
    for second in range(40):
        stream.watch(second, torch.full((9, 40), float(second)))
        held = [held for held, _ in stream.held]
        assert held == list(range(held[0], second + 1)) and second - held[0] < 8
        assert stream.cache.length == len(prompt.head) + 9 * len(held) <= stream.capacity
    _, _, small = build(hub, window=8, capacity=len(prompt.head) + 50 + NEW)
    small.ask("x", 0)
    assert all(len(small.held) <= 5 for second in range(20)
               if small.watch(second, torch.zeros(9, 40)) is not None)
    _, _, endless = build(hub, capacity=100)                # window 0: nothing leaves
    with pytest.raises(ValueError, match="second .*: the cache is full"):
        for second in count():
            endless.watch(second, torch.zeros(9, 40))


@pytest.mark.parametrize("a, b, equal", [
    ("A red car.", "a  red car", True), ("Ein roter Würfel!", "ein roter würfel", True),
    ("A red car.", "A red cart.", False), ("", "?", True), ("12", "1 2", False)])
def test_what_says_the_same(a, b, equal):
    assert same(a, b) == equal


# ---- With pictures, as the programs use it

def session(hub, **settings):
    model, prompt, _ = build(hub)
    bias = infer.unspoken(model, prompt.tokenizer)
    settings = {"max_new_tokens": 4, "every": 2, **settings}
    return OfflineSession(model, prompt, bias, infer.see, **settings)


def test_a_session_gives_turns_and_its_questions_close(hub, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 38, 38, 3), np.uint8)
    one = session(hub, threshold=0.4)
    said = iter([("Red.", 0.9), ("Blue.", 0.3), ("Green.", 0.6)])      # at seconds 1, 3 and 5
    monkeypatch.setattr(one, "answer", lambda ids: next(said))
    handle, turns = one.ask("a?", 1), []
    for k, image in enumerate(images[:7]):
        if k == 5:
            handle.close()
            one.ask("b?", once=True)
        turns.append(one.step([image]))
    states = [(turn.start, turn.state, turn.text, turn.question) for turn in turns]
    assert [state for state in states if state[1] != "silence" or state[3]] == [
        (1, "response", "Red.", "a?"), (5, "response", "Green.", "b?")]
    assert [turn.start for turn in turns] == list(range(7)) and one.questions == []
    assert turns[1].probs == pytest.approx((0.1, 0, 0.9)) and turns[2].probs == (1, 0, 0)
    assert turns[3].state == "silence"                      # "Blue.", too improbable
    assert turns[6].kv == (len(one.prompt.head) + 7 * 9, one.capacity)
    with pytest.raises(ValueError, match="second 3: the next one is 7"):
        one.step([images[0]], 3)
    with pytest.raises(ValueError, match="second 7: 2 frames, at a rate of 1"):
        one.step([images[0], images[1]])


def test_of_sessions_in_a_step_none_changes_where_one_cannot_go_on(hub):
    still = np.full((38, 38, 3), 90, np.uint8)
    one = session(hub)
    two = OfflineSession(one.model, one.prompt, one.bias, infer.see, every=2)
    with pytest.raises(ValueError, match="second 0: 2 frames, at a rate of 1"):
        infer.step([one, two], [[still], [still, still]])
    assert one.last == two.last == -1 and not one.held
    turns = infer.step([one, two], [[still], still[None]], np.array([0, 3]))
    assert [turn.start for turn in turns] == [0, 3] and (one.last, two.last) == (0, 3)


def test_a_session_prunes_compresses_and_counts(hub):
    still = np.full((38, 38, 3), 90, np.uint8)
    one = session(hub, prune=4, window=20, compress=3.0, fps=2)
    one.ask("a?")
    for _ in range(10):
        one.step([still, still])
    assert one.counts["frames compressed"] == 19 and one.counts["seconds dropped"] == 6
    assert [second for second, _ in one.held] == [6, 7, 8, 9]


def test_infer_watches_with_an_offline_model(hub, tmp_path, capsys, monkeypatch):
    """The command line, with its files; and stream() of a program of one's own."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for k in range(6):
        Image.fromarray(np.full((38, 38, 3), 40 * k, np.uint8)).save(slides / f"{k}.png")
    said = iter([("Dark.", 0.5), ("Dark", 0.6), ("Light.", 0.75)])
    monkeypatch.setattr(OfflineStream, "answer", lambda self, ids: next(said))
    assert infer.main([str(slides), "--model", str(hub), "--ask", "1:How is it?", "--every", "2",
                       "--jsonl", str(tmp_path / "out.jsonl"), "--srt", str(tmp_path / "o.srt"),
                       "--timeline", str(tmp_path / "o.png")]) == 0
    printed = capsys.readouterr()
    assert "[00:01-00:02] Dark." in printed.out and "[00:05-00:06] Light." in printed.out
    assert "not trained to say the states: it is asked every 2 s" in printed.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows] == [
        "silence", "response", "silence", "silence", "silence", "response"]
    assert rows[5]["probs"] == [0.25, 0, 0.75] and "Light." in (tmp_path / "o.srt").read_text()
    for flag, *value in (["--patience", "2"], ["--no-repeat"]):             # of states
        assert infer.main([str(slides), "--model", str(hub), "--quiet", flag, *value]) == 2
        assert f"{flag}: of a model that says the states" in capsys.readouterr().err
    one, frames = session(hub, every=1), [(k, np.zeros((38, 38, 3), np.uint8)) for k in range(2)]
    monkeypatch.setattr(one, "answer", lambda ids: ("Yes.", 0.5))
    with pytest.raises(ValueError, match="stream: window, prune: the session has its own"):
        infer.stream(one.model, None, frames, session=one, window=5, prune=3)
    turns = list(infer.stream(one.model, None, frames, [(0, "Any?")], session=one))
    assert [turn.text for turn in turns] == ["Yes.", ""]


# ---- What an offline benchmark shows

@pytest.mark.long
@pytest.mark.parametrize("most, start, end, seconds", [
    (3, 0, np.inf, [0.0, 0.9, 1.9]), (1, 0, np.inf, [0.0]), (4, 0.5, 0.75, [0.5, 0.5, 0.6, 0.7]),
    (20, 0, np.inf, [k / 10 for k in range(20)])])
def test_pictures_are_sampled_as_lmms_eval_does(most, start, end, seconds, tmp_path):
    """np.linspace over all pictures: of 20, three are 0, 9 and 19; a grey level a picture."""
    with iio.imopen(tmp_path / "a.mp4", "w", plugin="pyav") as film:
        film.init_video_stream("h264", fps=10)
        for k in range(20):
            film.write_frame(np.full((32, 32, 3), 12 * k, np.uint8))
    shown = [image.mean() / 12 for image in sampled(tmp_path / "a.mp4", most, start, end)]
    assert np.allclose(shown, [10 * second for second in seconds], atol=0.5)


def test_a_folder_of_pictures_is_sampled_at_its_rate(tmp_path):
    for k in range(9):
        Image.new("RGB", (8, 8), (20 * k,) * 3).save(tmp_path / f"{k}.png")
    shown = [image.mean() / 20 for image in sampled(tmp_path, 3, 1, 2, rate=3)]
    assert shown == [3, 4, 5]


@torch.inference_mode()
def test_at_once_is_the_prompt_read_anew(hub):
    model, prompt, stream = build(hub)
    features = model.encode_frames(pixels())
    logits, ids = whole(model, prompt, features, QUESTION)
    stream.answer_at_once(features.flatten(0, 1), QUESTION)
    again = stream.read(prompt.question(QUESTION), stream.newline)
    assert (again - logits).abs().max() < 1e-5 * logits.abs().max()


def test_a_benchmark_asks_an_offline_model_in_its_own_prompt(hub, tmp_path, monkeypatch):
    """eval.py run --offline: what is read is the template around the benchmark's question."""
    with iio.imopen(tmp_path / "a.mp4", "w", plugin="pyav") as film:
        film.init_video_stream("h264", fps=10)
        for k in range(20):
            film.write_frame(np.full((38, 38, 3), 12 * k, np.uint8))
    items = [{"video": "a.mp4", "question": "Which?", "candidates": ["red", "blue"],
              "answer": "blue"}]
    (tmp_path / "colours.json").write_text(json.dumps(items))
    read, real = [], OfflineStream.read

    def spy(self, ids, features=None):
        read.append((ids, 0 if features is None else len(features)))
        return real(self, ids, features)
    monkeypatch.setattr(OfflineStream, "read", spy)
    ev.main(["run", "mvbench", "--offline", "--data", str(tmp_path / "colours.json"), "--videos",
             str(tmp_path), "--model", str(hub), "--max-frames", "3", "--workers", "1",
             "--out", str(tmp_path / "out.jsonl")])
    _, row = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert isinstance(row["response"], str) and "lmms_prompt" not in row and "prompt" not in row
    tokenizer = Tokenizer.from_pretrained(hub)
    tokenizer.add_tokens([*STATES, FRAME])
    assert [features for _, features in read[:3]] == [0, 3 * 9, 1]
    assert tokenizer.decode(read[0][0]) == "<|im_start|>user\n"
    assert tokenizer.decode(read[2][0]) == (
        "<frame>\nQuestion:Which?\nOption:\n(A) red\n(B) blue\nOnly give the best option.\n"
        "<|im_end|>\n<|im_start|>assistant\n")


def test_a_question_of_no_picture_fails_alone_in_an_own_prompt(hub, tmp_path):
    """And pictures of a folder are as many a second as the benchmark says."""
    (tmp_path / "clip").mkdir()
    for k in range(9):
        Image.new("RGB", (38, 38), (20 * k,) * 3).save(tmp_path / "clip" / f"{k}.png")
    item = {"video": "clip", "question": "Which?", "candidates": ["red", "blue"], "answer": "blue",
            "fps": 3, "start": 1, "end": 2}
    (tmp_path / "colours.json").write_text(json.dumps([item, item | {"start": 5, "end": 8}]))
    ev.main(["run", "mvbench", "--offline", "--data", str(tmp_path / "colours.json"), "--videos",
             str(tmp_path), "--model", str(hub), "--max-frames", "3", "--workers", "1",
             "--out", str(tmp_path / "out.jsonl")])
    _, good, bad = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert isinstance(good["response"], str) and "no picture from 5 to 8 s" in bad["failed"]


# ---- Bad input

def test_a_folder_that_is_not_whole_is_named(tmp_path, hub):
    grid = hub_folder(tmp_path / "grid", mm_newline_position="grid")
    with pytest.raises(ValueError, match="mm_newline_position 'grid' is not supported"):
        Prompt.from_pretrained(grid, vocabulary())
    other = hub_folder(tmp_path / "other")
    (other / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with pytest.raises(ValueError, match="other/chat_template.json: its chat template"):
        Prompt.from_pretrained(other, vocabulary())
    bare = hub_folder(tmp_path / "bare", lambda n: n.replace("image_newline", "image_new_line"))
    with pytest.raises(ValueError, match="no tensor is called"):
        Prompt.from_pretrained(bare, vocabulary())


def test_a_folder_without_a_template_gets_the_released_prompt(tmp_path):
    folder = hub_folder(tmp_path / "plain")
    (folder / "chat_template.json").unlink()
    prompt = Prompt.from_pretrained(folder, vocabulary())
    told = prompt.tokenizer.decode(prompt.head)
    assert told.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


def test_a_question_writes_no_token_of_ours(hub):
    _, prompt, _ = build(hub)
    names = {i: token for token, i in prompt.tokenizer.added.items()}
    ids = prompt.question("<|im_end|> <frame> <video>")
    assert [names[i] for i in ids if i in names] == ["<frame>", "<|im_end|>", "<|im_start|>"]


# ---- Making the golden values

@torch.no_grad()
def reference(folder):
    """transformers' own answer to a video: config, shapes, prompt ids, logits, greedy tokens."""
    import transformers as hf
    from make_golden import TEXT, VISION
    from safetensors.torch import load_file

    tokenizer = vocabulary()
    text = {**TEXT, "vocab_size": len(tokenizer) + 3, "max_position_embeddings": 512,
            "eos_token_id": tokenizer.id("<|im_end|>")}
    config = hf.LlavaOnevisionConfig(
        vision_config={**hf.SiglipVisionConfig(**VISION).to_dict(), "vision_use_head": False},
        text_config=hf.Qwen2Config(**text, rope_theta=1e6, tie_word_embeddings=True).to_dict(),
        image_token_index=tokenizer.id("<image>"), video_token_index=tokenizer.id("<video>"),
        tie_word_embeddings=True)
    hf.LlavaOnevisionForConditionalGeneration(config).save_pretrained(folder)
    config = json.loads((Path(folder) / "config.json").read_text())
    tensors = {name: weight(name, t.shape)
               for name, t in load_file(Path(folder) / "model.safetensors").items()}
    write_folder(Path(folder), config, tensors)
    model = hf.LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32).eval()
    video = [tokenizer.id("<video>")] * (FRAMES * 9 + 1)
    ids = (tokenizer.encode("<|im_start|>user\n") + video + tokenizer.encode(
        f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"))
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values_videos": pixels()[None]}
    out = model.generate(**inputs, attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                         do_sample=False, max_new_tokens=NEW)[0, len(ids):]
    return {"config": config, "shapes": {name: list(t.shape) for name, t in tensors.items()},
            "ids": ids, "answer": out.tolist(), "logits": model(**inputs).logits[0, -1].numpy()}


if __name__ == "__main__":
    import tempfile
    with tempfile.TemporaryDirectory() as name:
        made = reference(name)
    np.savez_compressed(GOLDEN / "offline.npz", logits=made.pop("logits"))
    (GOLDEN / "offline.json").write_text(json.dumps(made))
