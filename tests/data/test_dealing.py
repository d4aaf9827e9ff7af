"""Dealing: groups stay whole, classes are even, nothing depends on order."""

import time
from fractions import Fraction

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from common.data.dealing import deal


def shares_of(folds: int, test: str = "0.1") -> list[Fraction]:
    share = Fraction(test)
    return [share] + [(1 - share) / folds] * folds


def dealt(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int = 0, test: str = "0.1"):
    names = [f"raw/{label}/{index}.png" for index, label in enumerate(labels.tolist())]
    return deal(names, labels, groups, shares_of(folds, test), [*range(1, folds + 1), 0], seed)


def table(parts: np.ndarray, labels: np.ndarray, num_parts: int) -> np.ndarray:
    counts = np.zeros((num_parts, labels.max() + 1), np.int64)
    np.add.at(counts, (parts, labels), 1)
    return counts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 200])
def test_single_images_are_dealt_within_one_per_class(seed: int, num_classes: int):
    rng = np.random.default_rng(seed)
    sizes = np.maximum(6, (1000 * rng.random(num_classes) ** 6).astype(int))  # imbalanced
    labels = rng.permutation(np.repeat(np.arange(num_classes), sizes))
    parts = dealt(labels, np.arange(len(labels)), folds=5, seed=seed)
    counts = table(parts, labels, 6)
    ideal = np.array([float(share) for share in shares_of(5)])[:, None] * sizes
    assert (np.abs(counts - ideal) < 1).all()
    assert (counts >= 1).all()
    assert np.ptp(counts[1:].sum(1)) <= 2  # the odd images do not all go to the first fold


def test_without_a_test_set_the_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 503, p=[0.7, 0.2, 0.07, 0.03])
    counts = table(dealt(labels, np.arange(503), folds=5, test="0") - 1, labels, 5)
    theirs = np.stack(
        [
            np.bincount(labels[held], minlength=4)
            for _, held in StratifiedKFold(5).split(labels, labels)
        ]
    )
    assert (np.sort(counts, 0) == np.sort(theirs, 0)).all()


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_parts_and_classes_are_as_even_as_scikit_learn_makes_them(seed: int):
    rng = np.random.default_rng(seed)
    patients = int(rng.integers(40, 120))
    groups = rng.integers(0, patients, int(rng.integers(300, 900)))
    labels = np.minimum(rng.integers(0, 4, patients)[groups], rng.integers(0, 6, len(groups)))
    parts = dealt(labels, groups, folds=5, seed=seed, test="0") - 1
    for group in range(patients):
        assert len(set(parts[groups == group].tolist())) <= 1
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs = np.zeros(len(groups), np.int64)
    for fold, (_, held) in enumerate(splitter.split(labels, labels, groups)):
        theirs[held] = fold

    def unevenness(of: np.ndarray) -> float:
        counts = table(of, labels, 5)
        return float((counts / counts.sum(0)).std(0).mean())

    assert unevenness(parts) <= 1.3 * unevenness(theirs) + 0.005


def test_copies_among_single_images_leave_the_classes_exact():
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [300, 90, 30])
    groups = np.arange(420)
    for _ in range(40):
        a, b = rng.integers(0, 420, 2)
        groups[groups == groups[a]] = groups[b]
    parts = dealt(labels, groups, folds=4)
    counts = table(parts, labels, 5)
    ideal = np.array([float(share) for share in shares_of(4)])[:, None] * [300, 90, 30]
    assert (np.abs(counts - ideal) < 1).all()
    assert all(len(set(parts[groups == group].tolist())) == 1 for group in set(groups.tolist()))


def test_ten_equal_groups_fill_every_part():
    groups = np.repeat(np.arange(10), 10)
    labels = np.zeros(100, np.int64)
    counts = table(dealt(labels, groups, folds=5), labels, 6)[:, 0]
    assert sorted(counts.tolist()) == [10, 10, 20, 20, 20, 20]
    assert counts[0] == 10


def test_the_deal_depends_on_names_and_seed_and_not_on_their_order():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    groups = rng.integers(0, 150, 200)
    names = [f"raw/{label}/{index}.png" for index, label in enumerate(labels.tolist())]
    shares, needed = shares_of(3), [1, 2, 3, 0]
    parts = deal(names, labels, groups, shares, needed, 0)
    order = rng.permutation(200)
    again = deal([names[i] for i in order], labels[order], groups[order], shares, needed, 0)
    assert (again == parts[order]).all()
    assert (deal(names, labels, groups, shares, needed, 1) != parts).any()


def test_sixty_thousand_images_with_many_groups_take_seconds():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 60_000)
    groups = np.where(rng.random(60_000) < 0.5, rng.integers(0, 10_000, 60_000), 60_000)
    groups = np.where(groups == 60_000, 60_000 + np.arange(60_000), groups)
    start = time.perf_counter()
    dealt(labels, groups, folds=10)
    assert time.perf_counter() - start < 20
