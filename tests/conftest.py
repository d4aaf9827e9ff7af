"""Set-up of the whole suite: one thread per process, shapes checked at run time, a store of its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
os.environ["PYTHONHASHSEED"] = "0"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the tests start many processes

from jaxtyping import install_import_hook

install_import_hook(["common.models", "common.losses", "common.metrics"], "beartype.beartype")

from collections.abc import Iterator

import pytest
import torch
from loguru import logger

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _store_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """No test touches the person's own ``assets/``."""
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path_factory.mktemp("assets")))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged while the test runs, outside of a run with a log of its own."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process draw no curves at their end: half of a short run's seconds."""
    monkeypatch.setattr("common.visualization.plot_training_curves", lambda *_, **__: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name not in ("test_readme.py", "test_notebooks.py"))
