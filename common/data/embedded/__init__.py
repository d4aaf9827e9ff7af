"""Data sets that need no network: they are made, or come with a library, and are always the same.

They have the shape of the real ones, so that every paper's first command works anywhere:

    splits = load_embedded("embedded/dates")
    splits["train"]["source"][0], splits["train"]["target"][0]
"""

from collections.abc import Callable
from typing import Any

from common.data.embedded import dates, digit_products, digits, sequences
from common.utils.errors import DataError
from common.utils.text import did_you_mean

_MAKERS: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
    "embedded/copy": lambda: sequences.make("copy"),
    "embedded/dates": dates.make,
    "embedded/digit_products": digit_products.make,
    "embedded/digits": digits.make,
    "embedded/reverse": lambda: sequences.make("reverse"),
    "embedded/sort": lambda: sequences.make("sort"),
}

EMBEDDED = tuple(_MAKERS)


def load_embedded(name: str) -> dict[str, dict[str, Any]]:
    """The splits ``train``, ``test`` and mostly ``validation``, each a mapping from columns to values.

    Args:
        name: One of ``EMBEDDED``.

    Raises:
        DataError: if there is no such data set.
    """
    if name not in _MAKERS:
        raise DataError(f"there is no data set '{name}'; {did_you_mean(name, _MAKERS)}")
    return _MAKERS[name]()
