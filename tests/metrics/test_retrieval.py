"""Retrieval metrics against pytorch-metric-learning and by their formulas."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from common.metrics.neighbors import nearest_neighbors
from common.metrics.retrieval import matches_of, retrieval_metrics
from common.metrics.threshold import sweep_thresholds
from common.utils.errors import DataError


def _data(count: int = 200, offset: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings with copies among them, and labels of which some are alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 25, (count,), generator=generator)
    labels[:5] = torch.arange(100, 105)  # nothing else has these
    rows = torch.randn(count, 6, generator=generator) + labels[:, None] % 7
    rows[20:25] = rows[30:35]
    return rows, labels + offset


@pytest.mark.parametrize("seed", range(6))
def test_means_are_the_librarys(seed: int) -> None:
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    rows, labels = _data(seed=seed)
    theirs = calculator.AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    ).get_accuracy(rows, labels)
    found = nearest_neighbors(rows, k=int(matches_of(labels).max()), metric="euclidean")
    ours = retrieval_metrics(found.ids, labels)
    assert ours.precision_at_1 == pytest.approx(theirs["precision_at_1"], abs=1e-9)
    assert ours.r_precision == pytest.approx(theirs["r_precision"], abs=1e-6)
    assert ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-6)
    assert ours.skipped == sum(count == 1 for count in Counter(labels.tolist()).values()) >= 5


def test_labels_beyond_24_bits_are_told_apart() -> None:
    rows, labels = _data()
    _, large = _data(offset=2**40)
    ids = nearest_neighbors(rows, k=30).ids
    assert retrieval_metrics(ids, labels) == retrieval_metrics(ids, large)
    near = torch.tensor([2**40, 2**40 + 1, 2**40])
    assert matches_of(near).tolist() == [1, 0, 1]


def test_every_number_is_its_formula() -> None:
    ids = torch.tensor([[3, 4, 5], [4, 3, 5]])
    report = retrieval_metrics(
        ids, torch.tensor([7, 8]), torch.tensor([7, 8, 8, 9, 7, 7]), ks=(1, 2, 3)
    )
    # Query 0, label 7, R = 3: misses 3 (9), hits 4 and 5. Query 1, label 8, R = 2: no hit.
    assert report.precision_at_1 == 0.0
    assert report.hit_at == {1: 0.0, 2: 0.5, 3: 0.5}
    assert report.recall_at[3] == pytest.approx((2 / 3) / 2)
    assert report.r_precision == pytest.approx((2 / 3) / 2)
    assert report.map_at_r == pytest.approx(((1 / 2 + 2 / 3) / 3) / 2)
    assert report.map_at[2] == pytest.approx((1 / 2 / 2) / 2)


def test_too_few_neighbours_give_no_map_at_r() -> None:
    rows, labels = _data()
    report = retrieval_metrics(nearest_neighbors(rows, k=2).ids, labels, ks=(1, 2))
    assert report.map_at_r is None
    assert report.r_precision is None


def test_what_cannot_be_judged_is_named() -> None:
    with pytest.raises(DataError, match="none of 3 queries shares"):
        retrieval_metrics(torch.zeros(3, 1, dtype=torch.long), torch.arange(3), ks=(1,))
    with pytest.raises(DataError, match="each k from 1"):
        retrieval_metrics(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, dtype=torch.long))


def _sweep_by_hand(
    scores: Tensor, hits: Tensor, matches: Tensor, beta: float
) -> dict[float, float]:
    found = {}
    for threshold in scores.double().unique().tolist():
        total = 0.0
        for row in range(len(scores)):
            taken = scores[row].double() >= threshold
            tp, r = int((taken & hits[row]).sum()), int(taken.sum())
            total += (1 + beta**2) * tp / (beta**2 * int(matches[row]) + r) if r else 0.0
        found[threshold] = total / len(scores)
    return found


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_sweep_is_brute_force_at_every_threshold(beta: float, levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (40, 9), generator=generator).float() / levels
    scores = scores.sort(dim=1, descending=True).values
    hits = torch.rand(40, 9, generator=generator) < 0.3
    matches = hits.sum(1) + torch.randint(0, 3, (40,), generator=generator)

    curve = sweep_thresholds(scores, hits, matches, beta=beta)

    expected = _sweep_by_hand(scores, hits, matches, beta)
    assert curve.thresholds.tolist() == sorted(expected, reverse=True)
    for threshold, value in zip(curve.thresholds.tolist(), curve.scores.tolist(), strict=True):
        assert value == pytest.approx(expected[threshold], abs=1e-12)
        assert curve.at(threshold) == value
    assert curve.best[1] == pytest.approx(max(expected.values()), abs=1e-12)
    assert curve.exact_above == pytest.approx(float(scores[:, -1].max()))


def test_above_every_score_nothing_is_found() -> None:
    curve = sweep_thresholds(
        torch.tensor([[0.5, 0.4]]), torch.tensor([[True, False]]), torch.tensor([1])
    )
    assert curve.at(0.6) == 0.0
    assert curve.best == (0.5, 1.0)


@pytest.mark.parametrize(
    ("scores", "hits", "matches", "said"),
    [
        ([[0.1, 0.2]], [[True, True]], [2], "fall along each row"),
        ([[0.2, float("nan")]], [[True, True]], [2], "fall along each row"),
        ([[0.2, 0.1]], [[True, True]], [1], "query 0 has 2 hits of 1 matches"),
    ],
)
def test_impossible_candidates_are_refused(
    scores: list[list[float]], hits: list[list[bool]], matches: list[int], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        sweep_thresholds(torch.tensor(scores), torch.tensor(hits), torch.tensor(matches))
