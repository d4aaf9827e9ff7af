"""Exact neighbours, the same by either way, whatever ties there are."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.metrics import neighbors
from common.metrics.neighbors import BACKENDS, METRICS, nearest_neighbors
from common.utils.errors import DataError


def _points(count: int, copies: int = 0, seed: int = 0) -> Tensor:
    """Random rows; the last ones are copies of the first."""
    rows = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    if copies:
        rows[-copies:] = rows[:copies]
    return rows


def _by_hand(x: Tensor, y: Tensor, k: int, metric: str, leaves_out: bool) -> Tensor:
    """Every pair in float64, sorted by score and then by index."""
    if metric == "cosine":
        x, y = F.normalize(x).double(), F.normalize(y).double()
        scores = (x[:, None] * y[None]).sum(-1)
    else:
        scores = -(x.double()[:, None] - y.double()[None]).square().sum(-1)
    if leaves_out:
        scores.fill_diagonal_(-torch.inf)
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


@pytest.fixture(params=["faiss", "torch"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return str(request.param)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("copies", [0, 40])
def test_neighbours_are_those_of_every_pair_in_float64(
    backend: str, metric: str, copies: int
) -> None:
    x = _points(120, copies)
    found = nearest_neighbors(x, k=7, metric=metric, backend=backend)
    assert torch.equal(found.ids, _by_hand(x, x, 7, metric, leaves_out=True))


@pytest.mark.parametrize("count", [496, 497, 511])
def test_rows_folded_into_strides_give_what_whole_rows_give(backend: str, count: int) -> None:
    x = _points(count, copies=60)
    found = nearest_neighbors(x, k=3, metric="euclidean", backend=backend)
    assert torch.equal(found.ids, _by_hand(x, x, 3, "euclidean", leaves_out=True))


@pytest.mark.parametrize("metric", METRICS)
def test_a_gallery_is_searched_whole(backend: str, metric: str) -> None:
    x, y = _points(30), _points(90, 30, seed=1)
    y[5] = x[5]
    found = nearest_neighbors(x, y, k=4, metric=metric, backend=backend)
    assert found.ids[5, 0] == 5
    assert torch.equal(found.ids, _by_hand(x, y, 4, metric, leaves_out=False))


def test_more_ties_than_were_fetched_are_decided_by_index(backend: str) -> None:
    x = torch.ones(50, 8)
    x[10:] = _points(40)
    found = nearest_neighbors(x, k=3, backend=backend)
    assert found.ids[9].tolist() == [0, 1, 2]
    assert found.ids[0].tolist() == [1, 2, 3]


def test_all_rows_can_be_asked_for(backend: str) -> None:
    x = _points(20, 5)
    found = nearest_neighbors(x, k=19, backend=backend)
    assert torch.equal(found.ids, _by_hand(x, x, 19, "cosine", leaves_out=True))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _points(200, 50)
    whole = nearest_neighbors(x, k=5, backend="torch")
    monkeypatch.setattr(neighbors, "_BLOCK", 700)
    parts = nearest_neighbors(x, k=5, backend="torch")
    assert torch.equal(whole.ids, parts.ids)


def test_scores_are_cosines_and_squared_distances(backend: str) -> None:
    x = _points(30)
    found = nearest_neighbors(x, k=2, backend=backend)
    unit = F.normalize(x)
    torch.testing.assert_close(
        found.scores[:, 0], (unit * unit[found.ids[:, 0]]).sum(1), rtol=1e-5, atol=1e-6
    )
    far = nearest_neighbors(x, k=2, metric="euclidean", backend=backend)
    torch.testing.assert_close(
        far.scores[:, 1], -(x - x[far.ids[:, 1]]).square().sum(1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("x", "y", "k", "said"),
    [
        (_points(5), None, 5, "k is 5; expected 1 to 4"),
        (_points(5), _points(5)[:, :4], 2, "width 8, the gallery 4"),
        (torch.full((3, 8), torch.nan), None, 1, "3 of 3 embeddings are not finite"),
        (torch.zeros(3), None, 1, "expected \\(N, D\\)"),
    ],
)
def test_what_cannot_be_searched_is_named(x: Tensor, y: Tensor | None, k: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        nearest_neighbors(x, y, k)


def test_no_query_finds_nothing() -> None:
    assert nearest_neighbors(torch.empty(0, 8), _points(5), 2).ids.shape == (0, 2)


def test_words_are_checked() -> None:
    assert BACKENDS[0] == "auto"
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        nearest_neighbors(_points(5), k=1, metric="cosin")
