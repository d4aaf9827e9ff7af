"""Text that is made of a schema: a file with every key in it, and a table of the keys.

    text = template(Config, {"data.data_dir": "data/pets"}, {"data.data_dir": "was looked at"})
    page = key_tables(Config)

Values that are given stand in the file as they are; every other key is a comment with its default,
so that the file means the schema's defaults but for what was given. No key is written by hand: what
the schema does not know cannot be in it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from common.config.rendering import flow, scalar
from common.config.schema import (
    MISSING,
    Field,
    defaults_of,
    fields_of,
    lookup,
    section_of,
    suggest,
    walk,
)
from common.config.tree import read
from common.config.validate import describe, expected
from common.utils.errors import ConfigError

_LINE = 100  # characters; a longer list goes on in the next


def template(
    schema: type,
    values: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
    header: str = "",
) -> str:
    """A configuration file with every key of a schema.

    Args:
        schema: A dataclass.
        values: By dotted key, plain: what the file says.
        notes: By dotted key: what stands behind it in place of its help; by ``key[2]``: behind an
            item of a list.
        header: Above everything; lines of a comment.

    Raises:
        ConfigError: if a value's key is none of the schema's.
    """
    values, notes = dict(values or {}), dict(notes or {})
    for key in [*values, *(note.partition("[")[0] for note in notes)]:
        field = lookup(schema, key)
        if field is None or section_of(field.kind) is not None:
            raise ConfigError(f"{key} is not a key; {suggest(schema, key)}")
    lines = [f"# {line}".rstrip() for line in header.splitlines()] + [""] * bool(header)
    return "\n".join([*lines, *_section(schema, values, notes, "", defaults_of(schema))]) + "\n"


def key_tables(schema: type) -> str:
    """A table in Markdown for each section of a schema: key, what it takes, default, meaning."""
    defaults = defaults_of(schema)
    tables: dict[str, list[str]] = {}
    titles = {"": ""}
    for field in walk(schema):
        section, _, _ = field.key.rpartition(".")
        if (inside := section_of(field.kind)) is not None:
            titles[field.key] = _summary(inside).replace("``", "`")
            continue
        default = "no default" if _is_missing(value := read(defaults, field.key)) else flow(value)
        cells = (f"`{field.key}`", expected(field), f"`{default}`", field.option.help)
        tables.setdefault(section, []).append(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
        )
    parts = []
    for section, rows in tables.items():
        title = f"## {section}\n\n{titles[section]}\n\n" if section else ""
        head = "| Key | Takes | Default | Meaning |\n|---|---|---|---|\n"
        parts.append(title + head + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _section(
    schema: type,
    values: Mapping[str, Any],
    notes: Mapping[str, str],
    prefix: str,
    defaults: Mapping[str, Any],
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, field in fields_of(schema, prefix).items():
        section = section_of(field.kind)
        if section is not None:
            if not prefix:
                yield ""
            yield f"{indent}{name}:  # {_summary(section).replace('``', '')}"
            inside = defaults[name] if isinstance(defaults[name], dict) else defaults_of(section)
            yield from _section(section, values, notes, f"{field.key}.", inside)
        elif field.key in values:
            note = notes.get(field.key, _meaning(field))
            yield from _value(f"{indent}{name}:", values[field.key], note, field.key, notes)
        else:
            note = notes.get(field.key, _meaning(field))
            default = defaults[name]
            shown = "" if _is_missing(default) else f" {flow(default)}"
            yield f"{indent}# {name}:{shown}  # {note}"


def _value(label: str, value: Any, note: str, key: str, notes: Mapping[str, str]) -> Iterator[str]:
    """A value on one line; a list on several where it is too long or an item has a note."""
    indent = " " * (len(label) - len(label.lstrip()) + 2)
    if isinstance(value, dict) and value:
        yield f"{label}  # {note}"
        for name, item in value.items():
            yield f"{indent}{scalar(str(name))}: {flow(item)}"
        return
    has_notes = any(n.startswith(f"{key}[") for n in notes)
    if isinstance(value, list) and has_notes:
        yield f"{label}  # {note}"
        for index, item in enumerate(value):
            behind = notes.get(f"{key}[{index}]")
            yield f"{indent}- {flow(item)}" + (f"  # {behind}" if behind else "")
    elif isinstance(value, list) and len(label) + len(flow(value)) > _LINE:
        yield f"{label}  # {note}"
        yield from _wrapped(value, indent)
    else:
        yield f"{label} {flow(value)}  # {note}"


def _wrapped(items: list[Any], indent: str) -> Iterator[str]:
    """A list of which each line is as full as it can be."""
    line = f"{indent}["
    for index, item in enumerate(items):
        text = flow(item) + ("," if index < len(items) - 1 else "]")
        if len(line) + len(text) > _LINE and line.strip() != "[":
            yield line.rstrip()
            line = f"{indent} "
        line += f"{text} "
    yield line.rstrip()


def _meaning(field: Field) -> str:
    """The help, and what the help need not say: the choices and the limits."""
    option, said = field.option, field.option.help
    if option.choices and not all(str(choice) in said for choice in option.choices):
        return f"{said} [{expected(field)}]"
    if option.limits:
        return f"{said} [{option.limits}]"
    return said or f"[{describe(field.kind)}]"


def _summary(section: type) -> str:
    """The first line of a section's docstring."""
    return (section.__doc__ or "").strip().split("\n")[0]


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and value == MISSING
