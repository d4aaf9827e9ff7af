"""Match lists: the pairs of query and item that pass a threshold, from one source or from several.

    found = find_matches(neighbors, threshold=0.6)
    found = union_matches([(by_image, 0.6), (by_title, 0.8)])        # either is enough
    for query, match, score in match_rows(found, names): ...         # matches.csv

A list leaves its query out. Sources are united as the winners of the Shopee competition do it: an
item is a match if its image is near enough or its title is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.metrics.neighbors import Neighbors
from common.metrics.threshold import check_min_matches
from common.utils.errors import DataError


@dataclass(frozen=True)
class Matches:
    """Pairs, sorted by query, then from the best score down, equal scores by item.

    Attributes:
        queries: Row of each pair's query, ``(P,)``.
        ids: Row of its item, ``(P,)``.
        scores: ``(P,)`` float64; see the function that found them.
        num_queries: How many queries there are, those without a match included.
    """

    queries: Int[Tensor, "P"]
    ids: Int[Tensor, "P"]
    scores: Float[Tensor, "P"]
    num_queries: int

    def __len__(self) -> int:
        return len(self.ids)


def find_matches(neighbors: Neighbors, threshold: float, min_matches: int = 1) -> Matches:
    """The neighbours with a score of at least the threshold.

    Args:
        neighbors: Of each query.
        threshold: In the units of the scores, which the pairs keep.
        min_matches: Every query has at least this many, itself being one: with 2 its nearest
            neighbour whatever its score.

    Raises:
        DataError: if there are fewer neighbours than ``min_matches`` wants.
    """
    forced = check_min_matches(min_matches, neighbors.ids.shape[1])
    passed = neighbors.scores.double() >= threshold
    passed[:, :forced] = True
    queries, places = passed.nonzero(as_tuple=True)
    scores = neighbors.scores[queries, places].double()
    return Matches(queries, neighbors.ids[queries, places], scores, len(passed))


def union_matches(sources: Sequence[tuple[Neighbors, float]], min_matches: int = 1) -> Matches:
    """The neighbours that pass the threshold of one source or more.

    What one source did not fetch among its neighbours it does not judge. A pair's score is by how
    much it passes: the largest difference, over sources, of its score and that source's threshold.

    Args:
        sources: Neighbours of the same queries, and the threshold in the units of their scores.
        min_matches: As for ``find_matches``; the neighbour nearest to passing comes first.

    Raises:
        DataError: if there is no source, their queries differ in number, or there are fewer
            neighbours than ``min_matches`` wants.
    """
    sizes = {len(neighbors.ids) for neighbors, _ in sources}
    if len(sizes) != 1:
        raise DataError(
            f"sources of matches have {sorted(sizes) or 'no'} queries; expected one source or "
            "more, each with neighbours of the same queries"
        )
    count = sizes.pop()
    most = max(neighbors.ids.shape[1] for neighbors, _ in sources)
    forced = check_min_matches(min_matches, most)
    rows = [
        torch.arange(count).repeat_interleave(neighbors.ids.shape[1]) for neighbors, _ in sources
    ]
    ids = torch.cat([neighbors.ids.flatten() for neighbors, _ in sources])
    margins = torch.cat([(found.scores.double() - least).flatten() for found, least in sources])
    width = int(ids.max()) + 1 if len(ids) else 1
    pairs, pair_of = (torch.cat(rows) * width + ids).unique(return_inverse=True)
    best = torch.full((len(pairs),), -torch.inf, dtype=torch.float64)
    best.scatter_reduce_(0, pair_of, margins, "amax")
    # Two stable sorts of what is sorted by query and item.
    order = best.sort(descending=True, stable=True).indices
    order = order[(pairs[order] // width).sort(stable=True).indices]
    queries, found_ids, scores = pairs[order] // width, pairs[order] % width, best[order]
    sizes_of = torch.bincount(queries, minlength=count)
    rank = torch.arange(len(order)) - (sizes_of.cumsum(0) - sizes_of)[queries]
    kept = (scores >= 0.0) | (rank < forced)
    return Matches(queries[kept], found_ids[kept], scores[kept], count)


def match_rows(
    matches: Matches, names: Sequence[str], gallery_names: Sequence[str] | None = None
) -> Iterator[tuple[str, str, float]]:
    """Every pair as the names of query and match, and the score, in the order of the pairs.

    Args:
        matches: Pairs of rows.
        names: Of the queries.
        gallery_names: Of the items; those of the queries by default.

    Raises:
        DataError: if there are not as many names as queries, or an item has none.
    """
    of_items = names if gallery_names is None else gallery_names
    last = int(matches.ids.max()) if len(matches) else -1
    if len(names) != matches.num_queries or last >= len(of_items):
        raise DataError(
            f"there are {len(names)} names of queries and {len(of_items)} of items, for matches of "
            f"{matches.num_queries} queries with items up to {last}; give every row its name"
        )
    columns = (matches.queries.tolist(), matches.ids.tolist(), matches.scores.tolist())
    for query, item, score in zip(*columns, strict=True):
        yield names[query], of_items[item], score
