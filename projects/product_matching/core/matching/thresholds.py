"""Thresholds picked where they are not judged: on other folds, or on the other half of the labels.

Each held-out item lists what scores at least t; the best t of the very items that are judged would flatter
them, so that one is only reported as ``oracle``. F is that of ``common.metrics.matching``: by row, the item
itself included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.metrics import Neighbors, ThresholdCurve, matches_of, sweep_thresholds
from common.metrics.threshold import f_scores
from common.utils.errors import DataError
from common.utils.seeding import mix_seed
from projects.product_matching.core.config import MatchingConfig

OTHERS, HALVES, ITSELF = "the other folds", "the other half of the labels", "the fold itself"
_F, _PRECISION, _RECALL = "f_score", "precision", "recall"


@dataclass(frozen=True)
class JudgedRows:
    """Queries with their candidates, each known to be true or not.

    Attributes:
        scores: ``(N, k)``, falling along a row.
        hits: ``(N, k)``, which candidates are true.
        matches: ``(N,)``, how many true ones there are, found or not.
        is_complete: Whether the candidates are all there are.
    """

    scores: Tensor
    hits: Tensor
    matches: Tensor
    is_complete: bool

    def only(self, rows: Tensor) -> "JudgedRows":
        """Some of the queries; their candidates stay."""
        return JudgedRows(self.scores[rows], self.hits[rows], self.matches[rows], self.is_complete)


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


def judged(neighbors: Neighbors, labels: Tensor) -> JudgedRows:
    """Which neighbours among the items themselves are true."""
    hits = labels[neighbors.ids] == labels[:, None]
    is_complete = hits.shape[1] >= len(labels) - 1
    return JudgedRows(neighbors.scores, hits, matches_of(labels), is_complete)


def pick(parts: Sequence[JudgedRows], config: MatchingConfig) -> ThresholdCurve:
    """F at every threshold over the queries of all parts."""
    width = min(part.scores.shape[1] for part in parts)
    return sweep_thresholds(
        torch.cat([part.scores[:, :width] for part in parts]),
        torch.cat([part.hits[:, :width] for part in parts]),
        torch.cat([part.matches for part in parts]),
        beta=config.beta,
        is_complete=all(p.is_complete and p.scores.shape[1] == width for p in parts),
        with_self=True,
        min_matches=config.min_matches,
    )


def cross_thresholds(
    parts: Sequence[JudgedRows], labels: Sequence[Tensor], config: MatchingConfig
) -> list[FoldThreshold]:
    """For each fold a threshold from the others; for a single one, from halves of its labels, crosswise.

    Args:
        parts: The folds.
        labels: Of the queries of each.
        config: The section ``matching``.

    Raises:
        DataError: if a single fold has one label only.
    """
    if len(parts) == 1:
        return [_by_halves(parts[0], labels[0], config)]
    found = []
    for fold, part in enumerate(parts):
        curve = pick([other for place, other in enumerate(parts) if place != fold], config)
        value = curve.best[0]
        rows = torch.full((len(part.matches),), value, dtype=torch.float64)
        found.append(FoldThreshold(rows, value, OTHERS, OTHERS, curve, pick([part], config)))
    return found


def row_scores(part: JudgedRows, thresholds: Tensor, config: MatchingConfig) -> dict[str, Tensor]:
    """F, precision and recall of each query at its threshold, ``(N,)`` each."""
    passed = part.scores.double() >= thresholds[:, None]
    passed[:, : config.min_matches - 1] = True
    return counted((part.hits & passed).sum(1), passed.sum(1), part.matches, config.beta)


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


def _by_halves(part: JudgedRows, labels: Tensor, config: MatchingConfig) -> FoldThreshold:
    first = first_half(labels)
    curve = pick([part], config)
    rows = torch.empty(len(labels), dtype=torch.float64)
    rows[first] = pick([part.only(~first)], config).best[0]
    rows[~first] = pick([part.only(first)], config).best[0]
    # Judged by halves, but used with what all of the fold says.
    return FoldThreshold(rows, curve.best[0], HALVES, ITSELF, curve, curve)
