"""The mark that names a test's row of the fault list, and the server that forks trials."""

from collections.abc import Iterator

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
