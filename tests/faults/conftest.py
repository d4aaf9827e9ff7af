"""The mark that names a test's row, the server that forks trials, and the runs left in peace."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from common.testing.trials import TrialServer
from tests.config.conftest import module, run, toy  # noqa: F401 (the experiment of row 11 to 13)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*rows): the rows of docs/faults.md it tests")


@pytest.fixture(scope="session")
def trials() -> Iterator[TrialServer]:
    """Forks processes that have ``tests.faults.programs`` imported."""
    with TrialServer(["tests.faults.programs"]) as server:
        yield server


@pytest.fixture(scope="session")
def whole(trials: TrialServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The uninterrupted run of one process for a number of micro-batches, made once each."""

    @cache
    def get(accumulate: int) -> Path:
        directory = tmp_path_factory.mktemp("whole")
        trials.run("tests.faults.programs:train", directory=str(directory), accumulate=accumulate)
        return directory

    return get
