"""Copies among images: byte for byte, or alike to the eye; and copies whose labels disagree.

copies = find_duplicates(facts, labels, near=True, distance=6)
copies.groups                      # images with one number belong on one side of a split
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.perceptual_hash import DISTANCE, Indices, alike_groups, joined
from projects.image_classification.core.folder.image_facts import ImageFacts


@dataclass(frozen=True)
class Duplicates:
    """What was found among ``G`` good images.

    Attributes:
        groups: ``(G,)``: copies, exact and near, share the lowest index among them.
        exact: Sets of two and more images with the same bytes.
        near: Sets of two and more images that look alike, not all of them the same bytes.
        conflicts: Those of either kind whose labels differ.
    """

    groups: Indices
    exact: list[list[int]]
    near: list[list[int]]
    conflicts: list[list[int]]


def find_duplicates(
    facts: ImageFacts, labels: Sequence[str], near: bool = True, distance: int = DISTANCE
) -> Duplicates:
    """Find copies.

    Args:
        facts: Of the good images.
        labels: Their classes, ``(G,)``.
        near: Look for images that look alike, too.
        distance: Bits in which the hashes of two that look alike may differ.
    """
    first: dict[bytes, int] = {}
    same = [first.setdefault(look.digest, index) for index, look in enumerate(facts.looks)]
    exact_groups = np.array(same, np.int64)
    groups = exact_groups
    if near:
        distinct = np.unique(exact_groups)  # of many exact copies one is compared
        alike = alike_groups(facts.codes[distinct], facts.thumbnails[distinct], distance)
        groups = joined(exact_groups, distinct, distinct[alike])
    exact = _sets(exact_groups)
    known = {tuple(one) for one in exact}
    seen = [one for one in _sets(groups) if tuple(one) not in known]
    conflicts = [one for one in exact + seen if len({labels[index] for index in one}) > 1]
    return Duplicates(groups, exact, seen, conflicts)


def join_names(groups: Indices, names: Sequence[str]) -> Indices:
    """Groups after images with the same name, such as a patient's, were put together, too."""
    first: dict[str, int] = {}
    named = np.array([first.setdefault(name, index) for index, name in enumerate(names)], np.int64)
    return joined(groups, np.arange(len(names)), named)


def _sets(groups: Indices) -> list[list[int]]:
    """The members of each group of two and more, in order."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(counts[inverse] > 1).tolist():
        members.setdefault(int(groups[index]), []).append(index)
    return list(members.values())
