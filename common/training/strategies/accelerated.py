"""The same task through Hugging Face Accelerate, as ``accelerate launch`` configures it.

Accelerate decides the device, starts the process group, and wraps module and optimizer. Data, the
weighting of losses, precision and checkpoints stay the trainer's, so that the numbers are those
of the other strategies.

    accelerate launch --multi_gpu --num_processes 2 -m papers.attention_is_all_you_need.train
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from loguru import logger
from torch.optim import Optimizer

from common.training.strategies.distributed import TIMEOUT, DistributedStrategy, TrainStepModule
from common.training.task import Task
from common.training.update import TrainStep
from common.utils.errors import ConfigError

_SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU")
_PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


class AcceleratedStrategy(DistributedStrategy):
    """``accelerate.Accelerator`` around module and optimizer.

    Args:
        device: ``cpu`` asks Accelerate for the CPU; ``auto`` and ``cuda`` leave it the choice.

    Raises:
        ConfigError: if Accelerate is not installed, or is configured for what it does not do here.
    """

    name = "accelerate"

    def __init__(self, device: str = "auto") -> None:
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError:
            raise ConfigError(
                "trainer.strategy=accelerate needs the package accelerate: uv pip install accelerate"
            ) from None
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"trainer.device is '{device}', but under trainer.strategy=accelerate Accelerate "
                "decides the device; use auto or cpu"
            )
        self._accelerator = Accelerator(
            cpu=device == "cpu" or not torch.cuda.is_available(),
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
        kind = self._accelerator.distributed_type.name
        if kind not in _SUPPORTED:
            raise ConfigError(
                f"Accelerate is configured for {kind}; trainer.strategy=accelerate does plain data "
                "parallelism (to shard weights: torchrun and trainer.strategy=fsdp)"
            )
        device_type = self._accelerator.device.type
        self.device = torch.device("cpu") if device_type == "cpu" else self._accelerator.device
        self.rank = self._accelerator.process_index
        self.world_size = self._accelerator.num_processes
        self._wrapped: Any = None

    def precision_name(self, name: str) -> str:
        """What the launch says, unless ``trainer.precision`` is set.

        Raises:
            ConfigError: if both say something, and not the same.
        """
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        chosen = _PRECISIONS.get(launched)
        if chosen is None or (name != "fp32" and launched != "no" and chosen != name):
            raise ConfigError(
                f"trainer.precision is {name}, but accelerate launch says mixed_precision "
                f"{launched}; give one of them, or the same twice (fp32, bf16, fp16)"
            )
        return chosen if name == "fp32" else name

    def place(self, task: Task) -> Task:
        if self.world_size == 1 and "MASTER_ADDR" in os.environ:
            logger.warning(
                "accelerate launch asked for several processes but started one (on a CPU it needs "
                "MPI for more); for several use: accelerate launch --multi_gpu --num_processes 2"
            )
        return super().place(task)

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        return self._accelerator.prepare_optimizer(optimizer)

    def wrap(self, task: Task) -> TrainStep:
        self._wrapped = self._accelerator.prepare_model(TrainStepModule(task))
        return self._wrapped

    def unwrap(self) -> None:
        self._wrapped = None
        self._accelerator._models.clear()

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext() if enabled else self._accelerator.no_sync(self._wrapped)
