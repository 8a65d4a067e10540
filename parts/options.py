"""A dataclass of options and its command line: each field is an option, with its help beside it."""
import argparse
from dataclasses import field, fields


def option(default, reason, **more):
    """A field of an options class. more: what argparse's add_argument takes (choices, nargs)."""
    shown = "" if default in ("", (), None) else f" [{default}]"
    return field(default=default, metadata={"help": reason + shown, **more})


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """What is wrong is said in a line by who runs the program: one rank of many."""
        raise ValueError(message)


def parser_of(options, doc):
    """The parser for a class of options. What is not given is missing from its namespace.
    ValueError for what is not understood."""
    parser = Parser(description=doc, allow_abbrev=False, usage=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(options):
        kind = {"action": argparse.BooleanOptionalAction} if f.type is bool else \
            {"type": str if f.type is tuple else f.type}
        parser.add_argument("--" + f.name.replace("_", "-"), default=argparse.SUPPRESS,
                            **kind, **f.metadata)
    return parser


def at_least(parser, options, bounds):
    """The parser's error names the option which is below its bound, {name: least value}. None,
    for a default that is found later, is none."""
    for name, least in bounds.items():
        value = getattr(options, name)
        if value is None:
            continue
        if not value >= least or value == float("inf"):         # not: false for NaN, too
            parser.error(f"--{name.replace('_', '-')} {value}: at least {least}")
