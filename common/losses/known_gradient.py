"""A scalar whose gradient was computed together with it.

A loss over all pairs of a batch is a few passes over a ``B x B`` matrix. Autograd keeps what each
of them read and goes back through them all, although the gradient of the matrix has a closed form.
A loss that knows it computes it at once and hands both over:

    value = with_known_gradient(x, value, gradient)

It is worth computing where ``x.requires_grad``: not in an evaluation.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def with_known_gradient(
    x: Float[Tensor, "..."], value: Float[Tensor, ""], gradient: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """``value`` as a function of ``x``, for autograd.

    Args:
        x: What the value was computed from.
        value: A scalar without a graph.
        gradient: ``d value / d x``, in the shape of ``x``; it is kept until the backward pass.
    """
    known: Tensor = _KnownGradient.apply(x, value, gradient)
    return known


def through_products(
    x: Float[Tensor, "B D"], gradient: Float[Tensor, "B B"]
) -> Float[Tensor, "B D"]:
    """The gradient of rows ``x``, given the gradient of ``x @ x.T``: ``(G + G^T) x``."""
    return (gradient + gradient.T) @ x


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None
