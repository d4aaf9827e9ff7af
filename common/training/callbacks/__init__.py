"""What can be hung on a run: progress, history, averaging, stopping, guards, diagnostics."""

from collections.abc import Sequence
from pathlib import Path

from common.training.callbacks.base import HOOKS, Callback
from common.training.callbacks.ema import EMA
from common.training.callbacks.gradient_noise import GradientNoise
from common.training.callbacks.gradient_norms import GradientNorms
from common.training.callbacks.history import History
from common.training.callbacks.nan_guard import NanGuard
from common.training.callbacks.profiler import Profiler
from common.training.callbacks.progress import Progress
from common.training.callbacks.stopping import EarlyStopping, ReduceOnPlateau
from common.training.callbacks.throughput import Throughput
from common.training.callbacks.unfreeze import Unfreeze
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

__all__ = [
    "EMA",
    "HOOKS",
    "Callback",
    "EarlyStopping",
    "GradientNoise",
    "GradientNorms",
    "History",
    "NanGuard",
    "Profiler",
    "Progress",
    "ReduceOnPlateau",
    "Throughput",
    "Unfreeze",
    "standard_callbacks",
]

_DIAGNOSTICS: dict[str, type[Callback]] = {
    "gradient_noise": GradientNoise,
    "gradient_norms": GradientNorms,
    "profile": Profiler,
    "summary": Throughput,
}


def standard_callbacks(directory: Path | None, diagnostics: Sequence[str] = ()) -> list[Callback]:
    """What every run has; with a run directory (on the main rank) also its history.

    Args:
        directory: The run directory.
        diagnostics: Names of what ``TrainerConfig.diagnostics`` switches on.

    Raises:
        ConfigError: for an unknown diagnostic.
    """
    for name in diagnostics:
        if name not in _DIAGNOSTICS:
            hint = did_you_mean(name, _DIAGNOSTICS)
            raise ConfigError(f"trainer.diagnostics has '{name}': {hint}")
    history = [] if directory is None else [History(directory)]
    chosen = [_DIAGNOSTICS[name]() for name in dict.fromkeys(diagnostics)]
    return [NanGuard(), Progress(), *history, *chosen]
