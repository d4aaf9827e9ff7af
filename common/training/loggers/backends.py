"""TensorBoard, and the optional services W&B, trackio and MLflow (extra ``loggers``)."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.training.loggers.base import Logger, Record
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean


class TensorBoardLogger:
    """Scalars as TensorBoard events in ``tensorboard/``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tensorboard"
        self._purge_step: int | None = None
        self._writer: Any = None
        self._summary: Any = None

    def rewind(self, step: int, records: int) -> None:
        self._purge_step = step + 1

    def log(self, record: Record) -> None:
        if self._writer is None:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from torch.utils.tensorboard import SummaryWriter

            self._summary = Summary

            self._writer = SummaryWriter(str(self._directory), purge_step=self._purge_step)
        # One event for the whole record, where add_scalar would write one for every number.
        summary = self._summary()
        for key, value in _numbers(record).items():
            summary.value.add(tag=key, simple_value=value)
        self._writer.file_writer.add_summary(summary, record["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbLogger:
    """Weights & Biases; the key comes from ``WANDB_API_KEY``."""

    def __init__(self, directory: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=directory.parent.name,
            name=directory.name,
            id=directory.name,
            dir=str(directory),
            resume="allow",
        )

    def rewind(self, step: int, records: int) -> None:
        """W&B keeps the first value it saw for a step."""

    def log(self, record: Record) -> None:
        self._run.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


class TrackioLogger:
    """trackio, a local dashboard with W&B's calls."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(directory.parent / "trackio"))  # read on import
        import trackio

        self._trackio = trackio
        trackio.init(project=directory.parent.name, name=directory.name, resume="allow")

    def rewind(self, step: int, records: int) -> None:
        """trackio appends."""

    def log(self, record: Record) -> None:
        self._trackio.log(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._trackio.finish()


class MlflowLogger:
    """MLflow; the server comes from ``MLFLOW_TRACKING_URI``."""

    def __init__(self, directory: Path) -> None:
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(directory.parent.name)
        mlflow.start_run(run_name=directory.name)

    def rewind(self, step: int, records: int) -> None:
        """A resumed run is a new MLflow run of the same name."""

    def log(self, record: Record) -> None:
        self._mlflow.log_metrics(_numbers(record), step=record["step"])

    def close(self) -> None:
        self._mlflow.end_run()


_BACKENDS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "trackio": TrackioLogger,
    "mlflow": MlflowLogger,
}


def build_logger(name: str, directory: Path) -> Logger:
    """The backend called ``name``, writing for the run in ``directory``.

    Raises:
        ConfigError: for an unknown name, or one whose package is not installed.
    """
    check_loggers([name])
    try:
        return _BACKENDS[name](directory)
    except ImportError as error:
        raise _not_installed(name, error.name) from None


def check_loggers(names: Sequence[str]) -> None:
    """Refuse what ``build_logger`` would, before there is a directory.

    Raises:
        ConfigError: as ``build_logger``.
    """
    for name in names:
        if name not in _BACKENDS:
            raise ConfigError(f"trainer.loggers has '{name}': {did_you_mean(name, _BACKENDS)}")
        if find_spec(name) is None:  # every backend is called as its package
            raise _not_installed(name, name)


def _not_installed(name: str, package: str | None) -> ConfigError:
    return ConfigError(
        f"trainer.loggers has '{name}', but {package} is not installed: "
        'uv pip install -e ".[loggers]"'
    )


def _numbers(record: Record) -> dict[str, float]:
    return {
        key: value
        for key, value in record.items()
        if isinstance(value, int | float) and key != "step"
    }
