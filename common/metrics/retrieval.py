"""How well neighbours share a label: what image retrieval is judged by, from their ids alone.

With R the number of gallery items of the query's label (itself left out), rel_i 1 where the i-th neighbour
has that label, and P(i) the share of such among the first i:

    precision at 1   rel_1
    hit at k         1 if any of rel_1 ... rel_k is 1
    recall at k      (rel_1 + ... + rel_k) / R
    R-precision      (rel_1 + ... + rel_R) / R
    MAP@R            1/R sum_{i <= R} P(i) rel_i              Musgrave et al. 2020, 2003.08505, equation 4
    mAP at k         1/min(R, k) sum_{i <= k} P(i) rel_i

Each is the mean over queries with R > 0; the others cannot be answered, are left out and counted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from common.utils.errors import DataError


@dataclass(frozen=True)
class RetrievalReport:
    """Means over the queries that have something to find.

    Attributes:
        queries: How many those are.
        skipped: Queries whose label nothing else has.
        precision_at_1: See above, as the rest.
        hit_at: By k.
        recall_at: By k.
        map_at: By k.
        r_precision: ``None`` if fewer neighbours were found than some query has matches.
        map_at_r: Likewise.
    """

    queries: int
    skipped: int
    precision_at_1: float
    hit_at: dict[int, float]
    recall_at: dict[int, float]
    map_at: dict[int, float]
    r_precision: float | None
    map_at_r: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def matches_of(
    query_labels: Int[Tensor, "Q"], gallery_labels: Int[Tensor, "N"] | None = None
) -> Int[Tensor, "Q"]:
    """R: how many gallery items have each query's label; without a gallery, how many other queries."""
    gallery = query_labels if gallery_labels is None else gallery_labels
    known, counts = gallery.unique(return_counts=True)
    place = torch.searchsorted(known, query_labels).clamp(max=max(len(known) - 1, 0))
    found = counts[place].where(known[place] == query_labels, 0) if len(known) else counts
    return found - 1 if gallery_labels is None else found


def retrieval_metrics(
    ids: Int[Tensor, "Q M"],
    query_labels: Int[Tensor, "Q"],
    gallery_labels: Int[Tensor, "N"] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalReport:
    """Judge neighbours, such as ``nearest_neighbors`` finds, by their labels.

    Args:
        ids: The M best gallery rows of each query, best first; without a gallery, not the query's own.
        query_labels: Any integers.
        gallery_labels: Likewise; those of the queries by default.
        ks: At most M each.

    Raises:
        DataError: if no query has a match, a k is out of range, or the lengths disagree.
    """
    gallery = query_labels if gallery_labels is None else gallery_labels
    if len(ids) != len(query_labels) or any(not 1 <= k <= ids.shape[1] for k in ks):
        raise DataError(
            f"there are {len(ids)} rows of {ids.shape[1]} neighbours for {len(query_labels)} labels, "
            f"and k is {list(ks)}; expected as many rows as labels, and each k from 1 to the neighbours"
        )
    wanted = matches_of(query_labels, gallery_labels)
    answerable = wanted > 0
    if not answerable.any():
        raise DataError(
            f"none of {len(ids)} queries shares its label with anything; nothing to judge"
        )
    wanted = wanted[answerable]
    kept = answerable.nonzero().flatten()
    # No formula looks further; index_select takes rows several times as fast as brackets do.
    width = ids.shape[1]
    ids = ids[:, : max(*ks, 1, min(width, int(wanted.max())))].index_select(0, kept)
    own = query_labels.index_select(0, kept)
    hits = gallery.index_select(0, ids.flatten()).view(ids.shape) == own[:, None]
    found = hits.cumsum(1, dtype=torch.int32)
    ranks = torch.arange(1, ids.shape[1] + 1)
    # In float32 a mean over millions of rows would drift; rows are few enough values for float64.
    precision_sums = (found / ranks * hits).cumsum(1, dtype=torch.float64)
    total = len(wanted)

    def mean(values: Tensor) -> float:
        return float(values.double().sum() / total)

    at_r: tuple[float | None, float | None] = (None, None)
    if int(wanted.max()) <= width:
        last = (wanted - 1)[:, None]
        at_r = (
            mean(found.gather(1, last).squeeze(1) / wanted.double()),
            mean(precision_sums.gather(1, last).squeeze(1) / wanted),
        )
    return RetrievalReport(
        queries=total,
        skipped=len(query_labels) - total,
        precision_at_1=mean(hits[:, 0]),
        hit_at={k: mean(found[:, k - 1] > 0) for k in ks},
        recall_at={k: mean(found[:, k - 1] / wanted.double()) for k in ks},
        map_at={k: mean(precision_sums[:, k - 1] / wanted.clamp(max=k)) for k in ks},
        r_precision=at_r[0],
        map_at_r=at_r[1],
    )
