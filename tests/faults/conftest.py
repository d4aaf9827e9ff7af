"""The mark that names a test's row of the fault list."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(*rows): the rows of docs/faults.md it tests")
