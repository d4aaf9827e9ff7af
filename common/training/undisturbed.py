"""Look at a run's data without the run noticing: generators and the loader's position come back."""

import copy
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.data.foreign import keeps_state
from common.data.loaders import EpochLoader
from common.training.rng import preserved_rng
from common.training.task import Batch

if TYPE_CHECKING:
    from common.training.strategies import Strategy


@contextmanager
def undisturbed(loader: Any) -> Iterator[None]:
    """Leave the generators and the position of ``loader`` as they were, whatever happens inside.

    Only a loader whose position is a state of its own has one to give back: the others are read
    from (seed, epoch, batch), which looking does not change.

    Args:
        loader: Anything the trainer reads from.
    """
    position = copy.deepcopy(loader.state_dict()) if keeps_state(loader) else None
    with preserved_rng():
        try:
            yield
        finally:
            if position is not None:
                loader.load_state_dict(position)


def epoch_batches(loader: EpochLoader, epoch: int, strategy: "Strategy") -> Generator[Batch | None]:
    """This rank's batches of an epoch; closing the generator ends the loader's workers."""
    yield from loader.batches(epoch, 0, strategy.rank, strategy.world_size)
