"""Embeddings made better before they are matched: query expansion, and several sources joined.

found = nearest_neighbors(embeddings, k=50)
expanded = expand_queries(embeddings, found, k=3, alpha=3.0)
found = nearest_neighbors(expanded, k=50)

joined = concatenate_embeddings([by_image, by_title], weights=[2.0, 1.0])
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common.metrics.neighbors import Neighbors
from common.utils.errors import DataError


def expand_queries(
    embeddings: Float[Tensor, "N D"], neighbors: Neighbors, k: int, alpha: float = 3.0
) -> Float[Tensor, "N D"]:
    """Each embedding with its neighbours added, weighted by their cosines to it.

    alpha-weighted query expansion (Radenovic et al. 2018, 1711.02512): the query, whose
    weight is 1, plus ``sum_i cos(q, x_i)^alpha x_i`` over its k nearest neighbours, normalised.
    ``alpha = 0`` is average query expansion (Chum et al. 2007). A cosine below 0 counts as 0.

    Args:
        embeddings: Of the items; they are normalised first.
        neighbors: Of each among the others, by any metric.
        k: How many of them are added.
        alpha: The larger, the less a far neighbour moves the query.

    Returns:
        Unit rows, float32.

    Raises:
        DataError: if there are fewer than k neighbours, ``alpha`` is negative, or embeddings and
            neighbours do not belong together.
    """
    ids = neighbors.ids
    if len(ids) != len(embeddings) or not 1 <= k <= ids.shape[1] or not alpha >= 0.0:
        raise DataError(
            f"there are neighbours of shape {tuple(ids.shape)} for {len(embeddings)} embeddings, k "
            f"is {k} and alpha {alpha}; expected as many rows, k from 1 to the neighbours, and alpha "
            "from 0"
        )
    rows = F.normalize(embeddings.detach().float())
    total = rows.clone()
    for place in range(k):  # one neighbour of all queries at a time: memory of N D, not N k D
        added = rows.index_select(0, ids[:, place])
        weight = (rows * added).sum(1).clamp_(min=0.0).pow_(alpha)
        total.addcmul_(added, weight[:, None])
    return F.normalize(total)


def concatenate_embeddings(
    parts: Sequence[Float[Tensor, "N _"]], weights: Sequence[float] | None = None
) -> Float[Tensor, "N _"]:
    """One embedding of several, such that its cosines are the weighted means of their cosines.

    Each part is normalised and scaled by the root of its share of the weights. An item whose part
    is all zeros (no title) is judged by its other parts.

    Args:
        parts: ``(N, D_i)`` each.
        weights: Of the parts, positive; equal by default.

    Returns:
        Float32, ``(N, sum D_i)``, with unit rows where no part is zero.

    Raises:
        DataError: if the parts differ in length, or there is not one positive weight for each.
    """
    scale = torch.tensor([1.0] * len(parts) if weights is None else list(weights))
    lengths = {len(part) for part in parts}
    if len(lengths) != 1 or len(scale) != len(parts) or not (scale > 0).all():
        raise DataError(
            f"there are parts of {[len(part) for part in parts]} rows with weights "
            f"{scale.tolist()}; expected parts of the same items, with one positive weight for each"
        )
    roots = (scale.double() / scale.double().sum()).sqrt().tolist()
    return torch.cat(
        [F.normalize(part.detach().float()) * r for part, r in zip(parts, roots, strict=True)],
        dim=1,
    )
