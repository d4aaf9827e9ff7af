"""Loaders whose order is a pure function of (seed, epoch), and whose position is a batch index.

Starting at batch ``k`` reads nothing of the batches before it and gives, bit for bit, what an
uninterrupted epoch would have given from there on: whatever the number of workers, and however
often the run was stopped. With several ranks each takes its share of the same global batch.

    loader = TensorLoader({"image": images, "label": labels}, batch_size=128, shuffle=True)
    for batch in loader.batches(epoch=3, start=120): ...
"""

import atexit
import copy
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sized
from contextlib import closing
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from common.data.orders import IndexArray, Order, ShuffledBatches
from common.data.randomness import isolated_generators, seed_generators
from common.utils.errors import DataError
from common.utils.seeding import mix_seed

Batch = dict[str, Tensor]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@runtime_checkable
class EpochLoader(Protocol):
    """What the Trainer reads from."""

    def num_batches(self, epoch: int) -> int:
        """Global batches of an epoch."""
        ...

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        """This rank's share of every global batch from ``start`` on.

        Global batch ``k`` is shared out as ``indices[rank::world_size]``; ``None`` stands for a
        batch too small to leave something for this rank.
        """
        ...

    def indices(self, epoch: int, batch: int) -> list[int]:
        """The samples of one global batch, for messages about it; empty if nobody knows."""
        ...


class OrderedLoader:
    """What the loaders of this project share: an order decides everything but the reading."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def num_batches(self, epoch: int) -> int:
        return len(self.order) if isinstance(self.order, Sized) else len(self.order(epoch))

    def indices(self, epoch: int, batch: int) -> list[int]:
        return self.order(epoch)[batch].tolist()

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        raise NotImplementedError(f"{type(self).__name__} does not say how it reads")

    def fixed_batches(self) -> ShuffledBatches | None:
        """The order, if it takes every sample once an epoch in batches of a fixed size."""
        return self.order if isinstance(self.order, ShuffledBatches) else None

    def with_order(self, order: Order) -> "OrderedLoader":
        """The same samples in other batches."""
        other = copy.copy(self)
        other.order = order
        return other

    def shares(self, epoch: int, start: int, rank: int, world_size: int) -> list[IndexArray]:
        """This rank's samples of every global batch from ``start`` on.

        Raises:
            DataError: if the epoch has no batch ``start``.
        """
        batches = self.order(epoch)
        if not 0 <= start <= len(batches):
            raise DataError(
                f"cannot start at batch {start}: epoch {epoch} has {len(batches)} batches; was "
                "the run begun with other data or another batch size?"
            )
        return [batch[rank::world_size] for batch in batches[start:]]


class SampleLoader(OrderedLoader):
    """Reads samples of a map-style data set, in worker processes if asked, and collates them.

    What ``dataset[index]`` draws from the global generators of ``random``, ``numpy`` and ``torch``
    is seeded from (seed, epoch, index), and ``collate`` draws on from where the last sample left
    off: augmentation depends neither on the number of workers nor on where the run was resumed.

    Args:
        dataset: Has ``dataset[index]`` for every index of the order.
        order: Which samples make up which batch.
        collate: Makes a batch of a list of samples; stacks them by default.
        num_workers: Processes that read ahead; 0 reads in this one.
        seed: Of the samples' randomness.
        pin_memory: Page-locked batches, for asynchronous copies to a CUDA device.
        options: More arguments of ``torch.utils.data.DataLoader``, e.g. ``prefetch_factor``.
    """

    def __init__(
        self,
        dataset: Any,
        order: Order,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(order)
        self.dataset, self.seed, self.collate = dataset, seed, collate or default_collate
        self._options = options | {
            "num_workers": num_workers,
            "pin_memory": pin_memory and torch.cuda.is_available(),
            "worker_init_fn": _WorkerStart(options.get("worker_init_fn")),
        }

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        shares = self.shares(epoch, start, rank, world_size)
        loader: DataLoader[Any] = DataLoader(
            _SeededBatches(self.dataset, self.collate, self.seed, epoch),
            batch_sampler=[share.tolist() for share in shares if len(share)],
            collate_fn=_as_it_is,
            # Without one, the workers' base seed would be drawn from the training generator.
            generator=torch.Generator().manual_seed(mix_seed(self.seed, epoch)),
            **self._options,
        )
        with closing(read_with_workers(loader)) as read:
            for share in shares:
                batch = next(read) if len(share) else None
                if isinstance(batch, DataError):
                    raise batch
                yield batch


class TensorLoader(OrderedLoader):
    """Batches of tensors in memory: one indexed read per tensor and batch, no worker, no collate.

    Args:
        tensors: By name, each with the samples along its first axis; on any device.
        batch_size: Samples in a global batch.
        seed: Of the order and of what ``transform`` draws.
        shuffle: A new order every epoch; otherwise the tensors' own.
        drop_last: Leave out a last batch that is not full.
        transform: Applied to each batch; what it draws from the global generators is seeded from
            (seed, epoch, batch, rank).

    Raises:
        DataError: if the tensors differ in length or are empty.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Callable[[Batch], Batch] | None = None,
    ) -> None:
        sizes = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(sizes.values())) != 1:
            raise DataError(f"tensors have the lengths {sizes}, expected one length for all")
        size = next(iter(sizes.values()))
        super().__init__(ShuffledBatches(size, batch_size, seed, shuffle, drop_last))
        self.tensors, self.seed, self.transform = dict(tensors), seed, transform

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        for number, share in enumerate(self.shares(epoch, start, rank, world_size), start):
            yield self._read(share, epoch, number, rank) if len(share) else None

    def _read(self, share: IndexArray, epoch: int, number: int, rank: int) -> Batch:
        rows = torch.from_numpy(share)
        batch = {
            name: tensor.index_select(0, rows.to(tensor.device))
            for name, tensor in self.tensors.items()
        }
        if self.transform is None:
            return batch
        with isolated_generators():
            seed_generators(self.seed, epoch, number, rank)
            return self.transform(batch)


class _SeededBatches(Dataset[Any]):
    """Reads and collates lists of samples, each with its own randomness; in a worker, if any."""

    def __init__(
        self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int, epoch: int
    ) -> None:
        self.dataset, self.collate, self.seed, self.epoch = dataset, collate, seed, epoch

    def __getitems__(self, indices: list[int]) -> Any:
        samples = []
        with isolated_generators():
            for index in indices:
                seed_generators(self.seed, self.epoch, index)
                try:
                    samples.append(self.dataset[index])
                except DataError as error:
                    # Returned, because what a worker raises reaches the parent as a traceback.
                    return DataError(f"sample {index}: {error}")
                except Exception as error:
                    error.add_note(f"while reading sample {index}")
                    raise
            return self.collate(samples)


def _as_it_is(batch: Any) -> Any:
    return batch


class _WorkerStart:
    """Makes a worker deaf to the signals that ask a run to stop: its parent decides when."""

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def read_with_workers(loader: DataLoader) -> Generator[Any, None, None]:
    """Iterate over a ``DataLoader``, and stop its workers when this generator is closed.

    Left to itself a ``DataLoader`` stops them when its iterator is freed. After an error that may
    be long after, in a cycle of references, when the queues that carry the message are gone; and
    when the interpreter exits it waits for workers it has told to terminate, which these do not.
    """
    # Workers inherit the block: no signal can find one before it ignores them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not loader.num_workers or loader.persistent_workers:
        yield from iterator
        return
    stop = partial(_stop_workers, iterator)
    atexit.register(stop)
    try:
        yield from iterator
    finally:
        atexit.unregister(stop)
        stop()


def _stop_workers(iterator: Any) -> None:
    iterator._shutdown_workers()  # asks them to end, and waits five seconds for each
    for worker in iterator._workers:
        worker.kill()
