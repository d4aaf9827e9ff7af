"""What several tests of this folder share: a warm process that trains, and two finished folds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.testing.trials import TrialServer
from tests.projects.image_classification.finished_runs import finished_project


@pytest.fixture(scope="session")
def trials() -> Iterator[TrialServer]:
    """Forks the programs of ``programs.py``: torch is imported once for all of them."""
    with TrialServer(["tests.projects.image_classification.programs"]) as server:
        yield server


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with ``data/fruit``, ``runs/fruit_fold_0`` and ``_1``, and ``_all``."""
    root = Path(finished_project().name)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def best(project: Path) -> Path:
    """The checkpoint of the first fold, as a user would type it."""
    return Path("runs/fruit_fold_0/weights/best.pt")
