"""P classes with M samples each, drawn by (seed, epoch) alone."""

from collections import Counter

import numpy as np
import pytest

from common.data.class_batches import ClassBatches
from common.utils.errors import ConfigError, DataError

LABELS = np.repeat([5, 9, 2, 7], [30, 3, 12, 1])


def test_every_batch_has_p_classes_with_m_samples() -> None:
    for batch in ClassBatches(LABELS, 3, 4)(0):
        counts = Counter(LABELS[batch].tolist())
        assert len(counts) == 3
        assert set(counts.values()) == {4}


def test_no_sample_comes_twice_in_a_batch_that_has_enough() -> None:
    for batch in ClassBatches(LABELS, 4, 4)(1):
        for name in (5, 2):
            own = batch[LABELS[batch] == name]
            assert len(set(own.tolist())) == 4


def test_classes_and_samples_take_turns() -> None:
    labels = np.repeat(np.arange(8), 6)
    batches = ClassBatches(labels, 2, 3)(0)
    assert len(batches) == 8
    seen = np.concatenate(batches)
    assert sorted(seen.tolist()) == list(range(48))  # eight classes twice, three samples each time


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    order, again, other = (ClassBatches(LABELS, 2, 3, seed) for seed in (0, 0, 1))
    order(5)
    for first, second in zip(order(2), again(2), strict=True):
        assert np.array_equal(first, second)
    assert not all(np.array_equal(a, b) for a, b in zip(order(2), other(2), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(order(2), order(3), strict=True))


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(ConfigError, match="num_classes is 5 and per_class 2; expected 1 to 4"):
        ClassBatches(LABELS, 5, 2)
    with pytest.raises(DataError, match="at least one"):
        ClassBatches([], 1, 1)
