"""Randomness of data that leaves the training process's generators as they were.

What a transform draws from ``random``, ``numpy.random`` and ``torch`` is seeded from integers such
as (seed, epoch, index). The same sample in the same epoch is then augmented the same way in every
worker, after every resume; and dropout does not notice that data was read in between.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from common.utils.seeding import mix_seed


def seed_generators(*parts: int) -> None:
    """Seed Python's, NumPy's and PyTorch's CPU generator from ``mix_seed(*parts)``.

    ``torch.manual_seed`` would reseed the accelerators as well, whose generators belong to the
    training step.
    """
    seed = mix_seed(*parts)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 (transforms use the global one)
    torch.default_generator.manual_seed(seed)


@contextmanager
def isolated_generators() -> Iterator[None]:
    """Put the three global generators back, at the end, to where they are now."""
    python, pytorch = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)
