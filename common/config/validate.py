"""Plain values against the kinds a schema declares: exact types, limits, finite numbers.

The rules are the same for a file and for the command line: ``1`` is a float where a float is
wanted, ``1.5`` and ``true`` are no integers, ``yes`` is no boolean, ``null`` is for optional keys.
"""

import enum
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from common.config.schema import (
    MISSING,
    Field,
    Option,
    defaults_of,
    fields_of,
    members,
    open_kind,
    section_of,
    suggest,
)
from common.utils.errors import ConfigError
from common.utils.text import nearest

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


class InvalidValue(ConfigError):
    """A key or its value is wrong; whoever knows where it came from says so.

    Attributes:
        key: The dotted key.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key = key


def check_partial(schema: type, tree: dict[str, Any]) -> None:
    """Check the values one file or override gives; references and missing keys may stand.

    Raises:
        InvalidValue: for the first key or value that is wrong.
    """
    _convert_section(schema, schema, tree, "", partial=True)


def build(schema: type, tree: dict[str, Any]) -> Any:
    """Make the schema's instance from a complete tree.

    Raises:
        InvalidValue: for the first key or value that is wrong, also by ``__post_init__``.
    """
    return _convert_section(schema, schema, tree, "", partial=False)


def check_value(schema: type, field: Field, value: Any) -> None:
    """Check what an override gives for one key.

    Raises:
        InvalidValue: if it is not a value of the field.
    """
    _convert(schema, field, value, partial=True)


def wants_text(kind: Any) -> bool:
    """Whether every value of this kind is text, so that ``name=123`` means the text 123."""
    return all(member in (str, Path, types.NoneType) for member in members(kind))


def describe(kind: Any) -> str:
    """A kind in words: ``a number or null``."""
    words = []
    for member in sorted(members(kind), key=lambda m: m is types.NoneType):
        origin, arguments = typing.get_origin(member), typing.get_args(member)
        if member is types.NoneType:
            words.append("null")
        elif member in _NAMES:
            words.append(_NAMES[member])
        elif origin is typing.Literal:
            words.append("one of " + ", ".join(map(str, arguments)))
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            words.append("one of " + ", ".join(member.__members__))
        elif origin in (list, tuple) or member in (list, tuple):
            inner = [describe(a) for a in arguments if a is not Ellipsis]
            plural = f" ({', '.join(inner)})" if inner else ""
            words.append(f"a list{plural}")
        elif section_of(member) is not None or open_kind(member) is not None:
            words.append("a section of keys")
        else:
            words.append("any value")
    return " or ".join(words)


def expected(field: Field) -> str:
    """What a field takes, in words: its kind, or its choices, and its limits."""
    kind = describe(field.kind)
    if field.option.choices:
        several = "a list of some of " if kind.startswith("a list") else "one of "
        kind = several + ", ".join(map(str, field.option.choices))
        if types.NoneType in members(field.kind):
            kind += " or null"
    return f"{kind}, {field.option.limits}" if field.option.limits else kind


def _convert(root: type, field: Field, value: Any, partial: bool) -> Any:
    """One value as its field's kind; ``root`` is the whole schema, for suggestions."""
    if partial and isinstance(value, str) and ("${" in value or value == MISSING):
        return value  # seen again once references are resolved
    if isinstance(value, str) and value == MISSING:
        raise InvalidValue(field.key, f"has no value and no default; add {field.key}=...")
    for kind in members(field.kind):
        if (section := section_of(kind)) is not None and isinstance(value, dict):
            return _convert_section(root, section, value, f"{field.key}.", partial)
        converted = _match(root, Field(field.key, kind, field.option), value, partial)
        if converted is not _NO_MATCH:
            _check_limits(field, value)
            return converted
    raise InvalidValue(field.key, f"is {show(value)}, expected {describe(field.kind)}")


_NO_MATCH: Any = object()


def _match(root: type, field: Field, value: Any, partial: bool) -> Any:
    kind, origin = field.kind, typing.get_origin(field.kind)
    arguments = typing.get_args(kind)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(field.key, f"is {value}, expected a finite number")
    if kind is Any:
        return check_finite(field.key, value)
    if kind is types.NoneType:
        return None if value is None else _NO_MATCH
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return _float(field.key, value) if is_number else _NO_MATCH
    if kind in (bool, int, str):
        return value if type(value) is kind else _NO_MATCH
    if kind is Path:
        return Path(value) if isinstance(value, str) and value else _NO_MATCH
    if origin is typing.Literal:
        same = [a for a in arguments if a == value and type(a) is type(value)]
        return same[0] if same else _NO_MATCH
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind.__members__.get(value, _NO_MATCH) if isinstance(value, str) else _NO_MATCH
    if kind in (list, tuple) or origin in (list, tuple):
        return _match_list(root, field, value, partial)
    if (value_kind := open_kind(kind)) is not None:
        if not isinstance(value, dict):
            return _NO_MATCH
        return {
            name: _convert(root, Field(f"{field.key}.{name}", value_kind, Option()), item, partial)
            for name, item in value.items()
        }
    if section_of(kind) is not None:
        return _NO_MATCH
    raise TypeError(f"{field.key}: a schema cannot hold {kind}")


def _match_list(root: type, field: Field, value: Any, partial: bool) -> Any:
    if not isinstance(value, list):
        return _NO_MATCH
    arguments = typing.get_args(field.kind) or (Any,)
    is_tuple = tuple in (field.kind, typing.get_origin(field.kind))
    if is_tuple and len(arguments) > 1 and arguments[-1] is not Ellipsis:
        if len(arguments) != len(value):
            raise InvalidValue(
                field.key, f"has {len(value)} items, expected {len(arguments)}: {show(value)}"
            )
        kinds = arguments
    else:
        kinds = (arguments[0],) * len(value)
    items = [
        _convert(root, Field(f"{field.key}[{index}]", kind, field.option), item, partial)
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(items) if is_tuple else items


def _convert_section(
    root: type, schema: type, tree: dict[str, Any], prefix: str, partial: bool
) -> Any:
    fields = fields_of(schema, prefix)
    if not partial:
        tree = defaults_of(schema) | tree
    for name in tree:
        if name not in fields:
            key = f"{prefix}{name}"
            raise InvalidValue(key, f"is not a key; {suggest(root, key)}")
    values = {
        name: _convert(root, field, tree[name], partial)
        for name, field in fields.items()
        if name in tree
    }
    if partial:
        return values
    try:
        return schema(**values)
    except ValueError as error:
        section = prefix.rstrip(".") or "the configuration"
        raise InvalidValue(section, f"does not fit together: {error}") from None


def _check_limits(field: Field, value: Any) -> None:
    option = field.option
    if value is None or isinstance(value, list | dict):
        return  # a list's items are checked one by one
    if option.choices and value not in option.choices:
        valid = ", ".join(map(str, option.choices))
        match = nearest(str(value), map(str, option.choices))
        hint = f"; did you mean '{match}'?" if match else ""
        raise InvalidValue(field.key, f"is {show(value)}, expected one of {valid}{hint}")
    if isinstance(value, int | float) and not option.within(value):
        raise InvalidValue(field.key, f"is {show(value)}, expected {option.limits}")


def _float(key: str, value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidValue(key, "is an integer too large for a number") from None


def check_finite(key: str, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(key, f"is {value}, expected a finite number")
    if isinstance(value, dict):
        for name, item in value.items():
            check_finite(f"{key}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_finite(f"{key}[{index}]", item)
    return value


def show(value: Any) -> str:
    """A value as YAML would write it, cut to a line's worth."""
    text = (
        f"'{value}'"
        if isinstance(value, str) and value.isprintable()
        else json.dumps(value, default=str)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
