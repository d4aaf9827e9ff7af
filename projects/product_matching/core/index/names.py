"""Names and rows of a vector index, both ways, without holding the names in memory.

The names lie one after the other in a mapped file, and where each ends in another. The way back
goes through 64-bit hashes in a few sorted runs: an addition writes a run of its own, and runs that
are no longer than what comes behind them are merged, so that there are at most log N of them and an
addition costs O(n log N) on average. Names whose hashes are equal are told apart by their bytes.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.utils.errors import DataError, FaultError
from common.utils.text import printable

_BREAKS = ("Cc", "Cs", "Zl", "Zp")  # what a line of UTF-8 cannot hold


@dataclass(frozen=True)
class Keys:
    """Sorted hashes (uint64) and their rows (int64)."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Names:
    """The names of all rows.

    Attributes:
        text: UTF-8 of all names, uint8.
        ends: Where the name of each row ends in it.
        runs: From hashes to rows.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    runs: tuple[Keys, ...]

    def bytes_of(self, row: int) -> bytes:
        """The name of a row in UTF-8."""
        start = int(self.ends[row - 1]) if row else 0
        return self.text[start : int(self.ends[row])].tobytes()

    def name(self, row: int) -> str:
        """The name of a row."""
        return self.bytes_of(row).decode("utf-8", "replace")

    def rows_of(self, names: Sequence[bytes], alive: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """The row of each name that counts, -1 for those that are not there.

        Args:
            names: In UTF-8.
            alive: Which rows count; ``None`` if all do.

        Raises:
            FaultError: if the hashes lead to a row that does not exist.
        """
        found = np.full(len(names), -1, np.int64)
        hashes = hashes_of(names)
        for run in self.runs:
            first = np.searchsorted(run.hashes, hashes, "left")
            last = np.searchsorted(run.hashes, hashes, "right")
            for place in (first < last).nonzero()[0].tolist():
                for row in run.rows[first[place] : last[place]].tolist():
                    if not 0 <= row < len(self.ends):
                        raise FaultError(
                            f"the keys of the index name row {row} of {len(self.ends):,}; restore "
                            "the folder from a copy, or build it anew"
                        )
                    counts = alive is None or alive[row]
                    if counts and self.bytes_of(row) == names[place]:
                        found[place] = row
        return found


def encoded(names: Sequence[str]) -> list[bytes]:
    """Names in UTF-8, each on one line and given once.

    Raises:
        DataError: for a name that is empty, twice there, no text, or breaks a line.
    """
    for name in names:
        if not isinstance(name, str) or not name:
            raise DataError(f"an id is {name!a}; expected a name such as 'shoes/1.jpg'")
        if name.isprintable():
            continue
        bad = next((c for c in name if unicodedata.category(c) in _BREAKS), None)
        if bad is not None:
            what = "bytes that are no UTF-8" if 0xD800 <= ord(bad) <= 0xDFFF else f"{bad!a}"
            raise DataError(
                f"the id '{printable(name)}' holds {what}; an id is one line of plain text: rename "
                "the file"
            )
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DataError(
            f"the id '{printable(twice)}' is given twice ({len(names):,} ids, {len(set(names)):,} "
            "different); give every id once"
        )
    return [name.encode() for name in names]


def hashes_of(names: Sequence[bytes]) -> NDArray[np.uint64]:
    """64 bits of each name's BLAKE2b."""
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8")


def sorted_keys(hashes: NDArray[np.uint64], rows: NDArray[np.int64]) -> Keys:
    """Hashes in their order, with their rows."""
    order = np.argsort(hashes, kind="stable")
    return Keys(hashes[order], rows[order])


def merged(runs: Sequence[Keys]) -> Keys:
    """One run of several."""
    hashes = np.concatenate([run.hashes for run in runs])
    return sorted_keys(hashes, np.concatenate([run.rows for run in runs]))


def runs_to_merge(rows: Sequence[int], added: int) -> int:
    """How many of the newest runs a new one takes in: those no longer than what lies behind."""
    taken = 0
    while taken < len(rows) and rows[-1 - taken] <= added:
        added += rows[-1 - taken]
        taken += 1
    return taken


def keys_from(file: NDArray[Any]) -> Keys:
    """The two halves of a key file."""
    half = len(file) // 2
    return Keys(file[:half], file[half:].view(np.int64))
