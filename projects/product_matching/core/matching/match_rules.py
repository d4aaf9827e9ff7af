"""How embeddings become matches: which neighbours are looked at, and what passes.

    rule = MatchRule(threshold=0.61)
    found = rule.matches(Rows(embeddings), k=50)                         # of each among the others
    found = rule.matches(Rows(queries), Rows(embeddings), k=50)
    union = pick_union(by_image, by_title)                               # two thresholds, together

With titles a ``TextRule`` stands beside: ``concat`` compares one embedding of image and title, and
``union`` takes what passes by either. Thresholds are picked on one fold and judged on another.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from common.metrics import (
    Matches,
    MatchFold,
    Neighbors,
    concatenate_embeddings,
    expand_queries,
    find_matches,
    matching_curve,
    nearest_neighbors,
    score_matches,
    union_matches,
)
from common.utils.errors import ConfigError, DataError
from common.utils.text import printable

MOST_MATCHES = 1000  # of one query: fetched for those whose last neighbour still passes
_GROWTH = 4
_CANDIDATES = 12  # thresholds of one source that are tried at a time
_ROUNDS = 3
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("units", "mode"), (str,)),
    **dict.fromkeys(("min_matches", "expansion"), (int,)),
    "text": (dict, type(None)),
}


class Rows(NamedTuple):
    """Items as they are compared.

    Attributes:
        image: Embeddings ``(N, D)``.
        title: The same of titles, ``(N, T)``; ``None`` where images alone are compared.
    """

    image: Tensor
    title: Tensor | None = None


@dataclass(frozen=True)
class TextRule:
    """What titles add.

    Attributes:
        mode: ``concat`` or ``union``.
        threshold: Of the joint cosine (concat), or of the cosine of titles (union).
        image_threshold: Of the cosine of images, union only.
        weight: Share of the title in the joint cosine, concat only.
    """

    mode: str
    threshold: float
    image_threshold: float = math.nan
    weight: float = 0.5


@dataclass(frozen=True)
class MatchRule:
    """What passes as a match.

    Attributes:
        threshold: Of the cosine of images.
        units: Of the threshold.
        beta: Of the F that it was picked by.
        min_matches: A list holds at least this many, its query included.
        expansion: Neighbours that are added to each embedding before it is compared.
        alpha: Query expansion's; see ``expand_queries``.
        text: What titles add where there are any.

    Raises:
        DataError: for a value that has no meaning.
    """

    threshold: float
    units: str = "cosine"
    beta: float = 1.0
    min_matches: int = 1
    expansion: int = 0
    alpha: float = 3.0
    text: TextRule | None = None

    def __post_init__(self) -> None:
        thresholds = [self.threshold]
        if self.text is not None:
            if self.text.mode not in ("concat", "union") or not 0.0 < self.text.weight < 1.0:
                raise DataError(
                    f"titles are used by '{self.text.mode}' with weight {self.text.weight}; "
                    "expected concat or union, and a weight between 0 and 1"
                )
            thresholds.append(self.text.threshold)
            thresholds += [self.text.image_threshold] if self.text.mode == "union" else []
        if any(math.isnan(value) for value in thresholds):
            raise DataError(f"thresholds are {thresholds}; expected numbers to compare scores with")
        if self.units != "cosine":
            raise DataError(f"a threshold has the units '{self.units}'; expected cosine")
        if not 1 <= self.min_matches <= MOST_MATCHES or self.expansion < 0:
            raise DataError(
                f"min_matches is {self.min_matches} and expansion {self.expansion}; expected 1 to "
                f"{MOST_MATCHES}, and 0 or more"
            )
        if not (0.0 < self.beta < math.inf and 0.0 <= self.alpha < math.inf):
            raise DataError(
                f"beta is {self.beta} and alpha {self.alpha}; expected a positive number, and 0 "
                "or more"
            )

    @classmethod
    def of_state(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``; the values may come from somebody else's file.

        Raises:
            ConfigError: for a value of another kind.
            DataError: for one that has no meaning.
            TypeError: for a name that is none.
        """
        text = values.get("text")
        for section in (values, text or {}):
            for name, value in section.items():
                kind = _KINDS.get(name, (int, float))
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise ConfigError(f"rule: {printable(str(name))} is a {type(value).__name__}")
        return cls(**{**values, "text": None if text is None else TextRule(**text)})

    def sources(
        self, queries: Rows, gallery: Rows | None = None, k: int = 50
    ) -> list[tuple[Neighbors, float]]:
        """The k nearest of every query by each thing that is compared, and the threshold of each.

        Args:
            queries: What is asked for.
            gallery: What is searched; the queries, each without itself, by default.
            k: At most as many as there are; fewer are fetched where there are fewer.

        Raises:
            DataError: if there is nothing to find, or an embedding is not finite.
        """
        there = len(queries.image) - 1 if gallery is None else len(gallery.image)
        if there < 1:
            raise DataError("there is one image and nothing to match it with")
        k = min(k, there)
        image = _Searched(queries.image, None if gallery is None else gallery.image)
        text = self.text
        if text is None or queries.title is None or (gallery is not None and gallery.title is None):
            return [(self._nearest(image, k), self.threshold)]
        title = _Searched(queries.title, None if gallery is None else gallery.title)
        if text.mode == "concat":
            return [(self._nearest(image.joined(title, text.weight), k), text.threshold)]
        both = [(image, text.image_threshold), (title, text.threshold)]
        return [(self._nearest(each, k), threshold) for each, threshold in both]

    def _nearest(self, searched: "_Searched", k: int) -> Neighbors:
        return searched.expanded(self.expansion, self.alpha).nearest(k)

    def matches(self, queries: Rows, gallery: Rows | None = None, k: int = 50) -> "FoundMatches":
        """Everything that passes, up to ``MOST_MATCHES`` for a query.

        Args:
            queries: What is asked for.
            gallery: As for ``sources``.
            k: Neighbours to begin with; more are fetched while any query's last one passes.

        Raises:
            DataError: as ``sources``.
        """
        there = len(queries.image) - 1 if gallery is None else len(gallery.image)
        limit = min(there, MOST_MATCHES)
        k = max(1, min(max(k, self.min_matches - 1), limit))
        while True:
            sources = self.sources(queries, gallery, k)
            cut = sum(
                int((found.scores[:, -1].double() >= least).sum()) for found, least in sources
            )
            if not cut or k >= limit:
                break
            k = min(k * _GROWTH, limit)
        forced = min(self.min_matches, there + 1)
        return FoundMatches(_passing(sources, forced), sources, cut if k < there else 0)


class FoundMatches(NamedTuple):
    """Matches, and what they were chosen from.

    Attributes:
        matches: What passes.
        sources: Neighbours of each query by each thing compared, with its threshold.
        cut: Lists that end at ``MOST_MATCHES`` though more would pass.
    """

    matches: Matches
    sources: list[tuple[Neighbors, float]]
    cut: int

    def nearest(self, query: int, k: int) -> list[tuple[int, float, bool]]:
        """The best of one query, whether they pass or not: row, score, and whether it is a match.

        With two sources a score is by how much the threshold of either is passed.
        """
        one = [
            (Neighbors(*(part[query : query + 1] for part in found)), t)
            for found, t in self.sources
        ]
        width = max(found.ids.shape[1] for found, _ in one)
        best = _passing(one, min(k, width) + 1)
        passed = set(self.matches.ids[self.matches.queries == query].tolist())
        ranked = zip(best.ids[:k].tolist(), best.scores[:k].tolist(), strict=True)
        return [(row, score, row in passed) for row, score in ranked]


class UnionThresholds(NamedTuple):
    """What passes by image or by title.

    Attributes:
        image: Threshold of the cosine of images.
        title: Of titles.
        picked_score: The mean F of the fold they were picked on; too high, for they were chosen.
    """

    image: float
    title: float
    picked_score: float


def pick_union(
    image: MatchFold, title: MatchFold, *, beta: float = 1.0, min_matches: int = 1
) -> UnionThresholds:
    """The two thresholds of a union, picked together on one fold.

    Each source's own best threshold lets too much pass once the other lets pass as well. So from
    these two on, each in turn becomes the best of two dozen, spread over the scores around and
    above it, while the other stays.

    Args:
        image: Of the fold that may be looked at, by image.
        title: The same items by title.
        beta: Of the F that is maximised.
        min_matches: As for ``find_matches``.

    Raises:
        DataError: if the two folds are not of the same items.
    """
    if not torch.equal(image.labels, title.labels):
        raise DataError("images and titles have other labels; expected the same items, in order")
    folds = (image, title)
    found = [matching_curve(fold, beta=beta, min_matches=min_matches).best[0] for fold in folds]

    def score_of(thresholds: list[float]) -> float:
        sources = [(fold.neighbors, least) for fold, least in zip(folds, thresholds, strict=True)]
        united = union_matches(sources, min_matches)
        return score_matches(united, image.labels, beta=beta).f_score

    best = score_of(found)
    for _ in range(_ROUNDS):
        before = best
        for place, fold in enumerate(folds):
            for candidate in _candidates(fold, found[place]):
                tried = [*found[:place], candidate, *found[place + 1 :]]
                if (score := score_of(tried)) > best:
                    best, found = score, tried
        if best == before:
            break
    return UnionThresholds(found[0], found[1], best)


def _candidates(fold: MatchFold, current: float) -> list[float]:
    """Scores a little below a threshold, scores above it, and one that nothing passes."""
    scores = fold.neighbors.scores.flatten().double().sort().values
    place = int(torch.searchsorted(scores, torch.tensor(current, dtype=torch.float64)))
    above, below = scores[place:], scores[max(0, place - len(scores) // 20) : place]
    steps = torch.linspace(0.0, 1.0, _CANDIDATES, dtype=torch.float64)
    chosen = [part[(steps * (len(part) - 1)).long()] for part in (below, above) if len(part)]
    nothing = float(scores[-1]) + 1.0
    return [*torch.cat(chosen).unique().tolist(), nothing] if chosen else [nothing]


def _passing(sources: list[tuple[Neighbors, float]], min_matches: int) -> Matches:
    if len(sources) == 1:
        return find_matches(*sources[0], min_matches)
    return union_matches(sources, min_matches)


@dataclass(frozen=True)
class _Searched:
    """Queries, and what they are searched in: themselves without one."""

    queries: Tensor
    gallery: Tensor | None

    def nearest(self, k: int) -> Neighbors:
        return nearest_neighbors(self.queries, self.gallery, k=k)

    def expanded(self, k: int, alpha: float) -> "_Searched":
        """With its nearest in the gallery added to every row, those of the gallery included."""
        searched = self.queries if self.gallery is None else self.gallery
        k = min(k, len(searched) - 1)
        if k < 1:  # no expansion is asked for, or there is one item
            return self
        among = nearest_neighbors(searched, k=k)
        if self.gallery is None:
            return _Searched(expand_queries(searched, among, k, alpha), None)
        asked = nearest_neighbors(self.queries, searched, k=k)
        behind = len(self.queries)  # rows of the gallery, where both stand in one matrix
        both = Neighbors(
            torch.cat([asked.ids, among.ids]) + behind, torch.cat([asked.scores, among.scores])
        )
        rows = expand_queries(torch.cat([self.queries, searched]), both, k, alpha)
        return _Searched(rows[:behind], rows[behind:])

    def joined(self, title: "_Searched", weight: float) -> "_Searched":
        """One embedding of image and title."""
        weights = [1.0 - weight, weight]
        queries = concatenate_embeddings([self.queries, title.queries], weights)
        if self.gallery is None or title.gallery is None:
            return _Searched(queries, None)
        return _Searched(queries, concatenate_embeddings([self.gallery, title.gallery], weights))
