"""Lists and graphs find what a look at everything finds, nearly, and say how nearly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.metrics import nearest_neighbors
from projects.product_matching.core.index import approximate, changes
from projects.product_matching.core.index.vector_index import VectorIndex
from tests.projects.product_matching.indexes import MARK, filled, names, points

pytest.importorskip("faiss")
COUNT = 6_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "TAIL_ROWS", 1_500)
    monkeypatch.setattr(changes, "FROM_ROWS", {"ivf": 2_000, "hnsw": 2_000, "auto": 2_000})


def _recall(index: VectorIndex, queries: torch.Tensor, true: torch.Tensor) -> float:
    found = index.search(queries, true.shape[1])
    pairs = zip(found, true.tolist(), strict=True)
    right = [len({names(r, r + 1)[0] for r in rows} & set(one.ids)) for one, rows in pairs]
    return float(np.mean(right)) / true.shape[1]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_recall_of_new_queries_is_near_what_is_said(
    tmp_path: Path, kind: str, metric: str
) -> None:
    vectors = points(COUNT + 100, clusters=60)
    index = filled(tmp_path, vectors[:COUNT], kind=kind, metric=metric)
    info = VectorIndex.open(tmp_path).info()
    assert info.approximate > COUNT - 1_500
    assert 0.95 <= info.recall <= 1.0
    true = nearest_neighbors(vectors[COUNT:], vectors[:COUNT], 10, metric=metric).ids
    assert _recall(index, vectors[COUNT:], true) >= info.recall - 0.03
    index.verify()


def test_a_recall_that_is_said_to_be_low_is_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measure can fail: one list of 77 holds few of the neighbours of random points."""
    monkeypatch.setattr(approximate, "_RECALL", 0.0)
    monkeypatch.setattr(approximate, "_LEAST_EFFORT", {"ivf": 1})
    vectors = points(COUNT + 200)
    index = VectorIndex.create(tmp_path, dimension=16, model=MARK, kind="ivf")
    index.add(names(0, COUNT), vectors[:COUNT])
    true = nearest_neighbors(vectors[COUNT:], vectors[:COUNT], 10).ids
    measured = _recall(index, vectors[COUNT:], true)
    assert measured < 0.7
    assert index.info().recall == pytest.approx(measured, abs=0.1)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_rows_that_are_removed_are_not_found_in_segments(tmp_path: Path, kind: str) -> None:
    vectors = points(COUNT, clusters=60)
    index = filled(tmp_path, vectors, kind=kind)
    index.remove(names(0, 1_000))
    assert index.info().approximate > 0
    found = index.search(vectors[:200], 10)
    assert not {name for one in found for name in one.ids} & set(names(0, 1_000))
    true = nearest_neighbors(vectors[:200], vectors[1_000:], 10).ids + 1_000
    assert _recall(index, vectors[:200], true) > 0.9


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_all_that_is_asked_for_is_found(tmp_path: Path, kind: str) -> None:
    """Few rows count, and none in the lists or near the entry point that a query leads to."""
    vectors = points(COUNT, clusters=60)
    index = filled(tmp_path, vectors, kind=kind)
    near = nearest_neighbors(vectors[:1], vectors, 1_400).ids[0].tolist()
    index.remove([f"shoes/größe {row}.jpg" for row in near])
    (found,) = index.search(vectors[:1], len(index))
    assert sorted(found.ids) == sorted(set(names(0, COUNT)) - {names(r, r + 1)[0] for r in near})
    assert found.scores.diff().max() <= 0


def test_newest_rows_are_looked_at_one_by_one_and_segments_take_them_in(tmp_path: Path) -> None:
    vectors = points(12_000, clusters=60)
    index = VectorIndex.create(tmp_path, dimension=16, model=MARK)
    covered = []
    for start in range(0, 12_000, 1_000):
        index.add(names(start, start + 1_000), vectors[start : start + 1_000])
        manifest = index._snapshot.manifest
        covered.append([segment.stop - segment.start for segment in manifest.segments])
        newest = index.search(vectors[start : start + 1_000 : 50], 1)
        assert [one.ids[0] for one in newest] == names(start, start + 1_000)[::50]
    k = 1_000
    assert covered[:5] == [[], [2 * k], [2 * k], [4 * k], [4 * k]]
    assert covered[5:] == [
        *([4 * k, 2 * k], [4 * k, 2 * k], [8 * k], [8 * k]),
        *([8 * k, 2 * k], [8 * k, 2 * k], [8 * k, 4 * k]),
    ]
    assert len(list(tmp_path.glob("segment-*"))) == 2


def test_segments_are_rebuilt_without_rows_that_no_longer_count(tmp_path: Path) -> None:
    vectors = points(COUNT, clusters=60)
    index = filled(tmp_path, vectors, kind="ivf")
    index.remove(names(0, 2_000))
    info = index.info()
    assert (info.vectors, info.removed, info.approximate) == (4_000, 0, 4_000)
    found = index.search(vectors[2_000:2_100], 1)
    assert [one.ids[0] for one in found] == names(2_000, 2_100)
    index.verify()
