"""The scan over blocks finds what ``nearest_neighbors`` finds, whatever ties there are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.metrics import nearest_neighbors
from projects.product_matching.core.index import exact_scan
from projects.product_matching.core.index.exact_scan import Gallery, nearest_rows
from tests.projects.product_matching.indexes import points

METRICS = ("cosine", "euclidean")


@pytest.fixture(params=["faiss", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS for every number of queries, or not at all; small blocks."""
    monkeypatch.setattr(exact_scan, "_ROWS", 37)
    if request.param == "faiss":
        pytest.importorskip("faiss")
        monkeypatch.setattr(exact_scan, "_FEW", 1_000)
    else:
        monkeypatch.setattr(exact_scan, "find_spec", lambda name: None)


def _gallery(vectors: Tensor, metric: str, alive: Tensor | None = None) -> tuple[Tensor, Gallery]:
    rows = F.normalize(vectors) if metric == "cosine" else vectors
    longest = float(rows.square().sum(1).max())
    counts = None if alive is None else alive.numpy()
    return rows, Gallery(rows.numpy(), metric, longest, counts)


def _by_hand(x: Tensor, y: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Every pair in float64, sorted by score and then by row."""
    x, y = x.double(), y.double()
    exact = (x[:, None] * y).sum(-1) if metric == "cosine" else -(x[:, None] - y).square().sum(-1)
    scores, rows = exact.sort(dim=1, descending=True, stable=True)
    return rows, scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 7, 190])
def test_rows_are_those_of_nearest_neighbors(backend: None, metric: str, k: int) -> None:
    vectors, asked = points(190), points(25, seed=1)
    rows, gallery = _gallery(vectors, metric)
    queries = F.normalize(asked) if metric == "cosine" else asked
    found = nearest_rows(queries, gallery, k, 0, 190)
    assert torch.equal(found.rows, nearest_neighbors(asked, vectors, k, metric=metric).ids)
    torch.testing.assert_close(found.scores, _by_hand(queries, rows, metric)[1][:, :k])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("copies", [3, 60])
def test_ties_over_many_blocks_come_in_the_order_of_rows(
    backend: None, metric: str, copies: int
) -> None:
    """Copies of one row lie in all blocks, more of them than the scan fetches."""
    vectors = points(200)
    places = torch.arange(0, 200, 200 // copies)
    vectors[places] = vectors[0].clone()
    rows, gallery = _gallery(vectors, metric)
    queries = rows[[0, 5, 9]] + 1e-3 * points(3, seed=2)
    found = nearest_rows(queries, gallery, 6, 0, 200)
    assert torch.equal(found.rows, _by_hand(queries, rows, metric)[0][:, :6])


def test_scores_closer_than_float32_are_told_apart(backend: None) -> None:
    """All rows lie within 1e-7 of each other; float32 products cannot order them."""
    vectors = F.normalize(points(1).expand(150, -1) + 1e-7 * points(150, seed=3))
    gallery = Gallery(vectors.numpy(), "cosine")
    queries = F.normalize(points(4, seed=4))
    found = nearest_rows(queries, gallery, 5, 0, 150)
    assert torch.equal(found.rows, _by_hand(queries, vectors, "cosine")[0][:, :5])


@pytest.mark.parametrize("metric", METRICS)
def test_only_rows_that_count_and_lie_in_the_range_are_found(backend: None, metric: str) -> None:
    alive = torch.from_numpy(np.random.default_rng(0).random(200) < 0.5)
    alive[74:111] = True  # a whole block
    rows, gallery = _gallery(points(200), metric, alive)
    queries = rows[:20]
    found = nearest_rows(queries, gallery, 9, 30, 170)
    there = alive.nonzero().flatten()
    there = there[(there >= 30) & (there < 170)]
    assert torch.equal(found.rows, there[_by_hand(queries, rows[there], metric)[0][:, :9]])
    assert nearest_rows(queries, gallery, 999, 30, 170).rows.shape == (20, len(there))


def test_parts_of_the_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, gallery = _gallery(points(300), "cosine")
    whole = nearest_rows(rows, gallery, 4, 0, 300)
    monkeypatch.setattr(exact_scan, "_QUERIES", 7)
    monkeypatch.setattr(exact_scan, "_NUMBERS", 100)
    parts = nearest_rows(rows, gallery, 4, 0, 300)
    assert torch.equal(whole.rows, parts.rows)
    assert torch.equal(whole.scores, parts.scores)
