"""Limits of a command's options, for commands that read their words with argparse."""

import math

from common.utils.errors import InputError

LARGEST_SEED = 2**63 - 1


def check_option(name: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Refuse a number outside of its limits; ``None``, an option that was not given, is within.

    Args:
        name: What is typed: ``--count``.
        value: What was given.
        low: The smallest value there may be.
        high: The largest.

    Raises:
        InputError: naming the option, the value and the limits.
    """
    if value is not None and not low <= value <= high:
        expected = f"{low} or more" if high == math.inf else f"{low} to {high}"
        raise InputError(f"{name} is {value}, expected {expected}")


def check_seed(value: int) -> None:
    """Refuse a seed that a random generator does not take."""
    check_option("--seed", value, 0, LARGEST_SEED)
