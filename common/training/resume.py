"""What a checkpoint of a run holds, and how a trainer goes on from it."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.training.rng import rng_state, set_rng_state
from common.training.state import TrainState
from common.utils.checkpoint import load_checkpoint
from common.utils.errors import CheckpointError

if TYPE_CHECKING:
    from common.training.trainer import Trainer


def capture(trainer: "Trainer") -> dict[str, Any]:
    """The whole state of a run at a step boundary; with several ranks, all take part."""
    return {
        "state": trainer.state.state_dict(),
        "metrics": dict(trainer.metrics),
        "model": trainer.strategy.model_state(trainer.task),
        "optimizer": trainer.strategy.optimizer_state(trainer.task, trainer.optimizer),
        "strategy": trainer.strategy.state_dict(),
        "precision": trainer.precision.state_dict(),
        "meter": trainer.meter.state_dict(),
        "loader": trainer.loader_state.state_dict() if trainer.loader_state is not None else {},
        "rng": trainer.strategy.gather_states(rng_state()),
        "callbacks": {type(c).__name__: c.state_dict() for c in trainer.callbacks},
        "fingerprint": _fingerprint(trainer),
        "context": trainer.context.state_dict(),
        "config": trainer.context.to_yaml(),
    }


def expected_size(trainer: "Trainer") -> int:
    """About how many bytes a checkpoint will take: weights, and two moments of what is trained."""
    weights = sum(tensor.nbytes for tensor in trainer.task.state_dict().values())
    return weights + 2 * sum(parameter.nbytes for parameter in trainer.parameters)


def restore(trainer: "Trainer", path: Path) -> None:
    """Put a checkpoint into a prepared trainer.

    Raises:
        CheckpointError: if the file is damaged, or belongs to a run over other data, another batch
            size, seed or number of processes (the order of the data would not go on).
    """
    checkpoint = load_checkpoint(path, mmap=True)
    # The weights are copied into the task. The rest is kept as it is, so not in the file's memory.
    checkpoint = {k: v if k == "model" else deepcopy(v) for k, v in checkpoint.items()}
    missing = [key for key in ("state", "model", "optimizer", "rng") if key not in checkpoint]
    if missing:
        raise CheckpointError(f"{path} has no {', '.join(missing)}; it is not a run's checkpoint")
    ours, theirs = _fingerprint(trainer), checkpoint["fingerprint"]
    changed = [
        f"{key} was {theirs.get(key)}, is {ours.get(key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    changed += trainer.context.contradictions(checkpoint.get("context", {}))
    if changed:
        raise CheckpointError(
            f"{path} cannot be resumed exactly: {'; '.join(changed)}. "
            "Restore the old value, or start a new run"
        )
    trainer.context.load_state_dict(checkpoint.get("context", {}))
    strategy = trainer.strategy
    strategy.load_model(trainer.task, checkpoint["model"], str(path))
    strategy.load_optimizer(trainer.task, trainer.optimizer, checkpoint["optimizer"])
    strategy.load_state_dict(checkpoint["strategy"])
    trainer.precision.load_state_dict(checkpoint["precision"])
    trainer.meter.load_state_dict(checkpoint["meter"])
    trainer.state = TrainState.from_state_dict(checkpoint["state"])
    trainer.metrics = checkpoint["metrics"]
    if trainer.loader_state is not None:
        trainer.loader_state.load_state_dict(checkpoint["loader"])
    set_rng_state(checkpoint["rng"][strategy.rank])
    for callback in trainer.callbacks:
        state = checkpoint["callbacks"].get(type(callback).__name__)
        if state is not None:
            callback.load_state_dict(state)


def _fingerprint(trainer: "Trainer") -> dict[str, Any]:
    """What must not change between the parts of one run, beside what the data says."""
    return {
        "seed": trainer.seed,
        "batches per epoch": trainer.first_epoch_batches,
        "accumulate": trainer.config.accumulate,
        "processes": trainer.strategy.world_size,
    }
