"""The mean F-score of matching at EVERY threshold, by one sort.

A query's matches are its candidates with a score of at least t. With r of them, tp of these true, and n
true ones there are, its score is

    F = (1 + b^2) tp / (b^2 n + r),        0 where nothing is found

Lowering t past one candidate changes one query's F by a known amount, so the mean over queries at every
threshold is the running sum of these changes in the order of the scores. Equal scores are passed
together: only after the last of them is there a threshold.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.utils.errors import DataError


@dataclass(frozen=True)
class ThresholdCurve:
    """The mean F over queries as a function of the threshold.

    Attributes:
        thresholds: ``(T,)`` float64, falling: every value at which the answer changes.
        scores: ``(T,)`` float64, the mean F at each.
        exact_above: Below this some query has candidates that were not fetched; -inf if all were.
        beta: b.
    """

    thresholds: Tensor
    scores: Tensor
    exact_above: float
    beta: float

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the highest mean F, the largest of equals, and that F."""
        place = int(self.scores.argmax())
        return float(self.thresholds[place]), float(self.scores[place])

    def at(self, threshold: float) -> float:
        """The mean F of all candidates with a score of at least ``threshold``."""
        passed = int((self.thresholds >= threshold).sum())
        return float(self.scores[passed - 1]) if passed else 0.0


def sweep_thresholds(
    scores: Float[Tensor, "Q M"],
    hits: Bool[Tensor, "Q M"],
    matches: Int[Tensor, "Q"],
    *,
    beta: float = 1.0,
    is_complete: bool = False,
) -> ThresholdCurve:
    """The curve over all thresholds.

    Args:
        scores: Of each query's candidates, falling along a row.
        hits: Which of them are true.
        matches: How many true ones each query has, found or not.
        beta: How much more recall counts than precision.
        is_complete: Whether the candidates are all there are.

    Raises:
        DataError: if the shapes disagree, scores rise along a row or are not finite, or a query has
            more hits than matches.
    """
    if scores.shape != hits.shape or len(scores) != len(matches) or not scores.numel():
        raise DataError(
            f"scores have shape {tuple(scores.shape)}, hits {tuple(hits.shape)}, matches "
            f"{tuple(matches.shape)}; expected (Q, M), (Q, M) and (Q,), none of them empty"
        )
    values = scores.double()
    if not values.isfinite().all() or (values[:, 1:] > values[:, :-1]).any():
        raise DataError("scores must be finite and fall along each row, best first")
    found = hits.cumsum(1)
    if (found[:, -1] > matches).any():
        row = int((found[:, -1] > matches).nonzero()[0])
        raise DataError(
            f"query {row} has {int(found[row, -1])} hits of {int(matches[row])} matches; expected at "
            "most as many"
        )
    taken = torch.arange(1, scores.shape[1] + 1)
    square = beta * beta
    f = (1.0 + square) * found.double() / (square * matches[:, None].double() + taken)
    change = torch.cat([f[:, :1], f[:, 1:] - f[:, :-1]], dim=1).flatten()
    ordered, place = values.flatten().sort(descending=True)
    mean = change[place].cumsum(0) / len(scores)
    last_of_equals = torch.ones(len(ordered), dtype=torch.bool)
    last_of_equals[:-1] = ordered[:-1] != ordered[1:]
    bound = float("-inf") if is_complete else float(values[:, -1].max())
    return ThresholdCurve(ordered[last_of_equals], mean[last_of_equals], bound, beta)
