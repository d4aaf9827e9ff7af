"""The index of product matching as it grows, beside FAISS in memory that is written as a whole.

To so many vectors of 128 numbers, twenty around each of many centres, ten times 10,000 are added
and made durable; then a new process opens the index and searches. Memory is what that process has
of its own (RssAnon), not pages of a file, which the system takes back. Files go to the temporary
directory (set ``TMPDIR`` to a real disk).

    python -m benchmarks.vector_index            # 100,000 vectors
    python -m benchmarks.vector_index --large    # 1,000,000 as well: 4 GB of disk
"""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import (
    Column,
    Result,
    command_line,
    fresh_processes,
    interleave,
    run_python,
    timed,
)
from common.utils.files import fsync_dir
from projects.product_matching.core.index.exact_scan import nearest_rows
from projects.product_matching.core.index.manifest import ModelMark
from projects.product_matching.core.index.snapshot import read_snapshot
from projects.product_matching.core.index.vector_index import Matches, VectorIndex
from projects.product_matching.core.index.vectors import prepared

_BASELINE = "FAISS in memory, written whole"
_KINDS = {"ours, flat": "flat", "ours, ivf": "ivf"}
_DIMENSION, _ADDITIONS, _K = 128, 10, 10
_MARK = ModelMark(run="benchmark", weights_sha256="0" * 64)
_COLUMNS = [
    Column("first", "first addition, ms", 0, "first"),
    Column("last", "tenth addition, ms", 0, "last"),
    Column("open", "open, ms", 1, "open"),
    Column("one", "1 query, ms", 2, "one"),
    Column("many", "100 queries, ms", 0, "many"),
    Column("memory", "memory, MB", 0, "memory"),
    Column("recall", "recall of 10", 3),
]


@dataclass(frozen=True)
class Size:
    """How many vectors there are before the additions, and how many each adds."""

    vectors: int
    addition: int

    @property
    def after(self) -> int:
        """How many there are at the end."""
        return self.vectors + _ADDITIONS * self.addition


_QUICK, _SMALL, _LARGE = Size(2_000, 200), Size(100_000, 10_000), Size(1_000_000, 10_000)


def vector_index(repeats: int, quick: bool = False, large: bool = False) -> Result:
    """Measure every way at every size, each time in processes of its own.

    Args:
        repeats: Interleaved rounds.
        quick: 2,000 vectors, flat and FAISS only.
        large: A million as well.
    """
    sizes = [_QUICK] if quick else [_SMALL, *[_LARGE] * large]
    ways = [_BASELINE, *list(_KINDS)[: 1 if quick else None]]
    baselines = {
        f"{way}: {size.vectors:,}": f"{_BASELINE}: {size.vectors:,}"
        for size in sizes
        for way in ways
    }
    measures = fresh_processes("vector_index", baselines, quick)
    samples = interleave(measures, repeats, warm_up=0)
    notes = [
        f"Vectors of {_DIMENSION} numbers; in brackets, times FAISS's `IndexFlatIP`, which is "
        "written and read as a whole. *Addition*: of 10,000, until they are durable. *Memory*: "
        "RssAnon that opening and searching adds. *Recall*: of queries that are not in the index. "
        "All files are in the page cache."
    ]
    return Result(
        "vector_index_large" if large else "vector_index", _COLUMNS, samples, baselines, notes
    )


def sample(variant: str, quick: bool) -> dict[str, float]:
    """One row once: grow an index here, search it in another process."""
    if variant.startswith("{"):
        return searched(**json.loads(variant))
    way, _, count = variant.partition(": ")
    size = next(size for size in (_QUICK, _SMALL, _LARGE) if f"{size.vectors:,}" == count)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        values = grown(way, Path(name), size)
        asked = json.dumps({"way": way, "directory": name, "count": size.after})
        done = run_python(["-m", "benchmarks.vector_index", "--sample", asked])
        return values | json.loads(done.stdout.splitlines()[-1])


def grown(way: str, directory: Path, size: Size) -> dict[str, float]:
    """Make an index and add to it ten times; milliseconds of the first and the last time."""
    add = _ours(directory, way) if way in _KINDS else _Whole(directory).add
    for start in range(0, size.vectors, _SMALL.vectors):
        stop = min(start + _SMALL.vectors, size.vectors)
        add(_names(start, stop), _clustered(stop - start, size.after, seed=start))
    times = []
    for start in range(size.vectors, size.after, size.addition):
        vectors = _clustered(size.addition, size.after, seed=start)
        names = _names(start, start + size.addition)
        times.append(timed(lambda names=names, vectors=vectors: add(names, vectors)).wall * 1e3)
    return {"first": times[0], "last": times[-1]}


def searched(way: str, directory: str, count: int) -> dict[str, float]:
    """Open an index and search it: milliseconds, megabytes and the share of neighbours found."""
    queries = _clustered(100, count, seed=-1)
    queries @ queries.T
    import faiss

    faiss.knn(queries.numpy(), queries.numpy(), 1)
    before, found, values = _anonymous(), [], {}
    if way in _KINDS:
        opened: list[VectorIndex] = []
        values["open"] = timed(lambda: opened.append(VectorIndex.open(Path(directory)))).wall * 1e3
        search: Callable[[Tensor], object] = lambda x: opened[0].search(x, _K)  # noqa: E731
    else:
        read: list[Any] = []
        path = str(Path(directory, _Whole.NAME))
        values["open"] = timed(lambda: read.append(faiss.read_index(path))).wall * 1e3
        search = lambda x: read[0].search(x.numpy(), _K)  # noqa: E731
    values["one"] = min(timed(lambda: search(queries[:1])).wall for _ in range(7)) * 1e3
    values["many"] = min(timed(lambda: found.append(search(queries))).wall for _ in range(3)) * 1e3
    values["memory"] = (_anonymous() - before) / 1e6
    if way in _KINDS:
        values["recall"] = _recall(opened[0], queries, found[0])
    return values


def _ours(directory: Path, way: str) -> Callable[[list[str], Tensor], None]:
    return VectorIndex.create(directory, dimension=_DIMENSION, model=_MARK, kind=_KINDS[way]).add


class _Whole:
    """``IndexFlatIP``, replaced on the disk as a whole after every addition."""

    NAME = "flat.faiss"

    def __init__(self, directory: Path) -> None:
        import faiss

        self._index = faiss.IndexFlatIP(_DIMENSION)
        self._path = directory / self.NAME

    def add(self, _: list[str], vectors: Tensor) -> None:
        import faiss

        self._index.add(vectors.numpy())
        temporary = self._path.with_suffix(".tmp")
        faiss.write_index(self._index, str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        fsync_dir(self._path.parent)


def _clustered(count: int, among: int, seed: int) -> Tensor:
    """Rows of length 1 around ``among / 20`` centres, which are the same for every seed."""
    centres = np.random.default_rng(0).standard_normal((among // 20, _DIMENSION), np.float32)
    random = np.random.default_rng([seed + 1, 1])
    rows = centres[random.integers(0, len(centres), count)]
    rows += 0.4 * random.standard_normal((count, _DIMENSION), np.float32)
    return F.normalize(torch.from_numpy(rows))


def _names(start: int, stop: int) -> list[str]:
    return [f"products/{row % 977}/photo {row:08}.jpg" for row in range(start, stop)]


def _recall(index: VectorIndex, queries: Tensor, found: list[Matches]) -> float:
    """By score: of copies any is as right as another."""
    snapshot = read_snapshot(index.directory)
    asked = prepared(queries, _DIMENSION, snapshot.manifest.metric, "query")
    true = nearest_rows(asked, snapshot.gallery, _K, 0, snapshot.manifest.rows)
    scores = torch.stack([matches.scores for matches in found])
    return float((scores >= true.scores[:, -1:].float()).double().mean())


def _anonymous() -> int:
    """Bytes of this process that are pages of no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("/proc/self/status has no RssAnon; this suite needs Linux")


if __name__ == "__main__":
    command_line(vector_index, repeats=3, sample=sample, large=partial(vector_index, large=True))
