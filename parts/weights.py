"""Strict reading of safetensors into a model that was built without memory, on the meta device."""
import re
from functools import reduce
from pathlib import Path

import numpy as np
import torch

from parts.files import check, parse_json, read_json

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_headers(folder):
    """The tensors of a folder's safetensors, one file or shards: {name: (path, dtype, shape,
    first byte, bytes)}. Errors name the missing or truncated file."""
    folder = Path(folder)
    index, paths = folder / "model.safetensors.index.json", [folder / "model.safetensors"]
    if index.exists() and not paths[0].exists():
        paths = [folder / shard for shard in sorted(set(read_json(index)["weight_map"].values()))]
    tensors = {}
    for path in paths:
        if not path.exists():
            pickles = ", ".join(file.name for file in folder.glob("*.bin"))
            raise FileNotFoundError(f"{path}: no such file" + (
                f" (only safetensors are read, not {pickles})" if pickles else ""))
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            check(8 <= start <= size, f"{path}: truncated, or not a safetensors file")
            header = parse_json(file.read(start - 8), path)
        header.pop("__metadata__", None)
        for name, info in header.items():
            begin, end = (start + offset for offset in info["data_offsets"])
            check(end <= size, f"{path}: truncated, tensor {name} ends at byte {end} of {size}")
            tensors[name] = (path, info["dtype"], tuple(info["shape"]), begin, end - begin)
    return tensors


def read_tensor(entry, shape, dtype, device):
    """Read one tensor in blocks straight to its dtype and device: there is no second copy. The
    shape may have more rows than are stored."""
    path, kind, _, start, size = entry
    out, width = torch.empty(shape, dtype=dtype, device=device), DTYPES[kind].itemsize
    for part in out.view(-1)[:size // width].split(1 << 20):
        block = np.fromfile(path, np.uint8, len(part) * width, offset=start)
        part.copy_(torch.from_numpy(block).view(DTYPES[kind]))
        start += len(block)
    return out

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
NOT_WEIGHTS = ("rotary_emb.inv_freq", "position_ids")   # tables that older files stored


def start_rows(weight, rows, new):
    """Rows that no file holds, and the rows of new tokens, start at the mean of the old ones."""
    new = sorted({*new, *range(rows, len(weight))})
    old = min([rows, *new])
    total = sum(block.float().sum(0) for block in weight[:old].split(4096))  # no float copy of all
    weight[new] = (total / old).to(weight.dtype)


def load_weights(model, folder, dtype=None, device=None, new_rows=None):
    """Fill a model that was built on the meta device from folder's safetensors, strictly: a
    missing, misshapen or unexpected tensor is a ValueError that names it. model.public_names:
    (prefix in public files, ours); what then begins with one of model.unused is skipped.
    new_rows (n, ids): embeddings of n rows are stored, the rest, and the rows ids, start at their
    mean. dtype None: the narrowest that holds all that are stored."""
    found, wanted, state = {}, model.state_dict(), {}
    for stored, entry in read_headers(folder).items():
        name = stored
        for prefix, ours in model.public_names:
            name = re.sub("^" + prefix, ours, name)
        check(name in wanted or name.startswith(tuple(model.unused)) or name.endswith(NOT_WEIGHTS),
              f"{entry[0]}: unexpected tensor {stored}")
        found[name] = entry
    for name, tensor in wanted.items():
        check(name in found, f"{folder}: tensor {name} is missing")
        shape, (path, kind, stored, *_) = tuple(tensor.shape), found[name]
        if new_rows and name.endswith(EMBEDDINGS):
            shape = (new_rows[0], *shape[1:])
        check(stored == shape and kind in DTYPES, f"{path}: tensor {name} is {kind} {stored}, "
              f"wanted {shape} in one of {', '.join(DTYPES)}")
    kinds = {DTYPES[found[name][1]] for name in wanted}
    dtype = dtype or reduce(torch.promote_types, kinds)
    for name, tensor in wanted.items():
        state[name] = read_tensor(found[name], tensor.shape, dtype, device)
        if new_rows and name.endswith(EMBEDDINGS):
            start_rows(state[name], *new_rows)
    model.load_state_dict(state, assign=True)
    return model


def load_tensor(folder, pattern, dtype=None, device=None):
    """The tensor of a folder whose whole name fits a pattern; ValueError where there is none."""
    for name, entry in read_headers(folder).items():
        if re.fullmatch(pattern, name):
            check(entry[1] in DTYPES, f"{entry[0]}: tensor {name} is {entry[1]}, wanted one of "
                  f"{', '.join(DTYPES)}")
            return read_tensor(entry, entry[2], dtype or DTYPES[entry[1]], device)
    raise ValueError(f"{folder}: no tensor is called {pattern.replace(chr(92), '')}")


def on_meta(cls, *args):
    with torch.device("meta"):                          # shapes only: loading fills them
        return cls(*args)
