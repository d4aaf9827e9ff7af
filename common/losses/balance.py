"""Weights of classes from how often they occur."""

from collections.abc import Sequence

import numpy as np

from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

KINDS = ("balanced", "inverse_sqrt", "effective")


def class_weights(
    counts: Sequence[int], kind: str = "balanced", beta: float = 0.999
) -> list[float]:
    """A weight for each class, scaled so that the examples weigh 1 in the mean.

    - ``balanced``: 1 / n_c; every class weighs the same altogether.
    - ``inverse_sqrt``: 1 / sqrt(n_c), between that and no weights.
    - ``effective``: (1 - beta) / (1 - beta^n_c), the inverse of the effective number of examples
      (Cui et al. 2019, 1901.05555, eq. 5).

    A class without examples gets the weight of one with a single example: nothing in training
    weighs by it, and a validation example of that class still counts.

    Args:
        counts: Training examples of each class.
        kind: One of those above.
        beta: Of ``effective``; towards 1 it becomes ``balanced``.

    Raises:
        ConfigError: for another kind, a beta outside of [0, 1), or no examples at all.
    """
    if kind not in KINDS:
        raise ConfigError(f"loss.class_weights is '{kind}': {did_you_mean(kind, KINDS)}")
    if not 0.0 <= beta < 1.0:
        raise ConfigError(f"loss.beta is {beta}, expected at least 0 and less than 1")
    given = np.asarray(counts, dtype=np.float64)
    if not given.sum() > 0:
        raise ConfigError("class weights need training examples, and there are none")
    occurring = np.maximum(given, 1.0)
    if kind == "balanced":
        weights = 1.0 / occurring
    elif kind == "inverse_sqrt":
        weights = 1.0 / np.sqrt(occurring)
    else:
        weights = (
            (1.0 - beta) / -np.expm1(occurring * np.log(beta)) if beta else np.ones_like(given)
        )
    weights = weights * given.sum() / (given * weights).sum()
    return [float(weight) for weight in weights]
