"""Small text functions for messages."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most like ``word``, or ``None`` if nothing is near."""
    matches = get_close_matches(word, list(options), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A sentence that names the nearest option, or lists a few of them.

    Args:
        word: What was typed.
        options: What would have been valid.
    """
    options = sorted(options)
    if (match := nearest(word, options)) is not None:
        return f"did you mean '{match}'?"
    shown = ", ".join(options[:8]) + (", ..." if len(options) > 8 else "")
    return f"valid: {shown}" if options else "nothing is valid here"


def printable(text: str) -> str:
    r"""A name on one line: what breaks, hides or reorders a line is written as an escape.

    Line ends, control and format characters, and bytes that are no UTF-8 (surrogates) become
    ``\n``, ``\x1b``, ``\u202e`` and the like; letters of all scripts stay.

    Args:
        text: A file or class name as the system gives it.
    """
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in hidden else c
        for c in text
    )


def natural_order(text: str) -> list[str | int]:
    """A key to sort by in which 2 comes before 10, e.g. ``sorted(names, key=natural_order)``.

    Args:
        text: Decimal digits in it count as numbers.
    """
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", text))]
