"""Subtitles that a parser reads back, renders with every frame and all text inside, timelines
that stay bounded. Forbidden bugs: overlapping cues, clipped text, lost frames, a wrong turn."""
import html
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from parts import drawing, render, timeline, video

LONG = ("Two riders in yellow pass behind the bollard, then a third follows with a dog on a lead, "
        "averyverylongwordthatnolinecouldeverholdbecauseithasnospaces" * 2)


@dataclass
class Turn:
    start: float
    end: float
    state: str
    probs: tuple
    text: str = ""
    question: str | None = None
    ms: float = 1.0


def stream(seconds, answers=None, questions=None):
    """Silence everywhere, but for the answers {second: text}."""
    answers, questions = answers or {}, questions or {}
    return [Turn(s, s + 1, "response" if s in answers else "silence",
                 (0.1, 0.1, 0.8) if s in answers else (0.8, 0.15, 0.05), answers.get(s, ""),
                 questions.get(s)) for s in range(seconds)]


def grey(seconds, fps, size=(64, 64), value=90):
    """(seconds, frame) of a plain grey clip; size is (width, height)."""
    for i in range(seconds * fps):
        yield i / fps, np.full((size[1], size[0], 3), value, np.uint8)


def frames_of(path):
    """Every frame of a film: (seconds, uint8 (H, W, 3))."""
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24"))
                for frame in container.decode(video=0)]


def parse(path):
    """A small subtitle parser, strict about what players are strict about: [(start, end, text)]."""
    text = path.read_text("utf-8")
    vtt = path.suffix == ".vtt"
    if vtt:
        assert text.startswith("WEBVTT\n\n")
        text = text.removeprefix("WEBVTT\n\n")
    result = []
    for number, block in enumerate(text.strip("\n").split("\n\n") if text else [], 1):
        index, times, *lines = block.split("\n")
        assert index == str(number) and lines and all(lines)
        stamp = r"(\d\d+):(\d\d):(\d\d)[.](\d{3})" if vtt else r"(\d\d+):(\d\d):(\d\d),(\d{3})"
        found = re.fullmatch(f"{stamp} --> {stamp}", times)
        h, m, s, ms, *end = map(int, found.groups())
        body = "\n".join(lines)
        assert "-->" not in body and (vtt or not re.search(r"</?[a-zA-Z]|{\\", body))
        body = html.unescape(body) if vtt else body.replace("\u2060", "")
        result.append((h * 3600 + m * 60 + s + ms / 1000,
                       end[0] * 3600 + end[1] * 60 + end[2] + end[3] / 1000, body))
    return result


@pytest.mark.parametrize("write, ending", [(render.write_srt, "srt"), (render.write_vtt, "vtt")])
def test_subtitles_are_read_back(tmp_path, write, ending):
    texts = {0: "A --> B & <i>C</i> {\\an8}", 1: "now\n\n\nthen\r\n ", 5: "一辆自行车 😀 <3",
             8: "x" * 60, 3600: "late"}
    path = tmp_path / f"out.{ending}"
    write(stream(3602, texts), path)
    cues = parse(path)
    assert [start for start, _, _ in cues] == list(texts)
    assert [text for *_, text in cues] == [texts[0], "now\nthen", *list(texts.values())[2:]]
    assert all(end <= start for (_, end, _), (start, *_) in itertools.pairwise(cues))
    assert [round(end - start, 3) for start, end, _ in cues] == [1.0, 1.5, 1.5, 4.0, 1.5]
    write(stream(10, texts), path)                  # the last one would outlast the film by 2 s
    assert parse(path)[-1][:2] == (8, 10)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_no_answers_are_valid_files(tmp_path):
    for turns in [], stream(3), [Turn(0, 1, "response", (0, 0, 1), " \n")]:
        render.write_srt(turns, tmp_path / "a.srt")
        render.write_vtt(turns, tmp_path / "a.vtt")
        assert parse(tmp_path / "a.srt") == parse(tmp_path / "a.vtt") == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_text("old")

    def broken():
        yield from grey(1, 2)
        raise OSError("gone")
    for name in "out.mp4", "out.gif":
        with pytest.raises(OSError, match="gone"):
            render.captioned_video(broken(), stream(2), tmp_path / name)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def stopped():
        yield from grey(4, 25)  # so many that the encoder has begun to write
        assert path.with_name("out.mp4.partial").stat().st_size
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C leaves no half file either
        render.captioned_video(stopped(), stream(2), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_every_frame_is_rendered_at_its_own_time(tmp_path):
    """A variable frame rate stays one; sizes are even and tiny pictures are enlarged. Where a
    picture stays, the panel is drawn anew; the last one lasts until the turns end."""
    times = [0, 0.04, 0.08, 0.5, 0.54, 2.0, 2.9]
    clip = [(t, np.full((63, 65, 3), 90, np.uint8)) for t in times]
    drawn = sorted([*times, 1.0, 1.5, 2.5, 3 - 1 / 30])
    assert render.captioned_video(clip, stream(3), tmp_path / "a.mp4") == len(drawn)
    read = frames_of(tmp_path / "a.mp4")
    assert [t for t, _ in read] == pytest.approx(drawn, abs=1e-3)
    height, width = read[0][1].shape[:2]
    assert width >= 320 and width % 2 == height % 2 == 0


def test_gif_plays_as_long_as_the_clip(tmp_path):
    turns = stream(4, {1: "Here.", 3: "There."}, {0: "Where is it?"})
    assert render.captioned_video(grey(4, 20), turns, tmp_path / "a.gif") == 40  # 10 a second
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.info["loop"] == 0
        total = 0
        for frame in range(gif.n_frames):
            gif.seek(frame)
            total += gif.info["duration"]
    assert total == pytest.approx(4000, abs=110)


@pytest.mark.parametrize("size", [(64, 64), (128, 72), (90, 160), (640, 272), (33, 200)])
def test_text_is_inside_the_picture(size):
    """The panel's text changes pixels, none of them at the border, and the video is untouched."""
    def last(turns):
        *_, (_, canvas), (end, _) = render.compose(render.moments(grey(3, 1, size), 3), turns, "")
        assert end == 3
        return np.asarray(canvas).astype(int)
    asked = {0: LONG, 1: "一辆自行车在哪里" * 6}
    with_text = last(stream(3, {2: LONG}, asked))
    panel = render.Panel(stream(3, {2: LONG}, asked), with_text.shape[1], 15)
    assert panel.lines[1] >= 2  # it wraps
    scale = max(1, -(-320 // size[0]))
    below = with_text[size[1] * scale:]
    assert (with_text[:size[1] * scale, :size[0] * scale] == 90).all()
    border = [below[:4], below[-4:], below[:, :8], below[:, -8:]]
    assert all((edge == 255).all() for edge in border)
    text = below[:, 3 * 15 + 20:-20]
    assert ((text.sum(2) < 300).any(1)).sum() > 40  # rows with ink: several lines of it


def test_wrap_keeps_every_character_and_the_width():
    font = drawing.font_for([LONG], 18)
    lines = drawing.wrap(LONG, font, 200, 99)
    assert "".join(lines).replace(" ", "") == LONG.replace(" ", "") and len(lines) > 5
    assert max(map(font.getlength, lines)) <= 200
    short = drawing.wrap(LONG, font, 200, 2)
    assert len(short) == 2 and short[1].endswith("...") and font.getlength(short[1]) <= 200


def test_a_font_is_found_only_when_characters_are_missing():
    assert drawing.font_for(["plain text"], 18).getname() == drawing.font_for([], 18).getname()
    fallback = drawing.font_for(["Сколько?", "\U0010fffe"], 18)  # the last: in no font
    assert fallback.getlength("Сколько?") > 0


def test_panel_shows_the_present_turn():
    """Chip and answer follow the turn; the strip shows nothing of the future."""
    turns = stream(4, {2: "Now."}, {1: "When?"})
    panel = render.Panel(turns, 320, 15)
    before, during = (np.asarray(panel.draw(t)).astype(int) for t in (1.9, 2.0))
    chip = (20, 20)
    assert tuple(before[chip]) == drawing.COLOURS[0] and tuple(during[chip]) == drawing.COLOURS[2]
    strip_row, third, fourth = panel.height - 15 - 15, 15 + int(290 * 0.6), 15 + int(290 * 0.9)
    assert tuple(before[strip_row, third]) == drawing.TRACK
    assert tuple(during[strip_row, third]) == drawing.COLOURS[2]
    assert tuple(during[strip_row, fourth]) == drawing.TRACK
    assert (np.asarray(panel.draw(-1.0)) != np.asarray(panel.draw(0.0))).any()


def test_video_file_upright(tmp_path):
    """A file marked as turned by a quarter is rendered upright: white stays on its side."""
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        codec = container.add_stream("libx264", rate=10)
        codec.width, codec.height, codec.pix_fmt = 96, 48, "yuv420p"
        codec.time_base = Fraction(1, 10)
        for i in range(10):
            picture = np.zeros((48, 96, 3), np.uint8)
            picture[:, :48] = 255  # left half white
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts = i
            container.mux(codec.encode(frame))
        container.mux(codec.encode(None))
    content = bytearray(path.read_bytes())
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = content.index(upright, content.index(b"tkhd"))  # the track's display matrix: 90 degrees
    content[at:at + 36] = turned
    path.write_bytes(content)
    assert render.captioned_video(path, stream(1), tmp_path / "out.mp4") == 11
    image = frames_of(tmp_path / "out.mp4")[5][1]
    assert image.shape[1] == 336  # 48 wide, seven times
    # Turned clockwise: what was left is up.
    assert image[100, 168].min() > 230 and image[600, 168].max() < 25


def test_a_film_without_times_is_captioned_at_its_rate(tmp_path):
    path = tmp_path / "bare.h264"
    with av.open(str(path), "w") as container:
        codec = container.add_stream("libx264", rate=10)
        codec.width, codec.height, codec.pix_fmt = 64, 64, "yuv420p"
        for _ in range(20):
            container.mux(codec.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(codec.encode(None))
    *times, end = [time for time, _ in video.pictures(path)]
    rate = 10 if times[1] == pytest.approx(0.1) else 25             # some players guess it
    assert [*times, end] == pytest.approx([k / rate for k in range(21)])
    assert render.captioned_video(path, stream(1), tmp_path / "out.mp4") == 21


def test_a_picture_of_pil_is_captioned_as_it_is_seen(tmp_path):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    render.captioned_video(iter([(0.0, clear), (1.0, None)]), stream(1), tmp_path / "out.mp4")
    assert frames_of(tmp_path / "out.mp4")[0][1][:100, :100].min() > 240


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="out.doc"):
        render.captioned_video(grey(1, 1), stream(1), tmp_path / "out.doc")
    with pytest.raises(ValueError, match="no frame"):
        render.captioned_video(iter(()), stream(1), tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
    assert render.captioned_video(grey(1, 2), [], tmp_path / "out.mp4") == 2  # no turns: no strip


@pytest.mark.parametrize("codec, rate", [("aac", 8000), ("libmp3lame", 32000)])
def test_damaged_sound_is_silence_and_what_follows_keeps_its_time(tmp_path, codec, rate):
    """Where it is encoded anew: a tone in the fourth second, behind packets that are damaged."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as film:
        pictures, sound = film.add_stream("mpeg4", rate=10), film.add_stream(codec, rate=rate)
        pictures.width = pictures.height = 32
        sound.layout = "mono"
        wave = np.sin(np.arange(4 * rate) / rate * 2000) * (np.arange(4 * rate) > 3 * rate)
        tone = av.AudioFrame.from_ndarray(0.3 * wave[None].astype(np.float32), "fltp", "mono")
        tone.sample_rate, tone.pts = rate, 0
        film.mux(sound.encode(tone))
        for _, picture in grey(4, 10, size=(32, 32)):
            film.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(sound.encode())
        film.mux(pictures.encode())
    with av.open(str(path)) as film:
        places = [(packet.pos, packet.size) for packet in film.demux(audio=0) if packet.size]
    raw = bytearray(path.read_bytes())
    for at, size in places[len(places) // 6:len(places) // 2]:          # more than a second
        raw[at:at + size] = b"\xff" * size
    path.write_bytes(raw)
    for name in ("out.mp4", "out.webm"):
        assert render.captioned_video(path, stream(4), tmp_path / name) == 41
    with av.open(str(tmp_path / "out.webm")) as film:
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in film.decode(audio=0)])
    assert (np.abs(heard) > 0.1).argmax() / 48000 == pytest.approx(3, abs=0.2)


def with_sound(path, codec, layout="stereo", rate=44100, form=None):
    """Three seconds of grey with a tone; its file."""
    with av.open(str(path), "w", format=form) as film:
        pictures, sound = film.add_stream("mpeg4", rate=10), film.add_stream(codec, rate=rate)
        pictures.width = pictures.height = 32
        sound.layout = layout
        wave = 0.3 * np.sin(np.arange(3 * rate) / rate * 2000)
        channels = 1 if layout == "mono" else 2
        tone = av.AudioFrame.from_ndarray(np.float32([wave] * channels), "fltp", layout)
        tone.sample_rate, tone.pts = rate, 0
        for _, picture in grey(3, 10, size=(32, 32)):
            film.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream, frame in ((sound, tone), (sound, None), (pictures, None)):
            film.mux(stream.encode(frame))
    return path


def seconds_heard(path):
    with av.open(str(path)) as film:
        return sum(frame.samples / frame.sample_rate for frame in film.decode(audio=0)
                   if abs(frame.to_ndarray()).max() > 0)


@pytest.mark.parametrize("codec, ending, into", [
    ("pcm_s16le", "avi", "mp4"), ("pcm_s16le", "avi", "flv"), ("libopus", "mkv", "mov"),
    ("aac", "ts", "avi"), ("aac", "ts", "wmv"), ("mp2", "ts", "3gp"), ("flac", "mkv", "mov")])
def test_sound_that_a_container_cannot_hold_is_encoded_anew(tmp_path, codec, ending, into):
    """Some that say they can fail at their header, one at its end, and one ends the process."""
    rate = 48000 if codec == "libopus" else 44100
    path = with_sound(tmp_path / f"a.{ending}", codec, rate=rate)
    render.captioned_video(path, stream(3), tmp_path / f"out.{into}")
    assert seconds_heard(tmp_path / f"out.{into}") == pytest.approx(3, abs=0.3)


def test_a_broadcast_whose_sound_becomes_stereo_keeps_it(tmp_path):
    parts = [with_sound(tmp_path / f"{layout}.ts", "mp2", layout, 48000).read_bytes()
             for layout in ("mono", "stereo")]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    render.captioned_video(tmp_path / "a.ts", stream(6), tmp_path / "out.webm")
    assert seconds_heard(tmp_path / "out.webm") == pytest.approx(6, abs=0.4)


@pytest.mark.long
@pytest.mark.parametrize("seconds", [0, 1, 20, 91, 3 * 3600])
def test_timeline_is_bounded(tmp_path, seconds):
    step = max(1, seconds // 900)
    turns = stream(seconds, {s: f"Event {s}. {LONG}" for s in range(0, seconds, 7 * step)},
                   {s: "And now?" for s in range(0, seconds, 300)})
    render.timeline(turns, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.width == 1600 and 100 < image.height < 8000
        pixels = np.asarray(image)
    edges = [pixels[:4], pixels[-4:], pixels[:, :8], pixels[:, -8:]]
    assert all((edge == 255).all() for edge in edges)
    assert (pixels[60:] == drawing.COLOURS[2]).all(2).any() == (seconds > 0)
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_timeline_labels_do_not_overlap():
    """No label covers another, and no line down to a label passes through another label."""
    font = drawing.font_for([], 20)
    rng = np.random.default_rng(0)
    for _ in range(20):
        xs = sorted(rng.choice(1300, 25, replace=False).tolist())
        items = [(x, "word " * int(rng.integers(1, 20))) for x in xs]
        placed = timeline._place(items, font, 12)
        assert sorted(x for x, *_ in placed) == xs  # every item keeps its mark
        boxes = [(x, x + 7 + max(map(font.getlength, lines)), level, level + len(lines))
                 for x, level, lines in placed if lines]
        assert len(boxes) > 5 and all(right <= 1600 and low <= 12 for _, right, _, low in boxes)
        for a, b in itertools.permutations(boxes, 2):
            assert not (a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3])
            assert not (b[0] < a[0] < b[1] and b[2] < a[2])  # a's line through b


def test_strip_stacks_the_probabilities():
    turns = [Turn(0, 1, "standby", (0.25, 0.5, 0.25))]
    column = np.asarray(drawing.strip(turns, 0, 2, 2, 100))[:, 0]
    counts = [int((column == colour).all(1).sum()) for colour in drawing.COLOURS]
    assert counts == [25, 50, 25] and tuple(column[0]) == drawing.COLOURS[2]
