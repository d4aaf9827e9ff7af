"""``iterate``: one way to read any loader exactly, ours or another's.

A plain ``torch.utils.data.DataLoader`` over a map-style data set becomes a ``SampleLoader``: its
sampler is asked for a whole epoch of indices under generators seeded from (seed, epoch), so that
it resumes at any batch without reading the ones before. Lists of batches are read from an index.
A loader with ``state_dict`` / ``load_state_dict`` keeps its own position. What cannot be continued
exactly is refused in the middle of an epoch, never continued inexactly.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from common.data.loaders import Batch, EpochLoader, SampleLoader, read_with_workers
from common.data.orders import IndexArray, Order, ShuffledBatches
from common.data.randomness import isolated_generators, seed_generators
from common.utils.errors import DataError
from common.utils.seeding import mix_seed


def iterate(
    loader: Any, *, seed: int, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
) -> Iterator[Batch | None]:
    """The batches of one epoch from ``start`` on; see ``as_epoch_loader`` for what is accepted.

    Raises:
        DataError: if the loader cannot continue exactly at ``start``, or its batches cannot be
            shared out between ranks.
    """
    return as_epoch_loader(loader, seed).batches(epoch, start, rank, world_size)


def as_epoch_loader(loader: Any, seed: int) -> EpochLoader:
    """Give any loader the interface of an ``EpochLoader``.

    Args:
        loader: An ``EpochLoader``; a ``DataLoader`` of any kind; an object that ``keeps_state``;
            or anything that can be iterated anew every epoch, such as a list of batches.
        seed: Of the order and the samples' randomness of a plain ``DataLoader``; an
            ``EpochLoader`` has its own.

    Raises:
        DataError: for a generator or another object that can be read only once.
    """
    if isinstance(loader, EpochLoader):
        return loader
    if isinstance(loader, Iterator) or not hasattr(loader, "__iter__"):
        raise DataError(
            f"a {type(loader).__name__} cannot be iterated anew every epoch; pass a list of "
            "batches, a DataLoader or another iterable that starts afresh"
        )
    if (
        isinstance(loader, DataLoader)
        and not keeps_state(loader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None  # else the data set itself holds whole batches
    ):
        in_memory = type(loader.dataset) is TensorDataset and loader.collate_fn is default_collate
        return (_InMemoryLoader if in_memory else _MapStyleLoader)(loader, seed)
    return _IterableLoader(loader, seed)


def keeps_state(loader: Any) -> bool:
    """Whether a loader's position is its own ``state_dict``, as with a ``StatefulDataLoader``.

    Whoever trains saves that state with a checkpoint and loads it before going on; ``iterate``
    then skips nothing. A streamed ``datasets.IterableDataset`` does not count: its state leaves
    out the contents of its shuffle buffer, so it is read through from the epoch's beginning.
    """
    has_state = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    return has_state and not type(loader).__module__.startswith("datasets.")


class _MapStyleLoader(SampleLoader):
    """A ``DataLoader`` over a map-style data set, read through the indices its sampler draws."""

    def __init__(self, loader: DataLoader, seed: int) -> None:
        super().__init__(
            loader.dataset,
            self._draw,
            collate=loader.collate_fn,
            num_workers=loader.num_workers,
            seed=seed,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            prefetch_factor=loader.prefetch_factor,
            multiprocessing_context=loader.multiprocessing_context,
        )
        self._loader = loader
        self._drawn: tuple[int, list[IndexArray]] | None = None

    def fixed_batches(self) -> ShuffledBatches | None:
        loader = self._loader
        plain = type(loader.batch_sampler) is BatchSampler and (
            type(loader.sampler) is SequentialSampler
            or (type(loader.sampler) is RandomSampler and not loader.sampler.replacement)
        )
        if not plain or loader.batch_size is None:
            return None
        size = len(self.dataset)
        return ShuffledBatches(size, loader.batch_size, self.seed, drop_last=loader.drop_last)

    def with_order(self, order: Order) -> SampleLoader:
        return SampleLoader(
            self.dataset, order, collate=self.collate, seed=self.seed, **self._options
        )

    def shares(self, epoch: int, start: int, rank: int, world_size: int) -> list[IndexArray]:
        if isinstance(self._loader.sampler, DistributedSampler):
            rank, world_size = 0, 1  # the sampler has taken this rank's share already
        if start and not all(map(np.array_equal, self._draw(epoch), self._draw_anew(epoch))):
            raise DataError(
                f"cannot continue exactly at batch {start} of epoch {epoch}: the sampler "
                f"{_name(self._loader)} gives another order each time it is asked; give it a "
                "set_epoch(epoch) or a torch.Generator as its attribute 'generator'"
            )
        return super().shares(epoch, start, rank, world_size)

    def _draw(self, epoch: int) -> list[IndexArray]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw_anew(epoch)
        return self._drawn[1]

    def _draw_anew(self, epoch: int) -> list[IndexArray]:
        try:
            number = len(self._loader)
        except (TypeError, NotImplementedError):
            raise DataError(
                f"the sampler {_name(self._loader)} has no length, so an epoch might never end; "
                "give it a __len__"
            ) from None
        with isolated_generators():
            _prepare(self._loader, self.seed, epoch)
            seed_generators(self.seed, epoch)
            drawn = islice(iter(self._loader.batch_sampler or ()), number)
            return [np.asarray(batch, dtype=np.int64) for batch in drawn]


class _InMemoryLoader(_MapStyleLoader):
    """A ``DataLoader`` over a ``TensorDataset``: one indexed read per tensor gives what collating gives.

    Its samples draw nothing at random, so they need no generators, and no workers.
    """

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Any]:
        for share in self.shares(epoch, start, rank, world_size):
            rows = torch.from_numpy(share)
            yield [t[rows] for t in self.dataset.tensors] if len(share) else None


class _IterableLoader:
    """Anything else that yields batches: it is read through, and ranks share out each batch."""

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed = loader, seed

    def num_batches(self, epoch: int) -> int:
        return len(self.loader)

    def indices(self, epoch: int, batch: int) -> list[int]:
        return []

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        if start and (reason := _why_inexact(self.loader)):
            raise DataError(f"cannot continue exactly at batch {start} of epoch {epoch}: {reason}")
        _prepare(self.loader, self.seed, epoch)
        if isinstance(self.loader, Sequence):
            batches: Iterable[Any] = map(self.loader.__getitem__, range(start, len(self.loader)))
        else:
            skipped = 0 if keeps_state(self.loader) else start
            is_torch = isinstance(self.loader, DataLoader)
            source = read_with_workers(self.loader) if is_torch else iter(self.loader)
            batches = islice(source, skipped, None)
        return (_share(batch, rank, world_size) for batch in batches)


def _prepare(loader: Any, seed: int, epoch: int) -> None:
    """Tell a loader and its parts the epoch, and seed the generators they own."""
    if isinstance(loader, DataLoader):
        loader.generator = torch.Generator()
    sampler = getattr(loader, "batch_sampler", None)
    parts = [loader, getattr(loader, "dataset", None), getattr(loader, "sampler", None)]
    for part in [*parts, sampler, getattr(sampler, "sampler", None)]:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        if isinstance(generator := getattr(part, "generator", None), torch.Generator):
            generator.manual_seed(mix_seed(seed, epoch))


def _why_inexact(loader: Any) -> str | None:
    """Why a loader that is not ours cannot be continued in the middle of an epoch, if so."""
    if isinstance(loader, Sequence) or keeps_state(loader):
        return None
    source = loader
    if isinstance(loader, DataLoader):
        if not isinstance(loader.dataset, IterableDataset):
            return None  # batch_size=None: an ordinary sampler over batches
        source = loader.dataset
    name = type(source).__name__
    if not hasattr(source, "set_epoch"):
        return (
            f"nothing says that {name} gives the same order again; use a map-style data set, or "
            "give it set_epoch(epoch) and make its order depend on that alone"
        )
    if _shuffled_without_seed(getattr(source, "_ex_iterable", None)):
        return f"{name} was shuffled without a seed; use shuffle(seed=...)"
    return None


def _shuffled_without_seed(examples: Any) -> bool:
    """Whether a chain of ``datasets``' streamed examples has a shuffle buffer nobody seeded.

    NumPy keeps the seed it was given as the entropy of the generator; without one it takes 128
    bits from the system.
    """
    if examples is None:
        return False
    if hasattr(examples, "buffer_size"):
        entropy = examples.generator.bit_generator.seed_seq.entropy
        if isinstance(entropy, int) and entropy >= 2**64:
            return True
    inner = [getattr(examples, "ex_iterable", None), *getattr(examples, "ex_iterables", ())]
    return any(map(_shuffled_without_seed, inner))


def _share(batch: Any, rank: int, world_size: int) -> Batch | None:
    if world_size == 1:
        return batch
    if not isinstance(batch, dict) or not all(isinstance(v, Tensor) for v in batch.values()):
        raise DataError(
            f"cannot share a {type(batch).__name__} between {world_size} ranks; expected "
            "dict[str, Tensor] with the samples along the first axis"
        )
    rows = {len(tensor) if tensor.ndim else None for tensor in batch.values()}
    if len(rows) != 1 or None in rows:
        shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
        raise DataError(f"cannot share a batch between ranks: its tensors have shapes {shapes}")
    share = {name: tensor[rank::world_size] for name, tensor in batch.items()}
    return share if len(next(iter(share.values()))) else None


def _name(loader: DataLoader) -> str:
    return type(loader.batch_sampler).__name__ + "/" + type(loader.sampler).__name__
