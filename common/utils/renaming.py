"""The engine's messages in the words of a project's own configuration.

The Trainer speaks of ``trainer.max_epochs``; who types ``training.num_epochs`` should not have to know
that.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loguru import logger

from common.utils.errors import RepriseError

if TYPE_CHECKING:
    from loguru import Record


class OwnNames:
    """Renames keys in messages.

    Args:
        keys: The engine's key, or how several begin (``optim.``), to the project's own. Of two that
            fit, the first counts.
        words: Names that are replaced wherever they stand as a word.
    """

    def __init__(self, keys: Mapping[str, str], words: Mapping[str, str] | None = None) -> None:
        words = words or {}
        self._names = {**words, **keys}
        patterns = [rf"(?<![\w.])(?:{'|'.join(map(re.escape, keys))})"]
        patterns += [rf"\b{re.escape(word)}\b" for word in words]
        self._pattern = re.compile("|".join(patterns))

    def rename(self, text: str) -> str:
        """A message with the project's keys."""
        return self._pattern.sub(lambda found: self._names[found[0]], text)

    @contextmanager
    def used(self) -> Iterator[None]:
        """What ``common`` logs, and what is raised inside, names the project's keys."""

        def rename(record: "Record") -> None:
            if (record["name"] or "").startswith("common."):
                record["message"] = self.rename(record["message"])

        logger.configure(patcher=rename)
        try:
            yield
        except RepriseError as error:
            error.args = (self.rename(str(error)), *error.args[1:])
            raise
        finally:
            logger.configure(patcher=lambda record: None)
