"""Logging, seeds, paths, files, run records and checkpoint files: the floor all else stands on.

Names are imported when they are first used: a command-line tool that needs no PyTorch does not
wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.utils.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
    from common.utils.logging import setup_logger
    from common.utils.runs import Run
    from common.utils.seeding import mix_seed, seed_everything
    from common.utils.weights import hash_weights, read_weights, save_weights

_HOMES = {
    "Run": "runs",
    "hash_weights": "weights",
    "latest_checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "mix_seed": "seeding",
    "read_weights": "weights",
    "save_checkpoint": "checkpoint",
    "save_weights": "weights",
    "seed_everything": "seeding",
    "setup_logger": "logging",
}
__all__ = [
    "Run",
    "hash_weights",
    "latest_checkpoint",
    "load_checkpoint",
    "mix_seed",
    "read_weights",
    "save_checkpoint",
    "save_weights",
    "seed_everything",
    "setup_logger",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
