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


class OverflowCheck:
    """Whether a gradient is infinite or NaN: one fused pass over all of them.

    Args:
        parameters: Whose gradients.
        device: Where they are.

    Attributes:
        found: A float32 scalar on the device: 1 after a ``mark`` that found one, else 0.
    """

    def __init__(self, parameters: Sequence[Parameter], device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        self._parameters = parameters

    def mark(self) -> None:
        """Look, without waiting for the device."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if gradients:
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found, self._one)

    def finds_one(self) -> bool:
        """Look, and wait for the device.

        Every rank gets the same answer, of shards as well: PyTorch adds up what their ranks found.
        """
        self.mark()
        return self.found.item() != 0.0


def _gradients(parameters: Sequence[Parameter]) -> list[Tensor]:
    return [local(p.grad) for p in parameters if p.grad is not None]
