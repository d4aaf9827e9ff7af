"""Plain trees: what YAML can hold, nested dicts with text keys; a key joins the names with dots."""

import dataclasses
import enum
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

ABSENT: Any = object()
"""What ``read`` returns when there is no such key."""


def plain(value: Any) -> Any:
    """A value as YAML can hold it: sections become dicts, tuples lists, paths and enums text.

    Raises:
        TypeError: if there is no such form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, PurePath):
        return str(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "item"):  # a NumPy or PyTorch number
        return plain(value.item())
    raise TypeError(f"{value!r} is not a configuration value")


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of all that is not a section; lists and empty sections are values."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    """Put the values of ``other`` into ``tree``, section by section."""
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            merge(tree[name], value)
        else:
            tree[name] = value


def nest(key: str, value: Any) -> dict[str, Any]:
    """The tree that holds one value: ``a.b`` -> ``{"a": {"b": value}}``."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def read(tree: Any, key: str) -> Any:
    """The value of a key in a plain tree or a schema's instance, else ``ABSENT``."""
    for name in key.split("."):
        if isinstance(tree, dict):
            tree = tree.get(name, ABSENT)
        elif dataclasses.is_dataclass(tree):
            tree = getattr(tree, name, ABSENT)
        else:
            return ABSENT
    return tree


def write(tree: Any, key: str, value: Any) -> None:
    """Replace the value of a key that ``read`` finds."""
    sections, _, name = key.rpartition(".")
    node = read(tree, sections) if sections else tree
    if isinstance(node, dict):
        node[name] = value
    else:
        setattr(node, name, value)
