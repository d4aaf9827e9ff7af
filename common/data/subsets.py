"""Parts of a loader."""

from collections.abc import Iterator
from itertools import islice

from common.data.loaders import Batch, EpochLoader


class FirstBatches:
    """The first batches of epoch 0, the same in every epoch, augmentation included.

    A model that cannot learn them by heart has a fault; so has one whose loss does not fall.

    Args:
        loader: What they are taken from.
        count: How many.
    """

    def __init__(self, loader: EpochLoader, count: int) -> None:
        self.loader, self.count = loader, count

    def num_batches(self, epoch: int) -> int:
        return min(self.count, self.loader.num_batches(0))

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        batches = self.loader.batches(0, start, rank, world_size)
        try:
            yield from islice(batches, self.num_batches(0) - start)
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def indices(self, epoch: int, batch: int) -> list[int]:
        return self.loader.indices(0, batch)
