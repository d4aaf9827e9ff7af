"""Batches of P classes with M samples each, as losses over pairs and triplets need them.

    order = ClassBatches(labels, num_classes=16, per_class=4, seed=0)

Like every order it is a pure function of (seed, epoch), without a position of its own.
"""

import numpy as np
from numpy.typing import ArrayLike

from common.data.orders import IndexArray
from common.utils.errors import ConfigError, DataError
from common.utils.seeding import mix_seed


class ClassBatches:
    """P different classes in every batch, M samples of each.

    Classes take turns: all have come once before one comes again. So do the samples of a class. A class
    with fewer than M samples repeats some in a batch. An epoch has as many batches as the samples fill.

    Args:
        labels: The class of each sample, ``(N,)``.
        num_classes: P, at most the number of classes.
        per_class: M.
        seed: Of the draw; every epoch draws anew.

    Raises:
        ConfigError: if P or M is below 1, or P above the number of classes.
        DataError: if there is no sample.
    """

    def __init__(self, labels: ArrayLike, num_classes: int, per_class: int, seed: int = 0) -> None:
        own = np.asarray(labels)
        if own.ndim != 1 or not len(own):
            raise DataError(f"labels have shape {own.shape}, expected (N,) with at least one")
        by_class = np.argsort(own, kind="stable").astype(np.int64)
        _, counts = np.unique(own, return_counts=True)
        self._members = np.split(by_class, np.cumsum(counts)[:-1])
        if per_class < 1 or not 1 <= num_classes <= len(counts):
            raise ConfigError(
                f"num_classes is {num_classes} and per_class {per_class}; expected 1 to {len(counts)} "
                "(the classes of the data) and at least 1"
            )
        self.num_classes, self.per_class, self.seed = num_classes, per_class, seed
        self._count = max(1, len(own) // (num_classes * per_class))

    def __len__(self) -> int:
        return self._count

    def __call__(self, epoch: int) -> list[IndexArray]:
        generator = np.random.default_rng(mix_seed(self.seed, epoch))
        classes = _Turns(np.arange(len(self._members)), generator)
        samples = [_Turns(members, generator) for members in self._members]
        return [
            np.concatenate(
                [samples[c].take(self.per_class) for c in classes.take_different(self.num_classes)]
            )
            for _ in range(self._count)
        ]


class _Turns:
    """Deals things out in a random order, all of them before any comes again."""

    def __init__(self, things: IndexArray, generator: np.random.Generator) -> None:
        self._things, self._generator = things, generator
        self._waiting: list[int] = []

    def take(self, count: int) -> IndexArray:
        """The next ones; none twice as long as there are as many."""
        if count <= len(self._things):
            return np.array(self.take_different(count), dtype=np.int64)
        return np.concatenate([self.take(len(self._things)), self.take(count - len(self._things))])

    def take_different(self, count: int) -> list[int]:
        """The next ones, none twice."""
        taken: list[int] = []
        while len(taken) < count:
            if not self._waiting:
                self._waiting = self._generator.permutation(self._things).tolist()
            # What is in the batch already waits for the next one.
            place = next((i for i, t in enumerate(self._waiting) if t not in taken), None)
            if place is None:
                more = self._generator.permutation(self._things).tolist()
                self._waiting += more
                continue
            taken.append(self._waiting.pop(place))
        return taken
