"""Pictures and films with damaged bytes: frames, or one ValueError or OSError, and nothing else.

FUZZ=10000 python -m pytest tests/test_fuzz_video.py tries so many; SEED begins elsewhere."""
import io
import os
import random
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from parts import video

TRIES, SEED = int(os.environ.get("FUZZ", 240)), int(os.environ.get("SEED", 0))
LONGEST = 10                                # seconds of computing that one file may take
FILMS = [("mp4", "mpeg4"), ("mkv", "libx264"), ("avi", "mjpeg"), ("ts", "mpeg2video"),
         ("webm", "libvpx"), ("flv", "flv"), ("mov", "mjpeg"), ("wmv", "wmv2"), ("gif", "gif"),
         ("mpg", "mpeg2video"), ("nut", "mpeg4"), ("mp4", "libx264")]
PICTURES = ["png", "jpg", "webp", "tiff", "bmp"]


def made(number):
    """(ending, bytes) of a sound film or picture."""
    if number >= len(FILMS):
        ending, file = PICTURES[number - len(FILMS)], io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        images, exif = [Image.fromarray(noise), Image.fromarray(255 - noise)], Image.Exif()
        exif[0x112] = 6
        many = {"save_all": True, "append_images": images[1:]} if ending in ("png", "webp") else {}
        images[0].save(file, {"jpg": "jpeg"}.get(ending, ending), exif=exif, **many)
        return ending, file.getvalue()
    (ending, codec), file = FILMS[number], io.BytesIO()
    form = {"mkv": "matroska", "ts": "mpegts", "wmv": "asf", "mpg": "mpeg"}.get(ending, ending)
    pix = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, pix
        for k in range(12):
            noise = np.random.default_rng(k).integers(0, 255, (24, 32, 3)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(noise)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return ending, file.getvalue()


def damaged(blob, rng):
    """The bytes with a few of them changed, a part missing, doubled or random; most damage is done
    to the head, where it reaches furthest."""
    blob = bytearray(blob)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        at = rng.randrange(min(len(blob), rng.choice((64, 1000, 10**9))))
        length = rng.choice((1, 1, 2, 4, 50))
        how = rng.randrange(6)
        if how < 3:
            blob[at:at + length] = rng.randbytes(min(length, len(blob) - at))
        elif how == 3:
            blob[at:at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
        elif how == 4:
            del blob[at:at + length]
        else:
            blob[at:at] = blob[at:at + length]
        if len(blob) < 8:
            break
    return bytes(blob[:rng.randrange(len(blob) + 1)] if rng.random() < 0.1 else blob)


@pytest.fixture(scope="module")
def sound():
    return [made(number) for number in range(len(FILMS) + len(PICTURES))]


@pytest.mark.parametrize("part", range(4))
def test_damaged_films_are_frames_or_one_error(sound, tmp_path, part):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(part, TRIES, 4):
        rng = random.Random(f"{SEED}/{number}")
        ending, blob = rng.choice(sound)
        in_folder = ending in PICTURES and rng.random() < 0.5
        path = (folder if in_folder else tmp_path) / f"a.{ending}"
        path.write_bytes(damaged(blob, rng))
        began, count = time.process_time(), 0
        try:
            for second, image in video.frames(folder if in_folder else path, rng.choice((1, 10))):
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
                assert max(image.shape) <= 2048 and second == pytest.approx(second)
                count += 1
                if count > 20_000:
                    break
        except (ValueError, OSError) as error:
            assert str(path.parent) in str(error) or str(path) in str(error), f"{number}: {error}"
        except Exception as error:
            raise AssertionError(f"{number}: {type(error).__name__}: {error}") from error
        assert time.process_time() - began < LONGEST, f"{number} took too long"
        path.unlink()
