"""How good match lists are, as product matching competitions judge them, and their threshold.

A query's list is itself and every other item with a score of at least t; the truth is all items of
its label, itself included. With tp true ones among r listed, of n there are, its score is
F = (1 + b^2) tp / (b^2 n + r), averaged over queries (Shopee 2021 with b = 1). So a query that lists
nothing but itself has precision 1.

    fold = MatchFold(nearest_neighbors(embeddings, k=50), labels)
    swept = sweep_matching(pick=validation, score=fold)     # picked on one fold, judged on another
    compute_scores(*fold, swept.threshold).f_score

The best threshold of the fold that is judged is reported too, as its oracle: nobody knows it before.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.metrics.intervals import Interval, bootstrap_interval
from common.metrics.matches import Matches
from common.metrics.neighbors import METRICS, UNITS, Neighbors
from common.metrics.retrieval import matches_of
from common.metrics.threshold import (
    ThresholdCurve,
    check_min_matches,
    f_scores,
    sweep_thresholds,
)
from common.utils.errors import DataError
from common.utils.text import did_you_mean


class MatchFold(NamedTuple):
    """Items that are matched among themselves.

    Attributes:
        neighbors: Of each among the others, as ``nearest_neighbors(embeddings, k=k)`` finds them.
        labels: Of the items, ``(N,)``.
    """

    neighbors: Neighbors
    labels: Int[Tensor, "N"]


@dataclass(frozen=True)
class MatchScores:
    """Means over all queries; one without a match to find counts like any other.

    Attributes:
        threshold: Lists hold what scores at least this; NaN for lists made by other means.
        beta: b.
        precision: tp / r, 0 for an empty list.
        recall: tp / n, 0 where there is nothing to find.
        f_score: See above.
        list_length: r.
        queries: How many there are.
        alone: Queries that share their label with nothing.
        per_query: F of each, ``(N,)`` float64.
    """

    threshold: float
    beta: float
    precision: float
    recall: float
    f_score: float
    list_length: float
    queries: int
    alone: int
    per_query: Float[Tensor, "N"]

    def interval(
        self, groups: Sequence[Hashable] | Tensor, seed: int = 0, confidence: float = 0.95
    ) -> Interval:
        """Where the mean F lies: the bootstrap over whole groups, such as the labels.

        Args:
            groups: Of each query; items of one product are not independent of each other.
            seed: Same seed, same interval.
            confidence: Between 0 and 1.

        Raises:
            DataError: if there are fewer than two groups, or not one for each query.
        """
        of_query = groups.tolist() if isinstance(groups, Tensor) else groups
        return bootstrap_interval(self.per_query.numpy(), of_query, seed, confidence=confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those of each query."""
        values = {key: value for key, value in vars(self).items() if key != "per_query"}
        return values | {"threshold": None if math.isnan(self.threshold) else self.threshold}


@dataclass(frozen=True)
class MatchSweep:
    """A threshold picked on one fold and judged on another.

    Attributes:
        threshold: Where the mean F of the fold ``pick`` is highest.
        units: What a threshold is: ``cosine``, or ``minus squared distance``.
        picked_score: The mean F of ``pick`` there; too high, for it was chosen to be.
        scores: Of the fold ``score`` at the threshold: what is to be reported.
        oracle_threshold: Where the mean F of ``score`` itself is highest.
        oracle_score: That F, which no threshold could pass.
        curve: The mean F of ``pick`` at every threshold.
        oracle_curve: The mean F of ``score`` at every threshold.
    """

    threshold: float
    units: str
    picked_score: float
    scores: MatchScores
    oracle_threshold: float
    oracle_score: float
    curve: ThresholdCurve
    oracle_curve: ThresholdCurve

    @property
    def exact_above(self) -> float:
        """At and below this some query of either fold has items that pass and were not fetched.

        Lists are then cut to the neighbours that there are; -inf if all items were fetched.
        """
        return max(self.curve.exact_above, self.oracle_curve.exact_above)

    @property
    def is_cut(self) -> bool:
        """Whether lists at the threshold are cut: fetch more neighbours to see what that costs."""
        return self.threshold <= self.exact_above

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the curves."""
        return {
            "threshold": self.threshold,
            "units": self.units,
            "picked_score": self.picked_score,
            "scores": self.scores.to_dict(),
            "oracle_threshold": self.oracle_threshold,
            "oracle_score": self.oracle_score,
            "exact_above": self.exact_above if math.isfinite(self.exact_above) else None,
            "is_cut": self.is_cut,
        }


def compute_scores(
    neighbors: Neighbors,
    labels: Int[Tensor, "N"],
    threshold: float,
    *,
    beta: float = 1.0,
    min_matches: int = 1,
    with_self: bool = True,
) -> MatchScores:
    """Precision, recall and F of the lists at a threshold.

    Args:
        neighbors: Of each item among the others.
        labels: Of the items.
        threshold: In the units of the neighbours' scores.
        beta: How much more recall counts than precision.
        min_matches: A list holds at least this many, the query being one of them: with 2 its
            nearest neighbour whatever its score, as winners of the Shopee competition have it.
        with_self: Whether the query counts, in the list and in the truth. Without it an empty list
            and a query with nothing to find have F = 0.

    Raises:
        DataError: if neighbours and labels do not belong together, an item is its own neighbour,
            ``min_matches`` is out of range, or ``threshold`` or ``beta`` is no number for it.
    """
    hits, matches = _judged(neighbors, labels)
    if math.isnan(threshold):
        raise DataError("the threshold is NaN; expected a number to compare scores with")
    forced = check_min_matches(min_matches, hits.shape[1])
    passed = neighbors.scores.double() >= threshold
    passed[:, :forced] = True
    found, taken = (hits & passed).sum(1), passed.sum(1)
    return _summary(found, taken, matches, threshold, beta, with_self)


def score_matches(
    matches: Matches, labels: Int[Tensor, "N"], *, beta: float = 1.0, with_self: bool = True
) -> MatchScores:
    """What ``compute_scores`` says, of lists made by other means: the union of two sources.

    Args:
        matches: Of items among themselves, none with itself.
        labels: Of the items.
        beta: How much more recall counts than precision.
        with_self: Whether the query counts, in the list and in the truth.

    Raises:
        DataError: if matches and labels do not belong together, or an item matches itself.
    """
    ids, queries = matches.ids, matches.queries
    if matches.num_queries != len(labels) or (len(ids) and int(ids.max()) >= len(labels)):
        raise DataError(
            f"there are {len(labels)} labels for matches of {matches.num_queries} queries with "
            f"items up to {int(ids.max()) if len(ids) else 'none'}; expected matches among these"
        )
    if (ids == queries).any():
        raise DataError("an item is among its own matches; leave it out, with_self counts it")
    right = labels[ids] == labels[queries]
    found = torch.bincount(queries[right], minlength=len(labels))
    taken = torch.bincount(queries, minlength=len(labels))
    return _summary(found, taken, matches_of(labels), math.nan, beta, with_self)


def matching_curve(
    fold: MatchFold | Sequence[MatchFold],
    *,
    beta: float = 1.0,
    min_matches: int = 1,
    with_self: bool = True,
    queries: Bool[Tensor, "N"] | None = None,
) -> ThresholdCurve:
    """What ``compute_scores`` says, at every threshold; ``beta`` 0 is precision, infinity recall.

    Args:
        fold: Items; or several folds, whose queries count together, each with as many neighbours as
            every fold has.
        beta: As for ``compute_scores``, as the next two.
        min_matches: See there.
        with_self: See there.
        queries: Which queries of the folds, one after the other, count; all by default. All items
            stay candidates.

    Raises:
        DataError: as ``compute_scores``.
    """
    folds = [fold] if isinstance(fold, MatchFold) else list(fold)
    parts = [_judged(*each) for each in folds]
    width = min(hits.shape[1] for hits, _ in parts)
    rows = slice(None) if queries is None else queries
    return sweep_thresholds(
        torch.cat([each.neighbors.scores[:, :width] for each in folds])[rows],
        torch.cat([hits[:, :width] for hits, _ in parts])[rows],
        torch.cat([matches for _, matches in parts])[rows],
        beta=beta,
        is_complete=all(width >= len(each.labels) - 1 for each in folds),
        with_self=with_self,
        min_matches=min_matches,
    )


def sweep_matching(
    pick: MatchFold | Sequence[MatchFold],
    score: MatchFold,
    *,
    metric: str = "cosine",
    beta: float = 1.0,
    min_matches: int = 1,
    with_self: bool = True,
) -> MatchSweep:
    """Pick the best of every threshold on one fold, and judge it on another.

    Args:
        pick: The fold whose labels may be looked at, or several, whose queries count together.
        score: The fold that is judged.
        metric: What the neighbours were found by; it names the threshold's units.
        beta: As for ``compute_scores``, as the rest.

    Raises:
        DataError: as ``compute_scores``.
        ValueError: for another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is '{metric}'; {did_you_mean(metric, METRICS)}")
    options: dict[str, Any] = {"beta": beta, "min_matches": min_matches, "with_self": with_self}
    curve, oracle_curve = matching_curve(pick, **options), matching_curve(score, **options)
    threshold, picked_score = curve.best
    oracle_threshold, oracle_score = oracle_curve.best
    return MatchSweep(
        threshold=threshold,
        units=UNITS[metric],
        picked_score=picked_score,
        scores=compute_scores(score.neighbors, score.labels, threshold, **options),
        oracle_threshold=oracle_threshold,
        oracle_score=oracle_score,
        curve=curve,
        oracle_curve=oracle_curve,
    )


def _judged(neighbors: Neighbors, labels: Tensor) -> tuple[Bool[Tensor, "N M"], Int[Tensor, "N"]]:
    """Which neighbours are true, and how many there are to find."""
    ids = neighbors.ids
    if len(ids) != len(labels) or not ids.numel() or ids.aminmax().max >= len(labels):
        raise DataError(
            f"there are {len(labels)} labels for neighbours of shape {tuple(ids.shape)} with ids up "
            f"to {int(ids.max()) if ids.numel() else 'none'}; expected items among themselves, each "
            "with one neighbour or more"
        )
    own = ids == torch.arange(len(ids))[:, None]
    if own.any():
        raise DataError(
            f"item {int(own.any(1).nonzero()[0])} is among its own neighbours; search without a "
            "gallery, which leaves it out"
        )
    return labels.index_select(0, ids.flatten()).view(ids.shape) == labels[:, None], matches_of(
        labels
    )


def _summary(
    found: Tensor, taken: Tensor, matches: Tensor, threshold: float, beta: float, with_self: bool
) -> MatchScores:
    f = f_scores(found, taken, matches, beta, with_self)
    return MatchScores(
        threshold=threshold,
        beta=beta,
        precision=float(f_scores(found, taken, matches, 0.0, with_self).mean()),
        recall=float(f_scores(found, taken, matches, math.inf, with_self).mean()),
        f_score=float(f.mean()),
        list_length=float(taken.double().mean()) + with_self,
        queries=len(matches),
        alone=int((matches == 0).sum()),
        per_query=f,
    )
