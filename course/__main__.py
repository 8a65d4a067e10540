"""Coursework from this repository; course/README.md is the syllabus.

    python -m course list                               the assignments
    python -m course hand-out FOLDER --only 3 5         a copy in which these are to be written
    python -m course grade FOLDER --only 3 5            a submission, or a folder of many
    python -m course grade FOLDER --csv points.csv
    python -m course check                              the grader itself, on right and wrong bodies
    python -m course measure-connector                  what projects C and D are measured by
    python -m course measure-task "Event Caption" --model assets/tiny
"""
if __name__ == "__main__":                               # before all that is to be imported
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
import signal
import sys
from pathlib import Path

from course.assignments import ASSIGNMENTS, chosen
from parts.files import in_words
from parts.options import LineParser, a_path, check_bounds


def parse(argv):
    parser = LineParser("python -m course", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = {name: commands.add_parser(name, help=text) for name, text in (
        ("list", "the assignments"), ("hand-out", "a copy without the solutions"),
        ("grade", "points for submissions"), ("check", "try the grader"),
        ("measure-connector", "project C"), ("measure-task", "project D"))}
    for name in ("hand-out", "grade"):
        add[name].add_argument("folder")
    for name in ("hand-out", "grade", "check"):
        add[name].add_argument("--only", type=int, nargs="+", metavar="N",
                               help="numbers of assignments; all, if not given")
    add["grade"].add_argument("--csv", metavar="FILE", help="points and words, a line a submission")
    add["grade"].add_argument("--seconds", type=float, default=60,
                              help="for all exams of a submission together [60]")
    add["measure-connector"].add_argument("--steps", type=int, default=400)
    add["measure-connector"].add_argument("--videos", type=int, default=10, help="films to stream")
    add["measure-task"].add_argument("name")
    add["measure-task"].add_argument("--model", default="assets/tiny", metavar="FOLDER")
    add["measure-task"].add_argument("--films", type=int, default=20)
    for name in ("connector", "task"):
        add[f"measure-{name}"].add_argument("--out", type=a_path, default=Path("runs") / name)
    args = parser.parse_args(argv)
    check_bounds(parser, args, {"seconds": (1, 86400), "steps": (1, 10**9), "videos": (1, 10**6),
                                "films": (1, 10**6)})
    return args


def main(argv=None):
    """Exit code: 0; 1 where check finds a fault; 2 for bad input, with one line on stderr."""
    args = parse(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assignments = chosen(getattr(args, "only", None))
        if args.command == "list":
            for a in ASSIGNMENTS:
                takes = "; ".join(f"{path}: {', '.join(names)}" for path, names in a.takes.items())
                print(f"{a.number:2}  {a.title:44}{a.minutes:4} min  {takes}")
        elif args.command == "hand-out":
            from course.handout import hand_out
            changed = hand_out(args.folder, assignments)
            print(f"{args.folder}: to be written are bodies in {', '.join(changed)}")
            for a in assignments:
                print(f"  {a.number:2}  {a.title}: python -m pytest -q {a.tests}")
        elif args.command == "grade":
            from course.grade import grade
            grade(args.folder, assignments, args.csv, args.seconds)
        elif args.command == "check":
            from course.check import check
            return check(assignments, cheats=not args.only)
        else:
            from course import measure
            if args.command == "measure-task":
                measure.task(args.name, args.model, args.out, args.films)
            else:
                measure.connector(args.out, args.steps, args.videos)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "course":
            raise
        print(f"course: {args.command} is the teacher's, and not in a hand-out", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"course: {in_words(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("course: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
