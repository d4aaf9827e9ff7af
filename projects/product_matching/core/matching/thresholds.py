"""Thresholds picked where they are not judged: on other folds, or on the other half of the labels.

Each held-out item lists what scores at least t; the best t of the very items that are judged would flatter
them, so that one is only reported as ``oracle``. F is that of ``common.metrics.matching``: by row, the item
itself included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.metrics import MatchFold, ThresholdCurve, matches_of, matching_curve, sweep_matching
from common.metrics.threshold import f_scores
from common.utils.errors import DataError
from common.utils.seeding import mix_seed
from projects.product_matching.core.config import MatchingConfig

OTHERS, HALVES, ITSELF = "the other folds", "the other half of the labels", "the fold itself"
_F, _PRECISION, _RECALL = "f_score", "precision", "recall"


@dataclass(frozen=True)
class FoldThreshold:
    """The threshold of a fold.

    Attributes:
        rows: The threshold each query is judged at, ``(N,)``.
        value: The one to use the network with.
        picked_on: What the thresholds in ``rows`` were picked on, in words.
        value_picked_on: What ``value`` was picked on.
        curve: F over thresholds of what ``value`` was picked on.
        oracle_curve: F over thresholds of the fold itself.
    """

    rows: Tensor
    value: float
    picked_on: str
    value_picked_on: str
    curve: ThresholdCurve
    oracle_curve: ThresholdCurve

    @property
    def judged_at(self) -> list[float]:
        """The thresholds of the queries: one, or one for each half of a single fold."""
        return self.rows.unique().tolist()

    @property
    def oracle(self) -> tuple[float, float]:
        """The best threshold of the judged items themselves, and its F."""
        return self.oracle_curve.best


def cross_thresholds(folds: Sequence[MatchFold], config: MatchingConfig) -> list[FoldThreshold]:
    """For each fold a threshold from the others; for a single one, from halves of its labels, crosswise.

    Args:
        folds: Items with their candidates.
        config: The section ``matching``.

    Raises:
        DataError: if a single fold has one label only.
    """
    if len(folds) == 1:
        return [_by_halves(folds[0], config)]
    found = []
    for number, fold in enumerate(folds):
        others = [other for place, other in enumerate(folds) if place != number]
        swept = sweep_matching(others, fold, beta=config.beta, min_matches=config.min_matches)
        rows = torch.full((len(fold.labels),), swept.threshold, dtype=torch.float64)
        found.append(
            FoldThreshold(rows, swept.threshold, OTHERS, OTHERS, swept.curve, swept.oracle_curve)
        )
    return found


def row_scores(fold: MatchFold, thresholds: Tensor, config: MatchingConfig) -> dict[str, Tensor]:
    """F, precision and recall of each query at its threshold, ``(N,)`` each."""
    hits = hits_of(fold)
    passed = fold.neighbors.scores.double() >= thresholds[:, None]
    passed[:, : config.min_matches - 1] = True
    return counted((hits & passed).sum(1), passed.sum(1), matches_of(fold.labels), config.beta)


def hits_of(fold: MatchFold) -> Tensor:
    """Which neighbours are true, ``(N, k)``."""
    return fold.labels[fold.neighbors.ids] == fold.labels[:, None]


def counted(found: Tensor, taken: Tensor, matches: Tensor, beta: float) -> dict[str, Tensor]:
    """F, precision and recall of each query from its numbers of true, listed and existing matches."""
    betas = {_F: beta, _PRECISION: 0.0, _RECALL: math.inf}
    return {name: f_scores(found, taken, matches, b, True) for name, b in betas.items()}


def first_half(labels: Tensor) -> Tensor:
    """Which queries belong to the first half of the labels; every label is in one half, ``(N,)``."""
    known, place = labels.unique(return_inverse=True)
    if len(known) < 2:
        raise DataError("the only fold holds out one label; a threshold needs two: hold out more")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(mix_seed(0)))
    is_first = torch.zeros(len(known), dtype=torch.bool)
    is_first[order[: len(known) // 2]] = True
    return is_first[place]


def _by_halves(fold: MatchFold, config: MatchingConfig) -> FoldThreshold:
    first = first_half(fold.labels)
    options: dict[str, Any] = {"beta": config.beta, "min_matches": config.min_matches}
    curve = matching_curve(fold, **options)
    rows = torch.empty(len(fold.labels), dtype=torch.float64)
    for half in (first, ~first):
        rows[~half] = matching_curve(fold, queries=half, **options).best[0]
    # Judged by halves, but used with what all of the fold says.
    return FoldThreshold(rows, curve.best[0], HALVES, ITSELF, curve, curve)
