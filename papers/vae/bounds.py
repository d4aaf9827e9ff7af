"""What a trained VAE is worth: a tighter bound, and how much of its latent space it uses.

Both from Burda et al. 2015, "Importance Weighted Autoencoders" (1509.00519). The paper's own
estimate of log p(x) (Kingma & Welling 2013, appendix D) needs a Markov chain for every image and a
latent space of fewer than five dimensions; importance weighting has neither limit.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

if TYPE_CHECKING:
    from papers.vae.model import VAE

_IMAGES_AT_ONCE = 50  # times the samples, what is decoded at a time


@torch.no_grad()
def importance_weighted_bound(
    model: "VAE", images: Iterable[Float[Tensor, "B D"]], samples: int, seed: int = 0
) -> float:
    """The mean over images of log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), in nats (eq. 8).

    With k = 1 it is the ELBO; its expectation grows with k to log p(x).

    Args:
        model: Encoder and decoder.
        images: Batches of images, values from 0 to 1.
        samples: k.
        seed: Of the samples, which are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count = 0.0, 0
    for batch in images:
        for x in batch.split(_IMAGES_AT_ONCE):
            total += float(_bounds(model, x, samples, generator).double().sum())
            count += len(x)
    return total / count


def _bounds(
    model: "VAE", x: Float[Tensor, "B D"], samples: int, generator: torch.Generator
) -> Float[Tensor, " B"]:
    mean, log_variance = model.encode(x)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    epsilon = torch.randn(samples, *mean.shape, generator=generator).to(x.device)
    z = posterior.mean + posterior.stddev * epsilon
    logits = model.decode(z)
    log_likelihood = -F.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits), reduction="none"
    ).sum(-1)
    log_prior = Normal(torch.zeros_like(mean), 1.0).log_prob(z).sum(-1)
    log_weights = log_likelihood + log_prior - posterior.log_prob(z).sum(-1)
    return log_weights.logsumexp(0) - math.log(samples)


def active_units(posterior_mean: Float[Tensor, "N Z"], threshold: float = 0.01) -> int:
    """Dimensions with Var_x(E[z|x]) > threshold: the others are the prior whatever the image.

    Args:
        posterior_mean: Of the images of a data set.
        threshold: The authors' (section 5.2).
    """
    return int((posterior_mean.var(0, correction=0) > threshold).sum())
