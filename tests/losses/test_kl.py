"""The closed form of a Gaussian's divergence from the standard one."""

import torch
from torch.distributions import Independent, Normal, kl_divergence

from common.losses import kl_to_standard_normal


def test_it_is_the_divergence_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 3, 4, generator=generator)
    log_variance = torch.randn(5, 3, 4, generator=generator)
    q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    p = Independent(Normal(torch.zeros(4), torch.ones(4)), 1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), kl_divergence(q, p))


def test_it_is_zero_for_the_standard_normal_and_for_nothing_else() -> None:
    zero = torch.zeros(1, 2)
    assert kl_to_standard_normal(zero, zero).item() == 0.0
    assert kl_to_standard_normal(zero + 0.1, zero).item() > 0.0
    assert kl_to_standard_normal(zero, zero - 0.1).item() > 0.0


def test_its_gradient_is_mu_and_half_of_sigma_squared_minus_one() -> None:
    mean = torch.tensor([[0.5, -2.0]], requires_grad=True)
    log_variance = torch.tensor([[0.3, -1.0]], requires_grad=True)
    kl_to_standard_normal(mean, log_variance).sum().backward()
    torch.testing.assert_close(mean.grad, mean.detach())
    torch.testing.assert_close(log_variance.grad, 0.5 * (log_variance.detach().exp() - 1.0))
