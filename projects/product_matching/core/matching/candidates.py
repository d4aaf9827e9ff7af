"""The items that may match each item: its nearest neighbours among the others of its fold."""

from torch import Tensor

from common.metrics import Neighbors, expand_queries, nearest_neighbors
from common.utils.errors import DataError
from projects.product_matching.core.config import MatchingConfig


def check_enough(count: int, matching: MatchingConfig, what: str = "a fold") -> int:
    """How many neighbours each item needs at least.

    Raises:
        DataError: if so many items have fewer, naming ``what`` holds them out.
    """
    least = max(matching.expansion, matching.min_matches - 1, 1)
    if count - 1 < least:
        raise DataError(
            f"{what} holds out {count} items, and matching.expansion or matching.min_matches takes "
            f"{least} neighbours of each; hold out more, or take fewer"
        )
    return least


def candidates(embeddings: Tensor, matching: MatchingConfig) -> Neighbors:
    """The neighbours of each item among the others, after query expansion if that is asked for.

    Raises:
        DataError: if there are too few items.
    """
    count = len(embeddings)
    least = check_enough(count, matching)
    k = min(max(matching.neighbors, least), count - 1)
    neighbors = nearest_neighbors(embeddings, k=k)
    if matching.expansion:
        embeddings = expand_queries(embeddings, neighbors, matching.expansion, matching.alpha)
        neighbors = nearest_neighbors(embeddings, k=k)
    return neighbors
