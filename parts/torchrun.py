"""torchrun, which says no more than the program that it runs, and ends with that one's exit code.

    python -m parts.torchrun --nproc_per_node=2 train.py ...     all options are torchrun's own

torchrun itself ends with code 1 and a page of its own calls whatever went wrong, so that the one
line which tells it is lost, and it gives a process that was asked to stop half a minute to save.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import logging
import os
import shutil
import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import errors
from torch.distributed.elastic.multiprocessing.api import SignalException

TO_SAVE = 3600                                  # seconds for a step and a large checkpoint


def fail(words):
    print("torchrun:", words, file=sys.stderr)
    sys.exit(2)


def main():
    os.environ["STREAMO_PARENT_PID"] = str(os.getpid())     # the processes end with this one
    os.environ.setdefault("OMP_NUM_THREADS", "1")           # as torchrun has it, which tells it
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(TO_SAVE))
    parser = run.get_args_parser()
    parser.error = fail                                     # in a line, without the page of usage
    args = parser.parse_args()
    is_there = shutil.which if args.no_python else os.path.isfile
    if not (args.module or is_there(args.training_script)):
        fail(f"{args.training_script}: no such program")
    try:
        run.run(args)
    except (AssertionError, ValueError) as error:           # of its options
        fail(str(error) or "at least one process and one machine are wanted")
    except errors.ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:                            # it has said why
            sys.exit(failure.exitcode)
        name = signal.Signals(-failure.exitcode).name
        print(f"torchrun: process {rank} was ended by {name}", file=sys.stderr)
        sys.exit(128 - failure.exitcode)
    except SignalException as stopped:                      # the processes have ended
        sys.exit(128 + stopped.sigval)


if __name__ == "__main__":
    main()
