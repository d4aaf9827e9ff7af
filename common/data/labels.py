"""Class labels, checked before anything is trained on them."""

from typing import Any

import numpy as np

from common.utils.errors import DataError


def check_labels(labels: Any, num_classes: int, name: str) -> None:
    """Stop unless every label is a class.

    Args:
        labels: Integers, ``(N,)``: a list, an array or a tensor.
        num_classes: Labels are 0 to ``num_classes - 1``.
        name: What is checked, for the message.

    Raises:
        DataError: naming the first index whose label is out of range, missing or no integer.
    """
    try:
        values = np.asarray(labels)
    except ValueError:
        values = np.asarray(labels, dtype=object)  # lists of several lengths
    if values.ndim != 1:
        raise DataError(f"{name}: labels have the shape {values.shape}, expected (N,)")
    if values.dtype.kind not in "iu":
        for index, value in enumerate(labels):
            if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
                raise DataError(f"{name}: label {index} is {value!r}, expected an integer")
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if outside.size:
        index = int(outside[0])
        raise DataError(
            f"{name}: label {index} is {values[index]}, expected 0 to {num_classes - 1}; "
            f"{outside.size:,} of {len(values):,} are out of range"
        )
