"""Configuration files: a small, strict YAML.

A file may come from somewhere else, inside a checkpoint for example, so reading it costs little and
does nothing: no tags, no anchors and aliases, no duplicate keys, at most 1 MB. Scalars follow the
YAML 1.2 core schema: ``1e-3`` is a number, ``yes``, ``no`` and ``2024-01-01`` are text.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.utils.errors import ConfigError

MAX_BYTES = 1_000_000
_MAX_DEPTH = 20
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LAST_PART = re.compile(r"(\[\d+\]|\.?[^.\[]+|.)$")
_WORDS = {"": None, "~": None, "true": True, "false": False} | {
    sign + word: float(sign + word[1:]) for word in (".inf", ".nan") for sign in ("", "+", "-")
}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class ConfigFile:
    """The values of a file, and where each of them stands.

    Attributes:
        shown: The file's name in messages.
        content: Its values.
        lines: The line of every key, counted from 1.
        comments: What follows a value on its line, without the ``#``.
        unsaid: Keys with nothing behind them, e.g. a section of which every line is a comment.
    """

    shown: str
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    unsaid: frozenset[str] = frozenset()

    def place(self, key: str) -> str:
        """``file:line`` of a key, or of the nearest section around it."""
        while key and key not in self.lines:
            key = _LAST_PART.sub("", key)
        return f"{self.shown}:{self.lines[key]}" if key else self.shown

    def under(self, group: str) -> "ConfigFile":
        """The same values as a section of a whole configuration."""
        lines = {f"{group}.{key}": line for key, line in self.lines.items()}
        return ConfigFile(self.shown, {group: self.content}, lines, {})


def read_config(path: Path) -> ConfigFile:
    """Read and check a file.

    Raises:
        ConfigError: in one line, if it is not a regular file of at most 1 MB of plain YAML.
    """
    shown = show_path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO: no wait
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{shown} is no regular file; expected a YAML file")
            if status.st_size > MAX_BYTES:
                raise ConfigError(
                    f"{shown} has {status.st_size:,} bytes; the limit is {MAX_BYTES:,}"
                )
            data = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise ConfigError(f"{shown} is a directory; expected a YAML file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read {shown}: {reason}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown} is not UTF-8 (byte {error.start})") from None
    return parse_config(text, shown)


def parse_config(text: str, shown: str) -> ConfigFile:
    """Read the text of a configuration; ``shown`` names it in messages.

    Raises:
        ConfigError: in one line, if it is not plain YAML holding keys and values.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{shown} has {len(text):,} characters; the limit is {MAX_BYTES:,}")
    for number, line in enumerate(text.splitlines()[:10], 1):
        if line.startswith("# @package"):
            raise ConfigError(
                f"{shown}:{number}: '# @package' has no meaning here; a group's file gives the "
                "values below the group's name"
            )
    reader = _Reader(shown, text.split("\n"))
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{shown}{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{shown}: not YAML: {reason}") from None
    if reader.root is None:
        return ConfigFile(shown)
    if not isinstance(reader.root, dict):
        kind = "a list" if isinstance(reader.root, list) else "a single value"
        raise ConfigError(f"{shown} holds {kind}; expected keys and values")
    return ConfigFile(shown, reader.root, reader.lines, reader.comments, frozenset(reader.unsaid))


def parse_scalar(text: str) -> Any:
    """What plain, unquoted text means: a number, a truth value, null, or itself.

    Raises:
        ValueError: for an integer of thousands of digits.
    """
    if text.lower() in _WORDS or text.lower() == "null":
        return _WORDS.get(text.lower())
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def show_path(path: Path) -> str:
    """A path for messages: relative when it lies below the working directory."""
    path = path.absolute()
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return "".join(c if c.isprintable() else "?" for c in str(shown))


class _Reader:
    """Builds plain values from YAML events, one at a time, without recursion."""

    def __init__(self, shown: str, text: list[str]) -> None:
        self.root: Any = None
        self.lines: dict[str, int] = {}
        self.comments: dict[str, str] = {}
        self.unsaid: list[str] = []
        self._shown = shown
        self._text = text
        self._documents = 0
        self._containers: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []  # per container: the key that waits for its value
        self._names: list[str] = []  # per container: its dotted key

    def take(self, event: Any) -> None:
        """Handle the next event of the parser."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error(event, "a second document; expected one")
        elif isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"alias '*{event.anchor}' is refused; refer with ${{key}}")
        elif hasattr(event, "anchor"):
            if event.anchor is not None:
                raise self._error(event, f"anchor '&{event.anchor}' is refused")
            if event.tag is not None:
                raise self._error(event, f"tag '{event.tag}' is refused; write a plain value")
            if isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            else:
                self._open({} if isinstance(event, yaml.MappingStartEvent) else [], event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._containers.pop()
            self._keys.pop()
            self._note(self._names.pop(), event)

    def _open(self, container: dict[str, Any] | list[Any], event: Any) -> None:
        if self._waits_for_key():
            raise self._error(event, "a key must be text")
        if len(self._containers) >= _MAX_DEPTH:
            raise self._error(event, f"nested deeper than {_MAX_DEPTH} levels")
        name = self._place(container)
        self._containers.append(container)
        self._keys.append(None)
        self._names.append(name)

    def _scalar(self, event: Any) -> None:
        if not self._waits_for_key():
            name = self._place(self._value(event))
            if not event.value and event.implicit[0]:
                self.unsaid.append(name)
            self._note(name, event)
            return
        key, container = event.value, self._containers[-1]
        name = f"{self._names[-1]}.{key}" if self._names[-1] else key
        if not key:
            raise self._error(event, "an empty key")
        if key in container:
            first = self.lines[name]
            raise self._error(event, f"key '{name}' is given twice (first in line {first})")
        self._keys[-1] = key
        self.lines[name] = event.start_mark.line + 1

    def _waits_for_key(self) -> bool:
        return bool(
            self._containers and isinstance(self._containers[-1], dict) and self._keys[-1] is None
        )

    def _place(self, value: Any) -> str:
        """Put a value where it belongs; returns its dotted key."""
        if not self._containers:
            self.root = value
            return ""
        container, name = self._containers[-1], self._names[-1]
        if isinstance(container, list):
            container.append(value)
            return f"{name}[{len(container) - 1}]"
        key = self._keys[-1] or ""
        container[key] = value
        self._keys[-1] = None
        return f"{name}.{key}" if name else key

    def _value(self, event: Any) -> Any:
        if not event.implicit[0]:  # quoted, or a block of text
            return event.value
        try:
            return parse_scalar(event.value)
        except ValueError:
            raise self._error(event, "a number of too many digits") from None

    def _note(self, name: str, event: Any) -> None:
        """Keep the comment behind a value."""
        mark = event.end_mark
        rest = self._text[mark.line][mark.column :].strip() if mark.line < len(self._text) else ""
        if rest.startswith("#"):
            self.comments[name] = rest[1:].strip()

    def _error(self, event: Any, problem: str) -> ConfigError:
        return ConfigError(f"{self._shown}:{event.start_mark.line + 1}: {problem}")
