"""Exact neighbours among vectors that lie in a file, block by block, whatever the file's size.

The same order as ``common.metrics.nearest_neighbors`` gives: float32 products find the candidates,
float64 decides between those that nearly tie, and the smaller row between those that do. That
function copies and normalises its whole gallery for every call; this one reads the mapped rows in
place, once, and keeps nothing but the best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

_ROWS = 1 << 14  # of a block: 8 MB at D = 128, which stay in the cache for all queries
_QUERIES = 1 << 10  # scored together
_FEW = 20  # queries up to which FAISS's loop is faster than a matrix product
_SPARE = 4  # neighbours beyond k, to see whether the k-th is tied
_NEAR = 4e-6  # of the largest possible score: where float32 products cannot be told apart
_NUMBERS = 1 << 22  # of float64 at once


@dataclass(frozen=True)
class Gallery:
    """What is searched.

    Attributes:
        vectors: ``(N, D)`` float32, mapped; of length 1 where the metric is ``cosine``.
        metric: ``cosine`` or ``euclidean``.
        longest: The largest squared length of a vector.
        alive: Which rows count; ``None`` if all do.
    """

    vectors: NDArray[np.float32]
    metric: str
    longest: float = 1.0
    alive: NDArray[np.bool_] | None = None

    def count(self, start: int, stop: int) -> int:
        """How many of the rows from ``start`` to ``stop`` count."""
        return stop - start if self.alive is None else int(self.alive[start:stop].sum())

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Row numbers ``(R,)`` and rows ``(R, D)`` that count; copied only where some do not."""
        for first in range(start, stop, _ROWS):
            last = min(first + _ROWS, stop)
            block = torch.from_numpy(self.vectors[first:last])
            numbers = torch.arange(first, last)
            if self.alive is not None and not self.alive[first:last].all():
                there = torch.from_numpy(self.alive[first:last])
                block, numbers = block[there], numbers[there]
            if len(numbers):
                yield numbers, block


class Ranked(NamedTuple):
    """The best, best first.

    Attributes:
        rows: ``(Q, k)``; -1 where there is none.
        scores: ``(Q, k)`` float64: cosines, or minus the squared distances; -inf where there is
            none.
    """

    rows: Int[Tensor, "Q k"]
    scores: Float[Tensor, "Q k"]


def nearest_rows(
    queries: Float[Tensor, "Q D"], gallery: Gallery, k: int, start: int, stop: int
) -> Ranked:
    """The k best rows from ``start`` to ``stop`` for every query; fewer if fewer count.

    Args:
        queries: float32, of length 1 where the metric is ``cosine``.
        gallery: What is searched.
        k: At least 1.
        start: First row.
        stop: Row after the last.
    """
    k = min(k, gallery.count(start, stop))
    parts = [
        _nearest(part, gallery, k, start, stop)
        for part in queries.split(_QUERIES)
        if k and len(part)
    ]
    if not parts:
        shape = (len(queries), k)
        return Ranked(
            torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.float64)
        )
    return Ranked(torch.cat([part.rows for part in parts]), torch.cat([p.scores for p in parts]))


def ranked(queries: Tensor, gallery: Gallery, rows: Int[Tensor, "Q M"], k: int) -> Ranked:
    """The k best of the candidates of every query, scored in float64, exact ties by row.

    Args:
        queries: ``(Q, D)``, as for ``nearest_rows``.
        gallery: Where the candidates are.
        rows: Candidates, none twice for a query; -1 is none.
        k: At most M.
    """
    parts = []
    step = max(1, _NUMBERS // max(1, rows.shape[1] * queries.shape[1]))
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        # Gathered with NumPy: only the pages of these rows are read.
        found = torch.from_numpy(gallery.vectors[some.clamp_min(0).numpy()])
        scores = _exact(queries[first : first + step].unsqueeze(1), found, gallery.metric)
        parts.append(_ordered(some, scores.masked_fill_(some < 0, -torch.inf), k))
    return Ranked(torch.cat([part.rows for part in parts]), torch.cat([p.scores for p in parts]))


def best_of(parts: list[Ranked], k: int) -> Ranked:
    """The k best of several results for the same queries."""
    rows = torch.cat([part.rows for part in parts], 1)
    return _ordered(rows, torch.cat([part.scores for part in parts], 1), k)


def _nearest(queries: Tensor, gallery: Gallery, k: int, start: int, stop: int) -> Ranked:
    rows, scores = _candidates(queries, gallery, k + _SPARE, start, stop)
    found = ranked(queries, gallery, rows, k)
    if gallery.count(start, stop) <= k + _SPARE:
        return found
    # If the last that was fetched ties with the k-th, one that was not fetched may as well.
    tolerance = _NEAR * _largest(queries, gallery)
    unsure = (found.scores[:, -1] - scores.min(1).values.double() <= tolerance).nonzero().flatten()
    if len(unsure):
        again = _nearest_of_ties(queries[unsure], gallery, found, unsure, tolerance, start, stop)
        found.rows[unsure], found.scores[unsure] = again
    return found


def _candidates(
    queries: Tensor, gallery: Gallery, wanted: int, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """The best by float32 scores, in no order."""
    lengths = queries.square().sum(1, keepdim=True)
    rows = torch.empty(len(queries), 0, dtype=torch.int64)
    scores = torch.empty(len(queries), 0)
    by_faiss = len(queries) <= _FEW and find_spec("faiss") is not None
    for numbers, block in gallery.blocks(start, stop):
        m = min(wanted, len(block))
        if by_faiss:
            best, places = _by_faiss(queries, block, m, gallery.metric)
        else:
            best, places = _products(queries, lengths, block, gallery.metric).topk(m)
        rows, scores = torch.cat((rows, numbers[places]), 1), torch.cat((scores, best), 1)
        if scores.shape[1] > wanted:
            scores, kept = scores.topk(wanted)
            rows = rows.gather(1, kept)
    return rows, scores


def _nearest_of_ties(
    queries: Tensor,
    gallery: Gallery,
    found: Ranked,
    places: Tensor,
    tolerance: float,
    start: int,
    stop: int,
) -> tuple[Tensor, Tensor]:
    """What ``found`` should be at ``places``: every row near the k-th is scored in float64."""
    k = found.rows.shape[1]
    least = found.scores[places, -1:] - tolerance
    lengths = queries.square().sum(1, keepdim=True)
    best = [(torch.empty(1, 0, dtype=torch.int64), torch.empty(1, 0).double()) for _ in places]
    for numbers, block in gallery.blocks(start, stop):
        near = _products(queries, lengths, block, gallery.metric) >= least
        for place in near.any(1).nonzero().flatten().tolist():
            there = near[place].nonzero().flatten()
            exact = _exact(queries[place], block[there], gallery.metric).unsqueeze(0)
            rows = torch.cat((best[place][0], numbers[there].unsqueeze(0)), 1)
            scores = torch.cat((best[place][1], exact), 1)
            best[place] = _ordered(rows, scores, min(k, rows.shape[1]))
    return torch.cat([rows for rows, _ in best]), torch.cat([scores for _, scores in best])


def _products(queries: Tensor, lengths: Tensor, block: Tensor, metric: str) -> Tensor:
    scores = queries @ block.T
    if metric == "euclidean":  # -(|x|^2 - 2 x y + |y|^2)
        scores.mul_(2.0).sub_(block.square().sum(1)).sub_(lengths)
    return scores


def _by_faiss(queries: Tensor, block: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    import faiss

    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    scores, places = faiss.knn(queries.numpy(), block.numpy(), k, metric=kind)
    found = torch.from_numpy(scores)
    return found if metric == "cosine" else found.neg_(), torch.from_numpy(places)


def _largest(queries: Tensor, gallery: Gallery) -> float:
    if gallery.metric == "cosine":
        return 1.0
    return max(float(queries.square().sum(1).max()) + gallery.longest, 1e-30)


def _exact(x: Tensor, y: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return (x.double() * y.double()).sum(-1)
    return 0.0 - (x.double() - y.double()).square().sum(-1)  # not -0.0


def _ordered(rows: Tensor, scores: Tensor, k: int) -> Ranked:
    """The first k by falling score, equal ones by rising row."""
    order = rows.sort(1).indices
    rows, scores = rows.gather(1, order), scores.gather(1, order)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return Ranked(rows.gather(1, order), scores.gather(1, order))
