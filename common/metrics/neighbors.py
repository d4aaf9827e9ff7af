"""Exact nearest neighbours: by FAISS where it is installed, in blocks by PyTorch elsewhere.

    found = nearest_neighbors(embeddings, k=10)                 # of each among the others
    found = nearest_neighbors(queries, gallery, k=10)

Both ways give the same neighbours in the same order. Matrix products differ in their last bits from
library to library, so rows in which scores nearly tie are decided anew in float64, and exact ties
by the smaller index.
"""

from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from common.utils.errors import DataError
from common.utils.text import did_you_mean

UNITS = {"cosine": "cosine", "euclidean": "minus squared distance"}  # of scores, by metric
METRICS = tuple(UNITS)
BACKENDS = ("auto", "faiss", "torch")
_BLOCK = 1 << 23  # scores held at once
_STRIDES = 16  # parts that a row of scores is folded into
_PAIRS = 1 << 17  # candidates settled at once
_SPARE = 4  # neighbours beyond k, to see whether the k-th is tied
_NEAR = 4e-6  # of the largest possible score: where float32 products cannot be told apart


class Neighbors(NamedTuple):
    """What was found, best first.

    Attributes:
        ids: ``(Q, k)``, rows of the gallery.
        scores: ``(Q, k)``: cosines, or minus the squared Euclidean distances.
    """

    ids: Int[Tensor, "Q k"]
    scores: Float[Tensor, "Q k"]


def nearest_neighbors(
    queries: Float[Tensor, "..."],
    gallery: Float[Tensor, "..."] | None = None,
    k: int = 10,
    *,
    metric: str = "cosine",
    backend: str = "auto",
) -> Neighbors:
    """The k best rows of the gallery for every query; memory grows with Q k, not with Q N.

    Args:
        queries: Embeddings ``(Q, D)``, on the CPU or moved there.
        gallery: What is searched, ``(N, D)``. Without one the queries are, each without itself: it
            is left out by its index, so that copies of it are found.
        k: At most N, or N - 1 without a gallery.
        metric: ``cosine`` or ``euclidean``.
        backend: ``faiss``, ``torch``, or ``auto`` for the first that is installed.

    Raises:
        DataError: if there are fewer than k, widths differ, or an embedding is not finite.
        ValueError: for another metric or backend.
    """
    _check_words(metric, backend)
    excludes = gallery is None
    x = _prepared(queries, metric, "query")
    y = x if gallery is None else _prepared(gallery, metric, "gallery row")
    if x.shape[1] != y.shape[1]:
        raise DataError(f"queries have width {x.shape[1]}, the gallery {y.shape[1]}; expected one")
    there = len(y) - excludes
    if not 1 <= k <= there:
        raise DataError(f"k is {k}; expected 1 to {there}, the number of rows to find")
    if not len(x):
        return Neighbors(torch.empty(0, k, dtype=torch.int64), torch.empty(0, k))
    wanted = min(k + excludes + _SPARE, len(y))
    uses_faiss = backend == "faiss" or (backend == "auto" and find_spec("faiss") is not None)
    search = _by_faiss if uses_faiss else _by_torch
    ids, scores = search(x, y, wanted, metric)
    if excludes:
        ids, scores = _without_self(ids, scores)
    return _settled(x, y, ids, scores, k, metric, excludes)


def _prepared(rows: Tensor, metric: str, what: str) -> Tensor:
    rows = rows.detach().cpu().float()
    if rows.ndim != 2:
        raise DataError(f"embeddings have shape {tuple(rows.shape)}; expected (N, D)")
    # The extremes tell at once that all is well; which row is not is looked for only otherwise.
    if rows.numel() and not torch.stack(rows.aminmax()).isfinite().all():
        bad = (~rows.isfinite().all(1)).nonzero().flatten()
        raise DataError(
            f"{len(bad)} of {len(rows)} embeddings are not finite (first: {what} {int(bad[0])}); the "
            "model has diverged, or its precision overflows"
        )
    return (F.normalize(rows) if metric == "cosine" else rows).contiguous()


def _by_faiss(x: Tensor, y: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    import faiss

    kind = faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2
    index = kind(y.shape[1])
    index.add(y.numpy())
    scores, ids = index.search(x.numpy(), k)
    found = torch.from_numpy(scores)
    return torch.from_numpy(ids), found if metric == "cosine" else found.neg_()


def _by_torch(x: Tensor, y: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    lengths = y.square().sum(1) if metric == "euclidean" else None
    ids = torch.empty(len(x), k, dtype=torch.int64)
    scores = torch.empty(len(x), k)
    height = min(len(x), max(1, _BLOCK // len(y)))
    width = -(-len(y) // _STRIDES) * _STRIDES
    buffer = torch.full((height, width), -torch.inf)
    for start in range(0, len(x), height):
        rows = slice(start, start + height)
        block = buffer[: len(x[rows])]
        found = torch.mm(x[rows], y.T, out=block[:, : len(y)])
        if lengths is not None:  # -(|x|^2 - 2 x y + |y|^2)
            found.mul_(2.0).sub_(lengths).sub_(x[rows].square().sum(1, keepdim=True))
        scores[rows], ids[rows] = _top(block, k) if width // _STRIDES > k else found.topk(k)
    return ids, scores


def _top(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row: they lie in the k columns of the folded row with the best maxima."""
    folded = block.view(len(block), _STRIDES, -1)
    columns = folded.amax(1).topk(k, sorted=False).indices
    places = torch.arange(_STRIDES).mul_(folded.shape[2])[:, None] + columns[:, None, :]
    places = places.flatten(1)
    best = block.gather(1, places).topk(k)
    return best.values, places.gather(1, best.indices)


def _without_self(ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without their own index, or without the last if it is not among them."""
    own = ids == torch.arange(len(ids)).unsqueeze(1)
    # Nearly always it comes first; copies of a row can come before it.
    later = (~own[:, 0]).nonzero().flatten()
    others = ~own[later]
    others[others.all(1), -1] = False
    left_ids, left_scores = ids[:, 1:], scores[:, 1:]
    left_ids[later], left_scores[later] = (
        rows[later][others].view(len(later), rows.shape[1] - 1) for rows in (ids, scores)
    )
    return left_ids, left_scores


def _settled(
    x: Tensor, y: Tensor, ids: Tensor, scores: Tensor, k: int, metric: str, excludes: bool
) -> Neighbors:
    """The first k, where near ties are decided in float64 and exact ones by index."""
    size = 1.0 if metric == "cosine" else float(x.square().sum(1).max() + y.square().sum(1).max())
    tolerance = _NEAR * max(size, 1e-30)
    near = scores[:, :-1] - scores[:, 1:] <= tolerance
    unsure = near[:, :k].any(1).nonzero().flatten()
    is_whole = ids.shape[1] == len(y) - excludes
    for rows in unsure.split(max(1, _PAIRS // ids.shape[1])):
        # What is far from both its neighbours in the row stands between them whatever is decided.
        close = F.pad(near[rows], (1, 1))
        row, place = (close[:, 1:] | close[:, :-1]).nonzero(as_tuple=True)
        found, values = ids[rows], scores[rows].double()
        for part in torch.arange(len(row)).split(_PAIRS // 16):
            r, p = row[part], place[part]
            values[r, p] = _exact(x[rows[r]], y[found[r, p]], metric)
        ids[rows], scores[rows] = _ordered(found, values)
        if is_whole:
            continue
        # If the last that was fetched ties with the k-th, one that was not fetched may as well.
        tied = rows[(scores[rows, k - 1] - scores[rows, -1]) <= tolerance]
        for row_tied in tied.tolist():
            every = _exact(x[row_tied], y, metric)
            if excludes:
                every[row_tied] = -torch.inf
            least = every.topk(k).values[-1]
            best = (every >= least).nonzero().flatten()
            order, value = _ordered(best.unsqueeze(0), every[best].unsqueeze(0))
            ids[row_tied, :k], scores[row_tied, :k] = order[0, :k], value[0, :k]
    return Neighbors(ids[:, :k].contiguous(), scores[:, :k].contiguous())


def _exact(x: Tensor, y: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return (x.double() * y.double()).sum(-1)
    return -(x.double() - y.double()).square().sum(-1)


def _ordered(ids: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by falling score, equal ones by rising index."""
    by_id = ids.sort(1).indices
    ids, exact = ids.gather(1, by_id), exact.gather(1, by_id)
    by_score = exact.sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, by_score), exact.gather(1, by_score).float()


def _check_words(metric: str, backend: str) -> None:
    for name, value, known in (("metric", metric, METRICS), ("backend", backend, BACKENDS)):
        if value not in known:
            raise ValueError(f"{name} is '{value}'; {did_you_mean(value, known)}")
    if backend == "faiss" and find_spec("faiss") is None:
        raise ValueError("backend is 'faiss', which is not installed; use auto or torch")
