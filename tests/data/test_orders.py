"""Orders: every sample once, pure in (seed, epoch), buckets within their budget."""

from itertools import pairwise
from time import process_time

import numpy as np
import pytest

from common.data.orders import (
    BalancedBatches,
    BucketedBatches,
    ShuffledBatches,
    padding_share,
)
from common.utils.errors import ConfigError, DataError


def pairs_of_lengths(number: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of translated sentences: (number, 2), correlated, with a long tail."""
    generator = np.random.default_rng(seed)
    source = np.exp(generator.normal(2.6, 0.35, number))
    target = source * np.exp(generator.normal(0, 0.18, number))
    return np.stack([source, target], axis=1).astype(np.int64) + 1


def imbalanced() -> np.ndarray:
    """1,000 labels of the classes 0, 3 and 7: 900, 95 and 5 of them, shuffled."""
    labels = np.repeat([0, 3, 7], [900, 95, 5])
    return np.random.default_rng(0).permutation(labels)


def flat(batches: list[np.ndarray]) -> list[int]:
    return np.concatenate(batches).tolist()


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (1, 8), (8, 8), (100, 7)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_every_sample_once(size: int, batch_size: int, shuffle: bool):
    batches = ShuffledBatches(size, batch_size, seed=3, shuffle=shuffle)(epoch=2)
    assert sorted(flat(batches)) == list(range(size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_without_shuffling_samples_keep_their_order():
    assert flat(ShuffledBatches(10, 3, shuffle=False)(epoch=5)) == list(range(10))


def test_drop_last_leaves_out_what_is_not_full():
    assert [len(b) for b in ShuffledBatches(10, 3, drop_last=True)(epoch=0)] == [3, 3, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: ShuffledBatches(100, 7, seed),
        lambda seed: BucketedBatches(pairs_of_lengths(500), 200, seed),
        lambda seed: BalancedBatches(imbalanced(), 7, seed),
        lambda seed: BalancedBatches(imbalanced(), 7, seed, exact=True),
    ],
)
def test_an_order_is_pure_in_seed_and_epoch(make):
    def drawn(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in make(seed)(epoch)]

    order = make(1)
    asked_out_of_turn = [[b.tolist() for b in order(epoch)] for epoch in (3, 0, 3)]
    assert asked_out_of_turn == [drawn(1, 3), drawn(1, 0), drawn(1, 3)]
    assert drawn(1, 0) != drawn(1, 1)
    assert drawn(1, 0) != drawn(2, 0)


@pytest.mark.parametrize(
    "order",
    [
        ShuffledBatches(10, 3),
        ShuffledBatches(12, 3),
        ShuffledBatches(10, 3, drop_last=True),
        BucketedBatches(pairs_of_lengths(500), 200),
        BucketedBatches([7], 3),
        BalancedBatches([0, 1, 1, 1, 2], 2),
        BalancedBatches([0, 1, 1, 1, 2], 2, exact=True, drop_last=True),
    ],
)
def test_every_epoch_has_as_many_batches_as_the_order_says(order):
    assert {len(order(epoch)) for epoch in range(5)} == {len(order)}


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_buckets_hold_every_sample_once_within_the_budget(sides: int, shuffle: bool):
    lengths = pairs_of_lengths(3000)[:, :sides]
    batches = BucketedBatches(lengths, 500, seed=0, shuffle=shuffle)(epoch=4)
    assert sorted(flat(batches)) == list(range(3000))
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= 500


def test_a_bucket_could_not_take_the_next_sample():
    lengths = pairs_of_lengths(3000)
    batches = BucketedBatches(lengths, 500, shuffle=False)(epoch=0)
    for batch, following in pairwise(batches):
        longer = np.append(batch, following[0])
        assert len(longer) * lengths[longer].max() > 500


def test_a_sample_longer_than_the_budget_is_a_batch_alone():
    batches = BucketedBatches([3, 900, 4, 5, 901], 20, seed=0)(epoch=0)
    assert sorted(flat(batches)) == [0, 1, 2, 3, 4]
    assert [1] in [b.tolist() for b in batches]
    assert [4] in [b.tolist() for b in batches]


def test_buckets_waste_little_and_mix_their_samples():
    lengths = pairs_of_lengths(29_000)
    order = BucketedBatches(lengths, 2500, seed=0)
    by_number = ShuffledBatches(29_000, 150)
    assert padding_share(order(0), lengths) < 0.09
    assert padding_share(by_number(0), lengths) > 0.4

    batch_of = np.empty(29_000, dtype=int)
    for number, batch in enumerate(order(1)):
        batch_of[batch] = number
    met = again = 0
    for batch in order(0):
        counts = np.bincount(batch_of[batch])
        met += len(batch) * (len(batch) - 1)
        again += int((counts * (counts - 1)).sum())
    assert again / met < 0.25, "a sample's companions must not be the same every epoch"


def test_buckets_come_in_no_order_of_length():
    lengths = pairs_of_lengths(5000)
    longest = [lengths[b].max() for b in BucketedBatches(lengths, 500, seed=0)(epoch=0)]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.25


@pytest.mark.parametrize("exact", [False, True])
def test_balanced_batches_hold_every_class_equally_often(exact: bool):
    labels = imbalanced()
    order = BalancedBatches(labels, 50, seed=1, exact=exact)
    drawn = np.array([np.bincount(labels[flat(order(epoch))])[[0, 3, 7]] for epoch in range(20)])
    assert (drawn.sum(1) == 1000).all()
    expected = 1000 / 3
    if exact:
        assert np.abs(drawn - expected).max() < 1
        assert drawn.mean(0) == pytest.approx(expected, abs=0.6)
    else:
        deviation = (1000 * 1 / 3 * 2 / 3) ** 0.5
        assert np.abs(drawn - expected).max() < 5 * deviation
        assert np.abs(drawn.mean(0) - expected).max() < 5 * deviation / 20**0.5
    assert {len(batch) for batch in order(0)} == {50}


def test_exactly_balanced_samples_of_a_class_come_equally_often():
    labels = imbalanced()
    times = np.bincount(flat(BalancedBatches(labels, 50, exact=True)(0)), minlength=1000)
    for name in (0, 3, 7):
        assert np.ptp(times[labels == name]) <= 1
    assert times[labels == 7].min() >= 66


def test_over_the_epochs_every_sample_comes():
    labels = imbalanced()
    order = BalancedBatches(labels, 50)
    seen = {index for epoch in range(30) for index in flat(order(epoch))}
    assert len(seen) == 1000


@pytest.mark.parametrize("exact", [False, True])
def test_more_classes_than_places_of_a_batch(exact: bool):
    order = BalancedBatches(np.arange(200), 3, exact=exact)
    assert sorted(len(batch) for batch in order(0)) == [2] + [3] * 66
    if exact:
        assert sorted(flat(order(0))) == list(range(200))


def test_padding_share_of_a_case_counted_by_hand():
    # Sides of 2 x 5 and 2 x 3 places, then one sample without padding: 4 + 1 + 3 + 2 + 5 of 21.
    lengths = [[5, 1], [4, 3], [3, 2]]
    batches = [np.array([0, 1]), np.array([2])]
    assert padding_share(batches, lengths) == pytest.approx(1 - 18 / 21)


def test_drawing_an_epoch_of_a_million_pairs_takes_about_a_second():
    order = BucketedBatches(pairs_of_lengths(1_000_000), 25_000)
    start = process_time()
    order(0)
    assert process_time() - start < 5


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: ShuffledBatches(10, 0), ConfigError, "batch_size is 0"),
        (lambda: ShuffledBatches(0, 4), DataError, "no samples"),
        (lambda: ShuffledBatches(3, 4, drop_last=True), DataError, "drop_last"),
        (lambda: BalancedBatches([], 4), DataError, "no samples"),
        (lambda: BalancedBatches([1, 2], 0), ConfigError, "batch_size is 0"),
        (lambda: BalancedBatches([[1, 2]], 1), DataError, "shape"),
        (lambda: BucketedBatches([], 10), DataError, "no samples"),
        (lambda: BucketedBatches([3, 2], 0), ConfigError, "max_tokens is 0"),
        (lambda: BucketedBatches([[3, 2], [4, 0]], 10), DataError, "sample 1 .*at least"),
        (lambda: BucketedBatches(np.ones((2, 2, 2)), 10), DataError, "shape"),
    ],
)
def test_what_cannot_be_ordered_is_refused(make, kind: type[Exception], words: str):
    with pytest.raises(kind, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
