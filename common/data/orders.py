"""Which samples make up which batch: a pure function of (seed, epoch).

An order is called with an epoch and gives that epoch's batches as arrays of data set indices. It
holds no position, so continuing at batch ``k`` means taking ``order(epoch)[k:]``, and nothing else.

    order = BucketedBatches(lengths, max_tokens=25_000, seed=0)
    order(3)[120]    # the samples of batch 120 in epoch 3
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.utils.errors import ConfigError, DataError
from common.utils.seeding import mix_seed

IndexArray = NDArray[np.int64]


class Order(Protocol):
    """A function from epoch to batches of indices; the same answer every time it is asked.

    If it has a length as well, that is the number of batches of every epoch.
    """

    def __call__(self, epoch: int) -> Sequence[IndexArray]: ...


class ShuffledBatches:
    """Batches of a fixed number of samples.

    Args:
        size: Number of samples.
        batch_size: Samples in a batch; the last one may be smaller.
        seed: Of the permutation; it is drawn anew for every epoch.
        shuffle: Otherwise samples keep the order of the data set.
        drop_last: Leave out a last batch that is not full.

    Raises:
        ConfigError: if ``batch_size`` is not positive.
        DataError: if there is no sample, or not one full batch where only full ones are taken.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1")
        _check_size(size)
        if drop_last and size < batch_size:
            raise DataError(
                f"{size} samples do not fill one batch of {batch_size}, and drop_last leaves out "
                "what is not full; use a smaller batch_size or drop_last=False"
            )
        self.size, self.batch_size, self.drop_last = size, batch_size, drop_last
        self.seed, self.shuffle = seed, shuffle
        self._drawn: tuple[int, list[IndexArray]] | None = None

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def __call__(self, epoch: int) -> list[IndexArray]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1]

    def _draw(self, epoch: int) -> list[IndexArray]:
        indices = np.arange(self.size, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng(mix_seed(self.seed, epoch)).shuffle(indices)
        end = self.size - self.size % self.batch_size if self.drop_last else self.size
        return [indices[i : min(i + self.batch_size, end)] for i in range(0, end, self.batch_size)]


class BucketedBatches:
    """Batches of near-equal lengths, counted in padded tokens (Vaswani et al. 2017, section 5.1).

    A batch is as large as ``rows * longest <= max_tokens`` allows, where ``longest`` is taken over
    all its rows and sides: with ``max_tokens=25_000`` neither the source nor the target of a pair
    takes more than 25,000 places, padding included. A sample longer than that is a batch alone.

    Every epoch draws new companions for a sample among those of its own length, and new places
    for the batches.

    Args:
        lengths: Tokens of each sample, ``(N,)``, or of each of its sides, ``(N, S)``.
        max_tokens: Places of one batch on one side.
        seed: Of the draw.
        shuffle: Otherwise batches follow each other from short to long, always the same.

    Raises:
        ConfigError: if ``max_tokens`` is not positive.
        DataError: if there is no sample, or a length is not positive.
    """

    def __init__(
        self, lengths: ArrayLike, max_tokens: int, seed: int = 0, shuffle: bool = True
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}, expected at least 1")
        sides = np.asarray(lengths, dtype=np.int64)
        _check_size(len(sides))
        if sides.ndim == 1:
            sides = sides[:, None]
        if sides.ndim != 2:
            raise DataError(f"lengths have shape {sides.shape}, expected (N,) or (N, sides)")
        if (empty := np.flatnonzero((sides < 1).any(axis=1))).size:
            raise DataError(
                f"sample {empty[0]} has the lengths {sides[empty[0]].tolist()}, expected at least "
                "one token on each side; leave empty samples out"
            )
        self.max_tokens, self.seed, self.shuffle = max_tokens, seed, shuffle
        longest = sides.max(axis=1)
        self._ends = self._cut(np.sort(longest))
        # NumPy sorts integers of 16 bits by radix, four times faster than longer ones.
        self._longest = longest.astype(np.min_scalar_type(int(longest.max())))
        self._drawn: tuple[int, list[IndexArray]] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def __call__(self, epoch: int) -> list[IndexArray]:
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return self._drawn[1]

    def _cut(self, longest: IndexArray) -> list[int]:
        """Where batches end in a row of rising lengths, each as large as the budget allows."""
        ends = [0]
        while (start := ends[-1]) < len(longest):
            # No more rows fit than if all were as short as the first; cut where they are longer.
            window = longest[start : start + max(1, self.max_tokens // int(longest[start]))]
            places = window * np.arange(1, len(window) + 1)
            rows = int(np.searchsorted(places, self.max_tokens, side="right"))
            ends.append(start + max(1, rows))
        return ends[1:]

    def _draw(self, epoch: int) -> list[IndexArray]:
        if not self.shuffle:
            return np.split(np.argsort(self._longest, kind="stable"), self._ends[:-1])
        # Sorting by the shorter side too would not lessen the padding (6.9% on Multi30k either
        # way), but would make the same samples meet again more often.
        generator = np.random.default_rng(mix_seed(self.seed, epoch))
        shuffled = generator.permutation(len(self._longest))
        by_length = shuffled[np.argsort(self._longest[shuffled], kind="stable")]
        batches = np.split(by_length, self._ends[:-1])
        return [batches[i] for i in generator.permutation(len(batches))]


class BalancedBatches:
    """Batches in which every class is as probable as any other, whatever its number of samples.

    An epoch has as many places as there are samples. Samples of rare classes come several times in
    it, and some of frequent classes not at all; every epoch draws anew.

    Args:
        labels: The class of each sample, ``(N,)``; classes without a sample take no part.
        batch_size: Samples in a batch; the last one may be smaller.
        seed: Of the draw.
        exact: Every class fills its share of the places, to within one, and all its samples come
            equally often, to within one. Otherwise every place draws a class and a sample of it by
            themselves, with replacement.
        drop_last: Leave out a last batch that is not full.

    Raises:
        ConfigError: if ``batch_size`` is not positive.
        DataError: if there is no sample, or not one full batch where only full ones are taken.
    """

    def __init__(
        self,
        labels: ArrayLike,
        batch_size: int,
        seed: int = 0,
        exact: bool = False,
        drop_last: bool = False,
    ) -> None:
        own = np.asarray(labels)
        if own.ndim != 1:
            raise DataError(f"labels have shape {own.shape}, expected (N,)")
        # Batches are cut as without balance, and what is refused there is refused here.
        self._cut = ShuffledBatches(len(own), batch_size, shuffle=False, drop_last=drop_last)
        self.size, self.batch_size, self.drop_last = len(own), batch_size, drop_last
        self.seed, self.exact = seed, exact
        by_class = np.argsort(own, kind="stable").astype(np.int64)
        _, counts = np.unique(own, return_counts=True)
        self._members = np.split(by_class, np.cumsum(counts)[:-1])
        self._drawn: tuple[int, list[IndexArray]] | None = None

    def __len__(self) -> int:
        return len(self._cut)

    def __call__(self, epoch: int) -> list[IndexArray]:
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.default_rng(mix_seed(self.seed, epoch))
            places = self._draw_exactly(generator) if self.exact else self._draw(generator)
            self._drawn = epoch, [places[batch] for batch in self._cut(0)]
        return self._drawn[1]

    def _draw(self, generator: np.random.Generator) -> IndexArray:
        counts = np.array([len(members) for members in self._members])
        starts = np.cumsum(counts) - counts
        classes = generator.integers(len(counts), size=self.size)
        return np.concatenate(self._members)[starts[classes] + generator.integers(counts[classes])]

    def _draw_exactly(self, generator: np.random.Generator) -> IndexArray:
        share, more = divmod(self.size, len(self._members))
        lucky = set(generator.permutation(len(self._members))[:more].tolist())
        places = []
        for number, members in enumerate(self._members):
            count = share + (number in lucky)
            rounds = -(-count // len(members))
            drawn = [generator.permutation(members) for _ in range(rounds)]
            places.append(np.concatenate(drawn)[:count] if drawn else members[:0])
        return generator.permutation(np.concatenate(places))


class PoissonBatches:
    """Batches in which every sample is, or is not, independently of all others.

    The sampling that the privacy of DP-SGD is accounted for (Abadi et al. 2016, 1607.00133): each
    of ``num_batches`` batches holds each sample with probability ``rate``. Sizes vary, a batch may
    be empty, and a sample may come twice in an epoch or not at all.

    Args:
        size: Number of samples.
        rate: The probability, in (0, 1].
        num_batches: Batches of an epoch.
        seed: Of the draw; batch ``k`` is a function of (seed, epoch, ``k``) alone.
        parts: Each batch is cut into so many micro-batches, which follow each other.

    Raises:
        ConfigError: if the rate is no probability.
        DataError: if there is no sample.
    """

    def __init__(
        self, size: int, rate: float, num_batches: int, seed: int = 0, parts: int = 1
    ) -> None:
        if not 0.0 < rate <= 1.0:
            raise ConfigError(
                f"the sampling rate is {rate:.4g}, expected more than 0 and at most 1; an update "
                f"cannot take more than the {size} samples there are: lower batch_size"
            )
        _check_size(size)
        self.size, self.rate, self.num_batches = size, rate, num_batches
        self.seed, self.parts = seed, parts

    def __len__(self) -> int:
        return self.num_batches * self.parts

    def __call__(self, epoch: int) -> list[IndexArray]:
        batches = (self._draw(epoch, number) for number in range(self.num_batches))
        return [part for batch in batches for part in np.array_split(batch, self.parts)]

    def _draw(self, epoch: int, number: int) -> IndexArray:
        # A binomial size and a uniform subset of it are N independent coins, at the cost of the
        # samples that come instead of all there are.
        generator = np.random.default_rng(mix_seed(self.seed, epoch, number))
        count = generator.binomial(self.size, self.rate)
        drawn = generator.choice(self.size, count, replace=False, shuffle=False)
        return np.sort(drawn.astype(np.int64))


def padding_share(batches: Sequence[IndexArray], lengths: ArrayLike) -> float:
    """The share of all places in these batches that holds padding, between 0 and 1.

    Args:
        batches: What an order gave for an epoch.
        lengths: Tokens of each sample, ``(N,)``, or of each of its sides, ``(N, S)``.
    """
    sides = np.asarray(lengths, dtype=np.int64).reshape(len(np.asarray(lengths)), -1)
    places = sum(int((len(batch) * sides[batch].max(axis=0)).sum()) for batch in batches)
    tokens = sum(int(sides[batch].sum()) for batch in batches)
    return 1.0 - tokens / places


def _check_size(size: int) -> None:
    if size < 1:
        raise DataError("the data set has no samples; expected at least one")
