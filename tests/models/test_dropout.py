"""Dropout drops as often as it says, keeps the expectation, and repeats with the seed."""

import pytest
import torch
from torch import nn

from common.models import Dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.3, 0.9])
def test_drops_a_share_p_and_scales_the_rest(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(1000, 1001))
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5 + 2**-17)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4, atol=0)


def test_the_four_elements_of_one_random_number_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(250_000, 4)) != 0).double()
    correlation = torch.corrcoef(kept.T)
    assert (correlation - torch.eye(4)).abs().max() < 0.01
    # and so are the same elements of two numbers in a row
    assert torch.corrcoef(torch.stack([kept[:-1].flatten(), kept[1:].flatten()]))[0, 1] < 0.01


def test_the_gradient_is_the_mask() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x * gradient)
    assert set(gradient.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_generator_decides(dtype: torch.dtype) -> None:
    x, dropout = torch.randn(3, 5, 7, dtype=dtype), Dropout(0.5)
    torch.manual_seed(1)
    first, other = dropout(x), dropout(x)
    torch.manual_seed(1)
    again = dropout(x)
    assert first.dtype == dtype
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_edges_are_those_of_torch() -> None:
    x = torch.randn(6, 6)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(1.0)(x), nn.Dropout(1.0)(x))
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
