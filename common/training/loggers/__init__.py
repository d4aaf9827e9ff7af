"""Where records go: ``metrics.jsonl`` always, TensorBoard by default, services on request."""

from collections.abc import Sequence
from pathlib import Path

from common.training.loggers.backends import build_logger, check_loggers
from common.training.loggers.base import Logger, Record
from common.training.loggers.jsonl import JsonlLogger

__all__ = ["JsonlLogger", "Logger", "Record", "build_logger", "check_loggers", "standard_loggers"]


def standard_loggers(names: Sequence[str], directory: Path | None) -> list[Logger]:
    """``metrics.jsonl`` and the named backends; none without a run directory."""
    if directory is None:
        return []
    backends = [build_logger(name, directory) for name in names]
    return [JsonlLogger(directory / "metrics.jsonl"), *backends]
