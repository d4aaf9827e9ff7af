"""One warm process for all tests of this folder that need trainings in processes of their own."""

from collections.abc import Iterator

import pytest

from common.testing.trials import TrialServer


@pytest.fixture(scope="session")
def trials() -> Iterator[TrialServer]:
    with TrialServer(["tests.projects.image_classification.programs"]) as server:
        yield server
