"""What tells a Transformer where a token stands: fixed sinusoids or learned vectors.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.utils.errors import DataError


def sinusoidal_table(length: int, d_model: int) -> Float[Tensor, "T D"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)) and PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).

    Sines and cosines alternate, as in the paper. Computed in float64, returned in float32.
    """
    position = torch.arange(length, dtype=torch.float64)
    even = torch.arange(0, d_model, 2, dtype=torch.float64)
    angle = torch.outer(position, 10000.0 ** (-even / d_model))
    table = torch.empty(length, d_model, dtype=torch.float64)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle[:, : d_model // 2].cos()
    return table.float()


class _Positions(nn.Module):
    table: Tensor

    def forward(self, x: Float[Tensor, "B T D"], start: int = 0) -> Float[Tensor, "B T D"]:
        """Add the positions ``start .. start + T - 1``.

        Raises:
            DataError: the sequence reaches past the table.
        """
        end = start + x.shape[1]
        if end > len(self.table):
            raise DataError(
                f"a sequence of {end} tokens, but there are positions for {len(self.table)}: "
                f"shorten it or build the model with max_len >= {end}"
            )
        return x + self.table[start:end]


class SinusoidalPositions(_Positions):
    """The paper's fixed table; it is no parameter and is not saved with the weights."""

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.register_buffer("table", sinusoidal_table(max_len, d_model), persistent=False)


class LearnedPositions(_Positions):
    """A trained vector per position (row E of the paper's Table 3), as wide as an embedding."""

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(max_len, d_model) * d_model**-0.5)
