"""The fields of a schema: a dataclass whose fields carry their meaning and their limits.

A schema stands in the experiment's ``train.py``::

    @dataclass
    class Config:
        seed: int = option("seed of everything random", 0, ge=0)
        optim: OptimizerConfig = nested(OptimizerConfig)

This module reads schemas; ``validate`` reads values against them.
"""

import copy
import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from common.config.tree import plain
from common.utils.text import nearest

MISSING = "???"
"""The value of a key that has no default and was not given (OmegaConf's own mark)."""

_OPTION = "option"


@dataclass(frozen=True)
class Option:
    """What a field means and which values it takes."""

    help: str = ""
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def limits(self) -> str:
        """The numeric limits, e.g. ``"> 0 and <= 1"``; empty if there are none."""
        bounds = (("> ", self.gt), (">= ", self.ge), ("< ", self.lt), ("<= ", self.le))
        return " and ".join(f"{sign}{bound}" for sign, bound in bounds if bound is not None)

    def within(self, value: float) -> bool:
        """Whether a number respects the limits."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )


@dataclass(frozen=True)
class Field:
    """A key of a schema.

    Attributes:
        key: The dotted key, ``optim.lr``.
        kind: The annotation, ``float | None``.
        option: Its meaning and limits.
    """

    key: str
    kind: Any
    option: Option


def option(
    help: str,
    default: Any = MISSING,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    choices: Sequence[Any] = (),
) -> Any:
    """A documented field of a schema; limits hold for every number in a list.

    Args:
        help: One line for ``--help``.
        default: Its value when nobody says anything; without one, a value must be given.
        gt: Values are greater than this.
        ge: Values are at least this.
        lt: Values are less than this.
        le: Values are at most this.
        choices: The only values there are.
    """
    metadata = {_OPTION: Option(help, gt, ge, lt, le, tuple(choices))}
    if type(default).__hash__ is None:  # mutable: every instance gets its own
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nested(schema: type) -> Any:
    """A section: a field that is itself a schema."""
    return dataclasses.field(default_factory=schema)


def section_of(kind: Any) -> type | None:
    """The schema behind an annotation such as ``ModelConfig`` or ``ModelConfig | None``."""
    return next((k for k in members(kind) if isinstance(k, type) and is_dataclass(k)), None)


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union; one for any other annotation."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def fields_of(schema: type, prefix: str = "") -> dict[str, Field]:
    """The direct fields of a schema by name; ``prefix`` goes before their keys."""
    kinds = typing.get_type_hints(schema)
    return {
        f.name: Field(prefix + f.name, kinds[f.name], f.metadata.get(_OPTION, Option()))
        for f in dataclasses.fields(schema)
        if f.init
    }


def walk(schema: type, prefix: str = "") -> Iterator[Field]:
    """All fields of a schema, sections before what is in them."""
    for field in fields_of(schema, prefix).values():
        yield field
        if (section := section_of(field.kind)) is not None:
            yield from walk(section, f"{field.key}.")


def defaults_of(schema: type) -> dict[str, Any]:
    """The tree of a schema's defaults, as plain values; ``MISSING`` where there is none."""
    tree: dict[str, Any] = {}
    kinds = typing.get_type_hints(schema)
    for field in (f for f in dataclasses.fields(schema) if f.init):
        if field.default_factory is kinds[field.name] and section_of(kinds[field.name]):
            tree[field.name] = defaults_of(kinds[field.name])
        elif field.default_factory is not dataclasses.MISSING:
            tree[field.name] = plain(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            tree[field.name] = plain(field.default)
        else:
            tree[field.name] = MISSING
    return tree


def lookup(schema: type, key: str) -> Field | None:
    """The field a dotted key names, also inside an open ``dict[str, ...]``; else ``None``."""
    field = Field("", schema, Option())
    for name in key.split("."):
        if (section := section_of(field.kind)) is not None:
            found = fields_of(section, f"{field.key}." if field.key else "").get(name)
            if found is None:
                return None
            field = found
        elif field.kind is Any:
            field = Field(f"{field.key}.{name}", Any, field.option)
        elif (value_kind := open_kind(field.kind)) is not None:
            field = Field(f"{field.key}.{name}", value_kind, field.option)
        else:
            return None
    return field


def open_kind(kind: Any) -> Any | None:
    """The kind of the values of an open dict (``dict[str, Any]`` -> ``Any``); else ``None``."""
    for member in members(kind):
        if member is dict:
            return Any
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
    return None


def suggest(schema: type, key: str) -> str:
    """What a wrong key may have meant, as the end of a sentence."""
    section, _, name = key.rpartition(".")
    keys = [field.key for field in walk(schema)]
    names = [k.rpartition(".")[2] for k in keys]
    siblings = [n for k, n in zip(keys, names, strict=True) if k.rpartition(".")[0] == section]
    if name in names or not (match := nearest(name, siblings)):
        match = nearest(name, names)  # the right name, or nearly so, in another section
        candidates = [k for k, n in zip(keys, names, strict=True) if n == match]
        found = nearest(key, candidates or keys) or (candidates[0] if candidates else None)
    else:
        found = f"{section}.{match}" if section else match
    if found is not None:
        return f"did you mean '{found}'?"
    return f"valid: {', '.join(siblings or [k for k in keys if '.' not in k])}"
