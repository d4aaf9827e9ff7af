"""Who decided a value, how long it lives, and the comment that says so in a saved configuration.

An ``Origin`` is written behind a value (``# DERIVED: from optim.lr``) and read back from there. What
comes from a variable whose name looks like a password's is secret: it is used, and never saved.
"""

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from common.utils.errors import ConfigError

_SECRET = re.compile(
    r"(KEYS?|TOKEN|PASSWORDS?|PASSWD|PASSPHRASE|SECRETS?|CREDENTIALS?)(_|\d*$)", re.IGNORECASE
)
_FROM, _STALE = "from ", "stale, "


class Source(StrEnum):
    """Who decided a value."""

    USER = "USER"
    ENV = "ENV"
    DATA = "DATA"
    DERIVED = "DERIVED"
    DEFAULT = "DEFAULT"


class Lifetime(IntEnum):
    """How long a value is kept; what ends also ends all that is shorter."""

    STEP = 1
    EPOCH = 2
    RUN = 3


class ConfigConflictError(ConfigError):
    """Two who decide a value do not agree: the user and the data, or two parts of the data."""


class StaleValueError(ConfigError):
    """A value was derived from another one that has changed since."""


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        source: Who decided it.
        text: For the USER ``command line`` or the file; for the DATA what of it says so.
        place: The same for messages, with the file's line.
        names: The variables an ENV value comes from; the keys a value is DERIVED from.
        stale: Whether one of those keys has changed since.
        reference: Of a secret: what is saved in place of the value.
    """

    source: Source
    text: str = ""
    place: str = ""
    names: tuple[str, ...] = ()
    stale: bool = False
    reference: Any = None

    @property
    def secret(self) -> bool:
        """Whether the value must not be written anywhere."""
        return self.source is Source.ENV and any(map(is_secret, self.names))

    @property
    def is_data(self) -> bool:
        """Whether the data decided the value."""
        return self.source is Source.DATA

    @property
    def is_users(self) -> bool:
        """Whether a person decided the value, by a setting or through the environment."""
        return self.source in (Source.USER, Source.ENV)

    def __str__(self) -> str:
        text = " ".join(self.text.split())  # one line, whatever a file is called
        if self.source is Source.ENV:
            text = ", ".join(self.names)
        elif self.source is Source.DERIVED and self.names:
            stale = _STALE if self.stale else ""
            text = f"{stale}{_FROM}{', '.join(self.names)}"
        return f"{self.source}: {text}" if text else str(self.source)

    @classmethod
    def parse(cls, comment: str, place: str) -> "Origin":
        """Read back what ``str`` gave; anything else is a USER's value."""
        name, _, text = comment.partition(": ")
        if name not in list(Source):
            return cls(Source.USER, place, place)
        source = Source(name)
        if source is Source.ENV:
            return cls(source, place=place, names=tuple(text.split(", ")) if text else ())
        kept = text.removeprefix(_STALE)
        if source is Source.DERIVED and kept.startswith(_FROM):
            names = tuple(kept.removeprefix(_FROM).split(", "))
            return cls(source, place=place, names=names, stale=kept != text)
        return cls(source, text, place)


def is_secret(variable: str) -> bool:
    """Whether a variable's name says that its value is nobody's business: ``HUB_TOKEN``."""
    return _SECRET.search(variable) is not None
