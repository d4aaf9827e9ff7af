"""Handwritten digits: 1,797 images of 8 x 8 pixels that come with scikit-learn.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (its test set).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.utils.errors import DataError
from common.utils.seeding import mix_seed

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}


def make(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Splits with the same share of every digit.

    Args:
        seed: Of the assignment to splits.

    Returns:
        By split the columns ``image``, uint8 ``(N, 8, 8)`` with 0 for paper and 255 for ink, and
        ``label``, int64 ``(N,)``.
    """
    values = np.loadtxt(_file(), delimiter=",")  # 64 pixels from 0 to 16, and the digit
    images = np.round(values[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = values[:, -1].astype(np.int64)
    generator = np.random.default_rng(mix_seed(seed))
    rows: dict[str, list[int]] = {split: [] for split in SHARES}
    for digit in range(10):
        of_digit = generator.permutation(np.flatnonzero(labels == digit))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(of_digit)).astype(int)
        for split, part in zip(SHARES, np.split(of_digit, ends[:-1]), strict=True):
            rows[split] += part.tolist()
    shuffled = {split: generator.permutation(part) for split, part in rows.items()}
    return {split: {"image": images[i], "label": labels[i]} for split, i in shuffled.items()}


def _file() -> Path:
    """Where scikit-learn keeps them; importing it to ask takes two seconds of every run.

    Raises:
        DataError: if they are not there.
    """
    package = find_spec("sklearn")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        "scikit-learn has no datasets/data/digits.csv.gz, which embedded/digits is read from; "
        "expected scikit-learn 1.5 or newer: uv pip install 'scikit-learn>=1.5'"
    )
