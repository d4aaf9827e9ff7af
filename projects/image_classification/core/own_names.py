"""The engine's messages in the words of this project's configuration.

The Trainer speaks of ``trainer.privacy.secret_seed``; who types ``training.dp.secret_seed`` should not
have to know that.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loguru import logger

from common.utils.errors import RepriseError

if TYPE_CHECKING:
    from loguru import Record

_NAMES = {
    "trainer.strategy=private": "training.trainer_type=dp",
    "trainer.privacy": "training.dp",
    "trainer.max_epochs": "training.num_epochs",
    "trainer.accumulate": "training.gradient_accumulation_steps",
    "trainer.precision": "training.amp_dtype",
    "trainer.strategy": "training.trainer_type",
    "trainer.deterministic": "deterministic",
    "trainer.": "training.",
    "optim.": "optimizer.",
    "schedule.": "scheduler.",
    "warmup_steps": "warmup_epochs",
}
_PATTERN = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, _NAMES))})|\bwarmup_steps\b")


def in_own_names(text: str) -> str:
    """A message with the keys of ``core.config``."""
    return _PATTERN.sub(lambda found: _NAMES[found[0]], text)


@contextmanager
def own_names() -> Iterator[None]:
    """What is logged or raised inside names this project's keys."""

    def rename(record: "Record") -> None:
        if (record["name"] or "").startswith("common."):
            record["message"] = in_own_names(record["message"])

    logger.configure(patcher=rename)
    try:
        yield
    except RepriseError as error:
        error.args = (in_own_names(str(error)), *error.args[1:])
        raise
    finally:
        logger.configure(patcher=lambda record: None)
