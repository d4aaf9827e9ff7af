"""What changes an index on the disk; each function ends with a new manifest, or leaves the old.

The caller holds the lock (``store.writing``) and hands in a snapshot taken under it. An
addition appends; what is worth more work than that comes after it, as changes of their own: a
segment for rows that have none, and new files without the rows that no longer count.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from projects.product_matching.core.index.approximate import build_segment
from projects.product_matching.core.index.manifest import (
    Column,
    KeyRun,
    Manifest,
    run_name,
)
from projects.product_matching.core.index.names import (
    Keys,
    hashes_of,
    merged,
    runs_to_merge,
    sorted_keys,
)
from projects.product_matching.core.index.snapshot import Snapshot
from projects.product_matching.core.index.store import append, clear_leftovers, new_file

# Rows from which there are segments. FAISS looks at 300,000 x 128 in 13 ms on one thread. A graph
# took eight times as long to build as lists (40,000 rows: 24 s and 3 s) and was no faster to ask, so
# it is built only where asked for.
FROM_ROWS = {"auto": 250_000, "ivf": 4096, "hnsw": 4096}
TAIL_ROWS = 50_000  # behind the segments, looked at one by one (1 ms a query) until they get one
_TAIL_SHARE = 16  # or this part of the rows in segments, whichever is more
LEAST_REMOVED = 1024  # rows that no longer count, below which it is not worth new files
_ROWS = 1 << 14  # copied at once


def append_rows(
    snapshot: Snapshot, names: Sequence[bytes], vectors: Tensor, replaced: NDArray[np.int64]
) -> None:
    """Put rows behind the others; those of ``replaced`` count no longer.

    Raises:
        FaultError: if a file cannot be written.
    """
    directory, manifest = snapshot.directory, snapshot.manifest
    numbers = np.arange(manifest.rows, manifest.rows + len(names))
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    ends = np.cumsum(lengths) + manifest.columns["names"].size
    parts: dict[str, Any] = {
        "vectors": vectors.numpy(),
        "names": b"".join(names),
        "ends": ends,
        "removed": replaced,
    }
    columns = dict(manifest.columns)
    for name, part in parts.items():
        if len(part):
            columns[name] = append(directory / manifest.column_name(name), columns[name], [part])
    taken = runs_to_merge([run.rows for run in manifest.runs], len(names))
    kept = len(manifest.runs) - taken
    keys = sorted_keys(hashes_of(names), numbers)
    run = _write_run(directory, manifest, merged([*snapshot.names.runs[kept:], keys]))
    longest = float(vectors.norm(dim=1).max()) ** 2
    _commit(
        directory,
        replace(
            manifest,
            columns=columns,
            rows=manifest.rows + len(names),
            runs=(*manifest.runs[:kept], run),
            longest=max(manifest.longest, longest),
            next_number=manifest.next_number + 1,
        ),
    )


def remove_rows(snapshot: Snapshot, rows: NDArray[np.int64]) -> None:
    """Rows count no longer; what they take is given back by ``compact``.

    Raises:
        FaultError: if a file cannot be written.
    """
    manifest = snapshot.manifest
    path = snapshot.directory / manifest.column_name("removed")
    columns = {**manifest.columns, "removed": append(path, manifest.columns["removed"], [rows])}
    _commit(snapshot.directory, replace(manifest, columns=columns))


def compact(snapshot: Snapshot) -> bool:
    """Write the rows that count anew, if a quarter of all no longer does; returns whether it did.

    Raises:
        FaultError: if a file cannot be written.
    """
    manifest, directory = snapshot.manifest, snapshot.directory
    alive = snapshot.gallery.alive
    if alive is None or manifest.removed < max(LEAST_REMOVED, manifest.rows // 4):
        return False
    new = Manifest(manifest.dimension, manifest.metric, manifest.kind, manifest.model)
    new = replace(
        new,
        generation=manifest.generation + 1,
        next_number=manifest.next_number,
        rows=len(snapshot),
        longest=manifest.longest,
    )
    ends = snapshot.names.ends
    lengths = np.diff(ends, prepend=0)
    columns = dict(new.columns)
    with new_file(directory / new.column_name("vectors")) as file:
        for first in range(0, manifest.rows, _ROWS):
            there = alive[first : first + _ROWS]
            file.write(snapshot.gallery.vectors[first : first + _ROWS][there])
        columns["vectors"] = Column(file.size, file.crc)
    with new_file(directory / new.column_name("names")) as file:
        for first in range(0, manifest.rows, _ROWS):
            some = slice(first, first + _ROWS)
            begin = int(ends[first - 1]) if first else 0
            text = snapshot.names.text[begin : int(ends[some][-1])]
            file.write(text[np.repeat(alive[some], lengths[some])])
        columns["names"] = Column(file.size, file.crc)
    with new_file(directory / new.column_name("ends")) as file:
        file.write(np.cumsum(lengths[alive]))
        columns["ends"] = Column(file.size, file.crc)
    runs: tuple[KeyRun, ...] = ()
    if new.rows:
        keys = merged(snapshot.names.runs)
        counts = alive[keys.rows]
        places = np.cumsum(alive) - 1
        moved = Keys(keys.hashes[counts], places[keys.rows[counts]])
        runs = (_write_run(directory, new, moved),)
    _commit(
        directory,
        replace(new, columns=columns, runs=runs, next_number=new.next_number + len(runs)),
    )
    return True


def extend_segments(snapshot: Snapshot) -> bool:
    """Build a segment for the rows behind the others, if they are many; returns whether it did.

    It takes in the segments before that are no longer than what it holds: each row is written log N
    times on average, and there are at most log N segments.

    Raises:
        FaultError: if a file cannot be written.
    """
    manifest, directory = snapshot.manifest, snapshot.directory
    behind = manifest.rows - manifest.covered
    least = FROM_ROWS.get(manifest.kind)
    if least is None or manifest.rows < least or find_spec("faiss") is None:
        return False
    # Tuning looks at all rows for some queries: rarer as the index grows.
    if manifest.segments and behind < max(TAIL_ROWS, manifest.covered // _TAIL_SHARE):
        return False
    sizes = [segment.stop - segment.start for segment in manifest.segments]
    kept = manifest.segments[: len(sizes) - runs_to_merge(sizes, behind)]
    start = kept[-1].stop if kept else 0
    made = build_segment(
        directory,
        snapshot.gallery,
        "ivf" if manifest.kind == "auto" else manifest.kind,
        manifest.next_number,
        start,
        manifest.rows,
    )
    _commit(
        directory,
        replace(manifest, segments=(*kept, made), next_number=manifest.next_number + 1),
    )
    return True


def _write_run(directory: Path, manifest: Manifest, keys: Keys) -> KeyRun:
    number = manifest.next_number
    with new_file(directory / run_name(number)) as file:
        file.write(np.ascontiguousarray(keys.hashes))
        file.write(np.ascontiguousarray(keys.rows))
    return KeyRun(number, len(keys.rows), file.crc)


def _commit(directory: Path, manifest: Manifest) -> None:
    manifest.write(directory)
    clear_leftovers(directory, manifest)
