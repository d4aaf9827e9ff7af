"""Which state of a file an index knows: size and time of what was embedded, kept beside the index.

A cache in SQLite, and no part of the index: what it lacks is embedded again. It is written after
the index, so that a file counts as known only when its vector is there.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from common.utils.errors import FaultError

STATES = "files.sqlite"
_WAIT = 60.0  # seconds for another process that writes


class FileStates:
    """States by name; a context manager.

    Args:
        path: Of the file; made if it is not there.

    Raises:
        FaultError: if it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self._base = sqlite3.connect(path, timeout=_WAIT)
        try:
            with self._explained(), self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, state TEXT NOT NULL)"
                    " WITHOUT ROWID"
                )
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._base.close()

    def known(self, names: Sequence[str]) -> dict[str, str]:
        """The states of those that have one.

        Raises:
            FaultError: if they cannot be read.
        """
        found = {}
        with self._explained():
            for name in names:
                query = "SELECT state FROM states WHERE name = ?"
                if row := self._base.execute(query, (name,)).fetchone():
                    found[name] = str(row[0])
        return found

    def record(self, states: Mapping[str, str]) -> None:
        """Keep states, durably and all or none.

        Raises:
            FaultError: if they cannot be written.
        """
        with self._explained(), self._base:
            self._base.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", states.items())

    def forget(self, names: Sequence[str]) -> None:
        """Remove states, those that are there.

        Raises:
            FaultError: if they cannot be written.
        """
        with self._explained(), self._base:
            self._base.executemany("DELETE FROM states WHERE name = ?", ((n,) for n in names))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise FaultError(
                f"{self.path} cannot be used: {error}; the index itself is whole. Make room, or if "
                "the file is damaged delete it: every image that is added is then embedded again"
            ) from None
