"""Files written whole or not at all, over nothing that is read."""
import json
import os
import stat
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from parts.config import DecoderConfig, hf_config, whole_config
from parts.files import check_outputs, parse_json, replacing, write_json, write_text
from parts.tokenizer import Tokenizer


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.srt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.srt"]


def test_a_link_is_followed_and_a_mode_is_kept(tmp_path):
    """The rename used to put a file in the link's place."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o600)
    (tmp_path / "link.json").symlink_to("real.json")
    (tmp_path / "new.json").symlink_to("not-yet.json")
    for name in ("link.json", "new.json"):
        write_json(tmp_path / name, [1])
        assert (tmp_path / name).is_symlink() and json.loads((tmp_path / name).read_text()) == [1]
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o600


def test_weights_may_be_read_by_whom_the_umask_lets(tmp_path):
    """safetensors makes files that are their owner's alone."""
    before = os.umask(0o027)
    try:
        for _ in range(2):
            with replacing(tmp_path / "w.safetensors") as made:
                save_file({"a": torch.ones(1)}, made)
            assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_what_is_no_regular_file_is_written_into(tmp_path):
    """As root, a rename replaces /dev/null for the whole machine."""
    os.mkfifo(tmp_path / "fifo")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "fifo").read_text()))
    reader.start()
    write_text(tmp_path / "fifo", "héllo")
    reader.join(10)
    assert got == ["héllo"] and (tmp_path / "fifo").is_fifo()
    write_text("/dev/null", "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_an_error_of_writing_names_the_file(tmp_path):
    with pytest.raises(OSError, match="gone/a.txt'") as error:
        write_text(tmp_path / "gone" / "a.txt", "x")
    assert ".partial" not in str(error.value)
    with pytest.raises(OSError, match="b.txt") as error, replacing(tmp_path / "b.txt"):
        raise OSError(28, "No space left on device")
    assert error.value.errno == 28
    write_text(tmp_path / ("n" * 250), "long names, too")


@pytest.mark.parametrize("outputs, words", [
    ({"--srt": "in.mp4"}, "--srt in.mp4: would write over the source"),
    ({"--srt": "./sub/../in.mp4"}, "would write over"),
    ({"--srt": "soft.mp4"}, "would write over"),
    ({"--srt": "hard.mp4"}, "would write over"),
    ({"--srt": "soft-to-nothing"}, None),
    ({"--srt": "a.srt", "--vtt": "sub/../a.srt"}, "--vtt sub/../a.srt: --srt is written there"),
    ({"--srt": "a.srt", "--vtt": "A.SRT"}, "--srt is written there"),
    ({"--srt": "a.srt", "--vtt": "a.srt.partial"}, "--srt is written there"),
    ({"--srt": "a.vtt.partial", "--vtt": "a.vtt"}, "--srt is written there"),
    ({"--srt": "a.srt", "--vtt": "b.vtt", "--out": None}, None),
    ({"--srt": "sub"}, "that is a folder"),
    ({"--srt": "gone/a.srt"}, "no such folder"),
    ({"--srt": "half.mp4"}, "would write over the source half.mp4.partial"),
    ({"--srt": "IN.mp4"}, None),                           # another file, where case counts
    ({"--srt": "/dev/null", "--vtt": "/dev/null"}, None)])
def test_outputs_are_checked_before_anything_is_opened(outputs, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "in.mp4").write_text("film")
    (tmp_path / "soft.mp4").symlink_to("in.mp4")
    (tmp_path / "soft-to-nothing").symlink_to("nothing")
    os.link("in.mp4", "hard.mp4")
    inputs = {"the source": ["in.mp4", "half.mp4.partial"], "--ask-file": None,
              "of the folder": ["x", "y"]}
    if words is None:
        check_outputs(outputs, inputs)
    else:
        with pytest.raises(ValueError, match=words):
            check_outputs(outputs, inputs)
    assert (tmp_path / "in.mp4").read_text() == "film" and not (tmp_path / "a.srt").exists()


@pytest.mark.parametrize("read", [
    Tokenizer.from_pretrained, whole_config, partial(hf_config, DecoderConfig)])
def test_what_is_no_checkpoint_is_told_and_a_models_name_on_a_hub(read, monkeypatch):
    with pytest.raises(ValueError, match="hf download lmms-lab/llava-x --local-dir llava-x"):
        read("lmms-lab/llava-x")
    with pytest.raises(ValueError, match="^/nowhere/at/all: no such folder$"):
        read("/nowhere/at/all")
    with pytest.raises(ValueError, match="^tests/test_files.py: that is a file, "):
        monkeypatch.chdir(Path(__file__).parents[1])
        read("tests/test_files.py")
    with pytest.raises(ValueError, match="^tests/tiny: no such folder$"):        # a slip, no hub
        read("tests/tiny")
    with pytest.raises(ValueError, match=r"^tests: no [\w.]+( or vocab.json)? there; a checkpoint"):
        read("tests")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{", b"[" * 200_000, b'{"a": 1e999999}x'])
def test_json_that_is_none_is_one_error_that_names_the_file(text):
    with pytest.raises(ValueError, match="^a.json: not JSON"):
        parse_json(text, "a.json")
