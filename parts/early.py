"""What a program does before it imports PyTorch, which takes seconds. This imports nothing slow."""
import os
import signal


def ctrl_c_is_a_line():
    """Until the program has its own way to stop (signal.default_int_handler, or asked_to_stop),
    Ctrl-C is a line and exit code 130, no page."""
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))
