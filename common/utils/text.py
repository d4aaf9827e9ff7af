"""Small text functions for messages."""

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
