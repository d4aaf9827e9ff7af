"""A rank's batches of an epoch, from any loader, ahead of time where that helps."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from common.data.foreign import as_epoch_loader
from common.training.prefetch import read_ahead
from common.training.task import Batch

if TYPE_CHECKING:
    from common.training.trainer import Trainer


def batches_of(
    trainer: "Trainer", loader: Any, epoch: int = 0, start: int = 0
) -> Generator[Batch | None, None, None]:
    """This rank's share of every global batch; closing the generator ends the loader's workers.

    On a CUDA device the next batch is copied while the current one is computed, unless the loader's
    position is a state of its own, which would then be one batch ahead.
    """
    strategy = trainer.strategy
    batches = as_epoch_loader(loader, trainer.seed).batches(
        epoch, start, strategy.rank, strategy.world_size
    )
    if trainer.device.type == "cuda" and trainer.loader_state is None:
        return read_ahead(batches, trainer.device)
    return batches if isinstance(batches, Generator) else _generator(batches)


def first_batch_of(trainer: "Trainer") -> Batch | None:
    """Any batch of this rank: what a rank without an example computes on, with weight 0."""
    with_something = (b for b in batches_of(trainer, trainer.train_loader) if b is not None)
    return next(with_something, None)


def _generator(batches: Iterator[Batch | None]) -> Generator[Batch | None, None, None]:
    yield from batches
