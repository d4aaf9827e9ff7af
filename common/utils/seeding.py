"""Randomness that can be repeated: one seed for every generator, and pure mixtures of it."""

import hashlib
import os
import random
import struct

import numpy as np
import torch


def mix_seed(*parts: int) -> int:
    """A 63-bit seed that is a pure function of integers, e.g. ``(seed, epoch, index)``.

    The same parts give the same seed in every process, on every machine and Python version.
    """
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch (all devices).

    Args:
        seed: Any non-negative integer.
        deterministic: Also ask PyTorch for deterministic algorithms; an operation that has none
            then raises, instead of giving numbers that cannot be repeated.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the generator of code that is not ours)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    # ``use_deterministic_algorithms`` is the same, and imports two seconds of a compiler.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
