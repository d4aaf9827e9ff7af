"""Handwritten digits: 1,797 images of 8 x 8 pixels that come with scikit-learn.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (its test set).
"""

from typing import Any

import numpy as np

from common.data.randomness import isolated_generators
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
    with isolated_generators():  # the import draws from ``random``, but only the first time
        from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    generator = np.random.default_rng(mix_seed(seed))
    rows: dict[str, list[int]] = {split: [] for split in SHARES}
    for digit in range(10):
        of_digit = generator.permutation(np.flatnonzero(labels == digit))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(of_digit)).astype(int)
        for split, part in zip(SHARES, np.split(of_digit, ends[:-1]), strict=True):
            rows[split] += part.tolist()
    shuffled = {split: generator.permutation(part) for split, part in rows.items()}
    return {split: {"image": images[i], "label": labels[i]} for split, i in shuffled.items()}
