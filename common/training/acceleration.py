"""What makes a step faster or smaller without changing what it computes (beyond rounding).

``torch.compile``, images with their channels innermost, TF32 matrix products, and activation
checkpointing (Chen et al. 2016, 1604.06174): the activations inside a block are dropped in the
forward pass and computed again in the backward pass, with the same dropout.
"""

from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.training.config import TrainerConfig
from common.training.memory import keep_freed_memory
from common.training.task import Task
from common.utils.errors import ConfigError


def set_up_device(config: TrainerConfig, device: torch.device) -> None:
    """Process-wide settings: what matrix products may round to, and what happens to freed memory."""
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    if device.type == "cpu" and config.keep_memory:
        keep_freed_memory()


def accelerate_task(task: Task, config: TrainerConfig) -> Task:
    """Apply what ``config`` asks for to a task on its device, before the optimizer is built.

    Names in the state dict stay as they are.

    Raises:
        ConfigError: if activations are to be checkpointed and the task has no blocks.
    """
    if config.channels_last:
        task.to(memory_format=torch.channels_last)
    if config.activation_checkpointing:
        blocks = task.blocks()
        if not blocks:
            raise ConfigError(
                f"trainer.activation_checkpointing is on, but {type(task).__name__}.blocks() names "
                "none; turn it off, or define it"
            )
        for block in blocks:
            _checkpoint_activations(block)
    if config.compile:
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(True)  # tells the compiler too
        for part in task.children():
            part.compile()
    return task


def _checkpoint_activations(block: nn.Module) -> None:
    forward = block.forward

    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed
