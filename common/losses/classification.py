"""Losses of one label per example: cross-entropy and focal loss, smoothed, weighted, soft.

Each takes the right classes, ``(B,)`` integers, or a distribution over the classes for each
example, ``(B, K)``, such as mixup makes. With the target t (smoothed to t'), class weights w and
p = softmax(logits):

    cross-entropy   l = -sum_c t'_c w_c log p_c
    focal loss      l = -sum_c t'_c w_c (1 - p_c)^gamma log p_c   (Lin et al. 2017, 1708.02002, eq. 5)

They return the sum of l and the weight to divide by: the sum of sum_c t_c w_c over examples, which
without class weights is their number. For integers that is ``torch.nn.CrossEntropyLoss``'s mean.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.utils.errors import DataError

Summed: TypeAlias = tuple[Float[Tensor, ""], Float[Tensor, ""] | int]


class CrossEntropy(nn.Module):
    """Cross-entropy with label smoothing (1512.00567, section 7) and class weights.

    Args:
        smoothing: The part of the target that is spread over all classes.
        class_weights: One weight for each class; none: all count the same.
    """

    class_weights: Tensor | None

    def __init__(
        self, smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        # Not in the state dict: it is the configuration's, and weights stay loadable without it.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, logits: Float[Tensor, "B K"], target: Int[Tensor, "B"] | Float[Tensor, "B K"]
    ) -> Summed:
        """The sum over examples, and what to divide it by."""
        _check_weights(self.class_weights, logits)
        if target.is_floating_point():
            target = target.to(_exact(logits))
        loss = F.cross_entropy(
            logits.to(_exact(logits)),
            target,
            self.class_weights,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        return loss, divisor(target, self.class_weights)


class FocalLoss(nn.Module):
    """Cross-entropy in which what is already right counts less; with ``gamma`` 0 the same.

    Args:
        gamma: How fast an example's weight falls with its probability; the paper takes 2.
        smoothing: The part of the target that is spread over all classes.
        class_weights: The paper's alpha, one for each class.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if gamma < 0.0:
            raise ValueError(f"gamma is {gamma}; expected at least 0")
        self.gamma, self.smoothing = gamma, smoothing
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, logits: Float[Tensor, "B K"], target: Int[Tensor, "B"] | Float[Tensor, "B K"]
    ) -> Summed:
        """The sum over examples, and what to divide it by."""
        _check_weights(self.class_weights, logits)
        log_p = F.log_softmax(logits, dim=1, dtype=_exact(logits))
        # 1 - p without cancellation. Where it is 0 its power has no slope for gamma < 1.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        terms = rest**self.gamma * log_p if self.gamma else log_p
        if self.class_weights is not None:
            terms = terms * self.class_weights
        smoothed = soft_targets(target, logits.shape[1], log_p.dtype)
        if self.smoothing:
            smoothed = (1.0 - self.smoothing) * smoothed + self.smoothing / logits.shape[1]
        return -(smoothed * terms).sum(), divisor(target, self.class_weights)


def soft_targets(
    target: Int[Tensor, "B"] | Float[Tensor, "B K"],
    num_classes: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B K"]:
    """Distributions over the classes: of integers, all on one class; others as they are."""
    if target.is_floating_point():
        return target.to(dtype)
    return F.one_hot(target, num_classes).to(dtype)


def divisor(
    target: Int[Tensor, "B"] | Float[Tensor, "B K"], class_weights: Float[Tensor, "K"] | None
) -> Float[Tensor, ""] | int:
    """What a batch weighs: its examples, or the sum of the weights of their classes."""
    if class_weights is None:
        return len(target)
    if target.is_floating_point():
        return (target.to(class_weights.dtype) @ class_weights).sum()
    return class_weights[target].sum()


def expected_hits(
    logits: Float[Tensor, "B K"], target: Int[Tensor, "B"] | Float[Tensor, "B K"]
) -> Float[Tensor, ""] | Int[Tensor, ""]:
    """How many predictions are right; of a soft target, the share of the predicted class counts."""
    predicted = logits.argmax(1)
    if target.is_floating_point():
        return target.gather(1, predicted[:, None]).sum()
    return (predicted == target).sum()


def _exact(logits: Tensor) -> torch.dtype:
    """At least float32, also under autocast."""
    return torch.promote_types(logits.dtype, torch.float32)


def _check_weights(class_weights: Tensor | None, logits: Tensor) -> None:
    if class_weights is not None and len(class_weights) != logits.shape[1]:
        raise DataError(
            f"there are {len(class_weights)} class weights for {logits.shape[1]} classes; give one "
            "for each class, in the order of data.class_names"
        )
