"""Exponential moving average of the weights (Polyak & Juditsky 1992), used for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.training.callbacks.base import Callback
from common.training.sharding import is_sharded, local, shard_like, whole
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
        current = _averaged(trainer.task)
        if not self.shadow:
            self.shadow = {key: value.detach().clone() for key, value in current.items()}
            return
        self.shadow = {key: shard_like(self.shadow[key], like) for key, like in current.items()}

    @torch.no_grad()
    def on_step_end(self, trainer: "Trainer") -> None:
        step = trainer.state.step
        decay = min(self.decay, (1 + step) / (10 + step))
        shadow = [local(value) for value in self.shadow.values()]
        current = [local(value) for value in _averaged(trainer.task).values()]
        torch._foreach_lerp_(shadow, current, 1.0 - decay)

    @contextmanager
    def around_evaluation(self, trainer: "Trainer") -> Iterator[None]:
        raw = {key: value.detach().clone() for key, value in _averaged(trainer.task).items()}
        self.copy_to(trainer.task)
        try:
            yield
        finally:
            _copy(raw, trainer.task)

    def on_fit_end(self, trainer: "Trainer") -> None:
        if not any(map(is_sharded, trainer.task.parameters())):  # the run succeeded
            self.shadow = {key: whole(value) for key, value in self.shadow.items()}

    def copy_to(self, task: Task) -> None:
        """Put the averaged weights into ``task``."""
        _copy(self.shadow, task)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": {key: whole(value) for key, value in self.shadow.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = state["shadow"]


def _averaged(task: Task) -> dict[str, Tensor]:
    return {key: value for key, value in task.named_parameters() if value.requires_grad}


@torch.no_grad()
def _copy(values: dict[str, Tensor], task: Task) -> None:
    current = _averaged(task)
    for key, value in values.items():
        local(current[key]).copy_(local(value))
