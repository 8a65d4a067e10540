"""The options of infer.py: what can be wrong with them is found before anything else starts."""
import argparse
import math
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from parts.annotations import parse_time
from parts.checks import BOUNDS, check_question, check_setting
from parts.files import check_outputs, in_words, model_folder
from parts.options import a_path, named_file
from parts.render import form_of
from parts.sources import is_stdin
from parts.video import PLAYLISTS, local

DEFAULT = "Describe every event."          # asked where nothing else is
LARGEST = 1 << 27                          # pixels of a raw frame, 400 MB
OUTPUTS = (("jsonl", "a line for each second, as it happens"), ("srt", "subtitles"),
           ("vtt", "subtitles"), ("timeline", "the whole stream as one picture, .png"),
           ("render", "the video with its answers, .mp4, .mkv, ..., .gif"),
           ("record", "the frames of a live source as they came, .mp4, at most 1280 x 720"))


def split(text):
    """ "1:05:What?" -> "1:05", "What?"; None where no time stands before it."""
    return re.fullmatch(r"(?:([-\d.:]*):)?\s*(.*?)\s*", text, re.DOTALL).groups()


def ask(text):
    """ "What?", "12:What?" or "1:05:What?" -> (second, question)."""
    when, question = split(text)
    if when == "" or not question:
        raise ValueError(f'{text!r} is not "[second:]question"')
    second = parse_time(when, most=10**7) or 0
    check_question(question, second)
    return second, question


def hint(text):
    """Where "10:30 is on the clock?" is taken for a time and a question; else None."""
    when, question = split(text)
    if when and question[:1].isdigit() and text.startswith(f"{when}:{question[0]}"):
        return (f"--ask {text!r}: {question!r} will be asked at {when}; to ask it as it stands, "
                "begin with 0:")
    return None


def lines(path):
    """The lines of a question file that are not blank."""
    questions = []
    for n, line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            text = line.decode()
            if text.strip():
                ask(text)
                questions.append(text)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: line {n} is no UTF-8") from None
        except ValueError as error:
            raise ValueError(f"{path}: line {n}: {error}") from None
    return questions


def names(sources):
    """What each source is called in file names and in what is printed, no two alike."""
    found = []
    for source in sources:
        stem = source.split("?")[0].rstrip("/").split("/")[-1]
        stem = stem.rsplit(".", 1)[0] if os.path.exists(source) else stem
        name = wanted = re.sub(r"\W+", "-", stem).strip("-") or "source"
        n = 2
        while name in found:
            name, n = f"{wanted}-{n}", n + 1
        found.append(name)
    return found


def named(path, name):
    """out.srt of the source "door" is out.door.srt."""
    stem, ending = os.path.splitext(path)
    return f"{stem}.{name}{ending}"


def entries(source):
    """The files that a playlist names."""
    if not os.path.isfile(source):
        return []
    with open(source, "rb") as file:
        text = file.read(1 << 20).removeprefix(b"\xef\xbb\xbf")
    if not text.startswith(PLAYLISTS):
        return []
    # a line, what stands in quotes or between tags, what follows "file"
    words = re.split(r"""["'<>\r\n]|^file\s""", os.fsdecode(text), flags=re.MULTILINE)
    folder = os.path.dirname(source)
    paths = [os.path.realpath(os.path.join(folder, word.strip())) for word in words]
    return [*filter(os.path.isfile, paths)]


def inputs(args):
    """{flag: the files that are read}."""
    read = list(args.sources)
    folders = [path for path in [*read, str(args.model)] if os.path.isdir(path)]
    inside = [os.path.join(folder, name) for folder in folders for name in os.listdir(folder)]
    read += [source.removeprefix("live:") for source in read]
    for source in read:                         # it grows: a playlist may name another
        read += [path for path in entries(source) if path not in read]
    return {"the source": read, "--ask-file": args.ask_file,
            "what is read,": [path for path in inside if os.path.isfile(path)]}


def parser(doc):
    parser = argparse.ArgumentParser("infer.py", description=doc, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sources", nargs="+", metavar="source",
        help="video file, GIF, folder of images, URL, camera:0, or - for raw frames")
    add("--ask", action="append", default=[], metavar="[SECOND:]QUESTION", help="or MM:SS:QUESTION")
    add("--once", action="append", default=[], metavar="[SECOND:]QUESTION",
        help="the same, and its first answer closes it")
    add("--ask-file", type=a_path, metavar="FILE",
        help="questions, one a line, each as --ask takes it")
    add("--model", type=a_path, metavar="FOLDER",
        default=Path(__file__).parent.parent / "assets/tiny")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    add("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, else float32")
    add("--fps", type=int, default=1, help="frames a second")
    add("--size", default="", metavar="WxH", help="of raw frames: rgb24, --fps of them a second")
    add("--threshold", type=float, help="respond when P(response) reaches this; default: the "
        "checkpoint's, or else when it is the likeliest state")
    add("--patience", type=int, default=1, metavar="SECONDS",
        help="on end that must want an answer before it is given")
    add("--no-repeat", action="store_true",
        help="no answer equal to the last one, unless a question came between")
    add("--every", type=int, metavar="SECONDS",
        help="how often an offline model, which has no states, is asked (5)")
    add("--max-new-tokens", type=int, default=64, help="of one answer")
    add("--window", type=int, help="seconds that stay, if the cache can; 0: all, until it is full")
    add("--prune", type=int, help="seconds that keep their frames; older silent ones only text")
    add("--compress", type=float, nargs="?", const=3.0, metavar="LEVELS",
        help="fewer tokens for frames that differ less (of 255; 3) from the last one kept")
    add("--realtime", action="store_true", help="play a file at its own speed, like a live source")
    add("--reconnect", type=float, metavar="SECONDS",
        help="for which a live source that fell silent is tried again (60)")
    add("--clock", action="store_true", help="print the time of day, too")
    for flag, what in OUTPUTS:
        add(f"--{flag}", type=named_file, metavar="FILE", help=what)
    add("--no-sound", action="store_true", help="leave the sound out of --render")
    add("--quiet", action="store_true", help="answers, and what was refused")
    return parser


def parse(argv, doc):
    """-> the arguments; ValueError for a bad one."""
    def error(message):
        raise ValueError(message)
    made = parser(doc)
    made.error = error
    args = made.parse_args(argv)
    given, args.sources = args.sources, [*map(local, args.sources)]
    defaults = ("threshold", "prune", "compress", "window")      # None: the default
    for name in BOUNDS:
        value = getattr(args, name)
        try:
            if value is not None or name not in defaults:
                check_setting(name, value)
        except ValueError as wrong:
            raise ValueError(f"--{name.replace('_', '-')} {str(wrong).split(' ', 1)[1]}") from None
    if args.every is not None and args.every < 1:
        raise ValueError(f"--every {args.every}: seconds, 1 or more")
    if args.reconnect is not None and not 0 <= args.reconnect < 1e9:
        raise ValueError(f"--reconnect {args.reconnect}: seconds, 0 or more")
    if args.no_sound and not args.render:
        raise ValueError("--no-sound: of --render, which was not asked for")
    if "-" in args.sources and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", args.size):
        raise ValueError("raw frames on standard input need --size WIDTHxHEIGHT")
    if args.size and "-" not in args.sources:
        raise ValueError(f"--size {args.size}: of raw frames on standard input, which is not a "
                         "source here")
    if args.size and math.prod(map(int, args.size.split("x"))) > LARGEST:
        raise ValueError(f"--size {args.size}: at most {LARGEST} pixels")
    for name, source in zip(given, args.sources):           # "" of a bare file://
        known = source == "-" or "://" in source or source.startswith(("camera:", "live:"))
        if not known and not os.path.exists(source):
            raise FileNotFoundError(f"{name}: no such file or folder")
    for source in args.sources:
        if sum(os.path.realpath(source) == os.path.realpath(one) for one in args.sources) > 1:
            raise ValueError(f"{source}: each source once")
    if sum(map(is_stdin, args.sources)) > 1:
        raise ValueError("standard input: each source once")
    if args.record and not args.record.lower().endswith(".mp4"):
        raise ValueError(f"--record {args.record}: an .mp4 is wanted")
    if args.timeline and not args.timeline.lower().endswith(".png"):
        raise ValueError(f"--timeline {args.timeline}: a .png is wanted")
    if args.timeline and os.path.realpath(os.path.dirname(args.timeline)) in map(
            os.path.realpath, args.sources):
        raise ValueError(f"--timeline {args.timeline}: it would be a picture of the source; write "
                         "it elsewhere")
    if args.render:
        form_of(args.render)
    args.names, args.paths = names(args.sources), []
    for name in args.names:
        paths = {flag: getattr(args, flag) for flag, _ in OUTPUTS if getattr(args, flag)}
        if len(args.names) > 1:
            paths = {flag: named(path, name) for flag, path in paths.items()}
        args.paths.append(paths)
    check_outputs({f"--{flag}" + f" of {name}" * (len(args.names) > 1): path
                   for name, paths in zip(args.names, args.paths)
                   for flag, path in paths.items()}, inputs(args))
    model_folder(args.model)
    read = lines(args.ask_file) if args.ask_file else []
    args.hints = list(filter(None, map(hint, args.ask + read + args.once)))
    args.ask = [(*ask(text), False) for text in args.ask + read] + [
        (*ask(text), True) for text in args.once]
    return args


def announce(argv, doc):
    """What is to be done, told before torch is imported, which takes seconds; exit code 2 for what
    is wrong already."""
    try:
        args = parse(argv, doc)
    except (OSError, ValueError) as error:
        complain(error)
        sys.exit(2)
    if not args.quiet and sys.stderr is not None:
        asked = ", ".join(text for _, text, _ in args.ask) or DEFAULT
        watched = ", ".join(args.sources)
        with suppress(OSError, ValueError):
            print(f"loading {args.model} to watch {watched}: {asked}", file=sys.stderr, flush=True)


def complain(what):
    """One line on stderr: words, or an error's."""
    if sys.stderr is not None:
        text = in_words(what).encode(errors="backslashreplace").decode()
        with suppress(OSError, ValueError):
            print("infer.py:", text, file=sys.stderr, flush=True)
