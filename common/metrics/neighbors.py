"""Exact nearest neighbours: by FAISS where it is installed, in blocks by PyTorch elsewhere.

    found = nearest_neighbors(embeddings, k=10)                 # of each among the others
    found = nearest_neighbors(queries, gallery, k=10)

Both ways give the same neighbours in the same order. Matrix products differ in their last bits from
library to library, so rows in which scores nearly tie are decided anew in float64, and exact ties by the
smaller index.
"""

from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from common.utils.errors import DataError
from common.utils.text import did_you_mean

METRICS = ("cosine", "euclidean")
BACKENDS = ("auto", "faiss", "torch")
_BLOCK = 1 << 24  # scores held at once
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
        gallery: What is searched, ``(N, D)``. Without one the queries are, each without itself: it is left out by
            its index, so that copies of it are found.
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
    bad = (~rows.isfinite().all(1)).nonzero().flatten()
    if len(bad):
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
    for start in range(0, len(x), max(1, _BLOCK // len(y))):
        rows = slice(start, start + max(1, _BLOCK // len(y)))
        block = x[rows] @ y.T
        if lengths is not None:  # -(|x|^2 - 2 x y + |y|^2)
            block.mul_(2.0).sub_(lengths).sub_(x[rows].square().sum(1, keepdim=True))
        scores[rows], ids[rows] = block.topk(k)
    return ids, scores


def _without_self(ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without their own index, or without the last if it is not among them."""
    own = ids == torch.arange(len(ids)).unsqueeze(1)
    own[:, -1] |= ~own.any(1)
    shape = (len(ids), ids.shape[1] - 1)
    return ids[~own].view(shape), scores[~own].view(shape)


def _settled(
    x: Tensor, y: Tensor, ids: Tensor, scores: Tensor, k: int, metric: str, excludes: bool
) -> Neighbors:
    """The first k, where near ties are decided in float64 and exact ones by index."""
    size = 1.0 if metric == "cosine" else float(x.square().sum(1).max() + y.square().sum(1).max())
    tolerance = _NEAR * max(size, 1e-30)
    gaps = scores[:, :-1] - scores[:, 1:]
    unsure = (gaps[:, :k] <= tolerance).any(1).nonzero().flatten()
    is_whole = ids.shape[1] == len(y) - excludes
    for rows in unsure.split(max(1, _BLOCK // (8 * ids.shape[1] * y.shape[1]) or 1)):
        exact = _exact(x[rows].unsqueeze(1), y[ids[rows]], metric)
        ids[rows], scores[rows] = _ordered(ids[rows], exact)
        if is_whole:
            continue
        # If the last that was fetched ties with the k-th, one that was not fetched may as well.
        tied = rows[(scores[rows, k - 1] - scores[rows, -1]) <= tolerance]
        for row in tied.tolist():
            every = _exact(x[row], y, metric)
            if excludes:
                every[row] = -torch.inf
            least = every.topk(k).values[-1]
            near = (every >= least).nonzero().flatten()
            best, value = _ordered(near.unsqueeze(0), every[near].unsqueeze(0))
            ids[row, :k], scores[row, :k] = best[0, :k], value[0, :k]
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
