"""An index as one manifest describes it: its files mapped, its neighbours found.

A snapshot stays what it is while others write: committed bytes do not change, and a file that is
deleted lives on as long as it is mapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.utils.errors import FaultError
from projects.product_matching.core.index.approximate import OpenSegment
from projects.product_matching.core.index.exact_scan import (
    Gallery,
    Ranked,
    best_of,
    nearest_rows,
    ranked,
)
from projects.product_matching.core.index.manifest import Manifest, read_manifest, run_name
from projects.product_matching.core.index.names import Names, keys_from
from projects.product_matching.core.index.store import check_sum, mapped

_QUERIES = 1 << 10  # asked of segments together
_TYPES = {"vectors": "<f4", "names": "u1", "ends": "<i8", "removed": "<i8"}


@dataclass(frozen=True)
class Snapshot:
    """What can be read of an index.

    Attributes:
        directory: Where it is.
        manifest: What it is made of.
        gallery: Its vectors, and which of them count.
        names: Their names.
        segments: Its segments; none where FAISS is not installed, and everything is looked at.
    """

    directory: Path
    manifest: Manifest
    gallery: Gallery
    names: Names
    segments: tuple[OpenSegment, ...]

    def __len__(self) -> int:
        return self.manifest.rows - self.manifest.removed

    def rows_of(self, names: Sequence[bytes]) -> NDArray[np.int64]:
        """The row of each name, -1 for those that are not there."""
        return self.names.rows_of(names, self.gallery.alive)

    def nearest(self, queries: Tensor, k: int) -> Ranked:
        """The k nearest rows of every query, ``(Q, k)``; at most as many as count."""
        if not self.segments:
            return nearest_rows(queries, self.gallery, k, 0, self.manifest.rows)
        parts = [self._nearest_by_segments(part, k) for part in queries.split(_QUERIES)]
        return Ranked(
            torch.cat([part.rows for part in parts]), torch.cat([p.scores for p in parts])
        )

    def _nearest_by_segments(self, queries: Tensor, k: int) -> Ranked:
        gallery, manifest = self.gallery, self.manifest
        behind = nearest_rows(queries, gallery, k, manifest.covered, manifest.rows)
        found = [segment.search(queries, k, gallery.alive) for segment in self.segments]
        rows = torch.cat(found, 1)
        best = best_of([ranked(queries, gallery, rows, min(k, rows.shape[1])), behind], k)
        short = (best.rows[:, -1] < 0).nonzero().flatten()
        if len(short):  # lists may hold too few that count, as after many removals
            best.rows[short], best.scores[short] = nearest_rows(
                queries[short], gallery, k, 0, manifest.rows
            )
        return best


def read_snapshot(directory: Path, opened: Sequence[OpenSegment] = ()) -> Snapshot:
    """Map the files of an index as it is now.

    Args:
        directory: Of the index.
        opened: Segments of an earlier snapshot, which need not be opened again.

    Raises:
        DataError: if there is no index.
        FaultError: if a file is missing or shorter than it was.
    """
    manifest = read_manifest(directory)
    while True:
        try:
            return _mapped(directory, manifest, opened)
        except FileNotFoundError as error:
            # A writer may have replaced the files between the two looks; then the manifest is new.
            before, manifest = manifest, read_manifest(directory)
            if manifest == before:
                raise FaultError(
                    f"{error.filename} is missing; restore the folder from a copy, or build it anew"
                ) from None


def _mapped(directory: Path, manifest: Manifest, opened: Sequence[OpenSegment]) -> Snapshot:
    columns: dict[str, NDArray[Any]] = {
        name: mapped(directory / manifest.column_name(name), column.size, _TYPES[name])
        for name, column in manifest.columns.items()
    }
    runs = tuple(
        keys_from(mapped(directory / run_name(run.number), 16 * run.rows, "<u8"))
        for run in manifest.runs
    )
    alive = None
    if manifest.removed:
        gone = manifest.columns["removed"]
        check_sum(directory / manifest.column_name("removed"), gone.size, gone.crc)
        alive = np.ones(manifest.rows, np.bool_)
        alive[columns["removed"]] = False
    vectors = columns["vectors"].reshape(manifest.rows, manifest.dimension)
    there = {part.segment: part for part in opened}
    has_faiss = find_spec("faiss") is not None
    segments = tuple(
        there.get(part) or OpenSegment(directory, part, manifest.dimension, manifest.metric)
        for part in manifest.segments * has_faiss
    )
    gallery = Gallery(vectors, manifest.metric, manifest.longest, alive)
    names = Names(columns["names"], columns["ends"], runs)
    return Snapshot(directory, manifest, gallery, names, segments)
