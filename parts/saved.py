"""A session on disk, to go on from on another day with the same bits: its cache and all that
belongs to it, in one safetensors file with JSON in its header, written whole or not at all."""
import hashlib
import json
import os
from collections import Counter
from copy import copy
from dataclasses import asdict

import torch
from safetensors import SafetensorError, safe_open

from parts.files import MISSHAPEN, check
from parts.questions import Questions
from parts.weights import write_tensors

SETTINGS = "fps", "max_new_tokens", "window", "prune", "compress", "capacity"


def fingerprint(model, tokenizer):
    """Tells two models apart: by their configs, their tokens, and of each weight a few values and
    the sum of its bytes."""
    about = repr((model.config, sorted(tokenizer.bytes.items())))
    digest = hashlib.sha256(about.encode())
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        parts = flat.view(torch.uint8).split(1 << 24)       # a sum makes eight bytes of each
        total = sum(part.sum(dtype=torch.int64).item() for part in parts)
        digest.update(f"{name} {weight.dtype} {flat[:8].tolist()} {total}".encode())
    return digest.hexdigest()


def write(path, session):
    """All of an infer.Session but its model, tokenizer and policy."""
    keys, values = session.cache.filled()
    tensors = {"keys": keys, "values": values,
               "slots": torch.from_numpy(session.slots.rows[:, :session.cache.length])}
    if session.compressor.kept is not None:
        tensors["kept"] = torch.tensor(session.compressor.kept)
    about = {name: getattr(session, name) for name in SETTINGS} | {
        "model": fingerprint(session.model, session.tokenizer),
        "decision": asdict(session.decision),
        "pending": session.pending, "last": session.last, "counts": session.counts,
        "questions": [asdict(question) for question in session.book.all],
        "next_number": next(copy(session.book.numbers))}
    about = json.dumps(about, default=lambda number: number.item())     # NumPy's
    write_tensors(path, tensors, {"session": about})


def read(path, model, tokenizer):
    """-> (settings of the session that was saved, what restore() needs). ValueError names a file
    that is no such thing, or is of another model or tokenizer."""
    check(not os.path.isdir(path), f"{path}: not a saved session, it is a folder")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["session"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        settings, other = {name: about[name] for name in SETTINGS}, about["model"]
    except (SafetensorError, *MISSHAPEN) as error:
        raise ValueError(f"{path}: not a saved session ({error})") from error
    if other != fingerprint(model, tokenizer):
        raise ValueError(f"{path}: a session of another model, or of another tokenizer")
    return settings, (path, about, tensors)


def restore(session, read_before):
    """Make a new session, with the settings that were read, what the saved one was."""
    path, about, tensors = read_before
    try:
        session.cache.fill(tensors["keys"], tensors["values"])
        session.slots.rows[:, :session.cache.length] = tensors["slots"].numpy()
        session.compressor.kept = tensors["kept"].numpy() if "kept" in tensors else None
        session.book = Questions(about["questions"], about["next_number"])
        session.pending, session.last = about["pending"], about["last"]
        session.counts = Counter(about["counts"])
        vars(session.decision).update(about["decision"])
    except MISSHAPEN as error:
        raise ValueError(f"{path}: a damaged session ({error})") from error
    return session
