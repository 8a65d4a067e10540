"""What takes long runs in the background, on a core of its own, while the other tests go on."""
import multiprocessing
import os
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import signature

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")       # the background has the other core

# Processes of a parent that has imported everything once: importing takes each 4 s.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["train", "eval", "bench.claims", "bench.speed", "torch._dynamo"])


@pytest.fixture(scope="session")
def background():
    """One after the other."""
    pool = ThreadPoolExecutor(1)
    yield pool
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def readme_runs(background, tmp_path_factory):
    """{command of README: future of (exit code, what it printed)}."""
    from test_readme import COMMANDS, run
    return {command: background.submit(run, command, tmp_path_factory.mktemp("readme"))
            for command in COMMANDS}


@pytest.fixture(scope="session")
def torchrun(background, tmp_path_factory):
    """Future of (arguments, folder) of a run of train.py on two ranks."""
    from test_resume import run_by_torchrun
    return background.submit(run_by_torchrun, tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="session", autouse=True)
def begin(request, background, tmp_path_factory):
    """Where all tests run, the long ones begin at once: those marked as such with what they were
    given, (tmp_path, torchrun), parameters, and in a process of their own monkeypatch."""
    if {"test_readme.py", "test_resume.py"} <= {item.path.name for item in request.session.items}:
        torchrun = request.getfixturevalue("torchrun")
        for item in request.session.items:
            if item.get_closest_marker("long"):
                given = {"tmp_path": tmp_path_factory.mktemp(item.originalname[:30]),
                         "torchrun": torchrun}
                if hasattr(item, "callspec"):
                    given |= item.callspec.params
                names = signature(item.function).parameters.keys() - {"monkeypatch"}
                if names <= given.keys():                   # else it runs in its turn
                    given = {name: given[name] for name in names}
                    run = item.function if "torchrun" in given else partial(in_a_process,
                                                                            item.function)
                    item.stash[FUTURE] = background.submit(run, **given)
        request.getfixturevalue("readme_runs")


def in_a_process(function, **given):
    """A test that computes, beside those of this process; it fails with what it printed there."""
    receiver, sender = FORKS.Pipe(False)
    process = FORKS.Process(target=tried, args=(sender, function, given))
    process.start()
    sender.close()
    try:
        fault, skipped = receiver.recv()
    except EOFError:
        fault, skipped = "it ended without a word", ""
    process.join()
    if fault:
        last = fault.strip().splitlines()[-1]               # which the summary shows
        pytest.fail(f"{last}\n{fault}", pytrace=False)
    if skipped:
        pytest.skip(skipped)


def tried(sender, function, given):
    try:
        with pytest.MonkeyPatch.context() as patch:
            if "monkeypatch" in signature(function).parameters:
                given["monkeypatch"] = patch
            function(**given)
        sender.send(("", ""))
    except pytest.skip.Exception as skipped:
        sender.send(("", str(skipped)))
    except BaseException:
        sender.send((traceback.format_exc(), ""))


FUTURE = pytest.StashKey()


def pytest_configure(config):
    config.addinivalue_line("markers", "long: is run in the background where all tests run")


def pytest_collection_modifyitems(items):
    """What the background runs is waited for last."""
    items.sort(key=lambda item: item.path.name == "test_readme.py"
               or item.get_closest_marker("long") is not None)


def pytest_pyfunc_call(pyfuncitem):
    """A test that runs in the background is waited for: it fails here as it failed there."""
    if FUTURE in pyfuncitem.stash:
        pyfuncitem.stash[FUTURE].result()
        return True
