"""Which checkpoints a run keeps: ``last.pt``, ``best.pt`` and the newest ``step-N.pt`` files.

How bytes reach the disk is ``common.utils.checkpoint``'s business.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.utils.checkpoint import link_checkpoint, load_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError
from common.utils.files import TEMPORARY_PREFIX


class Checkpointer:
    """Writes each state once and gives it its names.

    Args:
        directory: The run's ``checkpoints/``.
        keep: How many ``step-N.pt`` files stay beside ``last.pt`` and ``best.pt``.
    """

    def __init__(self, directory: Path, keep: int = 0) -> None:
        self._directory = directory
        self._keep = keep

    def save(self, state: Mapping[str, Any], step: int, best: bool = False) -> Path:
        """Write ``state`` of step ``step``; ``best`` also makes it ``best.pt``.

        Returns:
            The path of ``last.pt``.
        """
        newest = self._directory / f"step-{step}.pt"
        last = self._directory / "last.pt"
        save_checkpoint(state, newest)
        link_checkpoint(newest, last)
        if best:
            link_checkpoint(newest, self._directory / "best.pt")
        steps = step_checkpoints(self._directory)
        for stale in steps[: len(steps) - self._keep]:
            stale.unlink()
        for abandoned in self._directory.glob(f"{TEMPORARY_PREFIX}*"):
            abandoned.unlink()  # left by a killed process; this one owns the directory
        return last


def step_checkpoints(directory: Path) -> list[Path]:
    """The ``step-N.pt`` files of a directory, oldest first."""
    found = (path for path in directory.glob("step-*.pt") if path.stem[5:].isdigit())
    return sorted(found, key=lambda path: int(path.stem[5:]))


def average_checkpoints(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of several checkpoints (Vaswani et al. 2017, section 6.1).

    Args:
        paths: Checkpoints of one model; the last one gives the values that are not floating point.

    Returns:
        A state dict of the model's own dtypes; the mean is taken in float64.

    Raises:
        CheckpointError: if there are none, or their keys or shapes differ.
    """
    if not paths:
        raise CheckpointError("there are no checkpoints to average; train with trainer.keep > 0")
    sums: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for path in paths:
        weights = load_checkpoint(path)["model"]
        if sums and (sums.keys() != weights.keys()):
            raise CheckpointError(f"{path} holds other weights than {paths[0]}")
        for key, value in weights.items():
            if sums and sums[key].shape != value.shape:
                raise CheckpointError(f"{key} has shape {tuple(value.shape)} in {path} only")
            sums[key] = sums[key] + value.double() if key in sums else value.double()
    return {
        key: (sums[key] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for key, value in weights.items()
    }


def load_model_weights(path: Path) -> dict[str, Tensor]:
    """The evaluated weights of a checkpoint: the moving average if it has one, else the model.

    Raises:
        CheckpointError: if the file is damaged or holds no model.
    """
    state = load_checkpoint(path)
    if "model" not in state:
        raise CheckpointError(f"{path} holds no model; expected a checkpoint of a run")
    shadow = state.get("callbacks", {}).get("EMA", {}).get("shadow", {})
    return {**state["model"], **{key: torch.as_tensor(value) for key, value in shadow.items()}}
