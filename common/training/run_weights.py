"""The weights a run left: of one checkpoint, of its moving average, or the mean of several."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common.training.task import Task
from common.utils.checkpoint import load_checkpoint, load_weights
from common.utils.errors import CheckpointError
from common.utils.weights import read_weights


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
    weights = load_checkpoint(paths[0])["model"]
    sums = {key: value.double() for key, value in weights.items()}
    for path in paths[1:]:
        weights = load_checkpoint(path)["model"]
        shapes = {key: value.shape for key, value in weights.items()}
        if shapes != {key: value.shape for key, value in sums.items()}:
            raise CheckpointError(f"{path} holds other weights than {paths[0]}")
        for key, value in weights.items():
            sums[key] += value.double()
    return {
        key: (sums[key] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for key, value in weights.items()
    }


def load_run_weights(task: Task, path: Path) -> None:
    """Put the weights of an earlier run into ``task``, which has its shape already.

    Args:
        task: A configured task.
        path: ``model.safetensors`` or a checkpoint, see ``RunContext.checkpoint_path``. Of a
            checkpoint with a moving average, the average is taken.

    Raises:
        CheckpointError: if the file is missing, damaged, or does not fit.
    """
    if path.suffix == ".safetensors":
        read_weights(task, path)
        return
    state = load_checkpoint(path)
    if "model" not in state:
        raise CheckpointError(f"{path} holds no model; expected a checkpoint of a run")
    average = state.get("callbacks", {}).get("EMA", {}).get("shadow", {})
    load_weights(task, {**state["model"], **average}, str(path))
