"""Embeddings as an index keeps and compares them: float32, finite, of length 1 for cosines."""

import torch
from torch import Tensor

from common.utils.errors import DataError

_ROWS = 1 << 14  # looked at together, in float64
_SHORTEST = 1e-12  # a length below is none: `F.normalize` begins to round there
_LONGEST = 1e18  # beyond, squared distances leave float32


def prepared(vectors: Tensor, dimension: int, metric: str, what: str) -> Tensor:
    """Checked rows, on the CPU, contiguous, in memory of their own where anything had to change.

    Args:
        vectors: ``(N, D)``, on any device, of any float type.
        dimension: D.
        metric: ``cosine`` or ``euclidean``.
        what: What a row is, for messages.

    Raises:
        DataError: for another shape, a number that is not finite, a length of zero where the metric
            is ``cosine``, or one whose square is no float32.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise DataError(
            f"{what} rows have shape {tuple(vectors.shape)}; expected (N, {dimension}): "
            "embed them with the model of this index"
        )
    rows = vectors.detach().to("cpu", torch.float32).contiguous()
    kept = torch.empty_like(rows) if metric == "cosine" else rows
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS].double()
        lengths = block.norm(dim=1, keepdim=True)
        problems = {
            "not finite; the model has diverged, or its precision overflows": ~block.isfinite().all(
                1
            )
        }
        if metric == "cosine":
            problems["zero, which has no direction; leave it out"] = lengths[:, 0] < _SHORTEST
        else:
            problems[f"longer than {_LONGEST:g}; scale the embeddings"] = lengths[:, 0] > _LONGEST
        for problem, bad in problems.items():
            if bad.any():
                first = start + int(bad.nonzero()[0, 0])
                raise DataError(f"{what} {first} (of {len(rows):,}, from 0) is {problem}")
        if metric == "cosine":
            kept[start : start + _ROWS] = block.div_(lengths)
    return kept
