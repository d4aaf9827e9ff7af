"""An index is added to, searched, changed and refused as its docstrings say."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.metrics import nearest_neighbors
from common.utils.errors import ConfigError, DataError, FaultError
from projects.product_matching.core.index import approximate, changes
from projects.product_matching.core.index.manifest import MANIFEST, ModelMark
from projects.product_matching.core.index.vector_index import VectorIndex
from tests.projects.product_matching.indexes import MARK, filled, names, points


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


def _ids(index: VectorIndex, queries: Tensor, k: int) -> list[list[str]]:
    return [list(found.ids) for found in index.search(queries, k)]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_opened_index_finds_what_nearest_neighbors_finds(tmp_path: Path, metric: str) -> None:
    vectors, queries = points(120), points(30, seed=1)
    vectors[90:] = vectors[:30]
    filled(tmp_path / "index", vectors, metric=metric)
    index = VectorIndex.open(tmp_path / "index", model=MARK, dimension=16)
    true = nearest_neighbors(queries, vectors, 7, metric=metric)
    found = index.search(queries, 7)
    assert [list(one.ids) for one in found] == [
        [f"shoes/größe {row}.jpg" for row in rows] for rows in true.ids.tolist()
    ]
    torch.testing.assert_close(torch.stack([one.scores for one in found]), true.scores)
    index.verify()


def test_copies_come_in_the_order_they_were_added(tmp_path: Path) -> None:
    index = filled(tmp_path, points(1).expand(60, -1))
    assert _ids(index, points(1), 5) == [names(0, 5)]


def test_what_is_removed_is_not_found_and_can_be_added_again(tmp_path: Path) -> None:
    vectors = points(90)
    index = filled(tmp_path, vectors)
    index.remove(names(0, 50)[::-1])
    assert len(index) == 40
    assert _ids(index, vectors[:50], 1) == [
        [f"shoes/größe {50 + int(row)}.jpg"]
        for row in nearest_neighbors(vectors[:50], vectors[50:], 1).ids
    ]
    assert index.missing(names(48, 52)) == names(48, 50)
    index.add(names(0, 2), vectors[:2])
    assert _ids(index, vectors[:2], 1) == [[name] for name in names(0, 2)]
    assert len(VectorIndex.open(tmp_path)) == 42


def test_a_replaced_vector_is_found_once_and_as_the_newest(tmp_path: Path) -> None:
    vectors = points(30)
    index = filled(tmp_path, vectors)
    index.add([*names(0, 1), "new"], vectors[[7, 7]], existing="replace")
    assert len(index) == 31
    assert _ids(index, vectors[7:8], 3) == [[*names(7, 8), *names(0, 1), "new"]]
    everything = _ids(index, vectors[:1], 31)[0]
    assert sorted(everything) == sorted([*names(0, 30), "new"])


def test_rows_that_no_longer_count_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LEAST_REMOVED", 10)
    monkeypatch.setattr(changes, "_ROWS", 7)
    vectors = points(100)
    index = filled(tmp_path, vectors)
    index.remove(names(0, 24))
    assert index.info().removed == 24
    index.remove(names(50, 53))
    info = index.info()
    assert (info.vectors, info.removed) == (73, 0)
    kept = [*range(24, 50), *range(53, 100)]
    assert _ids(index, vectors[kept], 1) == [[f"shoes/größe {row}.jpg"] for row in kept]
    index.verify()
    on_disk = _contents(tmp_path)
    assert sum(map(len, on_disk.values())) == info.size
    assert all("-0." not in name for name in on_disk), "the old files are gone"
    index.remove(names(24, 50) + names(53, 100))
    assert (len(index), index.info().removed) == (0, 0)
    index.add(names(0, 3), vectors[:3])
    assert _ids(VectorIndex.open(tmp_path), vectors[:1], 1) == [names(0, 1)]


def test_many_small_additions_leave_few_files(tmp_path: Path) -> None:
    index = VectorIndex.create(tmp_path, dimension=16, model=MARK)
    vectors = points(37)
    for row in range(37):
        index.add(names(row, row + 1), vectors[row : row + 1])
    assert len(list(tmp_path.glob("keys-*"))) == 3  # 37 = 32 + 4 + 1
    assert index.missing(names(0, 40)) == names(37, 40)
    assert _ids(index, vectors, 1) == [[name] for name in names(0, 37)]


def test_names_whose_hashes_are_equal_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from projects.product_matching.core.index import names as index_names

    real = index_names.hashes_of
    for module in (index_names, changes):
        monkeypatch.setattr(module, "hashes_of", lambda found: real(found) % 3)
    index = filled(tmp_path, points(40))
    index.remove(names(5, 6))
    assert index.missing(names(0, 41)) == [*names(5, 6), *names(40, 41)]


def test_another_handle_sees_the_old_state_until_it_looks_again(tmp_path: Path) -> None:
    vectors = points(60)
    writer = filled(tmp_path, vectors[:30])
    reader = VectorIndex.open(tmp_path)
    writer.add(names(30, 60), vectors[30:])
    assert len(reader) == 30
    assert _ids(reader, vectors[:30], 1) == [[name] for name in names(0, 30)]
    reader.add(["one more"], points(1, seed=9))  # a writer begins with what is there
    assert len(reader) == 61
    writer.refresh()
    assert writer.missing(["one more"]) == []


def test_a_reader_outlives_the_files_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LEAST_REMOVED", 10)
    vectors = points(60)
    writer = filled(tmp_path, vectors)
    reader = VectorIndex.open(tmp_path)
    writer.remove(names(0, 40))  # new files; the old ones are deleted
    assert _ids(reader, vectors, 1) == [[name] for name in names(0, 60)]


BAD_VECTORS = [
    (torch.full((2, 16), torch.nan), "vector 0 .* is not finite"),
    (torch.tensor([[1.0] * 16, [torch.inf] * 16]), "vector 1 .* is not finite"),
    (torch.full((2, 16), 1e300, dtype=torch.float64), "is not finite"),
    (torch.zeros(2, 16), "vector 0 .* is zero, which has no direction"),
    (torch.ones(2, 15), r"shape \(2, 15\); expected \(N, 16\)"),
    (torch.ones(16), r"shape \(16,\)"),
    (torch.ones(3, 16), "2 ids for 3 vectors"),
]
BAD_IDS = [
    (["a", "a"], "'a' is given twice"),
    (["a", "b\nc"], r"holds '\\n'; an id is one line"),
    (["a", os.fsdecode(b"\xff.jpg")], "holds bytes that are no UTF-8"),
    (["a", "\ud800"], "holds bytes that are no UTF-8"),
    (["a", ""], "an id is ''"),
    (["new", "shoes/größe 3.jpg"], "1 of 2 ids are in .*größe 3.jpg"),
]


@pytest.mark.parametrize(
    ("ids", "vectors", "said"),
    [(["a", "b"], vectors, said) for vectors, said in BAD_VECTORS]
    + [(ids, torch.ones(2, 16), said) for ids, said in BAD_IDS],
)
def test_what_cannot_be_added_is_named_and_changes_nothing(
    tmp_path: Path, ids: list[str], vectors: Tensor, said: str
) -> None:
    index = filled(tmp_path, points(30))
    before = _contents(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        index.add(ids, vectors)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    assert _contents(tmp_path) == before
    assert len(index) == 30


def test_what_cannot_be_asked_is_named(tmp_path: Path) -> None:
    index = filled(tmp_path, points(30))
    for k in (0, 31):
        with pytest.raises(DataError, match=rf"k is {k}; expected 1 to 30"):
            index.search(points(2), k)
    with pytest.raises(DataError, match=r"query 1 .* is zero"):
        index.search(torch.tensor([[1.0] * 16, [0.0] * 16]), 1)
    with pytest.raises(DataError, match=r"1 of 2 ids are not in .*'nobody'.*nothing was removed"):
        index.remove([*names(0, 1), "nobody"])
    with pytest.raises(ConfigError, match="did you mean 'replace'"):
        index.add(["a"], points(1), existing="replaced")
    with pytest.raises(DataError, match="longer than 1e"):
        euclidean = VectorIndex.create(tmp_path / "x", dimension=16, model=MARK, metric="euclidean")
        euclidean.add(["a"], torch.full((1, 16), 1e19))
    assert len(index) == 30
    assert index.search(points(0), 1) == []


def test_long_and_short_vectors_have_a_direction(tmp_path: Path) -> None:
    """float32 would square 1e25 to infinity, and 1e-11 to what has lost its digits."""
    vectors = points(2)
    index = VectorIndex.create(tmp_path, dimension=16, model=MARK)
    index.add(["long", "short"], vectors * torch.tensor([[1e25], [1e-11]]))
    (found,) = index.search(vectors[1:].bfloat16(), 2)
    assert found.ids == ("short", "long")
    assert found.scores[0] == pytest.approx(1.0, abs=1e-4)


def test_another_model_or_dimension_is_refused_in_one_line_with_both(tmp_path: Path) -> None:
    filled(tmp_path, points(3))
    for other in (ModelMark("arcface/second", "a" * 64), ModelMark("arcface/first", "b" * 64)):
        with pytest.raises(DataError) as caught:
            VectorIndex.open(tmp_path, model=other)
        assert str(MARK) in str(caught.value)
        assert str(other) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"dimension 16, not 128.*arcface/first"):
        VectorIndex.open(tmp_path, dimension=128)
    with pytest.raises(DataError, match="expected the 64 lower-case hex digits"):
        ModelMark("run", "abc")


def test_an_index_is_made_in_an_empty_folder_only(tmp_path: Path) -> None:
    filled(tmp_path / "index", points(3))
    with pytest.raises(DataError, match="holds an index; open it"):
        VectorIndex.create(tmp_path / "index", dimension=16, model=MARK)
    with pytest.raises(DataError, match="holds 'index'"):
        VectorIndex.create(tmp_path, dimension=16, model=MARK)
    with pytest.raises(DataError, match=r"holds no index .*make one first"):
        VectorIndex.open(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="metric is 'cosin'; did you mean 'cosine'"):
        VectorIndex.create(tmp_path / "x", dimension=16, model=MARK, metric="cosin")


def test_without_faiss_flat_works_and_other_kinds_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from projects.product_matching.core.index import exact_scan, snapshot

    for module in (approximate, exact_scan, changes, snapshot):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setitem(changes.FROM_ROWS, "auto", 10)
    vectors = points(60)
    index = filled(tmp_path / "index", vectors)
    assert index.info().approximate == 0
    assert _ids(index, vectors, 1) == [[name] for name in names(0, 60)]
    with pytest.raises(ConfigError, match=r"kind is 'ivf'.*extra `retrieval`"):
        VectorIndex.create(tmp_path / "x", dimension=16, model=MARK, kind="ivf")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["vectors-0.f32", "names-0.utf8", "ends-0.i64", "keys-"])
def test_a_file_that_is_cut_or_gone_is_named(tmp_path: Path, name: str) -> None:
    filled(tmp_path, points(30))
    path = next(path for path in tmp_path.iterdir() if path.name.startswith(name))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FaultError, match=f"{path} has .* bytes, its index says"):
        VectorIndex.open(tmp_path)
    path.unlink()
    with pytest.raises(FaultError, match=f"{path} is missing"):
        VectorIndex.open(tmp_path)


def test_every_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    index = filled(tmp_path, points(30))
    index.remove(names(0, 1))
    for path in sorted(tmp_path.glob("*-*")):
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(FaultError, match=f"{path} is not what was written"):
            VectorIndex.open(tmp_path).verify()
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    VectorIndex.open(tmp_path).verify()


@pytest.mark.parametrize(
    ("before", "after"),
    [('"rows": 30', '"rows": 29'), ('"format": 1', '"format": 7'), ("{", "["), ("a", "\ud8ff")],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, before: str, after: str) -> None:
    filled(tmp_path, points(30))
    path = tmp_path / MANIFEST
    changed = path.read_text().replace(before, after, 1)
    path.write_bytes(changed.encode("utf-8", "surrogatepass"))
    with pytest.raises((FaultError, DataError), match=r"manifest.json (is damaged|has format 7)"):
        VectorIndex.open(tmp_path)


def test_files_of_other_people_stay(tmp_path: Path) -> None:
    index = filled(tmp_path, points(30))
    for name in ("README.md", "vectors.f32", "keys-x.u64"):
        (tmp_path / name).write_text("mine")
    index.add(["a"], points(1))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "keys-x.u64").read_text() == "mine"
