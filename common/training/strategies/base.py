"""What the trainer asks of the place a step runs in, answered for one process on one device.

Several processes answer otherwise (``distributed``, ``fsdp``, ``accelerated``): global batch ``k``
is split over the ranks, and the weight of the whole batch divides the loss, so that the result is
the single process's.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from common.data.loaders import EpochLoader
from common.training.gradients import clip_gradients
from common.training.precision import Precision
from common.training.task import Task
from common.training.update import TrainStep, Updater
from common.utils.checkpoint import load_weights
from common.utils.devices import find_device
from common.utils.errors import CheckpointError, RepriseError

if TYPE_CHECKING:
    from common.training.callbacks import Callback


class Strategy:
    """One process on one device.

    Args:
        device: As for ``find_device``.

    Attributes:
        name: What ``trainer.strategy`` calls it.
        rank: Which of the processes this is; 0 writes the record.
        world_size: How many processes share every batch.
        is_shared: Whether several processes share a step, so that ``gradient_sync`` is entered.
        lockstep: Whether a forward pass of the placed task waits for the other ranks, so that
            every rank must make as many.
    """

    name = "single"
    rank = 0
    world_size = 1
    is_shared = False
    lockstep = False

    def __init__(self, device: str = "auto") -> None:
        self.device = find_device(device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # generators and waits are those of this device

    # ---- building, in this order ----------------------------------------------------------

    def loader(self, loader: EpochLoader) -> EpochLoader:
        """The training batches, if the strategy must draw them in another way."""
        return loader

    def precision_name(self, name: str) -> str:
        """What steps compute in: ``trainer.precision``, unless the launch says otherwise."""
        return name

    def place(self, task: Task) -> Task:
        """Bring a configured task to where it runs, before the optimizer sees its parameters."""
        return task.to(self.device)

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer that makes the updates."""
        return optimizer

    def updater(
        self, task: Task, optimizer: Optimizer, precision: Precision, channels_last: bool = False
    ) -> Updater:
        """What turns micro-batches into one update."""
        return Updater(task, optimizer, self, precision, channels_last)

    def wrap(self, task: Task) -> TrainStep:
        """The callable that runs one training micro-batch of ``task``."""
        return task.train_step

    def unwrap(self) -> None:
        """Forget what ``wrap`` made, with its hooks on the parameters, so that it may come again."""

    def callbacks(self) -> "list[Callback]":
        """What the strategy itself hangs on a run."""
        return []

    # ---- a step ---------------------------------------------------------------------------

    def clip(self, parameters: Sequence[Parameter], max_norm: float) -> Tensor:
        """Clip the joint norm of all gradients (0 only measures); returns it, over all ranks."""
        return clip_gradients(parameters, max_norm)

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[None]:
        """Whether the backward pass inside exchanges gradients (the last micro-batch's does)."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over ranks."""
        return values

    def align_buffers(self, task: Task) -> None:
        """Give every rank the main rank's buffers, such as running means."""

    def gather_rows(self, values: Tensor) -> Tensor:
        """All ranks' rows, one rank after the other; ranks may have different numbers of rows."""
        return values

    # ---- a checkpoint; every rank takes part, the main rank's result is written -----------

    def model_state(self, task: Task) -> dict[str, Tensor]:
        """The whole, unsharded weights under the task's own names."""
        return task.state_dict()

    def load_model(self, task: Task, state: dict[str, Tensor], source: str) -> None:
        """The inverse of ``model_state``; ``source`` names the file in errors."""
        load_weights(task, state, source)

    def optimizer_state(self, task: Task, optimizer: Optimizer) -> dict[str, Any]:
        """The whole, unsharded state, keyed like ``Optimizer.state_dict``."""
        return optimizer.state_dict()

    def load_optimizer(self, task: Task, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """The inverse of ``optimizer_state``."""
        optimizer.load_state_dict(state)
        align_layouts(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """What else the strategy must remember, such as a privacy accountant."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``.

        Raises:
            CheckpointError: if another strategy left something that this one would forget.
        """
        if state:
            raise CheckpointError(
                f"the checkpoint holds the state of another strategy ({', '.join(state)}), which "
                "this one would forget; resume with the trainer.strategy of before"
            )

    def release(self, task: Task) -> None:
        """Give back a trained task whole: ordinary parameters on every rank, no hooks."""

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Every rank's state (nested plain values and tensors), by rank."""
        return [state]

    def broadcast_text(self, text: str) -> str:
        """The main rank's ``text``, on every rank."""
        return text

    def barrier(self) -> None:
        """Wait for every rank."""

    def explain(self, error: Exception) -> RepriseError | None:
        """What an error of the machinery means to a person, if it has a plain meaning."""
        return None

    def close(self) -> None:
        """Give back what the strategy holds."""


def align_layouts(optimizer: Optimizer) -> None:
    """Lay moments out in memory as their parameters are, which a checkpoint does not.

    Fused kernels read parameter, gradient and moments side by side and ask nobody for strides:
    with the channels innermost they would take the moments of other weights.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name, value in moments.items():
                if not isinstance(value, Tensor) or value.shape != parameter.shape:
                    continue
                if value.stride() != parameter.stride():
                    moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
