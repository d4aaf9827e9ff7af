"""What can be hung on a run: progress, history, averaging, stopping, guards."""

from pathlib import Path

from common.training.callbacks.base import HOOKS, Callback
from common.training.callbacks.ema import EMA
from common.training.callbacks.history import History
from common.training.callbacks.nan_guard import NanGuard
from common.training.callbacks.progress import Progress
from common.training.callbacks.stopping import EarlyStopping, ReduceOnPlateau

__all__ = [
    "EMA",
    "HOOKS",
    "Callback",
    "EarlyStopping",
    "History",
    "NanGuard",
    "Progress",
    "ReduceOnPlateau",
    "standard_callbacks",
]


def standard_callbacks(directory: Path | None) -> list[Callback]:
    """What every run has; with a run directory (on the main rank) also its history."""
    history = [] if directory is None else [History(directory)]
    return [NanGuard(), Progress(), *history]
