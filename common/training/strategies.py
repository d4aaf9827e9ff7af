"""Where a step runs: one process (``single``) or several that share every batch (``ddp``).

The trainer asks a strategy for its rank, for sums over ranks, and for the callable that runs a
training step. Under ``torchrun`` with ``strategy=ddp`` global batch ``k`` is split over the ranks,
and the weight of the whole batch divides the loss, so that the result is the single process's.
"""

import io
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from common.data.loaders import EpochLoader
from common.training.callbacks import Callback
from common.training.config import TrainerConfig
from common.training.gradients import clip_gradients
from common.training.precision import Precision
from common.training.task import Batch, StepOutput, Task
from common.training.update import TrainStep, Updater
from common.utils.checkpoint import load_weights
from common.utils.errors import CheckpointError, ConfigError


class Strategy:
    """One process on one device.

    Args:
        device: ``auto`` (the first accelerator, else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.
    """

    rank = 0
    world_size = 1
    is_shared = False
    """Whether several processes share a step, so that ``gradient_sync`` must be entered."""

    def __init__(self, device: str = "auto") -> None:
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self.device = torch.device(name)
        except RuntimeError:
            raise ConfigError(f"trainer.device is '{device}'; use auto, cpu or cuda") from None
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"trainer.device is '{device}', but PyTorch sees no CUDA device")

    # ---- building, in this order ----------------------------------------------------------

    def loader(self, loader: EpochLoader) -> EpochLoader:
        """The training batches, if the strategy must draw them in another way."""
        return loader

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

    def callbacks(self) -> list[Callback]:
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

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Every rank's state (nested plain values and tensors), by rank."""
        return [state]

    def broadcast_text(self, text: str) -> str:
        """The main rank's ``text``, on every rank."""
        return text

    def barrier(self) -> None:
        """Wait for every rank."""

    def close(self) -> None:
        """Give back what the strategy holds."""


class _TrainStepModule(nn.Module):
    """Gives ``task.train_step`` the name ``forward``, which is what DDP hooks into."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> StepOutput:
        return self.task.train_step(batch)


class DistributedStrategy(Strategy):
    """``DistributedDataParallel`` over the processes that ``torchrun`` started.

    Raises:
        ConfigError: if the process was not started by ``torchrun``.
    """

    is_shared = True

    def __init__(self, device: str = "auto") -> None:
        if "RANK" not in os.environ:
            raise ConfigError(
                "trainer.strategy=ddp needs torchrun: torchrun --nproc-per-node 2 -m papers.x.train"
            )
        if device == "auto" and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        super().__init__(device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(minutes=10))
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._wrapped: nn.parallel.DistributedDataParallel | None = None

    def wrap(self, task: Task) -> TrainStep:
        on_gpu = self.device.type == "cuda"
        self._wrapped = nn.parallel.DistributedDataParallel(
            _TrainStepModule(task),
            device_ids=[self.device] if on_gpu else None,
            gradient_as_bucket_view=True,
        )
        return self._wrapped

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[None]:
        if enabled or self._wrapped is None:
            return nullcontext()
        return self._wrapped.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device, copy=True)
        dist.all_reduce(values)
        return values

    def gather_rows(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        counts = [int(count) for count in self._all_gather(torch.tensor(len(values)))]
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        parts = self._all_gather(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        own = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        lengths = [int(length) for length in self._all_gather(torch.tensor(len(own)))]
        rows = self.gather_rows(own).cpu().split(lengths)
        return [torch.load(io.BytesIO(bytes(row.numpy())), weights_only=True) for row in rows]

    def broadcast_text(self, text: str) -> str:
        own = torch.tensor(list(text.encode()) if self.rank == 0 else [], dtype=torch.uint8)
        return bytes(self.gather_rows(own).cpu().numpy()).decode()

    def _all_gather(self, values: Tensor) -> list[Tensor]:
        values = values.to(self.device).contiguous()
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return gathered

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def build_strategy(
    name: str, device: str = "auto", config: TrainerConfig | None = None, seed: int = 0
) -> Strategy:
    """The strategy called ``single``, ``ddp`` or ``private``; ``auto`` is ddp under torchrun.

    Args:
        name: As in ``TrainerConfig.strategy``.
        device: As in ``TrainerConfig.device``.
        config: The trainer's values, for a strategy that has more to know.
        seed: The run's, for a strategy that draws.
    """
    if name == "auto":
        name = "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "single"
    if name == "private":
        from common.training.private import PrivateStrategy

        return PrivateStrategy(device, config or TrainerConfig(strategy=name), seed)
    return DistributedStrategy(device) if name == "ddp" else Strategy(device)
