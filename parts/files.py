"""JSON, annotation files read in constant memory, files that are written whole or not at all."""
import csv
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

STANDARD = "/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/"      # open already: written into
LONGEST_NAME = 200                          # bytes; a name may have 255
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


def counted(n, noun):
    """"1 item", "3 items"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def in_words(error):
    """An error of ours or of the system in a line, without the system's number for it."""
    named = isinstance(error, OSError) and error.filename
    return " ".join((f"{error.filename}: {error.strerror}" if named else str(error)).split())


def fault(error):
    """What is wrong with data, by the error that it led to, in a line."""
    message = in_words(error)[:500]
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8, by its byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        more = error.msg == "Extra data" and error.lineno > 1
        return f"not JSON ({message})" + "; records of a line each want the ending .jsonl" * more
    if isinstance(error, (ValueError, OSError)):
        return message
    if isinstance(error, KeyError):
        return f"there is no {message}"
    return "nested too deep" if isinstance(error, RecursionError) else \
        "misshapen: a value of another kind than the format's stands in it"


@contextmanager
def reading(path):
    """What a misshapen file makes of the code that reads it: a ValueError of a line, naming it."""
    try:
        yield
    except (RecursionError, *MISSHAPEN) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path}: {fault(error)}") from error


def sha256(path):
    """The SHA-256 of a file's bytes, in hexadecimal digits; it is read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- JSON

def parse_json(text, path):
    """What JSON text holds; a ValueError names the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:           # bytes that are no UTF-8, too
        reason = "nested too deep" if isinstance(error, RecursionError) else in_words(error)
        raise ValueError(f"{path}: not JSON ({reason})") from None


def read_json(path):
    return parse_json(Path(path).read_bytes(), path)


def model_folder(folder, *files):
    """The Path of a checkpoint's folder, with one of these files in it (config.json). ValueError
    where there is none; if a model on a hub may be called so ("lmms-lab/name"), it says how to
    download it."""
    path, files = Path(folder), files or ("config.json",)
    if path.is_dir():
        check(any((path / name).exists() for name in files),
              f"{folder}: no {' or '.join(files)} there; a checkpoint's folder is wanted")
        return path
    check(not path.exists(), f"{folder}: that is a file, a checkpoint's folder is wanted")
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)) and not path.parent.exists()
    raise ValueError(f"{folder}: no such folder" + (
        f"; if it is a model's name on the hub: hf download {folder} --local-dir {path.name}, and "
        f"then {path.name}" if hub else ""))


def write_json(path, data):
    """Write data as JSON, whole or not at all; the folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1))


# ---- Outputs: never over an input, and whole or not at all

def is_standard(path):
    """Whether a path names what is open already, as /dev/stdout, whatever it leads to."""
    return os.path.abspath(path).startswith(STANDARD)


def appending(path):
    """A file that is written at its end, in bytes. Standard output and error go on where they are:
    one that is opened anew begins again, and two would write over each other."""
    for number, printed in ((1, sys.stdout), (2, sys.stderr)):
        if is_standard(path) and os.path.samestat(os.fstat(number), os.stat(path)):
            printed.flush()
            return os.fdopen(os.dup(number), "wb")
    return open(path, "ab")


def write_text(path, text):
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def partial_of(target):
    """Where a file is written before it takes its place."""
    return target.with_name(f"{os.fsdecode(os.fsencode(target.name)[:LONGEST_NAME])}.partial")


@contextmanager
def replacing(path):
    """A temporary path beside `path`, renamed to it when all went well, else removed.

    The mode is the old file's, or what the umask says. A link is followed: what it leads to is
    replaced, not the link. What is no regular file, as /dev/null or a FIFO, is written into. An
    OSError without a file's name gets this one's."""
    target = Path(os.path.realpath(path))
    stream = is_standard(path) or target.exists() and not target.is_file()
    folder = Path(tempfile.gettempdir()) if stream else target.parent
    partial = folder / partial_of(target).name
    try:
        partial.unlink(missing_ok=True)                         # of a process that was killed
        partial.touch()
        mode = (target if target.is_file() else partial).stat().st_mode
        yield partial
        if stream:
            with open(partial, "rb") as made, appending(path) as into:
                shutil.copyfileobj(made, into)
        else:
            if partial.stat().st_mode != mode:          # some libraries make it one's own alone
                partial.chmod(stat.S_IMODE(mode))
            partial.replace(target)
    except OSError as error:
        if error.filename not in (None, str(partial)):
            raise
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def check_outputs(outputs, inputs=()):
    """Refuse, before anything is opened, outputs that would destroy something or cannot be written.

    outputs, inputs: {flag: path, list of paths, or None}. ValueError when an output is an input
    (by another name, a link or a hard link, too), when two outputs are one file, when an output is
    a folder, or when its folder is missing or cannot be written to."""
    inputs, given = dict(inputs), {}
    for flag, path in outputs.items():
        if path is None:
            continue
        if not str(path):
            raise ValueError(f"{flag}: a file is wanted, not an empty name")
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise ValueError(f"{flag} {path}: that is a folder, a file is wanted")
        if not target.parent.is_dir():
            raise ValueError(f"{flag} {path}: no such folder")
        stream = target.exists() and not target.is_file()
        if not os.access(target if stream else target.parent, os.W_OK):
            raise ValueError(f"{flag} {path}: cannot be written to")
        for what, paths in inputs.items():
            for read in paths if isinstance(paths, (list, tuple)) else [paths]:
                if read and any(same_file(place, Path(os.path.realpath(read)))
                                for place in (target, partial_of(target))):
                    raise ValueError(f"{flag} {path}: would write over {what} {read}")
        if stream:                                          # it holds nothing to be lost
            continue
        for other, known in given.items():
            if any(same_file(a, b) for a, b in ((target, known), (partial_of(target), known),
                                                (target, partial_of(known)))):
                raise ValueError(f"{flag} {path}: {other} is written there, too")
        given[flag] = target


def check_folder(flag, path):
    """ValueError where a folder is to be made or written to, and cannot be."""
    there = Path(os.path.realpath(path))
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path}: no folder can be made there")


def same_file(a, b):
    """Whether two resolved paths are one file: as names without case, for some disks have none,
    where neither is there yet; else as the system says."""
    if a.exists() and b.exists():
        return a.samefile(b)
    return str(a).casefold() == str(b).casefold() and a.exists() == b.exists()


# ---- Annotation files

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
        raise ValueError(f"{file}: {f'line {n}: ' if n else ''}{fault(error)}") from error
    finally:
        bar.close()


def sync(path):
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
