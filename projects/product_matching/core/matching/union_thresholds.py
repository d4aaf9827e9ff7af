"""Thresholds of a union of image and title: two for a fold, picked together where it is not judged.

    unions = cross_unions(neighbors, embeddings, labels, config.matching)
    unions[0].rows, unions[0].value, unions[0].oracle.picked_score

As for a single source (``thresholds.py``) they are from the other folds, or from the other half of the
labels; a half is searched anew, for among the whole fold's neighbours few may be of this half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.metrics import MatchFold, Neighbors, score_matches, union_matches
from projects.product_matching.core.config import MatchingConfig
from projects.product_matching.core.matching.candidates import candidates
from projects.product_matching.core.matching.match_rules import UnionThresholds, pick_union
from projects.product_matching.core.matching.thresholds import HALVES, ITSELF, OTHERS, first_half

SOURCES = ("image", "title")


@dataclass(frozen=True)
class FoldUnion:
    """The thresholds of image and title of a fold.

    Attributes:
        rows: The two that each query is judged at, ``(N, 2)``.
        value: The two to use the network with.
        picked_on: What the thresholds in ``rows`` were picked on, in words.
        value_picked_on: What ``value`` was picked on.
        oracle: The best two that are known for the judged items themselves, and their F.
    """

    rows: Tensor
    value: tuple[float, float]
    picked_on: str
    value_picked_on: str
    oracle: UnionThresholds

    @property
    def judged_at(self) -> list[tuple[float, float]]:
        """The thresholds of the queries: one pair, or one for each half of a single fold."""
        return [(image, title) for image, title in self.rows.unique(dim=0).tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``."""
        return {
            "judged_at": [dict(zip(SOURCES, pair, strict=True)) for pair in self.judged_at],
            "picked_on": self.picked_on,
            "thresholds": dict(zip(SOURCES, self.value, strict=True)),
            "thresholds_picked_on": self.value_picked_on,
            "units": "cosine",
            "oracle": {
                "thresholds": dict(zip(SOURCES, self.oracle[:2], strict=True)),
                "f_score": self.oracle.picked_score,
            },
        }


def cross_unions(
    neighbors: Mapping[int, Sequence[Neighbors]],
    embeddings: Mapping[int, Sequence[Tensor]],
    labels: Mapping[int, Tensor],
    config: MatchingConfig,
) -> dict[int, FoldUnion]:
    """For each fold two thresholds from the others; for a single one, from halves of its labels, crosswise.

    Args:
        neighbors: By fold, those by image and those by title.
        embeddings: Of the same items, ``(N, D)`` and ``(N, T)``.
        labels: Of the items, ``(N,)``.
        config: The section ``matching``.

    Raises:
        DataError: if a single fold has one label only, or a half of it is too small.
    """
    found = {}
    for number, own in labels.items():
        others = [other for other in labels if other != number]
        oracle = _picked(neighbors, labels, [number], config)
        if not others:
            rows = _by_halves(embeddings[number], own, config)
            # Judged by halves, but used with what all of the fold says.
            found[number] = FoldUnion(rows, oracle[:2], HALVES, ITSELF, oracle)
            continue
        picked = _picked(neighbors, labels, others, config)
        united = union_matches(
            list(zip(neighbors[number], picked[:2], strict=True)), config.min_matches
        )
        judged = score_matches(united, own, beta=config.beta).f_score
        # No search tries every pair: those of the others may serve this fold better.
        oracle = max(oracle, UnionThresholds(*picked[:2], judged), key=lambda pair: pair[2])
        rows = torch.tensor(picked[:2], dtype=torch.float64).expand(len(own), 2)
        found[number] = FoldUnion(rows, picked[:2], OTHERS, OTHERS, oracle)
    return found


def _by_halves(embeddings: Sequence[Tensor], labels: Tensor, config: MatchingConfig) -> Tensor:
    first = first_half(labels)
    rows = torch.empty(len(labels), 2, dtype=torch.float64)
    for half in (first, ~first):
        parts = {0: [candidates(each[half], config) for each in embeddings]}
        picked = _picked(parts, {0: labels[half]}, [0], config)
        rows[~half] = torch.tensor(picked[:2], dtype=torch.float64)
    return rows


def _picked(
    neighbors: Mapping[int, Sequence[Neighbors]],
    labels: Mapping[int, Tensor],
    folds: Sequence[int],
    config: MatchingConfig,
) -> UnionThresholds:
    """The thresholds of image and title that are best together on some folds."""
    both = []
    for place in range(2):
        width = min(neighbors[number][place].ids.shape[1] for number in folds)
        ids, scores, own, behind, labels_behind = [], [], [], 0, 0
        for number in folds:
            part = neighbors[number][place]
            ids.append(part.ids[:, :width] + behind)
            scores.append(part.scores[:, :width])
            own.append(labels[number] + labels_behind)
            behind += len(part.ids)
            labels_behind += int(labels[number].max()) + 1
        both.append(MatchFold(Neighbors(torch.cat(ids), torch.cat(scores)), torch.cat(own)))
    return pick_union(*both, beta=config.beta, min_matches=config.min_matches)
