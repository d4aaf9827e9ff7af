"""Where records go: a logger takes flat dicts of numbers, one per log interval or evaluation."""

from typing import Any, Protocol

Record = dict[str, Any]


class Logger(Protocol):
    """A destination of records; every record has ``step`` and ``epoch``."""

    def rewind(self, step: int, records: int) -> None:
        """Forget what lies after ``step``, or after so many records: a resumed run writes it again."""

    def log(self, record: Record) -> None:
        """Take one record."""

    def close(self) -> None:
        """Flush and let go."""
