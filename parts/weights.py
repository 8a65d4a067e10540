"""Safetensors: written whole, and read strictly into a model that was built without memory."""
import json
import math
import re
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from parts.files import check, read_json, reading, replacing

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK = 1 << 23     # bytes that are read at once, all that a tensor takes beside its own memory


def write_tensors(path, tensors, metadata=None):
    """A safetensors file of {name: tensor} and {name: text}, whole or not at all."""
    with replacing(path) as partial:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial,
                      metadata)
        except SafetensorError as error:                    # what it makes of a full disk
            raise OSError(f"{path}: {error}") from error


def read_headers(folder):
    """The tensors of a folder's safetensors, one file or shards: {name: (path, dtype, shape, its
    name there)}. ValueError or OSError names the file that is missing, damaged, or elsewhere."""
    folder = Path(folder)
    index, paths = folder / "model.safetensors.index.json", [folder / "model.safetensors"]
    if index.exists() and not paths[0].exists():
        paths = [folder / name for name in shards(index)]
    tensors = {}
    for path in paths:
        if not path.exists():
            pickles = ", ".join(file.name for file in folder.glob("*.bin"))
            raise FileNotFoundError(f"{path}: no such file" + (
                f" (only safetensors are read, not {pickles})" if pickles else ""))
        for name, (kind, shape) in read_header(path).items():
            check(name not in tensors, f"{path}: tensor {name} is in another shard, too")
            tensors[name] = (path, kind, shape, name)
    return tensors


def shards(index):
    """The files that an index names: of its own folder, whatever it says."""
    with reading(index):
        names = sorted(set(read_json(index)["weight_map"].values()), key=str)
    for name in names:
        check(isinstance(name, str) and name == Path(name).name and name.isprintable()
              and name.endswith(".safetensors"),
              f"{index}: {name!r} is not the name of a safetensors file in this folder")
    return names


def read_header(path):
    """{name: (dtype, shape)} of one file. The safetensors library refuses what does not add up: a
    file cut short, offsets that overlap, leave a gap or are not the shape's."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            header = {name: (part.get_dtype(), tuple(part.get_shape()))
                      for name, part in slices.items()}
    except SafetensorError as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged, or not a safetensors file: {message}") from error
    except OSError as error:                            # a folder, a device
        raise OSError(f"{path}: {error}") from error
    with open(path, "rb") as file, reading(path):       # of two equal names it takes the last
        json.loads(file.read(int.from_bytes(file.read(8), "little")), object_pairs_hook=unlike)
    for name in header:
        check(name.isprintable(), f"{path}: a tensor is called {name!r}")
    return header


def unlike(pairs):
    names = [name for name, _ in pairs]
    check(len({*names}) == len(names), "two tensors of the header have one name")


def read_tensor(entry, shape, dtype, device):
    """Read one tensor in blocks straight to its dtype and device: there is no second copy. The
    shape may have more rows than are stored. A number that is not finite is refused."""
    path, kind, stored, name = entry
    check(stored, f"{path}: tensor {name} has no dimension")
    out = torch.empty(shape, dtype=dtype, device=device)
    row = DTYPES[kind].itemsize * math.prod(stored[1:])                      # bytes
    step = max(1, BLOCK // max(1, row))
    for i in range(0, stored[0], step):
        # opened anew: what is read of a mapped file stays in memory until it is closed
        with safe_open(path, "pt") as file:
            part = out[i:min(i + step, stored[0])]
            part.copy_(file.get_slice(name)[i:i + step])
        # in one pass: the extremes of a block with nan are nan
        check(not part.numel() or all(x.isfinite() for x in part.aminmax()),
              f"{path}: tensor {name} holds numbers that are not finite as {dtype}")
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
