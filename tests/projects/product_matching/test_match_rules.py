"""What passes as a match: against brute force, with titles, with neighbours added, beyond k."""

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.metrics import MatchFold, concatenate_embeddings, nearest_neighbors
from common.utils.errors import ConfigError, DataError
from projects.product_matching.core.matching import match_rules
from projects.product_matching.core.matching.match_rules import (
    MatchRule,
    Rows,
    TextRule,
    pick_union,
)


def _rows(count: int, dimension: int = 8, seed: int = 0, groups: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dimension, generator=generator)
    if groups:
        centres = torch.randn(groups, dimension, generator=torch.Generator().manual_seed(groups))
        rows = centres[torch.arange(count) % groups] + 0.5 * rows
    return F.normalize(rows)


def _pairs(cosines: Tensor, threshold: float) -> set[tuple[int, int]]:
    return {(q, i) for q, i in (cosines.double() >= threshold).nonzero().tolist()}


def _found(rule: MatchRule, *items: Rows, k: int = 3) -> set[tuple[int, int]]:
    matches = rule.matches(*items, k=k).matches
    return set(zip(matches.queries.tolist(), matches.ids.tolist(), strict=True))


def _among(rows: Tensor) -> Tensor:
    return (rows @ rows.T).fill_diagonal_(-2.0)


def test_everything_that_passes_is_found_however_few_neighbours_it_begins_with() -> None:
    rows = _rows(90, groups=3)
    expected = _pairs(_among(rows), 0.3)
    assert max(sum(q == query for q, _ in expected) for query in range(90)) > 12
    assert _found(MatchRule(0.3), Rows(rows), k=1) == expected


def test_lists_that_would_have_no_end_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match_rules, "MOST_MATCHES", 5)
    found = MatchRule(-1.0).matches(Rows(_rows(20)))
    assert (len(found.matches), found.cut) == (20 * 5, 20)
    assert MatchRule(0.99).matches(Rows(_rows(20))).cut == 0


def test_queries_are_searched_in_a_gallery() -> None:
    rows, queries = _rows(60, groups=4), _rows(7, seed=1)
    expected = _pairs(queries @ rows.T, 0.2)
    assert _found(MatchRule(0.2), Rows(queries), Rows(rows), k=1) == expected


def test_every_list_has_at_least_min_matches() -> None:
    rows = _rows(30)
    matches = MatchRule(2.0, min_matches=3).matches(Rows(rows), k=1).matches
    nearest = _among(rows).topk(2).indices
    assert matches.ids.view(30, 2).tolist() == nearest.tolist()


def test_neighbours_are_added_to_what_is_compared_as_they_are_within_a_fold() -> None:
    """A query that lies in the gallery already has its own copy as a neighbour."""
    rows = _rows(40)
    rule = MatchRule(0.5, expansion=2, alpha=1.0)

    def added(of: Tensor, cosines: Tensor) -> Tensor:
        best = cosines.topk(2)
        weights = best.values.clamp(min=0)[:, :, None]
        return F.normalize(of + (weights * rows[best.indices]).sum(1))

    expanded = added(rows, _among(rows))
    assert _found(rule, Rows(rows)) == _pairs(_among(expanded), 0.5)
    queries = _rows(9, seed=3)
    asked = added(queries, queries @ rows.T)
    assert _found(rule, Rows(queries), Rows(rows)) == _pairs(asked @ expanded.T, 0.5)
    assert MatchRule(0.5, expansion=2).matches(Rows(queries), Rows(rows[:1])).cut == 0


@pytest.mark.parametrize("mode", ["concat", "union"])
def test_titles_have_their_say(mode: str) -> None:
    images, titles = _rows(50, groups=5), _rows(50, 6, seed=2, groups=10)
    titles[7] = 0.0  # says nothing
    rule = MatchRule(0.9, text=TextRule(mode, 0.6, image_threshold=0.7, weight=0.4))
    if mode == "concat":
        joined = F.normalize(concatenate_embeddings([images, titles], [0.6, 0.4]))
        expected = _pairs(_among(joined), 0.6)
    else:
        expected = _pairs(_among(images), 0.7) | _pairs(_among(titles), 0.6)
    assert _found(rule, Rows(images, titles)) == expected
    assert _found(rule, Rows(images)) == _pairs(_among(images), 0.9), "without titles"
    halves = (Rows(images[:20], titles[:20]), Rows(images[20:], titles[20:]))
    across = {(q, i - 20) for q, i in expected if q < 20 <= i}
    if mode == "union":
        assert _found(rule, *halves) == across


def test_the_nearest_of_a_query_are_told_with_whether_they_pass() -> None:
    images, titles = _rows(30, groups=5), _rows(30, 6, seed=2, groups=6)
    by_image = MatchRule(0.5).matches(Rows(images), k=6)
    cosines = _among(images)
    best = cosines[4].topk(5)
    assert [row for row, _, _ in by_image.nearest(4, 5)] == best.indices.tolist()
    assert [passes for *_, passes in by_image.nearest(4, 5)] == (best.values >= 0.5).tolist()
    rule = MatchRule(0.5, text=TextRule("union", 0.8, image_threshold=0.6))
    margins = torch.maximum(cosines - 0.6, _among(titles) - 0.8)
    found = rule.matches(Rows(images, titles), k=29).nearest(4, 5)
    assert [row for row, _, _ in found] == margins[4].topk(5).indices.tolist()
    assert [passes for *_, passes in found] == (margins[4].topk(5).values >= 0).tolist()


def _folds(seed: int, size: int = 24) -> Iterator[MatchFold]:
    """Images and titles that know different halves of the labels."""
    labels = torch.arange(size) // 3
    generator = torch.Generator().manual_seed(seed)
    for known in (labels < 4, labels >= 4):
        centres = torch.randn(size, 6, generator=torch.Generator().manual_seed(9))[labels]
        noise = torch.randn(size, 6, generator=generator)
        rows = torch.where(known[:, None], centres + 0.6 * noise, noise)
        yield MatchFold(nearest_neighbors(rows, k=8), labels)


@pytest.mark.parametrize("min_matches", [1, 2])
def test_the_thresholds_of_a_union_are_nearly_the_best_of_all(min_matches: int) -> None:
    for seed in range(2):
        image, title = _folds(seed)
        found = pick_union(image, title, min_matches=min_matches)
        scores = [fold.neighbors.scores.double().unique().tolist() for fold in (image, title)]
        best = 0.0
        for one, other in itertools.product(scores[0][::8], scores[1][::8]):
            best = max(best, _brute_force(image, title, one, other, min_matches))
        assert found.picked_score == pytest.approx(
            _brute_force(image, title, found.image, found.title, min_matches), abs=1e-12
        )
        assert found.picked_score >= best - 0.02
        own = [
            match_rules.matching_curve(f, min_matches=min_matches).best[0] for f in (image, title)
        ]
        assert found.picked_score >= _brute_force(image, title, *own, min_matches) - 1e-12


def _brute_force(
    image: MatchFold, title: MatchFold, by_image: float, by_title: float, min_matches: int
) -> float:
    """The mean F over queries, counted one by one."""
    total, labels = 0.0, image.labels.tolist()
    for query, label in enumerate(labels):
        margins = dict[int, float]()
        for fold, threshold in ((image, by_image), (title, by_title)):
            ids, scores = fold.neighbors.ids[query], fold.neighbors.scores[query].double()
            for item, score in zip(ids.tolist(), scores.tolist(), strict=True):
                margins[item] = max(margins.get(item, -9.0), score - threshold)
        ranked = sorted(margins, key=lambda item: (-margins[item], item))
        listed = {query, *(item for item in ranked if margins[item] >= 0)}
        listed |= set(ranked[: min_matches - 1])
        right = sum(labels[item] == label for item in listed)
        total += 2 * right / (len(listed) + labels.count(label))
    return total / len(labels)


def test_values_without_a_meaning_are_named() -> None:
    nan = float("nan")
    for values, expected in (
        ({"threshold": nan}, "thresholds are"),
        ({"threshold": 0.5, "units": "metres"}, "units 'metres'"),
        ({"threshold": 0.5, "min_matches": 0}, "min_matches is 0"),
        ({"threshold": 0.5, "beta": nan}, "beta is nan"),
        ({"threshold": 0.5, "text": {"mode": "sum", "threshold": 0.5}}, "'sum'"),
        ({"threshold": 0.5, "text": {"mode": "union", "threshold": 0.5}}, "thresholds are"),
    ):
        with pytest.raises(DataError, match=expected):
            MatchRule.of_state(values)
    for values in ({"threshold": "0.5"}, {"threshold": 0.5, "min_matches": 1.5}):
        with pytest.raises(ConfigError, match=r"rule: .* is a"):
            MatchRule.of_state(values)
    image, title = _folds(0)
    with pytest.raises(DataError, match="other labels"):
        pick_union(image, MatchFold(title.neighbors, title.labels + 1))
    with pytest.raises(DataError, match="nothing to match it with"):
        MatchRule(0.5).matches(Rows(_rows(1)))
