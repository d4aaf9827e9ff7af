"""The generators of a process: their seed, and their state as tensors a safe checkpoint can hold."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.utils.seeding import mix_seed, seed_everything


def seed_rank(seed: int, rank: int, deterministic: bool = False) -> None:
    """Seed everything, each rank otherwise: dropout must not be the same on all of them.

    Args:
        seed: The run's; the main rank, and a process that is alone, has it as it is.
        rank: Which of the processes this is.
        deterministic: See ``seed_everything``.
    """
    seed_everything(mix_seed(seed, rank) if rank else seed, deterministic)


def rng_state() -> dict[str, Any]:
    """Python's, NumPy's and PyTorch's generators (CPU, and CUDA where present)."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    state: dict[str, Any] = {
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_gauss": gauss,
        "python_version": version,
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": [int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of ``rng_state``."""
    internal: Tensor = state["python"]
    random.setstate((state["python_version"], tuple(internal.tolist()), state["python_gauss"]))
    position, has_gauss, cached = state["numpy_rest"]
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave the generators as they were, whatever happens inside."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
