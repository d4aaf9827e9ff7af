"""Where a step runs: one process, or several that share every batch."""

import os

from common.training.strategies.base import Strategy
from common.utils.errors import ConfigError

__all__ = ["Strategy", "build_strategy"]


def build_strategy(name: str, device: str = "auto") -> Strategy:
    """The strategy of ``trainer.strategy``.

    ``auto`` is ``accelerate`` under ``accelerate launch``, ``ddp`` under ``torchrun`` with several
    processes, and otherwise ``single``.

    Raises:
        ConfigError: if the process was not started as the strategy needs, or PyTorch sees no such
            device.
    """
    if name == "auto":
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        name = "ddp" if several else "single"
        if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by every `accelerate launch`
            name = "accelerate"
    if name == "single":
        return Strategy(device)
    if name == "ddp":
        from common.training.strategies.distributed import DDPStrategy

        return DDPStrategy(device)
    if name == "fsdp":
        from common.training.strategies.fsdp import FSDPStrategy

        return FSDPStrategy(device)
    if name == "accelerate":
        from common.training.strategies.accelerated import AcceleratedStrategy

        return AcceleratedStrategy(device)
    raise ConfigError(f"trainer.strategy is '{name}', which cannot be built from its name alone")
