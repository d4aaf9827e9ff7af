"""The best threshold over pairs against every one and scikit-learn; least lists in sweeps."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve
from torch import Tensor

from common.metrics.threshold import _falling, best_pair_threshold, f_scores, sweep_thresholds
from common.utils.errors import DataError


def _pairs(count: int, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores with many ties (few levels) or hardly any, more often true the higher they are."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-levels, levels, (count,), generator=generator).float() / levels
    hits = torch.rand(count, generator=generator) < ((scores + 1) / 2) ** 3
    hits[0] = True
    return scores, hits


def _best_pair_by_hand(
    scores: Tensor, hits: Tensor, matches: int, beta: float
) -> tuple[float, float]:
    best = (math.nan, -1.0)
    for threshold in scores.double().unique().flip(0).tolist():
        taken = scores.double() >= threshold
        tp, r = int((taken & hits).sum()), int(taken.sum())
        f = (1 + beta**2) * tp / (beta**2 * matches + r)
        best = (threshold, f) if f > best[1] else best
    return best


@pytest.mark.parametrize("levels", [1, 4, 1000, 10**6])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_best_over_pairs_is_the_best_of_every_threshold(levels: int, beta: float) -> None:
    for seed in range(12):
        scores, hits = _pairs(1 + 25 * seed, levels, seed)
        matches = int(hits.sum()) + seed % 3 * 10
        for given in (scores, scores.double() / 3, scores * 1e-40, scores + 2.0**20):
            ours = best_pair_threshold(given, hits, matches, beta=beta)
            threshold, score = _best_pair_by_hand(given, hits, matches, beta)
            assert ours.score == pytest.approx(score, abs=1e-12)
            assert ours.threshold == threshold


def test_the_best_over_many_pairs_is_scikit_learns() -> None:
    scores, hits = _pairs(60_000, 5_000, seed=1)
    scores[0] = 1e6  # one far away, which leaves the others few bins
    precision, recall, thresholds = precision_recall_curve(hits.numpy(), scores.numpy())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    ours = best_pair_threshold(scores, hits)
    assert ours.score == pytest.approx(f1.max(), abs=1e-12)
    assert f1[list(thresholds).index(ours.threshold)] == pytest.approx(f1.max(), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "hits", "matches", "said"),
    [
        ([], [], None, "0 scores for 0 pairs"),
        ([0.5], [False], None, "0 of 1 pairs are true"),
        ([0.5, 0.4], [True, True], 1, "2 of 2 pairs are true, of 1 there are"),
        ([0.5, float("nan")], [True, True], None, "must be finite"),
        ([0.5, float("inf")], [True, True], None, "must be finite"),
    ],
)
def test_impossible_pairs_are_refused(
    scores: list[float], hits: list[bool], matches: int | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        best_pair_threshold(torch.tensor(scores), torch.tensor(hits, dtype=torch.bool), matches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_are_sorted_with_both_zeros_equal_and_ties_by_index(dtype: torch.dtype) -> None:
    values = [0.0, -1.5, 3.0, -0.0, 1e-40, -1e-40, 3.0, -2e30, 2e30]
    scores = torch.tensor(values, dtype=dtype)
    ordered, place = _falling(scores)
    expected = sorted(range(len(values)), key=lambda i: (-scores[i].item(), i))
    assert place.tolist() == expected
    assert ordered.tolist() == [scores[i].item() for i in expected]


def test_beta_zero_is_precision_and_infinity_recall() -> None:
    found, taken, matches = (
        torch.tensor([2, 0, 0]),
        torch.tensor([5, 0, 4]),
        torch.tensor([8, 3, 0]),
    )
    assert f_scores(found, taken, matches, 0.0).tolist() == [2 / 5, 0.0, 0.0]
    assert f_scores(found, taken, matches, math.inf).tolist() == [2 / 8, 0.0, 0.0]
    assert f_scores(found, taken, matches, 1.0).tolist() == [4 / 13, 0.0, 0.0]
    assert f_scores(found, taken, matches, 1.0, with_self=True).tolist() == [6 / 15, 2 / 5, 2 / 6]
    with pytest.raises(DataError, match="beta is -1"):
        f_scores(found, taken, matches, -1.0)


def test_where_nothing_should_pass_the_best_threshold_is_above_all() -> None:
    curve = sweep_thresholds(
        torch.tensor([[0.5, 0.4]]), torch.tensor([[False, True]]), torch.tensor([1]), with_self=True
    )
    assert curve.scores.tolist() == pytest.approx([2 / 4, 4 / 5])
    assert curve.best[0] == pytest.approx(0.4)
    alone = sweep_thresholds(
        torch.tensor([[0.5, 0.4]]), torch.tensor([[False] * 2]), torch.tensor([0]), with_self=True
    )
    threshold, score = alone.best
    assert score == 1.0 == alone.at(threshold)
    assert 0.5 < threshold < 0.5 + 1e-9


def test_a_least_list_of_all_candidates_leaves_no_choice() -> None:
    scores, hits = torch.tensor([[0.9, 0.8], [0.7, 0.6]]), torch.tensor([[True, False]] * 2)
    curve = sweep_thresholds(scores, hits, torch.tensor([1, 1]), min_matches=3)
    assert curve.best[1] == curve.at(2.0) == curve.at(0.0) == pytest.approx(2 / 3)
    with pytest.raises(DataError, match=r"min_matches is 4; expected 1 .* to 3"):
        sweep_thresholds(scores, hits, torch.tensor([1, 1]), min_matches=4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_pairs_in_half_precision_are_compared_as_float32(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = (torch.randn(300, generator=generator) * 5).to(kind)
        hits = torch.rand(300, generator=generator) < 0.3
        assert best_pair_threshold(scores, hits) == best_pair_threshold(scores.float(), hits)
