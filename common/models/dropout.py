"""Dropout whose mask is cheap to draw on a CPU.

Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting". There, drawing the mask element by element is a tenth of a small Transformer's
training step.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """``nn.Dropout``; on a CPU four elements share the 64 bits of one random number.

    There p is rounded to a multiple of 1/65536, and the scale follows the rounded p. The bits
    come from PyTorch's default generator, as ``nn.Dropout``'s do.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        words = torch.randint(-(2**63), 2**63 - 1, (math.ceil(x.numel() / 4),))
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= dropped - 2**15
        return x * keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))
