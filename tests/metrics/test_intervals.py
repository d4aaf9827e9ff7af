"""Intervals against scipy, closed forms, and their own coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from common.metrics import bootstrap_interval, mean_interval, wilson_interval
from common.utils.errors import DataError


@pytest.mark.parametrize(("successes", "count"), [(0, 5), (5, 5), (1, 3), (834, 1000)])
def test_wilsons_interval_is_scipys(successes: int, count: int) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(0.95, "wilson")
    assert wilson_interval(successes, count) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.8, 0.9, 0.85]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval([0.8]) is None


def test_a_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_interval(values) == interval
    assert bootstrap_interval(values, seed=1) != interval


def test_a_function_of_indices_gives_what_the_mean_gives() -> None:
    values = np.random.default_rng(0).normal(size=60)
    of_values = bootstrap_interval(values)
    of_function = bootstrap_interval(lambda index: values[index].mean(), count=60)
    assert of_function == pytest.approx(of_values)
    groups = [f"g{index % 7}" for index in range(60)]
    of_values = bootstrap_interval(values, groups)
    of_function = bootstrap_interval(lambda index: values[index].mean(), groups)
    assert of_function == pytest.approx(of_values)


def test_copies_in_a_group_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=50)
    copies = np.repeat(values, 8)
    grouped = bootstrap_interval(copies, list(np.repeat(np.arange(50), 8)))
    assert grouped == pytest.approx(bootstrap_interval(values), abs=1e-12)
    alone = bootstrap_interval(copies)
    assert alone.high - alone.low < 0.5 * (grouped.high - grouped.low)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5],), "2 or more items"),
        (([0.5, 0.6], ["a", "a"]), "2 or more groups"),
        (([0.5, 0.6], ["a"]), "one number of items"),
        ((lambda index: 0.0,), "one number of items, received none"),
    ],
)
def test_too_little_to_draw_from_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bootstrap_interval(*arguments)


def test_shares_and_confidences_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="3 of 2 is no share"):
        wilson_interval(3, 2)
    with pytest.raises(DataError, match="confidence is 95"):
        wilson_interval(1, 2, confidence=95.0)
