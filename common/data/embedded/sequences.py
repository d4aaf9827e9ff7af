"""Sequences of letters to copy, reverse or sort: the smallest tasks that need attention.

cabd  ->  cabd | dbac | abcd
"""

import string
from typing import Any, Literal

import numpy as np

from common.utils.seeding import mix_seed

Kind = Literal["copy", "reverse", "sort"]

SIZES = {"train": 10_000, "validation": 500, "test": 500}

_SHORTEST, _LONGEST = 4, 12


def make(
    kind: Kind, seed: int = 0, sizes: dict[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Splits of pairs; no sequence occurs twice.

    Args:
        kind: What the target is.
        seed: Of the sequences.
        sizes: Pairs by split; ``SIZES`` by default.

    Returns:
        By split the columns ``source`` and ``target``: 4 to 12 letters.
    """
    sizes = sizes or SIZES
    generator = np.random.default_rng(mix_seed(seed))
    letters = np.array(list(string.ascii_lowercase))
    found: dict[str, None] = {}
    while len(found) < sum(sizes.values()):
        length = generator.integers(_SHORTEST, _LONGEST + 1)
        found.setdefault("".join(generator.choice(letters, length)))
    sequences = iter(found)
    splits = {}
    for split, size in sizes.items():
        source = [next(sequences) for _ in range(size)]
        splits[split] = {"source": source, "target": [_apply(kind, text) for text in source]}
    return splits


def _apply(kind: Kind, text: str) -> str:
    if kind == "copy":
        return text
    return text[::-1] if kind == "reverse" else "".join(sorted(text))
