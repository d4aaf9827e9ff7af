"""Kullback-Leibler divergences with a closed form."""

from jaxtyping import Float
from torch import Tensor


def kl_to_standard_normal(
    mean: Float[Tensor, "*B D"], log_variance: Float[Tensor, "*B D"]
) -> Float[Tensor, "*B"]:
    """KL(N(mean, diag(variance)) || N(0, I)) in nats, summed over the last axis.

    -1/2 sum_d (1 + log sigma_d^2 - mu_d^2 - sigma_d^2): Kingma & Welling 2013 (arXiv 1312.6114),
    appendix B, with the sign turned.

    Args:
        mean: mu.
        log_variance: log sigma^2.
    """
    terms = 1.0 + log_variance - mean.square() - log_variance.exp()
    return -0.5 * terms.sum(dim=-1)
