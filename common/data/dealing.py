"""Deal images, or any items, to parts (a test set, folds): groups stay whole, classes are even.

Single images alone would be easy: of every class each part gets its share, rounded, and which part
gets the odd ones is balanced over the classes. So the groups (all images of one patient, copies of
one photo) are dealt first, the largest first, each to the part that lacks most of what the group
has; then single images fill, class by class, exactly what is missing. Without groups the counts are
those of scikit-learn's ``StratifiedKFold``, to one image per class; its ``StratifiedGroupKFold``
knows neither a test set nor the second step, and takes a minute for 60,000 images.

What is random is decided by hashes of (seed, name): the same on every machine and in every version
of every library.
"""

from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_TRIES = 8  # orders of groups of one size that are tried

Integers = NDArray[np.int64]


def deal(
    names: Sequence[str],
    labels: Integers,
    groups: Integers,
    shares: Sequence[Fraction],
    needed: Sequence[int],
    seed: int,
) -> Integers:
    """Give every image a part.

    Args:
        names: Of the images, ``(N,)``; they decide what is random, together with the seed.
        labels: Class indices, ``(N,)``.
        groups: Images with the same number stay together, ``(N,)``.
        shares: Of each part, ``(P,)``; they add up to 1.
        needed: The parts that a class with few images goes to, the most important first.
        seed: Another seed is another deal.

    Returns:
        The part of each image, ``(N,)``.
    """
    keys = [
        blake2b(f"{seed}\0{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
        for name in names
    ]
    shuffled = np.array(sorted(range(len(names)), key=keys.__getitem__), np.int64)
    num_classes = int(labels.max(initial=-1)) + 1
    targets = _targets(np.bincount(labels, minlength=num_classes), shares, needed)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    parts = np.full(len(names), -1, np.int64)
    grouped = shuffled[sizes[group_of[shuffled]] > 1]
    lacking = targets
    if len(grouped):
        members = _members(grouped, group_of)
        parts, lacking = _deal_groups(members, labels, targets, parts, needed)
    for label in range(num_classes):
        singles = shuffled[(labels[shuffled] == label) & (parts[shuffled] < 0)]
        counts = _exact(lacking[:, label], len(singles), shares)
        parts[singles] = np.repeat(np.arange(len(shares)), counts)
    return parts


def _targets(counts: Integers, shares: Sequence[Fraction], needed: Sequence[int]) -> Integers:
    """How many images of each class each part should have, ``(P, K)``.

    Each is its share rounded up or down. Among the parts that could have the odd images those that
    would have none come first, then those that got the least so far.
    """
    targets = np.zeros((len(shares), len(counts)), np.int64)
    owed = [Fraction(0)] * len(shares)  # over all classes so far
    for label, count in enumerate(counts.tolist()):
        ideal = [share * count for share in shares]
        given = [int(value) for value in ideal]  # rounded down
        owed = [debt + value for debt, value in zip(owed, ideal, strict=True)]
        waiting = [part for part in range(len(shares)) if ideal[part] > given[part]]
        empty = [part for part in needed if part in waiting and not given[part]]
        others = [part for part in waiting if part not in empty]
        others.sort(key=[n - debt for n, debt in zip(given, owed, strict=True)].__getitem__)
        for part in (empty + others)[: count - sum(given)]:
            given[part] += 1
        owed = [debt - value for debt, value in zip(owed, given, strict=True)]
        targets[:, label] = given
    return targets


def _members(grouped: Integers, group_of: Integers) -> list[Integers]:
    """The images of each group of two and more; groups and images in shuffled order."""
    first: dict[int, list[int]] = {}
    for index, group in zip(grouped.tolist(), group_of[grouped].tolist(), strict=True):
        first.setdefault(group, []).append(index)
    return [np.array(members, np.int64) for members in first.values()]


def _deal_groups(
    groups: list[Integers],
    labels: Integers,
    targets: Integers,
    parts: Integers,
    needed: Sequence[int],
) -> tuple[Integers, Integers]:
    """The best of a few deals: no class missing in a part that could have it, then even counts."""
    held = [np.unique(labels[group], return_counts=True) for group in groups]
    sizes = np.array([len(group) for group in groups])
    counts = np.maximum(targets.sum(0), 1)
    best: tuple[tuple[int, float], list[int], Integers] | None = None
    for attempt in range(_TRIES if len(groups) <= 1000 else 1):
        tie = np.roll(np.arange(len(groups)), attempt * len(groups) // _TRIES)
        order = np.lexsort((tie, -sizes))
        chosen, lacking = _greedy(order, held, targets, counts)
        given = (targets - lacking)[list(needed)] + lacking.sum(0)  # singles can fill a gap
        score = (int((given <= 0).sum()), float(((np.minimum(lacking, 0) / counts) ** 2).sum()))
        if best is None or score < best[0]:
            best = (score, chosen, lacking)
    assert best is not None
    for group, part in zip(groups, best[1], strict=True):
        parts[group] = part
    return parts, best[2]


def _greedy(
    order: Integers,
    held: list[tuple[Integers, Integers]],
    targets: Integers,
    counts: Integers,
) -> tuple[list[int], Integers]:
    """Each group to the part where it brings the counts nearest to their targets.

    ``sum over classes of ((lacking - held)^2 - lacking^2) / count`` is least there.
    """
    lacking = targets.copy()
    chosen = [0] * len(held)
    for index in order.tolist():
        classes, number = held[index]
        left = lacking[:, classes]
        gain = ((2 * left - number) * number / counts[classes]).sum(1)
        room = left.sum(1)
        part = int(np.lexsort((np.arange(len(room)), -room, -gain))[0])
        chosen[index] = part
        lacking[part, classes] -= number
    return chosen, lacking


def _exact(lacking: Integers, count: int, shares: Sequence[Fraction]) -> Integers:
    """Counts of single images that add up to ``count``: what lacks, less where groups went over."""
    wanted = np.maximum(lacking, 0)
    while wanted.sum() > count:
        fullness = [
            Fraction(int(value)) / share if share and value else Fraction(-1)
            for value, share in zip(wanted, shares, strict=True)
        ]
        wanted[max(range(len(shares)), key=fullness.__getitem__)] -= 1
    return wanted
