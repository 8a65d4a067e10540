"""A dataclass of options and its command line: each field is an option, with its help beside it."""
import argparse
import math
import sys
from dataclasses import field, fields
from pathlib import Path


def option(default, reason, **more):
    """A field of an options class. more: what argparse's add_argument takes (choices, nargs)."""
    shown = "" if default in ("", (), None) else f" [{default}]"
    return field(default=default, metadata={"help": reason + shown, **more})


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """What is wrong is said in a line by who runs the program: one rank of many."""
        raise ValueError(message)


class LineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the page of usage, and ends with code 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def a_path(text):
    """The type of an option that names a file or folder. An empty name, as of a variable of the
    shell that is not set, is an error: Path("") is the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("a name is wanted, not an empty one")
    return Path(text)


def named_file(text):
    """The same as text."""
    return str(a_path(text))


def parser_of(options, doc):
    """The parser for a class of options. What is not given is missing from its namespace.
    ValueError for what is not understood."""
    parser = Parser(description=doc, allow_abbrev=False, usage=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(options):
        kind = {"action": argparse.BooleanOptionalAction} if f.type is bool else \
            {"type": named_file if f.type in (str, tuple) else f.type}      # or one of its choices
        parser.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS,
                            **kind, **f.metadata)
    return parser


SEEDS = -2**63, 2**63 - 1               # that torch takes


def check_bounds(parser, options, bounds):
    """The parser's error names the option that is out of its bounds, {name: least} or {name:
    (least, most)}. What is None, or no option here, has a default that is found later."""
    for name, bound in bounds.items():
        least, most = bound if isinstance(bound, tuple) else (bound, sys.float_info.max)
        value = getattr(options, name, None)
        if value is not None and not least <= value <= most:            # NaN is out of all bounds
            word = f"between {least} and {most}" if isinstance(bound, tuple) and most < math.inf \
                else f"at least {least}"
            parser.error(f"--{name.replace('_', '-')} {value}: {word}")
