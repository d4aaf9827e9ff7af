"""``metrics.jsonl``: one JSON object per line, the primary record of a run."""

import json
from contextlib import suppress
from pathlib import Path
from typing import IO

from common.training.loggers.base import Record
from common.utils.files import atomic_write_text, explained_write


class JsonlLogger:
    """Appends records to a file; each line is handed to the system before the call returns.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def rewind(self, step: int, records: int) -> None:
        self.close()
        if self._path.exists():
            kept = self._path.read_text().splitlines()[:records]
            atomic_write_text(self._path, "".join(f"{line}\n" for line in kept))

    def log(self, record: Record) -> None:
        with explained_write(self._path):
            if self._file is None:
                self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (kept open)
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a line that did not fit is still in the buffer
                self._file.close()
            self._file = None
