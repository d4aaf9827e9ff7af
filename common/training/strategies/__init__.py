"""Where a step runs: one process, or several that share every batch."""

import os

from common.training.config import TrainerConfig
from common.training.strategies.base import Strategy
from common.utils.errors import ConfigError

__all__ = ["Strategy", "build_strategy"]


def build_strategy(config: TrainerConfig, seed: int = 0) -> Strategy:
    """The strategy that ``config.strategy`` names.

    ``auto`` is ``accelerate`` under ``accelerate launch``, ``ddp`` under ``torchrun`` with several
    processes, and otherwise ``single``.

    Args:
        config: The trainer's values.
        seed: The run's, for a strategy that draws.

    Raises:
        ConfigError: if the process was not started as the strategy needs, or PyTorch sees no such
            device.
    """
    name = config.strategy
    if name == "auto":
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        name = "ddp" if several else "single"
        if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by every `accelerate launch`
            name = "accelerate"
    if name == "ddp":
        from common.training.strategies.distributed import DDPStrategy

        return DDPStrategy(config.device)
    if name == "fsdp":
        from common.training.strategies.fsdp import FSDPStrategy

        return FSDPStrategy(config.device)
    if name == "accelerate":
        from common.training.strategies.accelerated import AcceleratedStrategy

        return AcceleratedStrategy(config.device)
    if name == "private":
        from common.training.privacy.strategy import PrivateStrategy

        return PrivateStrategy(config, seed)
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(
            f"trainer.strategy=single, but {count} processes were launched, which would each train "
            "alone; use trainer.strategy=auto, ddp or fsdp, or start one process"
        )
    return Strategy(config.device)
