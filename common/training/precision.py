"""Numeric precision of a step: fp32, or autocast to bf16 or fp16 with a gradient scaler."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from loguru import logger
from torch import Tensor
from torch.optim import Optimizer

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def multiplies_fast(name: str) -> bool:
    """Whether this CPU has instructions for products of ``bf16`` or ``fp16``.

    Without them each product is made of conversions and fp32: a training step of ResNet-18 took 18
    times as long in fp16 on an EPYC that has bf16 instructions only, and 0.7 times as long in bf16.
    """
    flags = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}[name]
    try:
        known = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # an older PyTorch, or one for another processor
        return False
    return any(known.get(flag, False) for flag in flags)


@functools.cache
def _warn_once(name: str) -> None:
    logger.warning(
        f"trainer.precision={name}: this CPU has no instructions for it (AMX, AVX-512), so a step "
        "can take many times as long as in fp32; use trainer.precision=fp32 here"
    )


class Precision:
    """Autocast for the forward pass; for fp16 also loss scaling.

    Args:
        name: ``fp32``, ``bf16`` or ``fp16``.
        device: Where the step runs.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._device = device.type
        self._dtype = _DTYPES.get(name)
        self.scaler = torch.amp.GradScaler(self._device) if name == "fp16" else None
        if self._dtype is not None and self._device == "cpu" and not multiplies_fast(name):
            _warn_once(name)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device, self._dtype)

    def autocasted(self, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``step`` under autocast; ``step`` itself where there is none."""
        if self._dtype is None:
            return step

        def run(batch: Any) -> Any:
            with self.autocast():
                return step(batch)

        return run

    def backward(self, loss: Tensor) -> None:
        """The backward pass, of the scaled loss under fp16."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring gradients to their true size, once, before anyone looks at them."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, unscaled_step: Callable[[], None]) -> bool:
        """The update; ``False`` if fp16 overflowed and it was left out.

        Args:
            optimizer: What the scaler steps.
            unscaled_step: How it steps without a scaler.
        """
        if self.scaler is None:
            unscaled_step()
            return True
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    def skip(self) -> None:
        """Tell the scaler that there will be no update of what was unscaled."""
        if self.scaler is not None:
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state, empty without one."""
        return self.scaler.state_dict() if self.scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        if self.scaler and state:
            self.scaler.load_state_dict(state)
