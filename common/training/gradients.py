"""What is done to all gradients at once: scale, clip, check."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


def scale_gradients(parameters: Sequence[Parameter], factor: Tensor | float) -> None:
    """Multiply every gradient by ``factor``."""
    torch._foreach_mul_(_gradients(parameters), factor)


def clip_gradients(parameters: Sequence[Parameter], max_norm: float) -> Tensor:
    """Scale gradients so that their joint L2 norm is at most ``max_norm``.

    Args:
        parameters: Their gradients are changed in place.
        max_norm: The bound (Pascanu et al. 2013, 1211.5063); 0 only measures.

    Returns:
        The norm before, a scalar on the device.
    """
    gradients = _gradients(parameters)
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm > 0.0:
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gradients_overflow(parameters: Sequence[Parameter]) -> bool:
    """Whether any gradient is infinite or NaN: one fused pass, then a wait for the device."""
    gradients = _gradients(parameters)
    if not gradients:
        return False
    found = torch.zeros(1, device=gradients[0].device)
    torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.ones_like(found))
    return bool(found)


def _gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
