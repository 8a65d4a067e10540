"""Any film and any folder: clocks, damage, truncation, which stream, as seen, what is opened.

The films are made here, tiny. frames() is told by levels of grey: picture i is 20 + 20 (i % 11)."""
import io
import itertools
import os
import struct
import threading
from collections import Counter
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from PIL import Image

from parts import pictures, sources, video, whole


def film(path, times, size=(32, 48), rate=100, codec="mpeg4", level=None, pix="yuv420p", **more):
    """A video whose frame i, shown at times[i] seconds, is grey of level(i): 20 + 20 (i mod 11)."""
    level = level or (lambda i: 20 + 20 * (i % 11))
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pix
        stream.codec_context.time_base = Fraction(1, rate)
        for i, time in enumerate(times):
            shade = level(i)
            picture = shade if np.ndim(shade) else np.full((*size, 3), shade, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = round(time * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seen(path, fps=1, **kw):
    return [(t, round((image.mean() - 20) / 20)) for t, image in video.frames(path, fps, **kw)]


def shades(path, **more):
    return [shade for _, shade in seen(path, **more)]


# ---- frames


def test_constant_rate(tmp_path):
    path = film(tmp_path / "a.mp4", [i / 4 for i in range(10)])  # 2.5 s at 4 fps
    assert seen(path) == [(0.0, 0), (1.0, 4), (2.0, 8)]
    assert seen(path, 2) == [(0.0, 0), (0.5, 2), (1.0, 4), (1.5, 6), (2.0, 8)]


def test_variable_rate_shows_the_first_frame_of_the_second_and_never_a_later_second(tmp_path):
    path = film(tmp_path / "a.mkv", [0, 0.9, 1.3, 1.7, 4.2, 5.0])
    # second 1 begins with the frame at 1.3; nothing new in seconds 2 and 3: the one at 1.7 stays
    assert seen(path) == [(0.0, 0), (1.0, 2), (2.0, 3), (3.0, 3), (4.0, 4), (5.0, 5)]


def test_times_count_from_the_first_frame(tmp_path):
    assert seen(film(tmp_path / "a.mkv", [7.5, 8.5, 9.5])) == [(0.0, 0), (1.0, 1), (2.0, 2)]


def test_one_frame(tmp_path):
    assert seen(film(tmp_path / "a.mp4", [0])) == [(0.0, 0)]


def test_rotation(tmp_path):
    """A phone's film: stored lying, to be turned 90 degrees clockwise for the eye."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        image = np.zeros((32, 64, 3), np.uint8)
        image[:, :16] = 255  # white on the left as stored
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    upright = next(video.frames(path))[1]
    assert upright.shape == (32, 64, 3)
    blob = bytearray(path.read_bytes())
    matrix = blob.index(b"tkhd") + 4 + 40  # version, times, ids, ..., then 3 x 3
    clockwise = 0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30
    blob[matrix : matrix + 36] = struct.pack(">9i", *clockwise)
    path.write_bytes(blob)
    turned = next(video.frames(path))[1]
    assert turned.shape == (64, 32, 3)
    assert turned[:12].mean() > 200 > 50 > turned[20:].mean()  # left as stored is up when upright


def test_gif(tmp_path):
    images = [Image.new("RGB", (32, 32), (20 + 20 * i,) * 3) for i in range(3)]
    images[0].save(
        tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[500, 1000, 2000]
    )
    # shown from 0, 0.5 and 1.5 to 3.5 s: 1.5 is the first of second 1, and stays for second 2
    assert seen(tmp_path / "a.gif") == [(0.0, 0), (1.0, 2), (2.0, 2)]


def test_folder_is_in_the_order_of_numbers_at_its_rate(tmp_path):
    for i in range(11):
        Image.new("RGB", (16, 16), (20 + 20 * i,) * 3).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert [k for _, k in seen(tmp_path)] == list(range(11))
    assert seen(tmp_path, rate=4) == [(0.0, 0), (1.0, 4), (2.0, 8)]


def test_files_that_are_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        list(video.frames(tmp_path / "gone.mp4"))
    for name, content in (
        ("text.mp4", b"hello" * 100),
        ("empty.mp4", b""),
        ("a.txt", b"hi\n" * 99),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            list(video.frames(tmp_path / name))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder: no picture"):
        list(video.frames(tmp_path / "folder"))
    (tmp_path / "folder" / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="a.png"):
        list(video.frames(tmp_path / "folder"))


def test_truncated_in_the_middle(tmp_path):
    path = film(tmp_path / "a.mp4", [i / 4 for i in range(40)], size=(64, 64))
    blob = path.read_bytes()
    start = blob.index(b"moov") - 4  # put the index first, as web files do
    moov, rest = bytearray(blob[start:]), blob[:start]
    table = moov.index(b"stco") + 8
    for i in range(struct.unpack(">I", moov[table : table + 4])[0]):
        at = table + 4 + 4 * i
        (offset,) = struct.unpack(">I", moov[at : at + 4])
        moov[at : at + 4] = struct.pack(">I", offset + len(moov))
    head = rest.index(b"mdat") - 4
    whole = rest[:head] + moov + rest[head:]
    path.write_bytes(whole)
    assert len(seen(path)) == 10
    path.write_bytes(whole[: len(whole) - len(rest[head:]) // 2])
    got = []
    with pytest.raises(ValueError, match="a.mp4: truncated"):
        for second, _ in video.frames(path):
            got.append(second)
    assert got == [float(k) for k in range(len(got))] and 2 < len(got) < 9
    path.write_bytes(blob[: len(blob) // 2])  # without the index: nothing to read
    with pytest.raises(ValueError, match="a.mp4"):
        list(video.frames(path))


# ---- clocks

@pytest.mark.parametrize("times, end", [
    ([k / 10 for k in range(50)], 5.0),
    ([k / 10 for k in range(25)] * 2, 5.0),                                 # starts again
    ([k / 10 + 7200 * (k > 24) for k in range(50)], 5.0),                   # jumps forwards
    ([k / 10 - 7200 * (k > 24) for k in range(50)], 5.0),                   # jumps back
    ([-k / 10 for k in range(50)], 5.0),                                    # runs backwards
    ([None] * 50, 5.0),                                                     # absent
    ([0.0] * 5 + [None] * 45, 5.0),
    ([k // 2 / 10 for k in range(100)], 5.0),                               # each twice
    ([k // 3 / 10 for k in range(150)], 5.0),
    ([7.0] * 50, 5.0),                                                      # one for all
    ([(k ^ 1) / 10 for k in range(50)], 5.0),                               # out of order
    ([0.0, 1e6], 0.2), ([0.0, -1e12], 0.2), ([0.0, 1e300], 0.2),
], ids=lambda value: None if isinstance(value, list) else "")
def test_a_clock_never_goes_back_and_goes_on_at_its_own_pace(times, end):
    clock = video.Clock(times[0] or 0.0, 0.1, video.LONGEST)
    starts = [clock(time) for time in times]
    assert starts == sorted(starts) and starts[0] == 0
    assert max(b - a for a, b in itertools.pairwise([*starts, clock.end])) < 0.5
    assert clock.end == pytest.approx(end, abs=2.0 if times == [7.0] * 50 else 1.2)


def test_a_clock_that_is_right_is_left_alone():
    clock = video.Clock(3.0, 0.1, video.LONGEST)
    assert [clock(time) for time in (3.0, 3.04, 23.0, 500.0, 500.0, 501.0)] == pytest.approx(
        [0, 0.04, 20, 497, 497, 498])
    assert clock.jumps == 0


@pytest.mark.parametrize("ending, codec", [("ts", "mpeg2video"), ("mkv", "mpeg4"), ("mp4", "mpeg4"),
                                           ("flv", "flv"), ("nut", "mpeg4")])
def test_a_jump_of_two_hours_is_no_still_of_two_hours(tmp_path, ending, codec):
    times = [k / 25 + (7200 if k >= 50 else 0) for k in range(100)]
    path, counts = film(tmp_path / f"a.{ending}", times, rate=25, codec=codec,
                        level=lambda i: 20 + 20 * (i // 25)), Counter()
    assert shades(path, counts=counts) == [0, 1, 2, 3]
    assert counts["jumps of the film's clock"] == 1


def test_a_recording_that_was_joined_goes_on(tmp_path):
    parts = [film(tmp_path / f"{n}.ts", [k / 25 for k in range(75)], rate=25, codec="mpeg2video",
                  level=lambda i: 20 + 20 * (i // 25 + 3 * n)) for n in range(2)]
    joined, counts = tmp_path / "joined.ts", Counter()
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert shades(joined, counts=counts) == [0, 1, 2, 3, 4, 5]
    assert counts["jumps of the film's clock"] == 1
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n0.ts\n#EXT-X-DISCONTINUITY\n"
        "#EXTINF:3,\n1.ts\n#EXT-X-ENDLIST\n")
    assert shades(tmp_path / "list.m3u8") == [0, 1, 2, 3, 4, 5]
    frames, seconds, live = sources.open_source(str(joined), 1, "")
    assert not live and seconds is None and len(list(frames)) == 6      # its length is not 3 s


def test_an_avi_states_times_of_decoding_only(tmp_path):
    """Its pictures come in order, the times that PyAV gives them do not."""
    path = film(tmp_path / "a.avi", [k / 25 for k in range(100)], rate=25, codec="libx264",
                level=lambda i: 20 + 2 * i)
    starts = [start for start, _ in video.pictures(path)]
    assert starts == pytest.approx([k / 25 for k in range(len(starts))], abs=0.041)
    assert [shade for _, shade in seen(path)] == pytest.approx([0, 2.5, 5, 7.5], abs=0.6)


def sounded(path, start=0.0, seconds=4, sound_rate=8000, codec="mpeg4", **more):
    """A film with a tone of `seconds`, whose pictures begin at `start`."""
    with av.open(str(path), "w", **more) as container:
        picture, sound = container.add_stream(codec, rate=10), None
        picture.width, picture.height, picture.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=sound_rate)
        sound.layout = "mono"
        for k in range(seconds):
            tone = (8000 * np.sin(np.arange(sound_rate) / 5)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
            frame.sample_rate, frame.pts = sound_rate, k * sound_rate
            frame.time_base = Fraction(1, sound_rate)
            container.mux(sound.encode(frame))
        for k in range(round(10 * (seconds - start))):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), (200, 40, 30), np.uint8))
            frame.pts, frame.time_base = k + round(10 * start), Fraction(1, 10)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize("ending", ["mkv", "mov"])
def test_seconds_count_from_the_start_of_the_sound(tmp_path, ending):
    frames = list(video.frames(sounded(tmp_path / f"a.{ending}", start=2.0)))
    assert [second for second, _ in frames] == [0, 1, 2, 3]
    assert [int(image[..., 0].mean()) > 100 for _, image in frames] == [False, False, True, True]
    assert len({image.shape for _, image in frames}) == 1


# ---- damage

def noise(i):
    return np.random.default_rng(i).integers(0, 255, (32, 48, 3)).astype(np.uint8)


def with_zeros(path, numbers):
    """The film, where the packets of these numbers are all zeros."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    blob = bytearray(path.read_bytes())
    for number in numbers:
        at, size = places[number]
        blob[at:at + size] = bytes(size)
    path.write_bytes(blob)
    return path


@pytest.mark.parametrize("ending, codec", [("mp4", "libx264"), ("avi", "mpeg4"), ("mov", "mjpeg"),
                                           ("mkv", "mpeg4"), ("webm", "libvpx")])
def test_a_damaged_packet_is_one_picture_less(tmp_path, ending, codec):
    pix = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = film(tmp_path / f"a.{ending}", [k / 10 for k in range(60)], rate=10, codec=codec,
                level=noise, pix=pix)
    counts = Counter()
    assert len(list(video.frames(with_zeros(path, [33]), counts=counts))) == 6
    if ending in ("mp4", "avi", "mov"):                 # others drop it before it can be counted
        assert counts == {"damaged pictures skipped": 1}
        with pytest.raises(ValueError, match=f"a.{ending}: .* of .* pictures are damaged"):
            list(video.frames(with_zeros(path, range(20, 40))))


def test_titles_that_are_no_utf8(tmp_path):
    for ending in "mp4", "mkv", "avi":
        with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
            container.metadata["title"] = "caf@"
            stream = container.add_stream("mpeg4", rate=1)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(0))))
            container.mux(stream.encode())
        blob = (tmp_path / f"a.{ending}").read_bytes()
        assert b"caf@" in blob
        (tmp_path / f"a.{ending}").write_bytes(blob.replace(b"caf@", b"caf\xe9"))
        assert len(list(video.frames(tmp_path / f"a.{ending}"))) == 1


def folder_of(path, count, bad=()):
    path.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (16, 16), (20 + 20 * i,) * 3).save(path / f"{i}.png")
        if i in bad:
            blob = bytearray((path / f"{i}.png").read_bytes())
            blob[40] ^= 255
            (path / f"{i}.png").write_bytes(blob[:60])
    return path


def test_a_damaged_picture_leaves_the_one_before(tmp_path):
    counts = Counter()
    assert shades(folder_of(tmp_path / "a", 11, bad=[4]), counts=counts) == [
        0, 1, 2, 3, 3, 5, 6, 7, 8, 9, 10]
    assert counts == {"damaged pictures skipped": 1}
    first = seen(folder_of(tmp_path / "b", 11, bad=[0]))
    assert first[:2] == [(0.0, -1), (1.0, 1)]                      # black
    with pytest.raises(ValueError, match=r"c: 2 of 11 pictures are damaged, the first: .*3.png"):
        shades(folder_of(tmp_path / "c", 11, bad=[3, 4]))


# ---- truncation

CONTAINERS = [("mp4", "libx264", {}), ("mkv", "mpeg4", {}), ("webm", "libvpx", {}),
              ("flv", "flv", {}), ("avi", "mpeg4", {}), ("wmv", "wmv2", {}), ("gif", "gif", {}),
              ("mov", "mjpeg", {"movflags": "faststart"}),
              ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
              ("mp4", "mpeg4", {"movflags": "faststart"}), ("mkv", "mpeg4", {"live": "1"}),
              ("flv", "flv", {"flvflags": "no_duration_filesize"})]


@pytest.mark.parametrize("ending, codec, options", CONTAINERS)
def test_half_a_film_is_truncated_and_a_whole_one_is_not(tmp_path, ending, codec, options):
    pix = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    path = film(tmp_path / f"a.{ending}", [k / 10 for k in range(60)], rate=10, codec=codec,
                level=noise, pix=pix, options=options)
    assert len(list(video.frames(path))) == 6 and whole.missing(path) == 0
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    assert whole.missing(path) > 0
    with pytest.raises(ValueError, match=f"a.{ending}: truncated"):
        list(video.frames(path))


def test_a_film_that_went_through_a_pipe_is_whole(tmp_path):
    """Its AVI could not go back to say how long it is; it states the most there is."""
    class Pipe:
        def __init__(self):
            self.parts = []

        def write(self, data):
            self.parts.append(bytes(data))
            return len(data)
    pipe = Pipe()
    with av.open(pipe, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 48, 32
        for i in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(i))))
        container.mux(stream.encode())
    (tmp_path / "a.avi").write_bytes(b"".join(pipe.parts))
    assert len(list(video.frames(tmp_path / "a.avi"))) == 3


@pytest.mark.parametrize("ending, options, more", [
    ("flv", {}, b"\0\1"),
    ("mp4", {"movflags": "frag_keyframe+empty_moov"}, b"and more at its end")])
def test_bytes_of_another_kind_behind_a_film(tmp_path, ending, options, more):
    codec = "flv" if ending == "flv" else "libx264"
    path = film(tmp_path / f"a.{ending}", [k / 10 for k in range(30)], rate=10, codec=codec,
                level=noise, options=options)
    path.write_bytes(path.read_bytes() + more)
    assert len(list(video.frames(path))) == 3


def test_room_for_a_download_is_no_film(tmp_path):
    """The file has its size from the beginning; what has not come yet is zeros."""
    path = film(tmp_path / "a.mkv", [k / 10 for k in range(60)], rate=10, level=noise)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:size // 2].ljust(size, b"\0"))
    with pytest.raises(ValueError, match="a.mkv: truncated: .* s of 6.0 s|a.mkv: .*damaged"):
        list(video.frames(path))


def test_whole_films_of_odd_lengths(tmp_path):
    long = tmp_path / "long.mkv"                        # the last picture lasts for 20 s
    with av.open(str(long), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for time in 0, 5:
            frame = av.VideoFrame.from_ndarray(noise(time))
            frame.pts, frame.time_base = time * 10, Fraction(1, 10)
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            packet.duration = round(20 / packet.time_base)
            container.mux(packet)
    assert len(list(video.frames(long))) >= 6
    cut = film(tmp_path / "cut.ts", [k / 25 for k in range(150)], rate=25, codec="mpeg2video",
               level=noise)
    blob = cut.read_bytes()
    cut.write_bytes(blob[:3 * 188] + blob[len(blob) // 188 // 4 * 188:])
    assert len(list(video.frames(cut))) >= 4
    sound = sounded(tmp_path / "sound.mkv", start=0.0, seconds=2)
    assert len(list(video.frames(sound))) == 2
    avi = film(tmp_path / "a.avi", [k / 10 for k in range(60)], rate=10)
    avi.write_bytes(avi.read_bytes()[:-400])            # a part of the index alone is missing
    assert len(list(video.frames(avi))) == 6


# ---- which stream

def test_a_cover_is_no_film_and_a_thumbnail_not_the_film(tmp_path):
    two = tmp_path / "two.mkv"
    with av.open(str(two), "w") as container:
        tracks = []
        for side, rate in ((16, 1), (64, 10)):
            tracks.append(container.add_stream("mjpeg", rate=rate))
            tracks[-1].width, tracks[-1].height, tracks[-1].pix_fmt = side, side, "yuvj420p"
        for stream, count in zip(tracks, (3, 30)):
            for _ in range(count):
                picture = np.full((stream.height, stream.width, 3), 99, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode())
    assert next(video.frames(two))[1].shape == (64, 64, 3)
    song, cover = tmp_path / "song.mp3", io.BytesIO()
    Image.new("RGB", (16, 16)).save(cover, "JPEG")
    with av.open(str(song), "w", options={"id3v2_version": "0", "write_xing": "0"}) as container:
        sound = container.add_stream("libmp3lame", rate=44100)
        for k in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, 1152 * k, Fraction(1, 44100)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    body = b"\0image/jpeg\0\3\0" + cover.getvalue()
    tag = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes(len(tag) >> bits & 127 for bits in (21, 14, 7, 0))
    song.write_bytes(b"ID3\3\0\0" + size + tag + song.read_bytes())
    with pytest.raises(ValueError, match="song.mp3: no video stream"):
        list(video.frames(song))


# ---- as seen

CORNER = np.zeros((8, 16, 3), np.uint8)                 # white above on the left
CORNER[:4, :8] = 255


def corner(image):
    """Where the white quarter of a picture is: (row half, column half), and the picture's shape."""
    height, width = image.shape[:2]
    halves = image.reshape(2, height // 2, 2, width // 2, 3).mean((1, 3, 4))
    return *map(int, np.unravel_index(halves.argmax(), (2, 2))), height, width


def test_photos_stand_upright(tmp_path):
    for turn, wanted in {1: (0, 0, 8, 16), 2: (0, 1, 8, 16), 3: (1, 1, 8, 16), 4: (1, 0, 8, 16),
                         5: (0, 0, 16, 8), 6: (0, 1, 16, 8), 7: (1, 1, 16, 8),
                         8: (1, 0, 16, 8), 99: (0, 0, 8, 16)}.items():
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = turn
        for ending in "png", "webp", "tiff":
            Image.fromarray(CORNER).save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
            assert corner(pictures.still(tmp_path / f"a.{ending}")) == wanted, (turn, ending)


def test_films_are_turned_and_mirrored():
    one = 1 << 16
    corners = {(1, 0, 0, 1): (0, 0, 8, 16), (-1, 0, 0, 1): (0, 1, 8, 16),
                                 (-1, 0, 0, -1): (1, 1, 8, 16), (1, 0, 0, -1): (1, 0, 8, 16),
                                 (0, 1, -1, 0): (0, 1, 16, 8), (0, -1, 1, 0): (1, 0, 16, 8),
                                 (0, 1, 1, 0): (0, 0, 16, 8), (0, -1, -1, 0): (1, 1, 16, 8)}
    for (a, b, c, d), wanted in corners.items():
        matrix = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30], np.int32)
        assert corner(pictures.turned(CORNER, matrix.tobytes())) == wanted, (a, b, c, d)
    assert pictures.turned(CORNER, None) is CORNER


def test_a_camera_whose_pictures_have_exif(tmp_path):
    """Each picture of such a film is a photo; FFmpeg hands its EXIF on, PyAV has no name for it."""
    exif, photo = Image.Exif(), io.BytesIO()
    exif[0x10f] = "Camera"
    Image.new("RGB", (48, 32), (60, 60, 60)).save(photo, "JPEG", exif=exif)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for i in range(20):
            packet = av.Packet(photo.getvalue())
            packet.pts = packet.dts = i
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
            container.mux(packet)
    assert shades(tmp_path / "a.avi") == [2, 2]
    (tmp_path / "a.jfif").write_bytes(photo.getvalue())
    assert shades(tmp_path / "a.jfif") == [2]


def test_pixels_that_are_no_squares(tmp_path):
    for ratio, shape in ((Fraction(2), (32, 96, 3)), (Fraction(1, 2), (64, 48, 3)),
                         (Fraction(999), (32, 48, 3))):
        frame = av.VideoFrame.from_ndarray(noise(0))
        assert pictures.seen(frame, ratio).shape == shape
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(0))))
        container.mux(stream.encode())
    assert next(video.frames(tmp_path / "a.mp4"))[1].shape == (32, 64, 3)


def test_deep_and_transparent_pictures(tmp_path):
    grey = np.full((8, 8), 0x8000, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (8, 8), (0, 128)).save(tmp_path / "half.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 250, 10, 10])
    palette.save(tmp_path / "palette.png", transparency=1)
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "real.tiff")
    for name, level in (("deep.png", 128), ("clear.png", 255), ("half.png", 127), ("bit.png", 255),
                        ("palette.png", 255), ("print.jpg", 0), ("real.tiff", 127)):
        image = pictures.still(tmp_path / name)
        assert image.shape == (8, 8, 3) and abs(int(image.mean()) - level) <= 1, name
    clear = np.zeros((32, 48, 4), np.uint8)
    shown = pictures.seen(av.VideoFrame.from_ndarray(clear, format="rgba"))
    assert (shown == 255).all()


@pytest.mark.parametrize("pix, matrix, span", [("yuv420p", 1, 1), ("yuv420p", 6, 2),
                                               ("yuv444p10le", 1, 1), ("yuv420p10le", 9, 1)])
def test_colours_are_what_was_encoded(tmp_path, pix, matrix, span):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, span
        frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), (200, 40, 60), np.uint8))
        container.mux(stream.encode(frame.reformat(
            format=pix, dst_colorspace={1: "ITU709", 6: "ITU601", 9: "BT2020"}[matrix],
            dst_color_range=span)))
        container.mux(stream.encode())
    image = next(video.frames(tmp_path / "a.mkv"))[1]
    assert abs(image.mean((0, 1)) - (200, 40, 60)).max() < 4


def test_pictures_that_move(tmp_path):
    images = [Image.new("RGB", (32, 32), (20 + 20 * i,) * 3) for i in range(3)]
    for name in "a.webp", "a.png":
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], lossless=True,
                       duration=[500, 1000, 2000])
        assert shades(tmp_path / name) == [0, 2, 2], name
    images[0].save(tmp_path / "b.png", save_all=True, append_images=images[1:], duration=1000,
                   default_image=True)                      # for those that show no animation
    assert shades(tmp_path / "b.png") == [1, 2]
    images[0].save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=images[1:])
    assert shades(tmp_path / "a.mpo", fps=10) == [0]        # a photo; the others are its previews
    images[2].save(tmp_path / "still.gif", duration=600_000)
    assert shades(tmp_path / "still.gif") == [2] * 600


# ---- bounds

def test_pictures_too_large_are_made_smaller_or_refused(tmp_path, monkeypatch):
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png: .*9000 x 9000 pixels, more than"):
        list(video.frames(tmp_path / "bomb.png"))
    Image.new("L", (9000, 7600), 100).save(tmp_path / "photo.jpg")          # 68 megapixels
    assert max(pictures.still(tmp_path / "photo.jpg").shape) == pictures.MOST_SIDE
    path = film(tmp_path / "a.mp4", [0, 1])
    monkeypatch.setattr(video, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="a.mp4: .*its pictures have more than 1000 pixels"):
        list(video.frames(path))
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "MOST_SIDE", 24)
    assert next(video.frames(path))[1].shape == (16, 24, 3)


def test_seconds_without_end_are_refused(tmp_path):
    path = film(tmp_path / "a.mkv", [0, 1e6], rate=10)
    assert len(list(video.frames(path))) < 3
    folder = folder_of(tmp_path / "folder", 3)
    for rate in 1e-9, -1.0, float("nan"):
        with pytest.raises(ValueError, match="folder: .* pictures a second"):
            list(video.frames(folder, rate=rate))
    assert len(list(video.frames(folder, rate=1e9))) == 1


@pytest.mark.parametrize("size", [(1, 1), (2000, 16), (17, 33)])
def test_sizes_of_any_kind(tmp_path, size):
    path = film(tmp_path / "a.mkv", [0, 0.5], size=size, codec="ffv1", pix="bgr0", rate=10)
    assert [image.shape for _, image in video.frames(path)] == [(*size, 3)]


# ---- folders

def test_what_a_folder_leaves_out_is_counted(tmp_path):
    for name, level in (("b10.tif", 2), ("b2.TIFF", 1), ("B1.png", 0), (".hidden.png", 9),
                        ("._b3.png", 9)):
        Image.new("RGB", (16 + level, 16), (20 + 20 * level,) * 3).save(
            tmp_path / name, "PNG" if "png" in name else "TIFF")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "more").mkdir()
    counts = Counter()
    assert shades(tmp_path, counts=counts) == [0, 1, 2]
    assert counts == {"files of the folder left out": 4}


# ---- what is opened

@pytest.mark.parametrize("name", ["a:b.mp4", "100%.mp4", "img%03d.mp4", "two words.mp4", "-x.mp4",
                                  "concat:a.mp4", "http:x.mp4", "naïve 片.mp4",
                                   "a?b#c.mp4", "film"])
def test_names_are_names(tmp_path, monkeypatch, name):
    film(tmp_path / "a.mp4", [0, 1, 2], rate=10)
    (tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in name, tmp_path / name:
        assert shades(source) == [0, 1, 2]
    frames, seconds, live = sources.open_source(name, 1, "")
    assert len(list(frames)) == 3 and not live and seconds == pytest.approx(2.1, abs=0.2)


def test_a_file_address_is_a_file(tmp_path):
    path = film(tmp_path / "a b.mp4", [0, 1, 2], rate=10)
    assert shades(path.as_uri()) == [0, 1, 2]
    frames, _, live = sources.open_source(path.as_uri(), 1, "")
    assert len(list(frames)) == 3 and not live


def test_a_fifo_is_a_file_that_is_opened_once(tmp_path, monkeypatch):
    blob = film(tmp_path / "a.mkv", [0, 1, 2], rate=10).read_bytes()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(blob,), daemon=True)
    writer.start()
    frames, seconds, live = sources.open_source(str(fifo), 1, "")
    assert [second for second, _ in frames] == [0, 1, 2] and not live
    writer.join(5)
    monkeypatch.setattr(video, "PATIENCE", 0.2)
    with pytest.raises(ValueError, match="fifo: nothing came"):
        next(video.frames(fifo))


class Plain(BaseHTTPRequestHandler):
    """No Range, no length: the body ends when the connection does."""
    bodies, asked = {}, Counter()

    def log_message(self, *_):
        pass

    def do_GET(self):
        Plain.asked[self.path] += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Plain.bodies[self.path])


def test_a_server_without_range_or_length_has_files_too(tmp_path):
    for name, options in (("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.ts", {})):
        codec = "mpeg2video" if name == "a.ts" else "mpeg4"
        film(tmp_path / name, [k / 5 for k in range(15)], rate=25 if name == "a.ts" else 10,
             codec=codec, options=options, level=lambda i: 20 + 20 * (i // 5))
        Plain.bodies[f"/{name}"] = (tmp_path / name).read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in "a.mp4", "a.mkv", "a.ts":
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            frames, _, live = sources.open_source(url, 1, "")
            levels = [round((image.mean() - 20) / 20) for _, image in frames]
            assert not live and levels == [0, 1, 2]
            assert Plain.asked[f"/{name}"] == 1
        server.shutdown()


def test_a_record_opens_nothing_but_its_film(tmp_path):
    """Playlists, lists of files, patterns and addresses lead elsewhere; a link that the user put
    there is followed."""
    folder = tmp_path / "videos"
    folder.mkdir()
    secret = film(tmp_path / "secret.ts", [k / 25 for k in range(50)], rate=25, codec="mpeg2video")
    Image.new("RGB", (16, 16)).save(folder / "img000.png")
    untrusted = partial(video.frames, trusted=False)
    for name, text in (("list.mp4", "#EXTM3U\n#EXTINF:2,\n../secret.ts\n#EXT-X-ENDLIST\n"),
                       ("bom.m3u8", "\ufeff#EXTM3U\n#EXTINF:2,\n../secret.ts\n#EXT-X-ENDLIST\n"),
                       ("list.ts", f"#EXTM3U\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"),
                       ("concat.mp4", "ffconcat version 1.0\nfile img000.png\n"),
                       ("manifest.mpd", "<?xml version='1.0'?><MPD></MPD>"),
                       ("talk.sdp", "v=0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n")):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            list(untrusted(folder / name))
    (folder / "img%03d.png").write_bytes(b"no picture")
    (folder / "img%03d.jpeg2").write_bytes(b"no picture")
    for name in "img%03d.png", "img%03d.jpeg2":
        with pytest.raises(ValueError, match="img%03d"):
            list(untrusted(folder / name))
    for name in ("http://127.0.0.1:9/a.mp4", f"concat:{secret}",
                 f"subfile,,start,0,end,0,,:{secret}"):
        with pytest.raises(FileNotFoundError):
            list(untrusted(name))
    (folder / "link.ts").symlink_to(secret)
    assert len(list(untrusted(folder / "link.ts"))) == 2
