"""Generalized-mean pooling (Radenovic et al. 2017, 1711.02512, equation 3).

    f_c = (mean over positions of x_c^p)^(1/p)

p = 1 is the average, p to infinity the maximum; what is learned usually lies near 3.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.models.full_precision import full_precision

_LEAST = 1.0 + 1e-3  # below 1 it is no mean of large values any more


class GeM(nn.Module):
    """Pools a feature map to one value a channel; in float32, also under autocast.

    Args:
        channels: C for a p of each channel; ``None`` shares one.
        p: Where it starts, above 1.
        learnable: Whether p is trained. It belongs into a group without weight decay, where vectors and
            scalars are by default (``Task.parameter_groups``).
        eps: Values below count as this; negative ones have no power.

    Raises:
        ValueError: unless ``p`` is above 1, and ``eps`` is positive.
    """

    def __init__(
        self,
        channels: int | None = None,
        p: float = 3.0,
        learnable: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if not p >= 1.0 or not eps > 0.0:
            raise ValueError(f"p is {p} and eps {eps}; expected at least 1 and a positive number")
        start = torch.full((channels or 1,), float(p))
        if learnable:
            self.p = nn.Parameter(start)
        else:
            self.register_buffer("p", start)
        self.learnable, self.eps = learnable, eps

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        """One value for each channel."""
        with full_precision(x.device.type):
            values = x.float().clamp(min=self.eps)
            p = self.p.float()
            p = (p.clamp(min=_LEAST) if self.learnable else p).view(1, -1, 1, 1)
            # By the logarithm of the largest, so that a large p neither overflows nor underflows.
            highest = values.amax((2, 3), keepdim=True)
            mean = (values / highest).pow(p).mean((2, 3), keepdim=True)
            return (highest * mean.pow(1.0 / p)).flatten(1)

    def extra_repr(self) -> str:
        return f"p={self.p.detach().mean().item():.3f}, channels={len(self.p)}"
