"""The Fréchet distance against closed forms and torchmetrics."""

import pytest
import torch

from common.metrics import frechet_distance
from common.utils.errors import DataError


def test_it_is_the_value_torchmetrics_computes() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    b = torch.randn(150, 8, generator=generator, dtype=torch.float64) @ torch.rand(8, 8).double()
    expected = fid._compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_in_one_dimension_it_is_the_difference_of_means_and_of_deviations() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [7.0]])
    expected = (4.0 - 1.0) ** 2 + (18**0.5 - 2**0.5) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_a_set_has_no_distance_to_itself_even_with_fewer_examples_than_features() -> None:
    features = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(features, features + 1.0) == pytest.approx(12.0, rel=1e-5)


def test_too_few_or_broken_features_are_refused() -> None:
    with pytest.raises(DataError, match="2 or more"):
        frechet_distance(torch.ones(1, 3), torch.ones(4, 3))
    with pytest.raises(DataError, match="not finite"):
        frechet_distance(torch.full((2, 3), float("nan")), torch.ones(4, 3))
