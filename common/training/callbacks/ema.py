"""Exponential moving average of the weights (Polyak & Juditsky 1992), used for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.training.callbacks.base import Callback
from common.training.task import Task

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class EMA(Callback):
    """Keeps ``shadow = decay * shadow + (1 - decay) * weights`` and evaluates with the shadow.

    The decay warms up as ``min(decay, (1 + step) / (10 + step))``, so that the first weights are
    soon forgotten. Checkpoints keep the raw weights as ``model`` and the shadow with the callback.

    Args:
        decay: The weight of the past, in [0, 1).
    """

    priority = -50

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}; expected a value in [0, 1)")
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: "Trainer") -> None:
        if not self.shadow:
            self.shadow = {k: v.detach().clone() for k, v in _averaged(trainer.task).items()}
        self.shadow = {key: value.to(trainer.device) for key, value in self.shadow.items()}

    @torch.no_grad()
    def on_step_end(self, trainer: "Trainer") -> None:
        step = trainer.state.step
        decay = min(self.decay, (1 + step) / (10 + step))
        current = _averaged(trainer.task)
        torch._foreach_lerp_(list(self.shadow.values()), list(current.values()), 1.0 - decay)

    @contextmanager
    def around_evaluation(self, trainer: "Trainer") -> Iterator[None]:
        raw = {key: value.detach().clone() for key, value in _averaged(trainer.task).items()}
        self.copy_to(trainer.task)
        try:
            yield
        finally:
            _copy(raw, trainer.task)

    def copy_to(self, task: Task) -> None:
        """Put the averaged weights into ``task``."""
        _copy(self.shadow, task)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = state["shadow"]


def _averaged(task: Task) -> dict[str, Tensor]:
    return {key: value for key, value in task.named_parameters() if value.requires_grad}


@torch.no_grad()
def _copy(values: dict[str, Tensor], task: Task) -> None:
    current = _averaged(task)
    for key, value in values.items():
        current[key].copy_(value)
