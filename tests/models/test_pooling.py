"""Generalized-mean pooling between the average and the maximum."""

import pytest
import torch

from common.models.pooling import GeM


def _maps() -> torch.Tensor:
    return torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) + 0.01


def test_p_of_one_is_the_average() -> None:
    maps = _maps()
    torch.testing.assert_close(GeM(p=1.0, learnable=False)(maps), maps.mean((2, 3)))


def test_a_large_p_comes_near_the_maximum() -> None:
    maps = _maps()
    found, highest = GeM(p=100.0)(maps), maps.amax((2, 3))
    assert (found <= highest).all()
    torch.testing.assert_close(found, highest, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("channels", [None, 3])
def test_it_is_its_equation(channels: int | None) -> None:
    maps, pool = _maps(), GeM(channels, p=2.5)
    torch.testing.assert_close(pool(maps), maps.pow(2.5).mean((2, 3)).pow(1 / 2.5))


@pytest.mark.parametrize("p", [1.0, 3.0, 100.0])
def test_a_map_of_zeros_has_a_value_and_gradients(p: float) -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pool = GeM(3, p=p)
    value = pool(maps).sum()
    value.backward()
    assert value.isfinite()
    assert maps.grad.isfinite().all()
    assert pool.p.grad.isfinite().all()


def test_large_values_do_not_overflow() -> None:
    assert GeM(p=50.0)(_maps() * 1e4).isfinite().all()


def test_the_gradient_is_exact() -> None:
    pool = GeM(2, p=3.0).double()
    maps = _maps()[:, :2].double().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(pool(maps).sum(), maps)[0].float(),
        torch.autograd.grad(maps.pow(3).mean((2, 3)).pow(1 / 3).sum(), maps)[0].float(),
    )


def test_p_stays_a_mean_of_large_values_however_it_is_pushed() -> None:
    pool = GeM()
    with torch.no_grad():
        pool.p.fill_(-4.0)
    maps = _maps()
    torch.testing.assert_close(pool(maps), maps.mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_autocast_changes_no_bit() -> None:
    pool, maps = GeM(), _maps()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pool(maps), pool(maps))
        found = pool(maps)
    assert torch.equal(found, pool(maps))


def test_values_without_a_meaning_are_named() -> None:
    with pytest.raises(ValueError, match=r"p is 0\.5"):
        GeM(p=0.5)


def test_sizes_are_known_without_numbers() -> None:
    with torch.device("meta"):
        assert GeM(3)(torch.zeros(2, 3, 5, 4)).shape == (2, 3)
