"""Dates as people write them in twenty languages, and as ISO 8601 writes them.

    Freitag, 3. Mai 2019  ->  2019-05-03

A translation task small enough for a laptop: names of months in several scripts and cases, the
order of the parts, with or without weekday. The texts follow the CLDR data of the installed Babel.
Two-digit years and orders that only a reader's country settles (5/3/2019) are left out, so that
every text has one meaning.
"""

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from common.utils.seeding import mix_seed

if TYPE_CHECKING:
    from babel import Locale

SIZES = {"train": 20_000, "validation": 1_000, "test": 1_000}

# Formats of each locale that say the same to every reader.
FORMATS = {
    "cs_CZ": ("full", "long", "medium"),
    "da_DK": ("full", "long", "medium"),
    "de_DE": ("full", "long", "medium"),
    "el_GR": ("full", "long", "medium"),
    "en_GB": ("full", "long", "medium"),
    "en_US": ("full", "long", "medium"),
    "es_ES": ("full", "long", "medium"),
    "fi_FI": ("full", "long", "medium"),
    "fr_FR": ("full", "long", "medium"),
    "hu_HU": ("full", "long", "medium"),
    "it_IT": ("full", "long", "medium"),
    "ja_JP": ("full", "long", "medium"),
    "ko_KR": ("full", "long", "medium"),
    "nl_NL": ("full", "long", "medium"),
    "pl_PL": ("full", "long", "medium"),
    "pt_BR": ("full", "long", "medium"),
    "ru_RU": ("full", "long", "medium"),
    "sv_SE": ("full", "long", "medium", "short"),
    "tr_TR": ("full", "long", "medium"),
    "zh_Hans_CN": ("full", "long", "medium"),
}
_FIRST, _LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


def make(seed: int = 0, sizes: dict[str, int] | None = None) -> dict[str, dict[str, Any]]:
    """Splits of pairs, every date in one of them only and only once.

    Args:
        seed: Of the dates, locales and formats.
        sizes: Pairs by split; ``SIZES`` by default.

    Returns:
        By split the columns ``source`` (as written), ``target`` (ISO 8601) and ``locale``.
    """
    from babel import Locale

    sizes = sizes or SIZES
    generator = np.random.default_rng(mix_seed(seed))
    days = generator.permutation((_LAST - _FIRST).days + 1)
    styles = [
        (Locale.parse(name), style) for name, all_of_it in FORMATS.items() for style in all_of_it
    ]
    splits: dict[str, dict[str, Any]] = {}
    used = 0
    for split, size in sizes.items():
        columns: dict[str, list[str]] = {"source": [], "target": [], "locale": []}
        for day in days[used : used + size].tolist():
            date = _FIRST + datetime.timedelta(days=day)
            locale, style = styles[generator.integers(len(styles))]
            columns["source"].append(written(date, locale, style))
            columns["target"].append(date.isoformat())
            columns["locale"].append(str(locale))
        splits[split] = columns
        used += size
    return splits


def written(date: datetime.date, locale: "Locale", style: str) -> str:
    """A date as ``locale`` writes it in the style ``full``, ``long``, ``medium`` or ``short``."""
    return locale.date_formats[style].apply(date, locale)
