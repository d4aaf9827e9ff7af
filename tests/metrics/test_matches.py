"""Match lists and their unions against Python dictionaries."""

import pytest
import torch

from common.metrics import (
    Matches,
    Neighbors,
    find_matches,
    match_rows,
    nearest_neighbors,
    union_matches,
)
from common.utils.errors import DataError


def _neighbors(seed: int, k: int, count: int = 40) -> Neighbors:
    rows = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    rows[3] = rows[2]
    found = nearest_neighbors(rows, k=k)
    return Neighbors(found.ids, (found.scores * 20).round() / 20)  # with ties


def _listed(matches: Matches) -> dict[int, dict[int, float]]:
    lists: dict[int, dict[int, float]] = {}
    rows = (matches.queries.tolist(), matches.ids.tolist(), matches.scores.tolist())
    for query, item, score in zip(*rows, strict=True):
        assert item not in lists.setdefault(query, {}), "a pair comes once"
        lists[query][item] = score
    return lists


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [1, 2, 3])
def test_a_union_has_what_passes_either_threshold(seed: int, least: int) -> None:
    sources = [(_neighbors(seed, 7), 0.8), (_neighbors(seed + 50, 4), 0.7)]
    found = union_matches(sources, min_matches=least)
    margins: list[dict[int, float]] = [{} for _ in range(40)]
    for neighbors, threshold in sources:
        for query, (ids, scores) in enumerate(
            zip(*(part.tolist() for part in neighbors), strict=True)
        ):
            for item, score in zip(ids, scores, strict=True):
                margin = score - threshold
                margins[query][item] = max(margin, margins[query].get(item, -9.0))
    lists = _listed(found)
    for query, candidates in enumerate(margins):
        ordered = sorted(candidates, key=lambda item: (-candidates[item], item))
        expected = [
            item for place, item in enumerate(ordered) if candidates[item] >= 0 or place < least - 1
        ]
        assert list(lists.get(query, {})) == expected
        for item, score in lists.get(query, {}).items():
            assert score == candidates[item]


def test_the_union_of_one_source_is_that_source() -> None:
    neighbors = _neighbors(0, 6)
    one, same = union_matches([(neighbors, 0.6)], 2), find_matches(neighbors, 0.6, 2)
    assert set(zip(one.queries.tolist(), one.ids.tolist(), strict=True)) == set(
        zip(same.queries.tolist(), same.ids.tolist(), strict=True)
    )
    assert torch.equal(same.scores - 0.6, one.scores)
    assert len(find_matches(neighbors, 2.0)) == len(union_matches([(neighbors, 2.0)])) == 0


def test_rows_are_names_from_the_best_score_down() -> None:
    neighbors = Neighbors(torch.tensor([[1, 2], [2, 0]]), torch.tensor([[0.9, 0.5], [0.75, 0.2]]))
    rows = list(match_rows(find_matches(neighbors, 0.5), ["q0", "q1"], ["a", "b", "c"]))
    assert rows == [("q0", "b", pytest.approx(0.9)), ("q0", "c", 0.5), ("q1", "c", 0.75)]
    with pytest.raises(DataError, match=r"2 names of queries and 2 of items, .* up to 2"):
        list(match_rows(find_matches(neighbors, 0.5), ["q0", "q1"]))


def test_sources_of_other_queries_are_refused() -> None:
    with pytest.raises(DataError, match=r"sources of matches have \[30, 40\] queries"):
        union_matches([(_neighbors(0, 3), 0.5), (_neighbors(0, 3, count=30), 0.5)])
    with pytest.raises(DataError, match="sources of matches have no queries"):
        union_matches([])
    with pytest.raises(DataError, match="min_matches is 9"):
        find_matches(_neighbors(0, 3), 0.5, min_matches=9)
