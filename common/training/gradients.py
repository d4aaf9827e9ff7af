"""What is done to all gradients at once: scale, clip, check."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from common.training.sharding import local


def scale_gradients(parameters: Sequence[Parameter], factor: Tensor | float) -> None:
    """Multiply every gradient by ``factor``."""
    torch._foreach_mul_(_gradients(parameters), factor)


def gradient_norm(parameters: Sequence[Parameter]) -> Tensor:
    """The joint L2 norm of this rank's gradients (of its shards), a scalar on the device."""
    return torch.nn.utils.get_total_norm(_gradients(parameters), foreach=True)


def clip_gradients(
    parameters: Sequence[Parameter], max_norm: float, norm: Tensor | None = None
) -> Tensor:
    """Scale gradients so that their joint L2 norm is at most ``max_norm``.

    Args:
        parameters: Their gradients are changed in place.
        max_norm: The bound (Pascanu et al. 2013, 1211.5063); 0 only measures.
        norm: The norm, where it takes more than this rank's gradients to know it.

    Returns:
        The norm before, a scalar on the device.
    """
    norm = gradient_norm(parameters) if norm is None else norm
    if max_norm > 0.0:
        scale_gradients(parameters, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gradients_overflow(parameters: Sequence[Parameter]) -> bool:
    """Whether any gradient is infinite or NaN: one fused pass, then a wait for the device.

    Every rank gets the same answer, of shards as well: PyTorch adds up what their ranks found.
    """
    if not parameters:
        return False
    found = torch.zeros((), device=parameters[0].device)
    mark_overflow(parameters, found)
    return bool(found)


def mark_overflow(parameters: Sequence[Parameter], found: Tensor) -> None:
    """Set ``found``, a float32 scalar on the device, to 1 if a gradient is infinite or NaN."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        one = torch.ones_like(found)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, one)


def _gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    return [local(p.grad) for p in parameters if p.grad is not None]
