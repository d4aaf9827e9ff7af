"""Pictures of what a decoder has learned (Kingma & Welling 2013, 1312.6114, appendix A)."""

import torch
from jaxtyping import Float
from torch import Tensor

from common.utils.errors import ConfigError
from papers.vae.model import VAETask


def prior_samples(task: VAETask, count: int, seed: int) -> Float[Tensor, "N C H W"]:
    """E[x | z] for z ~ N(0, I), figure 5.

    Args:
        task: A trained task.
        count: How many.
        seed: Of the z, which are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return task.images_of(torch.randn(count, task.config.latent, generator=generator))


def manifold(task: VAETask, side: int) -> Float[Tensor, "N C H W"]:
    """E[x | z] on a square of a two-dimensional latent space, figure 4, row by row from the top.

    The coordinates are equally spaced in probability: the inverse of the Gaussian's cumulative
    distribution takes them from the middles of ``side`` intervals of (0, 1) to z.

    Args:
        task: A trained task with two latent dimensions.
        side: Images along each axis.

    Raises:
        ConfigError: if the latent space has another dimension.
    """
    if task.config.latent != 2:
        raise ConfigError(
            f"model.latent is {task.config.latent}; a manifold is drawn of 2 dimensions: train "
            "with --config configs/digits_2d.yaml, or leave --manifold out"
        )
    return task.images_of(manifold_grid(side))


def manifold_grid(side: int) -> Float[Tensor, "N 2"]:
    """The points of ``manifold``: the first coordinate grows to the right, the second upwards."""
    probabilities = (torch.arange(side) + 0.5) / side
    z = torch.special.ndtri(probabilities)
    up, right = torch.meshgrid(z.flip(0), z, indexing="ij")
    return torch.stack([right.flatten(), up.flatten()], dim=1)
