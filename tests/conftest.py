"""README's commands run in the background while the tests of live sources wait for theirs."""
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture(scope="session")
def readme_runs(tmp_path_factory):
    """{command: future of its process}, one process at a time."""
    from test_readme import COMMANDS, run
    pool = ThreadPoolExecutor(1)
    yield {command: pool.submit(run, command, tmp_path_factory.mktemp("readme"))
           for command in COMMANDS}
    pool.shutdown(cancel_futures=True)
