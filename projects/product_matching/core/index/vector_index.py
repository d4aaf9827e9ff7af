"""An index of embeddings that a user keeps: a folder that is added to, searched, and never broken.

    mark = ModelMark(run="arcface/2026-11-21_1", weights_sha256=sha256_file(weights))
    index = VectorIndex.create(folder, dimension=128, metric="cosine", model=mark)
    index.add(["shoes/1.jpg", "shoes/2.jpg"], embeddings)
    for ids, scores in VectorIndex.open(folder, model=mark).search(queries, k=10): ...

Vectors are mapped, not read: memory holds the best of a search and little else. Below 250,000
vectors all are looked at, and the answer is exact; above, segments find most of the nearest
(``info().recall``), and the newest rows are looked at as before. Every answer is scored in float64,
equal scores in order of insertion.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float
from loguru import logger
from torch import Tensor

from common.metrics.neighbors import METRICS
from common.utils.errors import ConfigError, DataError, FaultError
from common.utils.files import fsync_dir
from common.utils.text import did_you_mean, printable
from projects.product_matching.core.index.approximate import need_faiss
from projects.product_matching.core.index.changes import (
    append_rows,
    compact,
    extend_segments,
    remove_rows,
)
from projects.product_matching.core.index.manifest import (
    KINDS,
    MANIFEST,
    Manifest,
    ModelMark,
    read_manifest,
    run_name,
    segment_name,
)
from projects.product_matching.core.index.names import encoded
from projects.product_matching.core.index.snapshot import read_snapshot
from projects.product_matching.core.index.store import (
    check_sum,
    clear_if_idle,
    clear_leftovers,
    locked,
    writing,
)
from projects.product_matching.core.index.vectors import prepared

EXISTING = ("refuse", "replace")


class Matches(NamedTuple):
    """What was found for one query, best first.

    Attributes:
        ids: Names.
        scores: ``(k,)`` float32: cosines, or minus the squared Euclidean distances.
    """

    ids: tuple[str, ...]
    scores: Float[Tensor, "k"]  # noqa: F821


@dataclass(frozen=True)
class IndexInfo:
    """What is said of an index.

    Attributes:
        directory: Where it is.
        vectors: How many can be found.
        removed: Rows that take room until they are a quarter.
        dimension: D.
        metric: ``cosine`` or ``euclidean``.
        kind: As it was made: ``auto``, ``flat``, ``ivf`` or ``hnsw``.
        model: Whose vectors they are.
        approximate: Rows in segments; all others are looked at one by one.
        recall: Of the ten nearest, for rows of the index, measured as segments were built; 1 if
            exact.
        size: Bytes on the disk.
    """

    directory: Path
    vectors: int
    removed: int
    dimension: int
    metric: str
    kind: str
    model: ModelMark
    approximate: int
    recall: float
    size: int


class VectorIndex:
    """Vectors and their names in a folder; made by ``create`` or ``open``.

    A handle sees the index as it was when it was opened, or last changed through it, until
    ``refresh``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._snapshot = read_snapshot(directory)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        dimension: int,
        model: ModelMark,
        metric: str = "cosine",
        kind: str = "auto",
    ) -> Self:
        """Make an empty index.

        Args:
            directory: New, or empty.
            dimension: D.
            model: Whose vectors will be in it.
            metric: ``cosine`` or ``euclidean``.
            kind: ``flat`` looks at every vector; ``ivf`` and ``hnsw`` are approximate; ``auto`` is
                flat up to 250,000 vectors and ``ivf`` above, where FAISS is installed.

        Raises:
            ConfigError: for another metric or kind, a dimension below 1, or a kind that needs
                FAISS.
            DataError: if something lies in ``directory``.
            FaultError: if it cannot be written.
        """
        for name, value, known in (("metric", metric, METRICS), ("kind", kind, KINDS)):
            if value not in known:
                raise ConfigError(f"{name} is '{value}'; {did_you_mean(value, known)}")
        if dimension < 1:
            raise ConfigError(f"dimension is {dimension}; expected the width of the embeddings")
        need_faiss(kind)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fsync_dir(directory.parent)
        except OSError as error:
            raise FaultError(f"cannot write in {directory}: {error.strerror}") from None
        with locked(directory):
            there = sorted(path.name for path in directory.iterdir() if path.name[0] != ".")
            if there:
                what = "an index" if MANIFEST in there else f"'{printable(there[0])}'"
                raise DataError(f"{directory} holds {what}; open it, or choose an empty folder")
            Manifest(dimension, metric, kind, model).write(directory)
        return cls(directory)

    @classmethod
    def open(
        cls, directory: Path, *, model: ModelMark | None = None, dimension: int | None = None
    ) -> Self:
        """Open an index to search or change it; what a killed process left there is cleared away.

        Args:
            directory: Of the index.
            model: Whose vectors are going to be compared with its own; not checked without one.
            dimension: Of these; not checked without one.

        Raises:
            DataError: if there is no index, or it is another model's or has another dimension.
            ConfigError: if its kind needs FAISS, which is not installed.
            FaultError: if it is damaged.
        """
        manifest = read_manifest(directory)
        if dimension is not None and dimension != manifest.dimension:
            raise DataError(
                f"{directory} holds vectors of dimension {manifest.dimension}, not {dimension}; "
                f"use the model it was built with, {manifest.model}, or build an index of this one"
            )
        if model is not None and model != manifest.model:
            raise DataError(
                f"{directory} holds vectors of {manifest.model}, not of {model}; use the model it "
                "was built with, or build an index of this one"
            )
        need_faiss(manifest.kind)
        clear_if_idle(directory)
        return cls(directory)

    def __len__(self) -> int:
        """Vectors that can be found."""
        return len(self._snapshot)

    def refresh(self) -> None:
        """See what other processes have changed."""
        self._snapshot = read_snapshot(self.directory, self._snapshot.segments)

    def add(
        self, ids: Sequence[str], vectors: Float[Tensor, "N D"], *, existing: str = "refuse"
    ) -> None:
        """Add vectors, durably and all or none; other writers are waited for.

        Args:
            ids: A name for each, one line of text.
            vectors: Embeddings, on any device, of any float type.
            existing: What happens if an id is there: ``refuse`` all, or ``replace`` its vector,
                which then counts as the newest.

        Raises:
            ConfigError: for another word.
            DataError: for an id or a vector that cannot be kept, ids given twice, or ids that are
                there.
            FaultError: if the folder cannot be written, or is damaged.
        """
        if existing not in EXISTING:
            raise ConfigError(f"existing is '{existing}'; {did_you_mean(existing, EXISTING)}")
        names = encoded(ids)
        manifest = self._snapshot.manifest
        rows = prepared(vectors, manifest.dimension, manifest.metric, "vector")
        if len(rows) != len(names):
            raise DataError(f"{len(names):,} ids for {len(rows):,} vectors; expected one for each")
        if not names:
            return
        with self._changing():
            found = self._snapshot.rows_of(names)
            old = found[found >= 0]
            if len(old) and existing == "refuse":
                first = names[int((found >= 0).argmax())].decode()
                raise DataError(
                    f"{len(old):,} of {len(names):,} ids are in {self.directory} (first: "
                    f"'{printable(first)}'); leave them out, or replace them (existing='replace')"
                )
            append_rows(self._snapshot, names, rows, np.sort(old))

    def remove(self, ids: Sequence[str]) -> None:
        """Remove vectors, durably and all or none; other writers are waited for.

        Raises:
            DataError: for an id that is not there, or is given twice.
            FaultError: if the folder cannot be written, or is damaged.
        """
        names = encoded(ids)
        if not names:
            return
        with self._changing():
            found = self._snapshot.rows_of(names)
            missing = (found < 0).nonzero()[0]
            if len(missing):
                first = names[int(missing[0])].decode()
                raise DataError(
                    f"{len(missing):,} of {len(names):,} ids are not in {self.directory} (first: "
                    f"'{printable(first)}'); nothing was removed"
                )
            remove_rows(self._snapshot, np.sort(found))

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that are not in the index: what is left to embed.

        Raises:
            DataError: for an id that could not be added.
        """
        found = self._snapshot.rows_of(encoded(ids))
        return [name for name, row in zip(ids, found.tolist(), strict=True) if row < 0]

    def ids(self) -> Iterator[str]:
        """The names of all vectors that can be found, in order of insertion."""
        alive, names = self._snapshot.gallery.alive, self._snapshot.names
        for row in range(self._snapshot.manifest.rows):
            if alive is None or alive[row]:
                yield names.name(row)

    def search(self, queries: Float[Tensor, "Q D"], k: int) -> list[Matches]:
        """The k nearest of every query, equal scores in order of insertion.

        Raises:
            DataError: if there are fewer than k, or a query could not be added.
        """
        manifest = self._snapshot.manifest
        if not 1 <= k <= len(self):
            raise DataError(
                f"k is {k}; expected 1 to {len(self):,}, the vectors in {self.directory}"
            )
        ready = prepared(queries, manifest.dimension, manifest.metric, "query")
        if not len(ready):
            return []
        found = self._snapshot.nearest(ready, k)
        scores = found.scores.float()
        return [
            Matches(tuple(map(self._snapshot.names.name, rows)), scores[place])
            for place, rows in enumerate(found.rows.tolist())
        ]

    def info(self) -> IndexInfo:
        """What the index holds."""
        manifest = self._snapshot.manifest
        right = [(part.stop - part.start) * part.recall for part in manifest.segments]
        exact = manifest.rows - manifest.covered
        return IndexInfo(
            directory=self.directory,
            vectors=len(self),
            removed=manifest.removed,
            dimension=manifest.dimension,
            metric=manifest.metric,
            kind=manifest.kind,
            model=manifest.model,
            approximate=manifest.covered,
            recall=(exact + sum(right)) / manifest.rows if right else 1.0,
            size=sum(manifest.files().values()) + (self.directory / MANIFEST).stat().st_size,
        )

    def verify(self) -> None:
        """Read every byte and compare checksums.

        Raises:
            FaultError: naming the first file that is not what was written.
        """
        manifest = self._snapshot.manifest
        sums = {manifest.column_name(name): column.crc for name, column in manifest.columns.items()}
        sums |= {run_name(run.number): run.crc for run in manifest.runs}
        sums |= {segment_name(part.number, part.kind): part.crc for part in manifest.segments}
        for name, size in manifest.files().items():
            check_sum(self.directory / name, size, sums[name])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the only writer, with what is there now; see what has become of it."""
        try:
            with writing(self.directory):
                self.refresh()
                yield
                self.refresh()
                self._maintain()
        except BaseException:
            with suppress(DataError, FaultError):  # the first error says more
                self.refresh()
            raise

    def _maintain(self) -> None:
        """What makes the next search faster; the change before it is safe already."""
        try:
            for improve in (compact, extend_segments):
                if improve(self._snapshot):
                    self.refresh()
        except FaultError as error:
            clear_leftovers(self.directory, self._snapshot.manifest)
            logger.warning(
                f"the change is kept, but the index is not as fast as it could be: {error}"
            )
