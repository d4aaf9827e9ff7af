"""What makes a step faster or smaller without changing what it computes (beyond rounding).

``torch.compile``, images with their channels innermost, TF32 matrix products, and activation
checkpointing (Chen et al. 2016, 1604.06174): the activations inside a block are dropped in the
forward pass and computed again in the backward pass, with the same dropout.
"""

from collections.abc import Iterator
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
        blocks = list(repeated_blocks(task))
        if not blocks:
            raise ConfigError(
                "trainer.activation_checkpointing is on, but the task has no nn.ModuleList or "
                "nn.Sequential of blocks; turn it off"
            )
        for block in blocks:
            _checkpoint_activations(block)
    if config.compile:
        for part in task.children():
            part.compile()
    return task


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of every ``nn.ModuleList`` and of sequences of composite modules."""
    for child in module.children():
        is_sequence = isinstance(child, nn.Sequential) and all(any(m.children()) for m in child)
        if is_sequence or isinstance(child, nn.ModuleList):
            yield from child.children()
        else:
            yield from repeated_blocks(child)


def _checkpoint_activations(block: nn.Module) -> None:
    forward = block.forward

    @wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed
