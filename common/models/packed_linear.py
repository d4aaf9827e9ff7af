"""Linear layers laid out for the few rows a decoding step has.

With one row per hypothesis a matrix product is bound by reading the weights, and the order in
which ``nn.Linear`` keeps them is the slowest to read: on a CPU a copy in another order makes the
same product two to three times faster and is paid back after about five steps. Elsewhere, and
for other numbers than float32, this is ``F.linear``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class PackedLinear:
    """x W^T + b without gradients, of a copy of W made for products with few rows.

    Later changes of the weights are not seen: make one per search.

    Args:
        weight: W.
        bias: b, or None.
        rows: How many rows x will have at most.
    """

    def __init__(
        self, weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None, rows: int
    ) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._product: Callable[[Tensor], Tensor] = self._plain
        if (
            weight.device.type != "cpu"
            or weight.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return
        outputs, inputs = weight.shape
        if rows == 1:
            # One row times W^T adds up rows of W^T; the other way round it is a dot product for
            # each output, which pays only where there are few of them.
            if outputs >= inputs:
                self.weight = self.weight.t().contiguous()
                self._product = self._transposed
        elif torch.backends.mkldnn.is_available():
            # oneDNN's own blocks. Packed for fewer rows it would keep the plain order.
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, max(rows, 8))
            self._product = self._blocked

    @classmethod
    def of(cls, linear: nn.Module, rows: int) -> "PackedLinear | nn.Module":
        """The same for a module; what is more than an ``nn.Linear`` (an adapter) stays itself."""
        if type(linear) is not nn.Linear:
            return linear
        return cls(linear.weight, linear.bias, rows)

    def __call__(self, x: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        return self._product(x)

    def _plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def _transposed(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)

    def _blocked(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
