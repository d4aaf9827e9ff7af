"""Where every value of a run comes from, and how long it lives.

A value comes from the USER (command line or file), from the DATA (``vocab_size``), is DERIVED
(``total_steps``) or is the schema's DEFAULT; it lives for a STEP, an EPOCH or the RUN. The resolved
configuration that is saved with a run says so on every line, and can be read back.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import yaml

from common.config.tree import ABSENT, leaves, merge, nest, plain, read, write
from common.config.validate import show
from common.utils.errors import ConfigError

_PLAIN_TEXT = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


class Source(StrEnum):
    """Who decided a value."""

    USER = "USER"
    DATA = "DATA"
    DERIVED = "DERIVED"
    DEFAULT = "DEFAULT"


class Lifetime(IntEnum):
    """How long a value is kept; what ends also ends all that is shorter."""

    STEP = 1
    EPOCH = 2
    RUN = 3


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        source: Who decided it.
        text: For the USER: ``command line`` or the file.
        place: The same for messages, with the file's line.
    """

    source: Source
    text: str = ""
    place: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.text}" if self.text else str(self.source)

    @classmethod
    def parse(cls, comment: str, place: str) -> "Origin":
        """Read back what ``str`` gave; anything else is a USER's value."""
        source, _, text = comment.partition(": ")
        return (
            cls(Source(source), text, place)
            if source in list(Source)
            else cls(Source.USER, place, place)
        )


class ConfigConflictError(ConfigError):
    """The user set a value that contradicts the data."""


class RunContext:
    """The values of a run beside its configuration, and the source of each.

    Args:
        config: The schema's instance; values that data decides are written into it.
        origins: Where its values come from; what is not named is a DEFAULT.
        experiment: The name of the paper's or project's folder.
        overrides: The overrides of this run, as typed.
        config_file: The file the configuration was read from.
        extra: Values added with ``+new.key=1`` that the schema does not know.
        resume: The run directory to continue in.
        run_dir: The run directory an evaluation reads.
        checkpoint: What an evaluation loads: ``final``, ``best``, ``last`` or a path.
        dry_run: Whether to do one step only.
    """

    def __init__(
        self,
        config: Any = None,
        origins: Mapping[str, Origin] | None = None,
        *,
        experiment: str = "",
        overrides: Sequence[str] = (),
        config_file: Path | None = None,
        extra: dict[str, Any] | None = None,
        resume: Path | None = None,
        run_dir: Path | None = None,
        checkpoint: str = "best",
        dry_run: bool = False,
    ) -> None:
        self.experiment = experiment
        self.overrides = list(overrides)
        self.config_file = config_file
        self.extra = extra or {}
        self.resume = resume
        self.run_dir = run_dir
        self.checkpoint = checkpoint
        self.dry_run = dry_run
        self._config = config
        self._origins = dict(origins or {})
        self._values: dict[Lifetime, dict[str, tuple[Any, Origin]]] = {t: {} for t in Lifetime}

    @property
    def checkpoint_path(self) -> Path | None:
        """The file an evaluation loads; ``None`` without a run."""
        if self.run_dir is not None and self.checkpoint == "final":
            return self.run_dir / "model.safetensors"
        if self.run_dir is not None and self.checkpoint in ("best", "last"):
            return self.run_dir / "checkpoints" / f"{self.checkpoint}.pt"
        return None if self.run_dir is None else Path(self.checkpoint).expanduser()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key: the shortest-lived one there is, else the configuration's."""
        for values in self._values.values():
            if key in values:
                return values[key][0]
        for tree in (self._config, self.extra):
            value = read(tree, key)
            if value is not ABSENT:
                return value
        return default

    def source(self, key: str) -> Source:
        """Who decided the value that ``get`` returns.

        Raises:
            KeyError: if there is no such key.
        """
        return self._origin(key).source

    def set(self, key: str, value: Any, source: Source, lifetime: Lifetime = Lifetime.RUN) -> None:
        """Record a value; a RUN's value of a key of the configuration is written into it.

        Raises:
            TypeError: if a RUN's value could not be saved with the run.
        """
        if lifetime is Lifetime.RUN:
            value = plain(value)
            if read(self._config, key) is not ABSENT:
                write(self._config, key, value)
                self._origins[key] = Origin(source)
                return
        self._values[lifetime][key] = (value, Origin(source))

    def resolve(self, key: str, value: Any, source: Source = Source.DATA) -> Any:
        """The data, or a derivation from it, says what ``key`` is.

        It fills what nobody set. What the user set stays: a derivation gives way to it, and data
        that says otherwise stops the run.

        Returns:
            The value that holds from now on.

        Raises:
            ConfigConflictError: naming both values and where the user's stands.
        """
        current = self.get(key, ABSENT)
        if current is not ABSENT and current is not None:
            origin = self._origin(key)
            if origin.source is Source.USER:
                if source is Source.DATA and plain(current) != plain(value):
                    raise ConfigConflictError(
                        f"{key} is {show(plain(current))} ({origin.place or origin.text}), but "
                        f"the data says {show(plain(value))}; remove the setting, or use the data "
                        "it belongs to"
                    )
                return current
            if origin.source is Source.DATA and source is Source.DERIVED:
                return current
        self.set(key, value, source)
        return value

    def end(self, lifetime: Lifetime) -> None:
        """Forget the values of a step, an epoch or the run that is over."""
        for shorter in Lifetime:
            if shorter <= lifetime:
                self._values[shorter].clear()

    def values(self, source: Source) -> dict[str, Any]:
        """All values of the run that one source decided, by key."""
        return {
            key: value for key, value in leaves(self._tree()) if self._origin(key).source is source
        }

    def to_yaml(self) -> str:
        """The resolved configuration; every line ends in a comment that names its source."""
        lines = list(self._lines(self._tree(), "", ""))
        return "\n".join(lines) + "\n" if lines else ""

    def _origin(self, key: str) -> Origin:
        for values in self._values.values():
            if key in values:
                return values[key][1]
        if key in self._origins:
            return self._origins[key]
        if self.get(key, ABSENT) is ABSENT:
            raise KeyError(key)
        return Origin(Source.DEFAULT)

    def _tree(self) -> dict[str, Any]:
        tree = plain(self._config) if self._config is not None else {}
        merge(tree, plain(self.extra))
        for key, (value, _) in self._values[Lifetime.RUN].items():
            merge(tree, nest(key, value))
        return tree

    def _lines(self, tree: dict[str, Any], prefix: str, indent: str) -> Iterator[str]:
        for name, value in tree.items():
            key, label = f"{prefix}{name}", f"{indent}{_scalar(name)}:"
            if isinstance(value, dict) and value:
                yield label
                yield from self._lines(value, f"{key}.", f"{indent}  ")
            else:
                yield f"{label} {_flow(value)}  # {self._origin(key)}"


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, int | float):
        return repr(value)
    if _PLAIN_TEXT.fullmatch(value) and value.lower() not in _WORDS:
        return str(value)
    quoted = yaml.dump(value, default_style='"', width=math.inf, allow_unicode=True)
    return str(quoted).strip()
