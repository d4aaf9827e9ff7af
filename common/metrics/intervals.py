"""Confidence intervals: Wilson's for a share, Student's for a mean, the bootstrap for the rest."""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.utils.errors import DataError

_CHUNK = 2_000_000  # drawn indices held at once


class Interval(NamedTuple):
    """Where a value lies with the stated confidence.

    Attributes:
        low: The lower end.
        high: The upper end.
    """

    low: float
    high: float


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """An interval for a share (Wilson 1927), sensible at 0 and 1 and for few trials.

    Args:
        successes: How many trials succeeded.
        count: Of how many, 1 or more; they are taken to be independent.
        confidence: Between 0 and 1.

    Raises:
        DataError: if the numbers describe no share.
    """
    if not 0 <= successes <= count or count < 1:
        raise DataError(f"{successes} of {count} is no share; expected 0 <= successes <= count")
    z = NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)
    share = successes / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # Rounding must not move an end that is exactly 0 or 1.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == count else min(1.0, middle + half)
    return Interval(low, high)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's interval for the mean of a few values; ``None`` for fewer than two.

    Folds of one cross-validation share training data, so for them it is too narrow rather than
    too wide (Bengio & Grandvalet 2004, JMLR 5).
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    middle = mean(values)
    quantile = float(t.ppf(0.5 + _checked(confidence) / 2, len(values) - 1))
    half = quantile * stdev(values) / math.sqrt(len(values))
    return Interval(middle - half, middle + half)


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.floating] | Callable[[NDArray[np.int64]], float],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    *,
    count: int | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
) -> Interval:
    """The percentile bootstrap (Efron & Tibshirani 1993, section 13.3).

    With ``groups``, whole groups are drawn (the cluster bootstrap): several photos of one patient
    are not several independent observations, and the interval must be as wide as that makes it.

    Args:
        values: N values whose mean is wanted, or a function of drawn indices ``(M,)`` that gives
            the statistic.
        groups: The group of each of the N items; each item is its own by default.
        seed: Same seed, same interval.
        count: N, when ``values`` is a function and there are no groups.
        confidence: Between 0 and 1.
        draws: How often the data is redrawn.

    Raises:
        DataError: if there are fewer than two groups (or items), or the lengths do not agree.
    """
    given = None if callable(values) else np.asarray(values, dtype=np.float64)
    sizes = {len(part) for part in (given, groups) if part is not None}
    sizes |= {count} if count is not None else set()
    if len(sizes) != 1:
        raise DataError(
            f"a bootstrap needs one number of items, received {sorted(sizes) or 'none'}; "
            "give values and groups of equal length, or count with a function"
        )
    items = sizes.pop()
    of_item = np.arange(items) if groups is None else _numbered(groups)
    number = int(of_item.max()) + 1 if items else 0
    if number < 2:
        what = "items" if groups is None else "groups"
        raise DataError(f"a bootstrap needs 2 or more {what} to draw from, received {number}")
    generator = np.random.default_rng(seed)
    if given is not None:
        statistics = _means(given, of_item, number, draws, generator)
    else:
        assert callable(values)
        members = np.split(np.argsort(of_item, kind="stable"), np.bincount(of_item).cumsum()[:-1])
        statistics = np.array(
            [
                values(
                    np.concatenate([members[g] for g in generator.integers(number, size=number)])
                )
                for _ in range(draws)
            ]
        )
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _means(
    values: NDArray[np.float64],
    of_item: NDArray[np.int64],
    number: int,
    draws: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """The mean of each redrawn data set: sums and sizes of groups are enough for it."""
    sums = np.bincount(of_item, weights=values, minlength=number)
    sizes = np.bincount(of_item, minlength=number)
    parts = []
    step = max(1, _CHUNK // number)
    for start in range(0, draws, step):
        drawn = generator.integers(number, size=(min(step, draws - start), number))
        parts.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(parts)


def _numbered(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """Groups as 0, 1, ... in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _checked(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise DataError(f"confidence is {confidence}, expected a number between 0 and 1")
    return confidence
