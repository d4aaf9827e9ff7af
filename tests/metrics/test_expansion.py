"""Query expansion by its sum, and concatenation by the cosines it promises."""

import pytest
import torch
import torch.nn.functional as F

from common.metrics import concatenate_embeddings, expand_queries, nearest_neighbors
from common.utils.errors import DataError


def _rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0, 2.5])
def test_an_expanded_query_is_the_sum_over_its_neighbours(metric: str, alpha: float) -> None:
    x = 3.0 * _rows(30, 6)
    found = nearest_neighbors(x, k=8, metric=metric)
    unit = F.normalize(x.double())
    for k in (1, 8):
        expanded = expand_queries(x, found, k=k, alpha=alpha)
        for query in range(30):
            total = unit[query].clone()
            for item in found.ids[query, :k].tolist():
                cosine = max(float(unit[query] @ unit[item]), 0.0)
                total += cosine**alpha * unit[item]
            torch.testing.assert_close(
                expanded[query].double(), total / total.norm(), rtol=1e-5, atol=1e-6
            )


def test_expansion_finds_more_of_a_chain_of_likenesses() -> None:
    """Each item is near the next only; with its neighbours added a query reaches further."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60).repeat_interleave(5)
    centres = torch.randn(60, 16, generator=generator)
    x = centres[labels] + 1.1 * torch.randn(300, 16, generator=generator)
    found = nearest_neighbors(x, k=4)
    before = (labels[found.ids] == labels[:, None]).double().mean()
    again = nearest_neighbors(expand_queries(x, found, k=3), k=4)
    assert (labels[again.ids] == labels[:, None]).double().mean() > before + 0.02


def test_cosines_of_a_concatenation_are_weighted_means() -> None:
    image, title = _rows(12, 5), 40.0 * _rows(12, 9, seed=1)
    joined = concatenate_embeddings([image, title], [2.0, 1.0])
    cosines = [F.normalize(part) @ F.normalize(part).T for part in (image, title)]
    torch.testing.assert_close(joined @ joined.T, (2.0 * cosines[0] + cosines[1]) / 3.0)
    equal = concatenate_embeddings([image, title])
    torch.testing.assert_close(equal @ equal.T, (cosines[0] + cosines[1]) / 2.0)


def test_what_cannot_be_expanded_or_joined_is_named() -> None:
    x = _rows(9, 4)
    found = nearest_neighbors(x, k=3)
    for embeddings, k, alpha in ((x, 4, 1.0), (x, 0, 1.0), (x[:5], 2, 1.0), (x, 2, -1.0)):
        with pytest.raises(DataError, match=r"k is -?\d+ and alpha"):
            expand_queries(embeddings, found, k=k, alpha=alpha)
    for parts, weights in (([], None), ([x, x[:3]], None), ([x, x], [1.0]), ([x, x], [1.0, 0.0])):
        with pytest.raises(DataError, match="with one positive weight for each"):
            concatenate_embeddings(parts, weights)
