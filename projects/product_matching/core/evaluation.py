"""From embeddings of held-out items to lists of matches, and how good they are: by image, title, both.

    judged = judge_folds(outcomes, texts, config)
    judged["image"].pooled["f_score"]

Every number is out of fold: the network has not seen the items, and the threshold was not picked on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.metrics import (
    Interval,
    Matches,
    MatchFold,
    Neighbors,
    bootstrap_interval,
    concatenate_embeddings,
    find_matches,
    matches_of,
    union_matches,
)
from projects.product_matching.core.config import Config, MatchingConfig
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.matching.candidates import candidates, check_enough
from projects.product_matching.core.matching.thresholds import (
    FoldThreshold,
    counted,
    cross_thresholds,
    first_half,
    row_scores,
)
from projects.product_matching.core.matching.union_thresholds import FoldUnion, cross_unions

IMAGE, TITLE, BOTH = "image", "title", "image and title"


@dataclass(frozen=True)
class FoldMatches:
    """The matches of one fold by one source.

    Attributes:
        items: What was held out.
        matches: The lists.
        rows: F, precision and recall of each item, ``(N,)`` each.
        threshold: Of the source; ``None`` for a union, which has those of its parts.
        neighbors: Candidates; ``None`` for a union.
        union: Thresholds of image and title, picked together; ``None`` but for a union.
    """

    items: Items
    matches: Matches
    rows: Mapping[str, Tensor]
    threshold: FoldThreshold | None
    neighbors: Neighbors | None
    union: FoldUnion | None = None

    @property
    def scores(self) -> dict[str, float]:
        """Means over the items."""
        return {name: float(values.mean()) for name, values in self.rows.items()}


@dataclass(frozen=True)
class SourceMatches:
    """All folds by one source.

    Attributes:
        folds: By number.
        interval: Of the pooled F, over labels.
    """

    folds: Mapping[int, FoldMatches]
    interval: Interval

    @property
    def pooled(self) -> dict[str, float]:
        """Means over the items of all folds."""
        names = next(iter(self.folds.values())).rows
        folds = self.folds.values()
        return {name: float(torch.cat([f.rows[name] for f in folds]).mean()) for name in names}

    @property
    def spread(self) -> dict[str, dict[str, float | None]]:
        """Mean and standard deviation over folds; of one fold there is none."""
        found: dict[str, dict[str, float | None]] = {}
        scores = [fold.scores for fold in self.folds.values()]
        for name in scores[0]:
            values = np.array([score[name] for score in scores])
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            found[name] = {"mean": float(values.mean()), "deviation": deviation}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``."""
        folds: dict[str, Any] = {}
        for number, fold in self.folds.items():
            folds[str(number)] = {"items": len(fold.items), **fold.scores}
            if fold.threshold is not None:
                threshold, score = fold.threshold.oracle
                folds[str(number)] |= {
                    "judged_at": fold.threshold.judged_at,
                    "picked_on": fold.threshold.picked_on,
                    "threshold": fold.threshold.value,
                    "threshold_picked_on": fold.threshold.value_picked_on,
                    "units": "cosine",
                    "oracle": {"threshold": threshold, "f_score": score},
                }
            if fold.union is not None:
                folds[str(number)] |= fold.union.to_dict()
        interval = {"low": self.interval.low, "high": self.interval.high}
        return {
            "pooled": {**self.pooled, "interval": interval},
            "spread": self.spread,
            "folds": folds,
        }


def judge_folds(
    held_out: Mapping[int, Items],
    images: Mapping[int, Tensor],
    titles: Mapping[int, Tensor] | None,
    config: Config,
) -> dict[str, SourceMatches]:
    """Match the items of each fold among themselves, by every source there is.

    Args:
        held_out: Items by fold.
        images: Their embeddings, ``(N, D)``.
        titles: Their titles' embeddings, ``(N, T)``; ``None`` without text.
        config: Its ``matching`` and ``text`` say how.

    Returns:
        By source: ``image``, and with titles ``title`` and ``image and title``.

    Raises:
        DataError: if a fold is too small to match anything.
    """
    matching = config.matching
    labels = {number: numbered(items.labels) for number, items in held_out.items()}
    found = {IMAGE: _by_embeddings(held_out, images, labels, matching)}
    if titles is not None:
        found[TITLE] = _by_embeddings(held_out, titles, labels, matching)
        if config.text.mode == "concat":
            weights = [1.0 - config.text.weight, config.text.weight]
            joined = {n: concatenate_embeddings([images[n], titles[n]], weights) for n in images}
            found[BOTH] = _by_embeddings(held_out, joined, labels, matching)
        else:
            found[BOTH] = _unions(found[IMAGE], found[TITLE], images, titles, labels, matching)
    return {
        source: SourceMatches(folds, _interval(folds, config.seed))
        for source, folds in found.items()
    }


def check_fold(labels: Sequence[str], what: str, is_only: bool, config: Config) -> None:
    """Whether a fold can be judged, which is known before anything is trained.

    Args:
        labels: Of what is held out.
        what: The fold, for messages.
        is_only: Whether there is no other fold to pick thresholds on.
        config: Its ``matching`` and ``text`` say how.

    Raises:
        DataError: if the fold is too small, or the only one and of one label, or a half of it is too small.
    """
    check_enough(len(labels), config.matching, what)
    if is_only:
        first = first_half(numbered(labels))
        if config.text.mode == "union":  # each half is searched alone
            for half in (first, ~first):
                check_enough(int(half.sum()), config.matching, f"half of the labels of {what}")


def _by_embeddings(
    held_out: Mapping[int, Items],
    embeddings: Mapping[int, Tensor],
    labels: Mapping[int, Tensor],
    matching: MatchingConfig,
) -> dict[int, FoldMatches]:
    neighbors = {number: candidates(embeddings[number], matching) for number in held_out}
    parts = {number: MatchFold(neighbors[number], labels[number]) for number in held_out}
    thresholds = cross_thresholds(list(parts.values()), matching)
    found = {}
    for number, threshold in zip(parts, thresholds, strict=True):
        rows = row_scores(parts[number], threshold.rows, matching)
        matches = _lists(neighbors[number], threshold.rows, matching.min_matches)
        found[number] = FoldMatches(held_out[number], matches, rows, threshold, neighbors[number])
    return found


def _lists(neighbors: Neighbors, thresholds: Tensor, min_matches: int) -> Matches:
    """The matches of queries that have thresholds of their own."""
    shifted = Neighbors(neighbors.ids, neighbors.scores.double() - thresholds[:, None])
    found = find_matches(shifted, 0.0, min_matches)
    return Matches(
        found.queries, found.ids, found.scores + thresholds[found.queries], found.num_queries
    )


def _unions(
    image: Mapping[int, FoldMatches],
    title: Mapping[int, FoldMatches],
    images: Mapping[int, Tensor],
    titles: Mapping[int, Tensor],
    labels: Mapping[int, Tensor],
    matching: MatchingConfig,
) -> dict[int, FoldMatches]:
    """A match by either; both thresholds of a fold are picked together, where it is not judged."""
    neighbors = {n: [_of(part[n]) for part in (image, title)] for n in labels}
    embeddings = {n: (images[n], titles[n]) for n in labels}
    found = {}
    for number, union in cross_unions(neighbors, embeddings, labels, matching).items():
        own = labels[number]
        # A pair's score is by how much it passes.
        sources = [
            (Neighbors(part.ids, part.scores.double() - union.rows[:, place, None]), 0.0)
            for place, part in enumerate(neighbors[number])
        ]
        matches = union_matches(sources, matching.min_matches)
        right = own[matches.ids] == own[matches.queries]
        hits = torch.bincount(matches.queries[right], minlength=len(own))
        taken = torch.bincount(matches.queries, minlength=len(own))
        rows = counted(hits, taken, matches_of(own), matching.beta)
        found[number] = FoldMatches(image[number].items, matches, rows, None, None, union)
    return found


def _of(fold: FoldMatches) -> Neighbors:
    assert fold.neighbors is not None
    return fold.neighbors


def numbered(labels: Sequence[str]) -> Tensor:
    """A number for each label, ``(N,)``."""
    known = {label: place for place, label in enumerate(sorted(set(labels)))}
    return torch.tensor([known[label] for label in labels])


def _interval(folds: Mapping[int, FoldMatches], seed: int) -> Interval:
    values = torch.cat([fold.rows["f_score"] for fold in folds.values()]).tolist()
    groups = [label for fold in folds.values() for label in fold.items.labels]
    return bootstrap_interval(values, groups, seed)
