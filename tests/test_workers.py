"""Processes that share work: they end with their parent, and nothing of theirs reaches a user."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from parts.workers import share

SLOW = """
import sys; sys.path[:0] = [%r, %r]
from parts import workers
from test_workers import told
if __name__ == "__main__":
    for n, pid in workers.share(told, [0, 60, 0, 60], 2):
        print(pid, flush=True)
""" % (str(Path(__file__).parent.parent), str(Path(__file__).parent))


def told(seconds):
    """The number of the worker that waited."""
    time.sleep(seconds)
    return os.getpid()


def killed(item):
    os.kill(os.getpid(), signal.SIGKILL)


def squared(n):
    return n * n


def broken(n):
    raise ValueError(f"item {n}")


def lives(pid):
    """Whether a process runs; one that ended and is not waited for is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def parent(tmp_path):
    """A process whose two workers have begun what takes a minute; and their numbers."""
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    pids = {int(process.stdout.readline()) for _ in range(2)}
    yield process, pids
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def ended(pids, within=20):
    end = time.monotonic() + within
    while time.monotonic() < end and any(map(lives, pids)):
        time.sleep(0.02)
    return not any(map(lives, pids))


def test_all_items_are_answered_and_named():
    assert sorted(share(squared, [3, 4, 5], 1)) == [(0, 9), (1, 16), (2, 25)]
    assert sorted(share(squared, [3, 4, 5], 2)) == [(0, 9), (1, 16), (2, 25)]
    assert list(share(squared, [], 2)) == []


def test_an_error_of_a_worker_is_its_own():
    with pytest.raises(ValueError, match="item 7"):
        list(share(broken, [7], 2))


def test_a_killed_worker_is_told_in_a_line():
    with pytest.raises(ChildProcessError, match="worker process was killed"):
        list(share(killed, [1, 2, 3], 2))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(parent, number):
    process, pids = parent
    assert all(map(lives, pids))
    process.send_signal(number)
    process.wait(30)
    assert ended(pids)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_ends_them_without_a_word_of_theirs(parent):
    """As a terminal sends it: to the parent and its workers at once."""
    process, pids = parent
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert ended(pids) and said.count("Traceback") == 1        # the parent's own KeyboardInterrupt
