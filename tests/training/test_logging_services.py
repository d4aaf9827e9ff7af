"""The optional logging services take a run's records; each test needs its package (extra loggers)."""

import sys
from pathlib import Path

import pytest

from common.training.loggers.backends import build_logger
from common.utils.errors import ConfigError
from tests.training.tiny import fit

SERVICES = {"wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_the_records_of_a_run_offline(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "service"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "service").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip(SERVICES[name])  # trackio reads its folder's name on import
    trainer = fit(tmp_path / "experiment" / "run", loggers=[name])
    assert trainer.state.step == trainer.total_steps
    left = tmp_path / "experiment" / "run" / "wandb" if name == "wandb" else tmp_path / "service"
    assert any(path.is_file() for path in left.rglob("*"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_not_installed_is_named_with_the_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, SERVICES[name], None)
    with pytest.raises(ConfigError, match=r"\[loggers\]"):
        build_logger(name, tmp_path)
