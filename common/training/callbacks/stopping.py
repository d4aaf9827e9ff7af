"""Callbacks that act on a validation metric: early stopping, and a rate that drops on a plateau."""

import math
from typing import TYPE_CHECKING, Any

from loguru import logger

from common.training.callbacks.base import Callback
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class _Patience(Callback):
    """Counts evaluations without an improvement of at least ``min_delta``."""

    def __init__(self, metric: str, mode: str, patience: int, min_delta: float) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is '{mode}'; expected 'min' or 'max'")
        self.metric = metric
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf if mode == "min" else -math.inf
        self.waited = 0

    def on_evaluation_end(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self.metric not in record:
            hint = did_you_mean(self.metric, record)
            raise ConfigError(f"{type(self).__name__} watches '{self.metric}': {hint}")
        value = record[self.metric]
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.waited = 0
            self.exhausted(trainer)

    def exhausted(self, trainer: "Trainer") -> None:
        """What happens when patience is at its end."""
        raise TypeError(f"{type(self).__name__} must define exhausted")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class EarlyStopping(_Patience):
    """End the run after ``patience`` evaluations without an improvement.

    Args:
        metric: A key of the validation record, e.g. ``validation/loss``.
        mode: ``min`` or ``max``.
        patience: Evaluations to wait.
        min_delta: The least improvement that counts.
    """

    def __init__(
        self,
        metric: str = "validation/loss",
        mode: str = "min",
        patience: int = 5,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(metric, mode, patience, min_delta)

    def exhausted(self, trainer: "Trainer") -> None:
        trainer.stop(
            f"{self.metric} has not improved on {self.best:.4g} in {self.patience} evaluations"
        )


class ReduceOnPlateau(_Patience):
    """Multiply the learning rate by ``factor`` after ``patience`` evaluations without improvement.

    It multiplies what the schedule says.

    Args:
        metric: A key of the validation record.
        mode: ``min`` or ``max``.
        factor: In (0, 1).
        patience: Evaluations to wait.
        min_delta: The least improvement that counts.
    """

    def __init__(
        self,
        metric: str = "validation/loss",
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 3,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(metric, mode, patience, min_delta)
        self.factor = factor
        self.scale = 1.0

    def on_fit_start(self, trainer: "Trainer") -> None:
        trainer.lr_scale = self.scale

    def exhausted(self, trainer: "Trainer") -> None:
        self.scale *= self.factor
        trainer.lr_scale = self.scale
        logger.info(f"{self.metric} is on a plateau: learning rate x {self.scale:.3g}")

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.scale = state["scale"]
