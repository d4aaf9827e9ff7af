"""Match lists against Python sets, sweeps against every threshold, intervals over labels."""

import math

import pytest
import torch
from torch import Tensor

from common.metrics import (
    MatchFold,
    Neighbors,
    compute_scores,
    find_matches,
    matching_curve,
    nearest_neighbors,
    score_matches,
    sweep_matching,
)
from common.metrics.intervals import bootstrap_interval
from common.utils.errors import DataError


def _fold(count: int, seed: int, k: int = 6, levels: int = 0, offset: int = 0) -> MatchFold:
    """Items around their label's centre, some alone, two copies; scores rounded to levels if any."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(2, count // 4), (count,), generator=generator)
    rows = torch.randn(count, 5, generator=generator)[labels]
    rows = rows + 0.6 * torch.randn(count, 5, generator=generator)
    rows[1] = rows[0]
    found = nearest_neighbors(rows, k=k)
    if levels:
        found = Neighbors(found.ids, (found.scores * levels).round() / levels)
    return MatchFold(found, labels + offset)


def _by_hand(
    fold: MatchFold, threshold: float, beta: float, least: int, with_self: bool
) -> tuple[float, float, float]:
    """Mean precision, recall and F from sets of items."""
    labels = fold.labels.tolist()
    rows = zip(fold.neighbors.ids.tolist(), fold.neighbors.scores.tolist(), strict=True)
    totals = [0.0, 0.0, 0.0]
    for query, (ids, scores) in enumerate(rows):
        listed = {i for i, s in zip(ids, scores, strict=True) if s >= threshold}
        listed |= set(ids[: least - 1])
        truth = {i for i, label in enumerate(labels) if label == labels[query]} - {query}
        if with_self:
            listed, truth = listed | {query}, truth | {query}
        right = len(listed & truth)
        precision = right / len(listed) if listed else 0.0
        recall = right / len(truth) if truth else 0.0
        below = beta**2 * precision + recall
        f = (1 + beta**2) * precision * recall / below if below else 0.0
        for place, value in enumerate((precision, recall, f)):
            totals[place] += value / len(labels)
    return totals[0], totals[1], totals[2]


@pytest.mark.parametrize("with_self", [True, False])
@pytest.mark.parametrize("least", [1, 2, 4])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_scores_and_curve_are_those_of_sets_at_every_threshold(
    with_self: bool, least: int, beta: float
) -> None:
    for seed, levels in enumerate([0, 3]):
        fold = _fold(18, seed, levels=levels, offset=2**40)
        options = {"beta": beta, "min_matches": least, "with_self": with_self}
        curve = matching_curve(fold, **options)
        every = fold.neighbors.scores.double().unique().tolist()
        expected = {t: _by_hand(fold, t, beta, least, with_self) for t in [*every, 2.0]}
        for threshold, (precision, recall, f) in expected.items():
            scores = compute_scores(*fold, threshold, **options)
            assert scores.precision == pytest.approx(precision, abs=1e-12)
            assert scores.recall == pytest.approx(recall, abs=1e-12)
            assert scores.f_score == pytest.approx(f, abs=1e-12)
            assert curve.at(threshold) == pytest.approx(f, abs=1e-12)
        assert curve.best[1] == pytest.approx(max(f for _, _, f in expected.values()), abs=1e-12)
        at_best = compute_scores(*fold, curve.best[0], **options)
        assert at_best.f_score == pytest.approx(curve.best[1], abs=1e-12)


def test_a_competitions_example() -> None:
    # Items 0, 1, 2 are one product; at 0.5 item 0 lists {0, 1, 3}, the others only themselves.
    ids = torch.tensor([[1, 3, 2], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    scores = torch.tensor([[0.9, 0.6, 0.1], [0.4, 0.3, 0.2], [0.1, 0.1, 0.1], [0.4, 0.2, 0.1]])
    labels = torch.tensor([7, 7, 7, 8])
    found = compute_scores(Neighbors(ids, scores), labels, 0.5)
    assert found.per_query.tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 2, 1.0])
    assert found.precision == pytest.approx((2 / 3 + 3) / 4)
    assert found.recall == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 1) / 4)
    assert (found.list_length, found.queries, found.alone) == (1.5, 4, 1)
    least = compute_scores(Neighbors(ids, scores), labels, 0.5, min_matches=2)
    assert least.per_query.tolist() == pytest.approx([2 / 3, 4 / 5, 4 / 5, 2 / 3])
    assert found.to_dict()["f_score"] == found.f_score
    assert "per_query" not in found.to_dict()


def test_the_threshold_of_one_fold_is_judged_on_the_other() -> None:
    pick, score = _fold(60, 0), _fold(80, 1)
    swept = sweep_matching(pick, score, metric="cosine", min_matches=2)
    candidates = [*pick.neighbors.scores.double().unique().tolist(), 2.0]
    means = {t: _by_hand(pick, t, 1.0, 2, True)[2] for t in candidates}
    assert swept.picked_score == pytest.approx(max(means.values()), abs=1e-12)
    assert means[swept.threshold] == pytest.approx(swept.picked_score, abs=1e-12)
    judged = _by_hand(score, swept.threshold, 1.0, 2, True)[2]
    assert swept.scores.f_score == pytest.approx(judged, abs=1e-12)
    own = max(
        _by_hand(score, t, 1.0, 2, True)[2]
        for t in score.neighbors.scores.double().unique().tolist()
    )
    assert swept.oracle_score == pytest.approx(own, abs=1e-12)
    assert swept.oracle_score > swept.scores.f_score
    assert swept.units == "cosine"
    assert swept.to_dict()["scores"]["queries"] == 80


@pytest.mark.parametrize("least", [1, 3])
def test_queries_of_several_folds_count_together(least: int) -> None:
    folds = [_fold(30, 0, k=6), _fold(50, 1, k=4)]
    cut = [
        MatchFold(Neighbors(f.neighbors.ids[:, :4], f.neighbors.scores[:, :4]), f.labels)
        for f in folds
    ]
    score = _fold(40, 2)
    swept = sweep_matching(folds, score, min_matches=least)
    for threshold in torch.cat([f.neighbors.scores.flatten() for f in cut]).double().tolist()[::7]:
        means = [_by_hand(fold, threshold, 1.0, least, True)[2] for fold in cut]
        assert swept.curve.at(threshold) == pytest.approx((30 * means[0] + 50 * means[1]) / 80)
    assert (
        swept.scores.f_score == compute_scores(*score, swept.threshold, min_matches=least).f_score
    )
    assert swept.curve.exact_above == max(float(f.neighbors.scores[:, -1].max()) for f in cut)


def test_a_curve_can_be_of_some_queries_alone() -> None:
    fold = _fold(40, 0)
    queries = fold.labels % 2 == 0
    curve = matching_curve(fold, queries=queries)
    for threshold in (0.2, 0.7, 0.95):
        expected = compute_scores(*fold, threshold).per_query[queries].mean()
        assert curve.at(threshold) == pytest.approx(float(expected))


def test_a_threshold_among_scores_that_were_not_fetched_is_said_to_cut_lists() -> None:
    narrow, wide = _fold(30, 0, k=2), _fold(30, 0, k=29)
    assert sweep_matching(narrow, wide).exact_above == float(narrow.neighbors.scores[:, -1].max())
    whole = sweep_matching(wide, wide)
    assert whole.exact_above == -math.inf
    assert not whole.is_cut
    assert whole.to_dict()["exact_above"] is None
    cut = sweep_matching(narrow, narrow)
    assert cut.is_cut == (cut.threshold <= cut.exact_above)
    assert sweep_matching(_fold(60, 3, k=1), wide).is_cut


def test_units_of_a_threshold_are_named() -> None:
    fold = _fold(20, 0)
    assert sweep_matching(fold, fold, metric="euclidean").units == "minus squared distance"
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        sweep_matching(fold, fold, metric="cosin")


def test_the_interval_redraws_labels_and_holds_the_mean() -> None:
    fold = _fold(120, 0)
    scores = compute_scores(*fold, 0.8)
    interval = scores.interval(fold.labels)
    assert interval.low < scores.f_score < interval.high
    drawn = bootstrap_interval(
        lambda index: scores.per_query[torch.from_numpy(index)].mean().item(), fold.labels.tolist()
    )
    assert interval == pytest.approx(drawn)
    alone = scores.interval(list(range(120)))
    assert interval.high - interval.low > alone.high - alone.low


@pytest.mark.parametrize("with_self", [True, False])
def test_lists_made_by_other_means_are_judged_alike(with_self: bool) -> None:
    fold = _fold(50, 2)
    direct = compute_scores(*fold, 0.7, min_matches=2, with_self=with_self)
    lists = score_matches(
        find_matches(fold.neighbors, 0.7, min_matches=2), fold.labels, with_self=with_self
    )
    assert torch.equal(lists.per_query, direct.per_query)
    assert lists.precision == direct.precision
    assert lists.to_dict()["threshold"] is None


def _ids(*rows: list[int]) -> Neighbors:
    ids: Tensor = torch.tensor(rows)
    return Neighbors(ids, torch.zeros(ids.shape))


def test_what_does_not_belong_together_is_named() -> None:
    labels = torch.tensor([1, 1])
    with pytest.raises(DataError, match=r"3 labels for neighbours of shape \(2, 1\)"):
        compute_scores(_ids([1], [0]), torch.tensor([1, 1, 1]), 0.5)
    with pytest.raises(DataError, match="ids up to 5"):
        compute_scores(_ids([1], [5]), labels, 0.5)
    with pytest.raises(DataError, match="item 1 is among its own neighbours"):
        compute_scores(_ids([1], [1]), labels, 0.5)
    with pytest.raises(DataError, match="threshold is NaN"):
        compute_scores(_ids([1], [0]), labels, math.nan)
    with pytest.raises(DataError, match="an item is among its own matches"):
        score_matches(find_matches(_ids([0], [1]), -1.0), labels)
    with pytest.raises(DataError, match="3 labels for matches of 2 queries"):
        score_matches(find_matches(_ids([1], [0]), -1.0), torch.tensor([1, 1, 1]))
