"""Live sources and people at a terminal: udp, http, a slow model, typed questions, Ctrl-C."""
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_infer import build, folder, run, tokenizer  # noqa: F401  (two are fixtures)

import infer
from parts import sources, video

ROOT = Path(infer.__file__).parent


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def send(url, seconds):
    """An MPEG-TS stream at real time, as a camera or ffmpeg -re sends it."""
    with av.open(url, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        start = time.monotonic()
        for k in range(seconds * 25):
            time.sleep(max(0.0, start + k / 25 - time.monotonic()))
            picture = np.full((48, 64, 3), k % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_mpeg_ts_over_udp_is_watched_until_it_falls_silent(
        folder, capsys, tmp_path, monkeypatch):  # noqa: F811
    url = f"udp://127.0.0.1:{free_port()}"
    sender = threading.Thread(target=send, args=(f"{url}?pkt_size=1316", 4), daemon=True)
    began = time.monotonic()
    real, timeouts = av.open, [(3, 1.5)]
    monkeypatch.setattr(sources.av, "open", lambda *args, **options: real(
        *args, **{**options, "timeout": timeouts[-1]} if "timeout" in options else options))
    sender.start()
    code = run(folder, url, "--threshold", "1", "--jsonl", tmp_path / "o.jsonl",
               "--reconnect", "0")
    sender.join()
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in open(tmp_path / "o.jsonl")]
    assert code == 3 and "nothing came" in err and "not back" in err and "s of video" in out
    starts = [row["start"] for row in rows]
    assert starts[0] == 0 and starts == sorted(set(starts)) and len(starts) >= 2
    assert 2 <= starts[-1] <= time.monotonic() - began         # seconds of arrival, no faster
    timeouts.append((0.5, 0.5))
    assert run(folder, url) == 2                                # nobody sends any more
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{url}: nothing came" in err


def test_a_file_over_http_runs_by_its_own_clock(folder, capsys, tmp_path):  # noqa: F811
    """As fast as it comes, and yet a turn for each of its seconds."""
    with av.open(str(folder / "clip.mp4")) as source, av.open(
            str(tmp_path / "clip.mp4"), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    handler = partial(Quiet, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert run(folder, f"{url}/clip.mp4", "--threshold", "1") == 0
        assert capsys.readouterr().out.startswith("5 s of video, 0 answers")
        assert run(folder, f"{url}/none.mp4") == 2
        server.shutdown()
    err = capsys.readouterr().err
    assert "none.mp4" in err and err.count("\n") == 1


class Broadcast(BaseHTTPRequestHandler):
    """A live HLS channel: three segments of two seconds are there, the fourth comes a second later
    and is the last. The third is an advertisement with a clock of its own."""
    lists = 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.endswith(".m3u8"):
            Broadcast.lists += 1
            n = 3 if Broadcast.lists < 3 else 4
            body = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n" + "".join(
                f"#EXTINF:1,\n{k}.ts\n" for k in range(n)) + "#EXT-X-ENDLIST\n" * (n == 4)
            body = body.encode()
        else:
            body = segment({"/0.ts": 0, "/1.ts": 2, "/2.ts": 500, "/3.ts": 4}[self.path])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def segment(first, seconds=2, rate=10):
    """MPEG-TS bytes of so many seconds that begin at second `first`."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
        for k in range(first * rate, (first + seconds) * rate):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_live_segments_that_come_at_once_are_all_watched(folder, capsys):  # noqa: F811
    with ThreadingHTTPServer(("127.0.0.1", 0), Broadcast) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/live.m3u8"
        assert run(folder, url, "--threshold", "1") == 0
        server.shutdown()
    out = capsys.readouterr().out
    assert int(out.split()[0]) in (7, 8) and "dropped" not in out       # of 8 s


def test_a_source_that_fails_in_any_way_wakes_its_reader():
    def source():
        yield 0, 0
        raise IndexError("no such stream")
    with pytest.raises(IndexError, match="no such stream"):
        list(sources.Live(source(), size=3))


def test_sound_without_pictures_is_no_source(folder, capsys, tmp_path):  # noqa: F811
    with av.open(str(tmp_path / "radio.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/radio.wav"
        assert run(folder, url) == 2
        server.shutdown()
    err = capsys.readouterr().err
    assert f"{url}: no video stream in it" in err and err.count("\n") == 1
    with pytest.raises(ValueError, match="no video stream"):
        next(sources.received(str(tmp_path / "radio.wav"), 1))


def test_a_slow_reader_gets_the_newest_frames_and_the_count_of_the_others():
    def source():
        for k in range(40):
            time.sleep(0.01)
            yield k, k
    live, got = sources.Live(source(), size=3), []
    for second, _ in live:
        got.append(second)
        assert time.monotonic() - live.came < 1
        time.sleep(0.05)
    assert got == sorted(got) and got[-1] >= 38
    assert live.dropped > 10 and len(got) + live.dropped in (40, 41)     # the end may push one out


def test_a_slow_model_drops_frames_and_says_so(folder, capsys, monkeypatch):  # noqa: F811
    see = infer.see
    monkeypatch.setattr(infer, "see", lambda *args: (time.sleep(0.2), see(*args))[1])
    monkeypatch.setattr(sources, "open_source", lambda *_: (
        (time.sleep(0.025) or (k, np.zeros((8, 8, 3), np.uint8)) for k in range(40)), None, True))
    assert run(folder, "camera:0", "--threshold", "1", "--reconnect", "0") == 3
    out = capsys.readouterr().out
    turns, dropped = int(out.split()[0]), int(re.search(r"(\d+) frames dropped", out)[1])
    assert turns < 15 and turns + dropped in (40, 41)


def test_a_broken_source_ends_with_its_message_and_keeps_what_was_written(
        folder, capsys, tmp_path, monkeypatch):  # noqa: F811
    def breaks():
        yield 0, np.zeros((8, 8, 3), np.uint8)
        raise OSError("camera:0: the cable is out")
    monkeypatch.setattr(sources, "open_source", lambda *_: (breaks(), None, True))
    files = ["--jsonl", tmp_path / "o.jsonl", "--vtt", tmp_path / "o.vtt"]
    assert run(folder, "camera:0", "--reconnect", "0", *files) == 3
    out, err = capsys.readouterr()
    assert "the cable is out" in err and err.count("\n") == 1 and "1 s of video" in out
    assert run(folder, "camera:0", "--realtime") == 2
    assert "--realtime: of files" in capsys.readouterr().err
    assert json.loads((tmp_path / "o.jsonl").read_text())["start"] == 0
    assert (tmp_path / "o.vtt").read_text().startswith("WEBVTT")


def test_realtime_paces_a_file(folder, capsys, tmp_path):  # noqa: F811
    for k in range(5):
        Image.new("RGB", (32, 32), (50 * k,) * 3).save(tmp_path / f"{k}.png")
    began = time.monotonic()
    assert run(folder, tmp_path, "--realtime", "--threshold", "1", "--fps", "2") == 0
    assert 1.9 < time.monotonic() - began                      # the last frame is due at 2 s
    assert "0 answers" in capsys.readouterr().out


def test_a_typed_question_joins_and_ctrl_c_leaves_whole_files(folder, tmp_path):  # noqa: F811
    """The status line of a terminal, a question typed while it runs, then Ctrl-C."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    files = {name: tmp_path / f"o.{name}" for name in ("jsonl", "srt", "vtt")}
    child = subprocess.Popen(
        [sys.executable, ROOT / "infer.py", ROOT / "assets/demo.mp4", "--model", folder,
         "--realtime", "--device", "cpu", "--threshold", "0", "--max-new-tokens", "2",
         *sum(([f"--{name}", path] for name, path in files.items()), [])],
        stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path)
    os.close(slave)
    shown = []

    def drain():
        while True:
            try:
                shown.append(os.read(master, 4096).decode(errors="replace"))
            except OSError:                                    # the child has closed its side
                return
    reader = threading.Thread(target=drain, daemon=True)
    reader.start()

    def rows():
        text = files["jsonl"].read_text() if files["jsonl"].exists() else ""
        return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]

    def wait_for(what):
        end = time.monotonic() + 300
        while not what():
            assert time.monotonic() < end and child.poll() is None, "".join(shown)
            time.sleep(0.02)
    wait_for(lambda: len(rows()) >= 1)
    os.write(master, "Où est le cercle ?\n".encode())
    wait_for(lambda: any(row["question"] == "Où est le cercle ?" for row in rows()))
    child.send_signal(signal.SIGINT)
    assert child.wait(120) == 130
    reader.join(5)
    os.close(master)
    text = "".join(shown)
    assert "interrupted" in text and "response" in text and "KV" in text and "\r" in text
    assert "Traceback" not in text
    whole = files["jsonl"].read_text()
    assert whole.endswith("\n") and 2 <= len(whole.splitlines()) < 16      # of 16 s
    cues = files["srt"].read_text().count("-->")
    assert cues == files["vtt"].read_text().count("-->") > 0


def test_ctrl_c_while_rendering_leaves_the_old_film_and_no_part_of_the_new(
        folder, capsys, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "images").mkdir()
    for k in range(3):
        Image.new("RGB", (32, 32), (80 * k,) * 3).save(tmp_path / "images" / f"{k}.png")
    film, frames, reads, begun = tmp_path / "o.mp4", infer.data.frames, [], []
    film.write_text("the old film")

    def interrupted(*args, **more):
        reads.append(args)
        for second, image in frames(*args, **more):
            yield second, image
        while len(reads) == 2:                                 # the second reading: the render
            begun.extend(path.name for path in tmp_path.glob("o.mp4.*"))
            if begun:
                raise KeyboardInterrupt
            yield (second := second + 0.1), image
    monkeypatch.setattr(video, "frames", interrupted)
    assert run(folder, tmp_path / "images", "--render", film, "--srt", tmp_path / "o.srt",
               "--threshold", "0", "--max-new-tokens", "2") == 130
    assert begun and "interrupted" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "o.mp4", "o.srt"]
    assert film.read_text() == "the old film" and "-->" in (tmp_path / "o.srt").read_text()


def test_sigterm_ends_a_pipe_at_once_with_whole_files(folder, tmp_path):  # noqa: F811
    child = subprocess.Popen(
        [sys.executable, ROOT / "infer.py", "-", "--size", "8x8", "--model", folder,
         "--device", "cpu", "--threshold", "0", "--max-new-tokens", "2",
         "--jsonl", "o.jsonl", "--vtt", "o.vtt"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    child.stdin.write(bytes(8 * 8 * 3 * 3))
    child.stdin.flush()
    for _ in range(3):
        assert child.stdout.readline().startswith(b"[00:0")    # each answer as it is given
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)                           # while it waits for a fourth frame
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and time.monotonic() - began < 60
    assert b"3 s of video" in out and b"Traceback" not in err
    assert [json.loads(line)["start"] for line in open(tmp_path / "o.jsonl")] == [0, 1, 2]
    assert (tmp_path / "o.vtt").read_text().count("-->") > 0
