"""What a checkpoint of a run holds, and how a trainer goes on from it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from common.data.randomness import seed_generators
from common.training.callbacks import Callback
from common.training.meters import share_of
from common.training.rng import rng_state, set_rng_state
from common.training.state import TrainState
from common.training.task import tensors_of, to_device
from common.utils.checkpoint import load_checkpoint
from common.utils.errors import CheckpointError
from common.utils.seeding import mix_seed

if TYPE_CHECKING:
    from common.training.trainer import Trainer


_PARTS = (
    "state",
    "metrics",
    "grad_norm",
    "model",
    "optimizer",
    "strategy",
    "precision",
    "meter",
    "loader",
    "rng",
    "callbacks",
    "fingerprint",
    "context",
)


def capture(trainer: "Trainer") -> dict[str, Any]:
    """The whole state of a run at a step boundary; with several ranks, all take part."""
    own = {"rng": rng_state(), "meter": trainer.meter.state_dict()}
    ranks = trainer.strategy.gather_states(own)
    return {
        "state": trainer.state.state_dict(),
        "metrics": dict(trainer.metrics),
        "grad_norm": trainer.grad_norm,
        "model": trainer.strategy.model_state(trainer.task),
        "optimizer": trainer.strategy.optimizer_state(trainer.task, trainer.optimizer),
        "strategy": trainer.strategy.state_dict(),
        "precision": trainer.precision.state_dict(),
        "meter": [rank["meter"] for rank in ranks],
        "loader": trainer.loader_state.state_dict() if trainer.loader_state is not None else {},
        "rng": [rank["rng"] for rank in ranks],
        "callbacks": {k: c.state_dict() for k, c in _named(trainer.callbacks)},
        "fingerprint": _fingerprint(trainer),
        "context": trainer.context.state_dict(),
        "config": trainer.context.to_yaml(),
    }


def expected_size(trainer: "Trainer") -> int:
    """About how many bytes a checkpoint will take, with two moments of what is trained."""
    weights = sum(tensor.nbytes for tensor in trainer.task.state_dict().values())
    moments = 2 * sum(parameter.nbytes for parameter in trainer.parameters)
    extras = [tensors_of(callback.state_dict()) for callback in trainer.callbacks]
    return weights + moments + sum(tensor.nbytes for more in extras for tensor in more)


def restore(trainer: "Trainer", path: Path) -> None:
    """Put a checkpoint into a prepared trainer.

    With another number of processes the run goes on where it stood, over the same global batches;
    only what each rank draws by itself (dropout) is drawn anew, and a warning says so.

    Raises:
        CheckpointError: if the file is damaged, or belongs to a run over other data, another batch
            size or seed (the order of the data would not go on).
    """
    checkpoint = load_checkpoint(path, mmap=True)
    # The weights are copied into the task. The rest is kept as it is, so not in the file's memory.
    checkpoint = {k: v if k == "model" else deepcopy(v) for k, v in checkpoint.items()}
    if missing := [key for key in _PARTS if key not in checkpoint]:
        raise CheckpointError(f"{path} has no {', '.join(missing)}; it is not a run's checkpoint")
    ours, theirs = _fingerprint(trainer), checkpoint["fingerprint"]
    changed = [
        f"{key} was {theirs.get(key)}, is {ours.get(key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    changed += trainer.context.contradictions(checkpoint["context"])
    if changed:
        raise CheckpointError(
            f"{path} cannot be resumed exactly: {'; '.join(changed)}. "
            "Restore the old value, or start a new run"
        )
    trainer.context.load_state_dict(checkpoint["context"])
    strategy = trainer.strategy
    strategy.load_model(trainer.task, checkpoint["model"], str(path))
    asked = [dict(group) for group in trainer.optimizer.param_groups]
    try:
        strategy.load_optimizer(trainer.task, trainer.optimizer, checkpoint["optimizer"])
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} holds the state of another optimizer: {error}") from None
    _keep_asked_values(trainer, asked)
    strategy.load_state_dict(checkpoint["strategy"])
    trainer.precision.load_state_dict(checkpoint["precision"])
    meters = checkpoint["meter"]
    own = share_of(meters, strategy.rank, strategy.world_size)
    trainer.meter.load_state_dict(to_device(own, trainer.device))
    trainer.state = TrainState.from_state_dict(checkpoint["state"])
    trainer.metrics, trainer.grad_norm = checkpoint["metrics"], checkpoint["grad_norm"]
    if trainer.loader_state is not None:
        trainer.loader_state.load_state_dict(checkpoint["loader"])
    _restore_generators(trainer, checkpoint["rng"])
    for name, callback in _named(trainer.callbacks):
        if name in checkpoint["callbacks"]:
            callback.load_state_dict(checkpoint["callbacks"][name])


def _keep_asked_values(trainer: "Trainer", asked: Sequence[dict[str, Any]]) -> None:
    """What the configuration says of the optimizer now holds, also where the checkpoint differs."""
    for group, new in zip(trainer.optimizer.param_groups, asked, strict=True):
        for key in new.keys() & group.keys() - {"params", "lr"}:
            name = "lr" if key == "initial_lr" else key
            if _plain(group[key]) != _plain(new[key]):
                logger.warning(f"optim.{name} was {group[key]}, is {new[key]} from here on")
                group[key] = new[key]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _named(callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
    """Callbacks by class; a second one of a class is ``Name-2``."""
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name}-{seen[name]}"), callback


def _restore_generators(trainer: "Trainer", states: Sequence[dict[str, Any]]) -> None:
    """Each rank's own generators; of another number of ranks, a function of (seed, rank, step)."""
    rank, world_size = trainer.strategy.rank, trainer.strategy.world_size
    if len(states) == world_size:
        set_rng_state(states[rank])
        return
    step = trainer.state.step
    if rank == 0:
        logger.warning(
            f"begun with {len(states)} processes, resumed with {world_size}: data, weights and "
            f"optimizer go on as they were, but what ranks draw by themselves (dropout, transforms "
            f"of whole batches) is drawn anew from (seed, rank, step {step:,}), not bit for bit "
            "what it would have been"
        )
    seed_generators(trainer.seed, rank, step)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(mix_seed(trainer.seed, rank, step))


def _fingerprint(trainer: "Trainer") -> dict[str, Any]:
    """What must not change between the parts of one run, beside what the data says."""
    return {
        "seed": trainer.seed,
        "batches per epoch": trainer.first_epoch_batches,
        "examples in the first batch": trainer.first_batch_examples,
        "optimizer": trainer.optimizer_name,
        "accumulate": trainer.config.accumulate,
    }
