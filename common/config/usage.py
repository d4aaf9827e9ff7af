"""What ``--help`` prints: the forms of a command line, and every field with what a run makes of it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.config.files import ConfigFile
from common.config.locate import groups_of
from common.config.schema import MISSING, defaults_of, lookup, section_of, walk
from common.config.tree import ABSENT, read
from common.config.validate import expected, show
from common.utils.paths import get_project_root

_TRAIN = """\
  --config FILE       a configuration file, from here or from the experiment's folder
  --resume RUN_DIR    go on with a run, in its directory and with its configuration
  --dry-run           everything a run does, for one step
"""
_EVALUATE = """\
  --run RUN_DIR       the run to read (default: the newest one with a checkpoint)
  --checkpoint NAME   final, best, last or a file (default: final, of an unfinished run best)
"""
_COMMON = """\
  -m, --multirun      run the product of all values listed: optim.lr=1e-3,1e-4
  --cfg job           print the final configuration, with the source of every value
  --help              this text
"""
_VALUES = """\
values:
  section.key=value   set a value: numbers, text, true, false, null, [a, b], '${other.key}'
  +new.key=value      add a value the experiment does not know
  group=name          choose a file of a group
"""


def usage(
    main: Callable[..., Any],
    schema: type,
    anchor: Path,
    *,
    needs_run: bool = False,
    composed: ConfigFile | None = None,
    problem: str = "",
) -> str:
    """The help of an experiment.

    Args:
        main: Its main function; the docstring's first line says what it does.
        schema: Its dataclass.
        anchor: Its script.
        needs_run: Whether it reads a run instead of a configuration file.
        composed: What a run would be configured with, and where each value comes from.
        problem: Why there is no such configuration.
    """
    about = (inspect.getdoc(main) or "").split("\n")[0]
    parts = [f"usage: {program(anchor)} [options] [values]\n"]
    if about:
        parts.append(f"{about}\n")
    parts.append("options:\n" + (_EVALUATE if needs_run else _TRAIN) + _COMMON)
    parts.append(_VALUES)
    folder = anchor.parent
    if not needs_run:
        files = sorted(
            path.relative_to(folder).as_posix() for path in folder.glob("configs/*.yaml")
        )
        if files:
            parts.append("configuration files: " + ", ".join(files) + "\n")
        for group, options in groups_of(folder).items():
            parts.append(f"group {group}: {', '.join(options)}\n")
    shown = "the schema's defaults"
    if composed is not None:
        shown = "the value a run takes and, where that is another, the schema's default"
    elif needs_run:
        shown += " (what holds is the run's own value)"
    elif problem:
        shown += f" (a run would be refused: {problem})"
    lines = _keys(schema, composed or ConfigFile(""))
    parts.append(f"keys, with {shown}:\n" + "".join(f"  {line}\n" for line in lines))
    return "\n".join(parts)


def _keys(schema: type, composed: ConfigFile) -> list[str]:
    defaults = defaults_of(schema)
    rows = []
    for field in walk(schema):
        default = read(defaults, field.key)
        if section_of(field.kind) is not None and isinstance(default, dict):
            continue
        optional = ""
        if default is ABSENT:  # inside a section that is null unless it is given
            section, _, name = field.key.rpartition(".")
            default, optional = _defaults_inside(schema, section)[name], f" if {section} is given"
        given = "no default" if default == MISSING else f"default {show(default)}{optional}"
        value = read(composed.content, field.key)
        if value is not ABSENT and not isinstance(value, dict) and value != default:
            given = f"{show(value)} from {_origin(composed, field.key)}; {given}"
        rows.append((field.key, f"{expected(field)}; {given}", field.option.help))
    width = max((len(key) for key, _, _ in rows), default=0)
    return [f"{key:<{width}}  {help}  [{kind}]" for key, kind, help in rows]


def _defaults_inside(schema: type, section: str) -> dict[str, Any]:
    """The defaults of an optional section, for when something in it is set."""
    field = lookup(schema, section)
    inside = section_of(field.kind) if field is not None else None
    return defaults_of(inside) if inside is not None else {}


def _origin(composed: ConfigFile, key: str) -> str:
    """The file, or the command line, that decided a value."""
    comment = composed.comments.get(key, "")
    return comment.partition(": ")[2] or comment


def program(anchor: Path) -> str:
    """How a script is started: ``python -m papers.x.train`` in the project."""
    root = get_project_root()
    if anchor.is_relative_to(root):
        return f"python -m {'.'.join(anchor.relative_to(root).with_suffix('').parts)}"
    return f"python {anchor.name}"
