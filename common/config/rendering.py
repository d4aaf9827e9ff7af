"""The text of a saved configuration: one value a line, each with a comment behind it.

``files.parse_config`` reads back exactly the values that were written.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

_PLAIN_TEXT = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def render(tree: dict[str, Any], comment: Callable[[str], object]) -> str:
    """YAML of a plain tree.

    Args:
        tree: Nested dicts.
        comment: From a dotted key to what stands behind its value.
    """
    lines = list(_lines(tree, "", "", comment))
    return "\n".join(lines) + "\n" if lines else ""


def _lines(
    tree: dict[str, Any], prefix: str, indent: str, comment: Callable[[str], object]
) -> Iterator[str]:
    for name, value in tree.items():
        key, label = f"{prefix}{name}", f"{indent}{scalar(name)}:"
        if isinstance(value, dict) and value:
            yield label
            yield from _lines(value, f"{key}.", f"{indent}  ", comment)
        else:
            yield f"{label} {flow(value)}  # {comment(key)}"


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A value that is neither list nor section, quoted where plain text would mean another."""
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
