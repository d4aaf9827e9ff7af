"""A threshold is picked on other rows than it is judged on, and is the best there: by brute force."""

import pytest
import torch
from torch import Tensor

from common.metrics import MatchFold, nearest_neighbors
from common.utils.errors import DataError
from projects.product_matching.core.config import MatchingConfig
from projects.product_matching.core.matching.thresholds import (
    cross_thresholds,
    first_half,
    row_scores,
)


def _fold(seed: int, count: int = 16, labels: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(labels, (count,), generator=generator)
    centres = torch.randn(labels, 8, generator=generator)
    return centres[own] + torch.randn(count, 8, generator=generator), own


def _brute_force(embeddings: Tensor, labels: Tensor, threshold: float, least: int) -> Tensor:
    """F1 of each row from sets, itself included."""
    unit = torch.nn.functional.normalize(embeddings.double())
    cosines = unit @ unit.T
    rows = []
    for i in range(len(labels)):
        order = [j for j in cosines[i].argsort(descending=True).tolist() if j != i]
        listed = {i, *(j for j in order if cosines[i, j] >= threshold), *order[: least - 1]}
        truth = set((labels == labels[i]).nonzero().flatten().tolist())
        rows.append(2 * len(listed & truth) / (len(listed) + len(truth)))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("least", [1, 2])
def test_a_fold_is_judged_at_the_best_threshold_of_the_others(least: int) -> None:
    folds = [_fold(seed) for seed in range(3)]
    config = MatchingConfig(min_matches=least)
    parts = [MatchFold(nearest_neighbors(x, k=15), labels) for x, labels in folds]
    found = cross_thresholds(parts, config)
    for number, (x, labels) in enumerate(folds):
        others = [fold for place, fold in enumerate(folds) if place != number]
        tried = torch.cat(
            [parts[p].neighbors.scores.flatten() for p in range(3) if p != number]
        ).unique()
        best = max(
            float(
                torch.cat([_brute_force(*fold, float(t) - 1e-7, least) for fold in others]).mean()
            )
            for t in tried[::25]
        )
        assert found[number].curve.best[1] >= best - 1e-9
        rows = row_scores(parts[number], found[number].rows, config)["f_score"]
        expected = _brute_force(x, labels, found[number].value - 1e-7, least)
        torch.testing.assert_close(rows, expected)
        assert found[number].oracle[1] >= float(rows.mean()) - 1e-12


def test_a_single_fold_is_judged_by_halves_of_its_labels_crosswise() -> None:
    x, labels = _fold(5)
    config = MatchingConfig()
    part = MatchFold(nearest_neighbors(x, k=15), labels)
    (found,) = cross_thresholds([part], config)
    assert set(found.judged_at) == set(found.rows.tolist())
    assert found.value == found.oracle[0]  # what it is used with is in-fold, and says so
    assert found.value_picked_on == "the fold itself"
    first = first_half(labels)
    assert not set(labels[first].tolist()) & set(labels[~first].tolist())
    for half in (first, ~first):
        assert len(found.rows[half].unique()) == 1
        threshold = float(found.rows[half][0])
        # No other threshold serves the other half better.
        here = row_scores(part, torch.full((16,), threshold), config)["f_score"][~half].mean()
        for other in part.neighbors.scores.flatten().unique():
            rows = row_scores(part, torch.full((16,), float(other)), config)["f_score"]
            assert float(rows[~half].mean()) <= float(here) + 1e-12


def test_one_label_alone_has_no_halves() -> None:
    with pytest.raises(DataError, match="holds out one label"):
        first_half(torch.zeros(4, dtype=torch.int64))
