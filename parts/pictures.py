"""One picture as a person sees it: upright, with its shape and colours, as uint8 (H, W, 3) RGB.

Image files are read by Pillow, the pictures of films by PyAV. What is transparent is white, as on
a page. 16 bits become 8, limited range full range; HDR is not tone-mapped.
"""
import warnings
from contextlib import suppress

import av
import numpy as np
from PIL import Image

MOST_PIXELS = 1 << 26       # of one picture: twice an 8K frame; as RGB that is 200 MB already
MOST_SIDE = 2048            # pixels; larger pictures are made smaller: the encoders see 384 at most
MOST_RATIO = 16             # of a pixel's width to its height, or the reverse; more is damage
ORIENTATION = 0x112         # the EXIF tag: how to turn what a camera stored
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
         4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}


def resized(image, size):
    """uint8 (H, W, 3) -> uint8 (size, size, 3), the bicubic resize of streamo.preprocess."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


# ---- Image files

def animation(path):
    """Yield (seconds, uint8 (H, W, 3)) of an image file, animated or not, and last (end, None).

    ValueError names a file that is damaged or has more than MOST_PIXELS."""
    start = 0.0
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")         # of odd metadata, and of sizes: judged here
            image.draft("RGB", (MOST_SIDE, MOST_SIDE))      # a JPEG is decoded smaller at once
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            # of an MPO the others are previews; a PNG's default image is for those who show no more
            many = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
            for n in range(bool(image.info.get("default_image")), many):
                image.seek(n)
                yield start, upright(image)
                start += (image.info.get("duration") or 100) / 1000
            yield start, None
    except FileNotFoundError:
        raise
    except Exception as error:      # of a dozen kinds: Pillow's decoders raise what they stumble on
        raise ValueError(f"{path}: not a readable picture ({error})") from error


def still(path):
    """An image file's first picture -> uint8 (H, W, 3)."""
    pictures = animation(path)
    picture = next(pictures)[1]
    pictures.close()
    return picture


def upright(image):
    """A PIL image -> uint8 (H, W, 3) as it is to be seen, no side longer than MOST_SIDE."""
    turn = None
    image.load()                                    # a TIFF is turned by this, and says so no more
    with suppress(Exception):                       # a damaged EXIF block tells no orientation
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    if image.mode.startswith("I"):                  # 16 bits of grey
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":                         # from 0 to 1
        shares = np.nan_to_num(np.asarray(image)).clip(0, 1)
        image = Image.fromarray((shares * 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    image = image.convert("RGB")
    image.thumbnail((MOST_SIDE, MOST_SIDE))         # only ever makes smaller
    return np.asarray(image if turn is None else image.transpose(turn))


# ---- Pictures of films

def seen(frame, ratio=None):
    """An av.VideoFrame -> uint8 (H, W, 3) as it is to be seen, no side longer than MOST_SIDE.

    ratio: a pixel's width over its height, None for 1."""
    width, height = frame.width, frame.height
    ratio = float(ratio or 1)
    if 1 < ratio <= MOST_RATIO:
        width *= ratio
    elif 1 / MOST_RATIO <= ratio < 1:
        height /= ratio
    shrink = min(1.0, MOST_SIDE / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    how = None if size == (frame.width, frame.height) else "AREA" if shrink < 1 else "BILINEAR"
    try:
        if frame.format.has_palette or any(part.is_alpha for part in frame.format.components):
            rgba = frame.reformat(*size, format="rgba", interpolation=how).to_ndarray()
            image = np.asarray(Image.alpha_composite(Image.new("RGBA", size, "white"),
                                                     Image.fromarray(rgba)).convert("RGB"))
        else:
            image = frame.reformat(*size, format="rgb24", interpolation=how).to_ndarray()
    except av.error.FFmpegError as error:
        raise ValueError(f"a picture of {frame.width} x {frame.height} {frame.format.name} cannot "
                         f"be shown ({error.strerror})") from error
    try:
        return np.ascontiguousarray(turned(image, frame.side_data.get("DISPLAYMATRIX")))
    except ValueError:      # PyAV has no name for EXIF and hides the matrix: turned, not mirrored
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


def turned(image, matrix):
    """(H, W, 3) turned and mirrored as a display matrix says: nine int32, of which a, b, c, d at 0,
    1, 3, 4 put the pixel (x, y) to (a x + c y, b x + d y). Only quarter turns are made."""
    if matrix is None or len(bytes(matrix)) < 36:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    across, down = a, d
    if abs(b) > abs(a):                             # what was a row becomes a column
        image, across, down = image.swapaxes(0, 1), c, b
    if across < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return image
