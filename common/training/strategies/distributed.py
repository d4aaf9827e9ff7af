"""Several processes that share every batch: their group, their sums, and plain data parallelism.

``torchrun`` (or ``accelerate launch``, or ``srun``) starts one process per device. What every such
strategy shares is ``DistributedStrategy``; ``DDPStrategy`` keeps a whole copy of the weights in
each process and averages the gradients (``DistributedDataParallel``). See ``docs/scale.md``.
"""

import io
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.training.strategies.base import Strategy
from common.training.task import Batch, StepOutput, Task
from common.training.update import TrainStep
from common.utils.errors import ConfigError, FaultError, RepriseError

TIMEOUT = timedelta(minutes=10)  # a whole validation or save of the main rank must fit in it
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exit",
    "ncclRemoteError",
)


class DistributedStrategy(Strategy):
    """The process group, and exchanges over it.

    Args:
        device: As for ``Strategy``; ``auto`` and ``cuda`` take the GPU of the local rank.

    Raises:
        ConfigError: if no launcher started the process.
    """

    name = "ddp"
    is_shared = True

    def __init__(self, device: str = "auto") -> None:
        if "RANK" not in os.environ:
            raise ConfigError(
                f"trainer.strategy={self.name} needs a launcher, for example: "
                "torchrun --nproc-per-node 2 -m papers.x.train"
            )
        if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        super().__init__(device)
        on_gpu = self.device.type == "cuda"
        if not dist.is_initialized():
            # Tensors on the host are exchanged too: weights before they are sharded.
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        values = values.detach().to(self.device, copy=True)
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def align_buffers(self, task: Task) -> None:
        self._from_main(persistent_buffers(task))

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
        return [_load(bytes(row.numpy())) for row in rows]

    def broadcast_text(self, text: str) -> str:
        own = torch.tensor(list(text.encode()) if self.rank == 0 else [], dtype=torch.uint8)
        return bytes(self.gather_rows(own).cpu().numpy()).decode()

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def explain(self, error: Exception) -> RepriseError | None:
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_PEER):
            return FaultError(
                f"rank {self.rank} ends because another of the {self.world_size} processes "
                "ended; what that one says is the cause"
            )
        return None

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def _all_gather(self, values: Tensor) -> list[Tensor]:
        values = values.to(self.device).contiguous()
        if self.world_size == 1:
            return [values]
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values)
        return gathered

    def _from_main(self, tensors: Iterable[Tensor]) -> None:
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)


class DDPStrategy(DistributedStrategy):
    """``DistributedDataParallel``: every rank holds all weights, gradients are averaged."""

    def __init__(self, device: str = "auto") -> None:
        super().__init__(device)
        self._wrapped: nn.parallel.DistributedDataParallel | None = None

    def wrap(self, task: Task) -> TrainStep:
        self._wrapped = nn.parallel.DistributedDataParallel(
            TrainStepModule(task),
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        return self._wrapped

    def unwrap(self) -> None:
        self._wrapped = None

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[None]:
        if enabled or self._wrapped is None:
            return nullcontext()
        return self._wrapped.no_sync()


def persistent_buffers(task: Task) -> list[Tensor]:
    """The buffers a checkpoint holds: those that training may change."""
    saved = task.state_dict().keys()
    return [buffer for name, buffer in task.named_buffers() if name in saved]


class TrainStepModule(nn.Module):
    """Gives ``task.train_step`` the name ``forward``, which is what wrappers hook into."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> StepOutput:
        return self.task.train_step(batch)


def _load(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
