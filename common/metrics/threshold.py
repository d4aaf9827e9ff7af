"""The mean F-score of matching at EVERY threshold, by one sort; and the best F over pooled pairs.

A query's matches are its candidates with a score of at least t. With r of them, tp of these true,
and n true ones there are, its score is

    F = (1 + b^2) tp / (b^2 n + r),        0 where nothing is found

b = 0 makes it precision, b = inf recall. Lowering t past one candidate changes one query's F by a
known amount, so the mean over queries at every threshold is the running sum of these changes in the
order of the scores. Equal scores are passed together: only after the last of them is there a
threshold.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.utils.errors import DataError

_BINS = 1 << 14  # of scores, in the search for the best threshold over pairs


@dataclass(frozen=True)
class ThresholdCurve:
    """The mean F over queries as a function of the threshold.

    Attributes:
        thresholds: ``(T,)`` float64, falling: every value at which the answer changes.
        scores: ``(T,)`` float64, the mean F at each.
        exact_above: Below this some query has candidates that were not fetched; -inf if all were.
        beta: b.
        above_all: The mean F at any threshold above all scores.
    """

    thresholds: Tensor
    scores: Tensor
    exact_above: float
    beta: float
    above_all: float = 0.0

    @property
    def best(self) -> tuple[float, float]:
        """The threshold with the highest mean F, the largest of equals, and that F.

        Where it is best that no score passes, the threshold is the next number above all of them.
        """
        place = int(self.scores.argmax())
        if self.above_all >= float(self.scores[place]):
            return math.nextafter(float(self.thresholds[0]), math.inf), self.above_all
        return float(self.thresholds[place]), float(self.scores[place])

    def at(self, threshold: float) -> float:
        """The mean F of all candidates with a score of at least ``threshold``."""
        passed = int((self.thresholds >= threshold).sum())
        return float(self.scores[passed - 1]) if passed else self.above_all


def sweep_thresholds(
    scores: Float[Tensor, "Q M"],
    hits: Bool[Tensor, "Q M"],
    matches: Int[Tensor, "Q"],
    *,
    beta: float = 1.0,
    is_complete: bool = False,
    with_self: bool = False,
    min_matches: int = 1,
) -> ThresholdCurve:
    """The curve over all thresholds.

    Args:
        scores: Of each query's candidates, falling along a row.
        hits: Which of them are true.
        matches: How many true ones each query has, found or not.
        beta: How much more recall counts than precision.
        is_complete: Whether the candidates are all there are.
        with_self: Whether each query, which is not among its candidates, counts as a match of
            itself: 1 more in tp, n and r.
        min_matches: Every query matches at least this many, itself being one: its first
            ``min_matches - 1`` candidates pass every threshold.

    Raises:
        DataError: if the shapes disagree, scores rise along a row or are not finite, a query has
            more hits than matches, ``beta`` is negative, or ``min_matches`` is out of range.
    """
    if scores.shape != hits.shape or len(scores) != len(matches) or not scores.numel():
        raise DataError(
            f"scores have shape {tuple(scores.shape)}, hits {tuple(hits.shape)}, matches "
            f"{tuple(matches.shape)}; expected (Q, M), (Q, M) and (Q,), none of them empty"
        )
    if not torch.stack(scores.aminmax()).isfinite().all() or (scores[:, 1:] > scores[:, :-1]).any():
        raise DataError("scores must be finite and fall along each row, best first")
    found = F.pad(hits.cumsum(1, dtype=torch.int32), (1, 0))
    if (found[:, -1] > matches).any():
        row = int((found[:, -1] > matches).nonzero()[0])
        raise DataError(
            f"query {row} has {int(found[row, -1])} hits of {int(matches[row])} matches; expected "
            "at most as many"
        )
    forced = check_min_matches(min_matches, scores.shape[1])
    bound = float("-inf") if is_complete else float(scores[:, -1].max())
    taken = torch.arange(forced, scores.shape[1] + 1)
    f = f_scores(found[:, forced:], taken, matches[:, None], beta, with_self)
    start = float(f[:, 0].mean())
    ordered, place = _falling(scores[:, forced:].flatten())
    if not len(ordered):  # all candidates are forced: the threshold changes nothing
        top, mean = scores.max().double(), torch.tensor([start], dtype=torch.float64)
        return ThresholdCurve(top[None], mean, bound, beta, start)
    mean = f.diff(dim=1).flatten().index_select(0, place)  # several times as fast as [place]
    del f, found, place  # each is as large as the candidates
    mean = mean.cumsum(0).div_(len(scores)).add_(start)
    last_of_equals = _places(F.pad(ordered[:-1] != ordered[1:], (0, 1), value=True))
    thresholds = ordered.index_select(0, last_of_equals).double()
    return ThresholdCurve(thresholds, mean.index_select(0, last_of_equals), bound, beta, start)


def f_scores(
    found: Int[Tensor, "*#shape"],
    taken: Int[Tensor, "*#shape"],
    matches: Int[Tensor, "*#shape"],
    beta: float,
    with_self: bool = False,
) -> Float[Tensor, "*#shape"]:
    """F of each query, float64; 0 where nothing is found.

    Args:
        found: tp.
        taken: r.
        matches: n.
        beta: b; 0 is precision, infinity recall.
        with_self: Add 1 to each of the three.

    Raises:
        DataError: if ``beta`` is negative or NaN.
    """
    if not beta >= 0.0:
        raise DataError(f"beta is {beta}; expected 0 (precision) or more, up to inf (recall)")
    tp = found.double() + with_self
    r, n = taken.double() + with_self, matches.double() + with_self
    # Where the divisor is 0 so is tp.
    least = torch.finfo(torch.float64).tiny
    if math.isinf(beta):
        return tp.div_(n.clamp_(min=least))
    square = beta * beta
    return tp.mul_(1.0 + square).div_((square * n + r).clamp_(min=least))


def check_min_matches(min_matches: int, candidates: int) -> int:
    """How many candidates always pass.

    Raises:
        DataError: if there are not as many.
    """
    if not 1 <= min_matches <= candidates + 1:
        raise DataError(
            f"min_matches is {min_matches}; expected 1 (each query matches itself) to "
            f"{candidates + 1}, for there are {candidates} candidates beside it"
        )
    return min_matches - 1


class BestThreshold(NamedTuple):
    """Where F is highest.

    Attributes:
        threshold: The largest of equals.
        score: F there.
    """

    threshold: float
    score: float


def best_pair_threshold(
    scores: Float[Tensor, "P"],
    hits: Bool[Tensor, "P"],
    matches: int | None = None,
    *,
    beta: float = 1.0,
) -> BestThreshold:
    """The threshold with the highest F over all pairs pooled, as in verification: is it the same?

    Exact over every threshold, without sorting every pair: counts in bins of scores bound F from
    both sides within each bin, and only bins that can hold the best are sorted.

    Args:
        scores: Of pairs, in any order; those of at least the threshold pass. Half precision is
            compared as float32.
        hits: Which pairs are true.
        matches: How many true pairs there are, those that are not given included; by default none.
        beta: How much more recall counts than precision.

    Raises:
        DataError: if the lengths disagree, a score is not finite, no pair is true, there are more
            hits than matches, or ``beta`` is negative.
    """
    if len(scores) != len(hits) or not len(scores):
        raise DataError(
            f"there are {len(scores)} scores for {len(hits)} pairs; expected as many, and some"
        )
    scores = scores if scores.dtype is torch.float64 else scores.float()
    bins = _bins(scores)
    # The lowest bit says whether the pair is true, so that one pass counts both kinds.
    pairs = torch.bincount(bins * 2 + hits, minlength=2 * _BINS).view(_BINS, 2)
    true_counts, counts = pairs[:, 1], pairs.sum(1)
    true = int(true_counts.sum())
    total = torch.tensor(true if matches is None else matches)
    if not 0 < true <= int(total):
        raise DataError(
            f"{true} of {len(hits)} pairs are true, of {int(total)} there are; expected at least "
            "one, and at most as many"
        )
    taken, found = counts.cumsum(0), true_counts.cumsum(0)
    at_ends = f_scores(found, taken, total, beta)
    # Within a bin F is highest if its true pairs come first.
    bounds = f_scores(found, taken - counts + true_counts, total, beta)
    is_open = ((bounds >= at_ends.max()) & (true_counts > 0)).nonzero()
    first, last = int(is_open[0]), int(is_open[-1])
    kept = _places((bins >= first) & (bins <= last))
    ordered, place = _falling(scores[kept])
    more, more_true = int((taken - counts)[first]), int((found - true_counts)[first])
    steps = torch.arange(1, len(ordered) + 1) + more
    f = f_scores(hits[kept][place].cumsum(0) + more_true, steps, total, beta)
    f[:-1][ordered[:-1] == ordered[1:]] = -1.0  # no threshold parts equal scores
    best = int(f.argmax())
    return BestThreshold(float(ordered[best]), float(f[best]))


def _bins(scores: Tensor) -> Tensor:
    """A number for each score, 0 for the highest; never less for a lower one, equal for equals."""
    low, high = scores.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise DataError(
            "scores of pairs must be finite; the model has diverged, or a pair is empty"
        )
    scale = (_BINS - 1) / (high - low)
    if not (scale > 0 and scale.isfinite()):
        return torch.zeros(len(scores), dtype=torch.int32)
    return (high - scores).mul_(scale).to(torch.int32)


def _places(mask: Tensor) -> Tensor:
    """Where a row of truths is true; NumPy is several times as fast as ``nonzero``."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _falling(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The scores from high to low, equal ones by index, and their indices.

    NumPy sorts 16 bits by counting them. Two such sorts, of the lower half of a float32's bits and
    then of the upper one, take less than half the time of one by comparison.
    """
    if scores.dtype is torch.float64:
        return scores.sort(descending=True, stable=True)
    scores = scores.float()
    bits = (0.0 - scores).numpy().view(np.uint32)  # 0 - 0 and 0 - -0 have the same
    # Unsigned integers in the order of the floats: all bits of negative ones turned, else the sign.
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    by_low = np.argsort(bits.astype(np.uint16), kind="stable")
    by_high = np.argsort((bits >> 16).astype(np.uint16).take(by_low), kind="stable")
    place = torch.from_numpy(by_low.take(by_high))
    return scores.index_select(0, place), place
