"""An index outlives what kills its writer, fills its disk, or writes beside it.

Every byte: ``pytest -n 0 -m slow tests/projects/product_matching/test_index_faults.py``.
"""

import itertools
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from common.testing.faults import small_disk
from common.testing.trials import TrialServer
from common.utils.errors import FaultError
from projects.product_matching.core.index.vector_index import VectorIndex
from tests.projects.product_matching.indexes import MARK, filled, names, points

pytest.importorskip("faiss")
PROGRAMS = "tests.projects.product_matching.index_programs"
CHANGE = f"{PROGRAMS}:change"
ALL = {"least_removed": 5, "from_rows": 20}  # the change compacts, and builds a segment


@pytest.fixture(scope="module")
def trials() -> Iterator[TrialServer]:
    with TrialServer([PROGRAMS]) as server:
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", megabytes=2))
        except PermissionError as error:
            pytest.skip(f"cannot mount here: {error}")
        yield tmp_path / "disk"


def _before(directory: Path, count: int = 20, dimension: int = 16) -> Path:
    """An index that is going to be changed."""
    filled(directory, points(count, dimension), metric="euclidean")
    return directory


def _small(directory: Path) -> Path:
    """Vectors have 32 bytes and get 80, names 152 and 382, keys 192 and 320, the manifest 600."""
    return _before(directory, count=8, dimension=1)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".lock"}


def _answers(directory: Path) -> list[tuple[tuple[str, ...], list[float]]]:
    """Everything that can be asked of an index, of which every byte is checked."""
    index = VectorIndex.open(directory, model=MARK)
    index.verify()
    everything = index.search(points(3, index.info().dimension, seed=8), len(index))
    return [(found.ids, found.scores.tolist()) for found in everything]


@pytest.mark.parametrize(
    "point", ["fsync", "rename", pytest.param("fsync directory", marks=pytest.mark.slow)]
)
def test_a_kill_before_any_call_that_makes_a_change_durable_leaves_before_or_after(
    trials: TrialServer, tmp_path: Path, point: str
) -> None:
    start = _before(tmp_path / "start")
    whole = shutil.copytree(start, tmp_path / "whole")
    trials.run(CHANGE, directory=str(whole), **ALL)
    before, after = _answers(start), _answers(whole)
    seen = set()
    for number in itertools.count(1):
        index = shutil.copytree(start, tmp_path / f"{number}")
        fault = {"kind": "killed_at", "point": point, "number": number, "below": str(index)}
        trial = trials.start(CHANGE, directory=str(index), fault=fault, **ALL)
        if trial.wait() == 0:
            break
        assert trial.wait() == -signal.SIGKILL, trial.errors
        answers = _answers(index)
        assert answers in (before, after)
        seen.add(answers == after)
        manifest = VectorIndex.open(index)._snapshot.manifest
        assert {*_contents(index)} - {"manifest.json"} <= {*manifest.files()}, "leftovers"
        trials.run(CHANGE, directory=str(index), **ALL)
        assert _answers(index) == after
    assert seen == {False, True}


def _killed_at_byte(trials: TrialServer, tmp_path: Path, sizes: list[int]) -> set[str]:
    """What the kernel's kill at the byte was followed by; at least the manifest is whole."""
    start = _small(tmp_path / "start")
    whole = shutil.copytree(start, tmp_path / "whole")
    trials.run(CHANGE, directory=str(whole), count=8)
    before, after = _answers(start), _contents(whole)
    seen = set()
    for size in sizes:
        index = shutil.copytree(start, tmp_path / "index", dirs_exist_ok=True)
        fault = {"kind": "killed_while_writing", "size": size}
        trials.run(CHANGE, expect=-signal.SIGXFSZ, directory=str(index), count=8, fault=fault)
        grown = {name for name, data in _contents(index).items() if len(data) == size}
        seen |= {re.sub(r"[-.](json|\d).*", "", name) for name in grown}
        assert _answers(index) == before
        assert _contents(index) == _contents(start), "the next open clears away what was left"
        trials.run(CHANGE, directory=str(index), count=8)
        assert _contents(index) == after, "byte for byte what it is without a kill"
        shutil.rmtree(index)
    return seen


def test_a_kill_at_a_byte_leaves_the_index_as_it_was(trials: TrialServer, tmp_path: Path) -> None:
    seen = _killed_at_byte(trials, tmp_path, [33, 79, 160, 375, 400, 590])
    assert {"vectors", "names", ".tmp-manifest"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("part", range(16))
def test_a_kill_at_every_byte_leaves_the_index_as_it_was(
    trials: TrialServer, tmp_path: Path, part: int
) -> None:
    _killed_at_byte(trials, tmp_path, list(range(32 + part, 600, 16)))


@pytest.mark.parametrize("size", [50, 300, 500])
def test_a_file_that_may_not_grow_is_one_line_and_the_index_as_before(
    trials: TrialServer, tmp_path: Path, size: int
) -> None:
    index = _small(tmp_path / "index")
    before = _contents(index)
    fault = {"kind": "file_size_limit", "size": size}
    text = trials.run(CHANGE, expect=1, directory=str(index), count=8, fault=fault)
    assert re.fullmatch(rf"error: cannot write {index}/\S+: File too large .*bytes free\)\n", text)
    assert _contents(index) == before


def test_a_full_disk_is_one_line_and_the_index_as_before(disk: Path) -> None:
    index = filled(disk / "index", points(300, 64))
    before = _contents(disk / "index")
    with pytest.raises(FaultError, match=r"cannot write .*vectors-0.f32: No space left on device"):
        index.add(names(1_000, 11_000), points(10_000, 64))
    assert _contents(disk / "index") == before
    assert len(index) == 300
    index.add(names(300, 310), points(10, 64))
    assert len(VectorIndex.open(disk / "index")) == 310


def test_what_comes_after_an_addition_may_lack_room(
    disk: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The vectors fit, the copy of them that a segment is does not."""
    monkeypatch.setattr("projects.product_matching.core.index.changes.FROM_ROWS", {"auto": 4_000})
    index = VectorIndex.create(disk / "index", dimension=64, model=MARK)
    index.add(names(0, 5_000), points(5_000, 64))
    assert (len(index), index.info().approximate) == (5_000, 0)
    assert any("the change is kept" in line and "No space left" in line for line in logged)
    assert not list((disk / "index").glob("segment-*"))
    assert VectorIndex.open(disk / "index").search(points(1, 64), 1)[0].ids == tuple(names(0, 1))


def test_a_folder_that_cannot_be_written_is_searched_and_not_changed(disk: Path) -> None:
    vectors = points(30)
    filled(disk / "index", vectors)
    (disk / "index" / "vectors-0.f32").open("ab").write(b"left by a killed process")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    index = VectorIndex.open(disk / "index", model=MARK)
    assert [found.ids[0] for found in index.search(vectors, 1)] == names(0, 30)
    for change in (lambda: index.add(["a"], vectors[:1]), lambda: index.remove(names(0, 1))):
        with pytest.raises(FaultError, match=r"cannot write in .*Read-only file system; the index"):
            change()
    with pytest.raises(FaultError, match=r"cannot write in .*Read-only file system"):
        VectorIndex.create(disk / "other", dimension=4, model=MARK)
    assert len(index) == 30


def test_two_writers_and_a_reader_at_once_lose_nothing(trials: TrialServer, tmp_path: Path) -> None:
    directory = tmp_path / "index"
    VectorIndex.create(directory, dimension=16, model=MARK)
    add = f"{PROGRAMS}:add_in_turns"
    writers = [trials.start(add, directory=str(directory), label=label, times=12) for label in "ab"]
    sizes = []
    while any(writer.running for writer in writers):
        reader = VectorIndex.open(directory, model=MARK)
        sizes.append(len(reader))
        if len(reader):
            found = reader.search(points(1), len(reader))[0].ids
            assert len(set(found)) == len(reader)
    assert [writer.wait() for writer in writers] == [0, 0], [w.errors for w in writers]
    assert sizes == sorted(sizes)
    assert all(size % 10 == 0 for size in sizes)
    index = VectorIndex.open(directory, model=MARK)
    wanted = [f"{label}/{turn}/{row}" for label in "ab" for turn in range(12) for row in range(10)]
    assert sorted(index.search(points(1), len(index))[0].ids) == sorted(wanted)
    index.verify()


def test_a_second_writer_says_that_it_waits(trials: TrialServer, tmp_path: Path) -> None:
    index = _before(tmp_path / "index")
    with FileLock(index / ".lock"):
        trial = trials.start(CHANGE, directory=str(index))
        while "another process is writing" not in trial.errors:
            assert trial.running, trial.errors
        assert len(VectorIndex.open(index)) == 20, "and a reader does not wait"
    assert trial.wait() == 0, trial.errors
    assert len(VectorIndex.open(index)) == 40


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_search_keeps_the_vectors_out_of_memory(
    trials: TrialServer, tmp_path: Path, kind: str
) -> None:
    """48 MB of vectors; what grows is what the search itself needs."""
    index = VectorIndex.create(tmp_path, dimension=256, model=MARK, kind=kind)
    index.add(names(0, 48_000), points(48_000, 256, clusters=1_000))
    text = trials.run(f"{PROGRAMS}:memory", directory=str(tmp_path), queries=8)
    assert float(text.split()[1]) < 16, text


@pytest.mark.slow
def test_two_million_vectors_are_searched_in_a_few_megabytes(
    trials: TrialServer, tmp_path: Path
) -> None:
    """A gigabyte, in lists and behind them; a matrix of all would be 1,000 times what is held."""
    index = VectorIndex.create(tmp_path, dimension=128, model=MARK, kind="ivf")
    index.add(names(0, 2_000_000), points(2_000_000, 128, clusters=20_000))
    assert index.info().approximate == 2_000_000
    text = trials.run(f"{PROGRAMS}:memory", directory=str(tmp_path), queries=8)
    assert float(text.split()[1]) < 64, text
