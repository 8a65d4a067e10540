"""What a stream is given, checked where it comes in: settings, questions, frames and their times.

Each raises a ValueError that names the setting, the question, the frame or its second.
"""
import math
from numbers import Integral, Real

import numpy as np
from PIL import Image

# The least and the most of each setting. None, where one allows it, stands for its default. No film
# has 1000 frames a second, and no cache room for them.
BOUNDS = {"fps": (1, 1000), "threshold": (0, 1), "patience": (1, math.inf),
          "max_new_tokens": (1, math.inf), "window": (0, math.inf), "prune": (1, math.inf),
          "compress": (0, math.inf)}
FRACTIONS = {"threshold", "compress"}                   # the others are whole numbers
MAY_BE_NONE = {"threshold", "prune", "compress"}


def check_setting(name, value):
    if value is None and name in MAY_BE_NONE:
        return
    kind, what = (Real, "a number") if name in FRACTIONS else (Integral, "a whole number")
    least, most = BOUNDS[name]
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
        within = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} {value!r}: {what}, {within}, is wanted")


def check_settings(session):
    """Those of an infer.Session, which may have been changed."""
    for name in BOUNDS:
        check_setting(name, getattr(session.decision if name == "patience" else session, name))


def check_question(text, second=0):
    """second: before which it is not asked."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"question {text!r}: text is wanted")
    try:
        text.encode()
    except UnicodeEncodeError:              # an argument or a line of bytes that were no UTF-8
        raise ValueError(f"question {text!r}: its bytes are no UTF-8") from None
    if not isinstance(second, Real) or not math.isfinite(second):
        raise ValueError(f"question {text!r}: second {second!r} is no time")


def check_together(sessions, images, seconds):
    """What infer.step is given for all its sessions, before any of them changes."""
    if not sessions:
        raise ValueError("a stream is wanted, or several; none is given")
    for some, what in ((images, "lists of images"), (seconds, "seconds")):
        if len(some) != len(sessions):
            raise ValueError(f"{len(sessions)} streams, {len(some)} {what}: one each is wanted")
    if len({id(session) for session in sessions}) < len(sessions):
        raise ValueError("a stream is given twice: its seconds come one after the other")
    for n, session in enumerate(sessions):
        check_step(session, sessions[0].model, seconds[n], images[n])


def check_pair(kind, n, pair):
    """A (second, question) or (second, image) -> the pair."""
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise ValueError(f"{kind} {n}: a (second, {kind}) pair is wanted, not "
                         f"{str(pair)[:60]!r}") from None
    return first, second


def ordered(frames):
    """The (second, image) pairs, as they are; times are finite, from 0 on, never backwards."""
    before = 0.0
    for n, frame in enumerate(frames):
        second, image = check_pair("frame", n, frame)
        if not isinstance(second, Real) or not math.isfinite(second) or second < 0:
            raise ValueError(f"frame {n}: second {second!r} is no time of a stream")
        if second < before:
            raise ValueError(f"frame {n}: second {second} comes after second {before}")
        before = second
        yield second, image


def check_frame(image, hidden_size, where):
    """An image that a model can see: uint8 RGB (H, W, 3), PIL, or a (tokens, hidden_size) tensor
    that was encoded before. (That channels are blue, green, red cannot be seen: turn them.)"""
    if hasattr(image, "is_floating_point"):            # a tensor, without importing torch
        good = image.dim() == 2 and len(image) > 0 and image.shape[1] == hidden_size
        good = good and image.is_floating_point() and bool(image.isfinite().all())
    elif isinstance(image, Image.Image):
        good = image.width > 0 and image.height > 0
    else:
        good = (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
                and image.shape[2] == 3 and image.size > 0)
    if not good:
        kind = type(image).__name__
        if hasattr(image, "dtype"):
            kind = f"{kind} of {image.dtype} {tuple(image.shape)}"
        raise ValueError(f"{where}: {kind}; wanted is uint8 RGB (height, width, 3), PIL, or "
                         f"an encoded frame (tokens, {hidden_size})")


def check_step(session, model, second, images):
    """What infer.step is given for one of its sessions."""
    check_settings(session)
    where = f"second {second}"
    if session.model is not model:
        raise ValueError("the sessions of a step have one model")
    if not isinstance(second, Integral) or second <= session.last:
        raise ValueError(f"{where}: the next one is {session.last + 1}")
    if not 1 <= len(images) <= session.fps:
        raise ValueError(f"{where}: {len(images)} frames, at a rate of {session.fps}")
    for n, image in enumerate(images):
        check_frame(image, model.config.decoder.hidden_size, f"{where}, frame {n}")
