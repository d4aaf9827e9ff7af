"""Exponential moving average of the weights (Polyak & Juditsky 1992), used for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from common.training.callbacks.base import Callback
from common.training.sharding import is_sharded, local, shard_like, whole
from common.training.task import Task

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class EMA(Callback):
    """Keeps ``shadow = decay * shadow + (1 - decay) * weights`` and evaluates with the shadow.

    The decay warms up as ``min(decay, (1 + step) / (10 + step))``, so that the first weights are
    soon forgotten. Checkpoints keep the raw weights as ``model`` and the shadow with the callback.
    The running statistics of batch normalisation are averaged like the weights they belong to:
    those of the newest weights would normalise the activations of older ones. Over hundreds of
    updates that is far nearer to the averaged network's own statistics; where the average forgets
    as fast as they do (10 updates), the newest would be a little nearer.

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
            self.shadow = {key: _copied(value) for key, value in current.items()}
            return
        self.shadow = {
            key: shard_like(self.shadow[key], like) if key in self.shadow else _copied(like)
            for key, like in current.items()
        }

    def on_epoch_start(self, trainer: "Trainer") -> None:
        # What was frozen until now has been its own average.
        for key, value in _averaged(trainer.task).items():
            if key not in self.shadow:
                self.shadow[key] = _copied(value)

    @torch.no_grad()
    def on_step_end(self, trainer: "Trainer") -> None:
        step = trainer.state.step
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = _averaged(trainer.task)
        shadow = [local(self.shadow[key]) for key in averaged]
        current = [local(value) for value in averaged.values()]
        torch._foreach_lerp_(shadow, current, 1.0 - decay)

    @contextmanager
    def around_evaluation(self, trainer: "Trainer") -> Iterator[None]:
        trainer.strategy.align_buffers(trainer.task)  # as without an average; these come back
        raw = {key: _copied(value) for key, value in _averaged(trainer.task).items()}
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
    """Trained parameters, and the running statistics of batch normalisation, by name."""
    found: dict[str, Tensor] = {
        key: value for key, value in task.named_parameters() if value.requires_grad
    }
    for name, module in task.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            for key in ("running_mean", "running_var"):
                if isinstance(value := getattr(module, key), Tensor):
                    found[f"{name}.{key}"] = value
    return found


def _copied(value: Tensor) -> Tensor:
    return value.detach().clone()


@torch.no_grad()
def _copy(values: dict[str, Tensor], task: Task) -> None:
    current = _averaged(task)
    for key in values.keys() & current.keys():
        local(current[key]).copy_(local(values[key]))
