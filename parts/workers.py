"""Work shared by processes that end with the one that began them, however it ends."""
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process


def end_with(parent):
    """End this process when the other end of a pipe is closed, as it is when its process ends."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def begin_worker(parent, begin):
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    if begin:
        begin()


def end_by(parent):
    """Obey SIGTERM of the parent alone: what stops a job sends it to all of its processes."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def loader_process(_):
    """Begin a loader's process: signals to the run, its group or all its processes, are not meant
    for it. The run obeys them: its loader goes on until the step is done."""
    os.setpgrp()
    signal.set_wakeup_fd(-1)            # nor may what ends it be taken for a signal to the run
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=end_by, args=(parent_process().pid,), daemon=True).start()


@contextmanager
def without_ctrl_c():
    """Ctrl-C waits until the block is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def share(call, items, workers, begin=None):
    """Yield (number of an item, call(item)) as they are finished: here, if there is one worker, or
    by so many new processes, each of which calls begin() first.

    Ctrl-C is for this process alone; when it ends or the generator is closed, so do the workers.
    Raises ChildProcessError when a worker was killed."""
    if workers == 1:
        yield from ((n, call(item)) for n, item in enumerate(items))
        return
    spawn, waiting = get_context("spawn"), {}
    parent, mine = spawn.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, spawn, begin_worker, (parent, begin)) as pool:
        try:
            with without_ctrl_c():                          # processes begun here inherit that
                for n, item in enumerate(items):
                    waiting[pool.submit(call, item)] = n
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise ChildProcessError("a worker process was killed, perhaps for want of memory"
                                    ) from None
        finally:
            if not all(future.done() for future in waiting):
                mine.close()                                # nobody waits for what they are doing
