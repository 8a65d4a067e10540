"""README's commands run in the background while the tests of live sources wait for theirs."""
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest

# Processes of a parent that has imported everything once: importing takes each 4 s.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["train", "eval", "torch.distributed.optim"])


@pytest.fixture(scope="session")
def readme_runs(tmp_path_factory):
    """{command: future of (exit code, what it printed)}, one process at a time."""
    from test_readme import COMMANDS, run
    pool = ThreadPoolExecutor(1)
    yield {command: pool.submit(run, command, tmp_path_factory.mktemp("readme"))
           for command in COMMANDS}
    pool.shutdown(cancel_futures=True)
