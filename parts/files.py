"""JSON, annotation files read in constant memory, files that are written whole or not at all."""
import csv
import json
import os
from pathlib import Path

from tqdm import tqdm

LONGEST_LINE = 1 << 26                      # bytes; a longer "line" is no record but a broken file
MISSHAPEN = ArithmeticError, AttributeError, LookupError, TypeError, ValueError    # from bad data


def check(ok, message):
    if not ok:
        raise ValueError(message)


def only(data, where, **allowed):
    """Refuse, by name, a setting of a public file that we do not have. A tuple allows several."""
    for key, values in allowed.items():
        values = values if isinstance(values, tuple) else (values,)
        check(data.get(key) in (None, *values), f"{where}: {key} = {data.get(key)!r} is not "
              f"supported, only {' or '.join(map(repr, values))}")


def parse_json(text, path):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def read_json(path):
    return parse_json(Path(path).read_bytes(), path)


def write_json(path, data):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(path)


def read_records(file):
    """Yield what a file holds: the lines of .jsonl and the rows of .csv, in constant memory; the
    items of a JSON list; the (key, value) pairs of a JSON object, or of its "database".
    Raises OSError, or ValueError naming file and line."""
    path, n = Path(file), 0
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None)

    def lines(errors):
        nonlocal n
        with open(path, "rb") as raw:
            while line := raw.readline(LONGEST_LINE):
                n += 1
                if len(line) == LONGEST_LINE:
                    raise ValueError(f"longer than {LONGEST_LINE} bytes")
                bar.update(len(line))
                yield line.decode("utf-8-sig" if n == 1 else "utf-8", errors)

    try:
        if path.suffix == ".csv":
            csv.field_size_limit(LONGEST_LINE)
            yield from csv.DictReader(lines("replace"))
        elif path.suffix == ".jsonl":
            yield from (json.loads(line) for line in lines("strict") if line.strip())
        else:
            whole = json.loads(path.read_text("utf-8-sig"))
            whole = whole.get("database", whole) if isinstance(whole, dict) else whole
            if not isinstance(whole, (list, dict)):
                raise ValueError("neither a JSON list nor an object")
            yield from whole.items() if isinstance(whole, dict) else whole
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"{file}: {f'line {n}: ' if n else ''}{error}") from error
    finally:
        bar.close()


def sync(path):
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
