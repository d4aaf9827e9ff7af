"""The variational auto-encoder of Kingma & Welling 2013 (1312.6114): both MLPs and their bound.

The encoder gives a Gaussian q(z|x) with diagonal covariance, the decoder a Bernoulli p(x|z) of
every pixel (appendix C). The loss is the negative of the bound of section 2.3, eq. 7, with one
sample of z a image: nats per image, summed over pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from common.config import RunContext, option
from common.data.info import DatasetInfo
from common.losses import kl_to_standard_normal
from common.training import StepOutput, Task
from papers.vae.bounds import active_units

_EVALUATION_SEED = 0


@dataclass
class ModelConfig:
    """Sizes of both networks; what comes in and goes out is the image's size."""

    hidden: int = option("hidden units of the encoder and of the decoder", 500, ge=1)
    latent: int = option("dimensions of z", 20, ge=1)
    activation: str = option("tanh as in appendix C, or relu", "tanh", choices=("tanh", "relu"))


class VAE(nn.Module):
    """x -> q(z|x) and z -> p(x|z), each with one hidden layer (appendix C).

    Args:
        pixels: Values of an image, D.
        config: The sizes.
    """

    def __init__(self, pixels: int, config: ModelConfig) -> None:
        super().__init__()
        self.activation = torch.tanh if config.activation == "tanh" else F.relu
        self.encoder = nn.Linear(pixels, config.hidden)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.log_variance = nn.Linear(config.hidden, config.latent)
        self.decoder = nn.Linear(config.latent, config.hidden)
        self.logits = nn.Linear(config.hidden, pixels)

    def encode(
        self, x: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B Z"], Float[Tensor, "*B Z"]]:
        """Mean and log variance of q(z|x)."""
        hidden = self.activation(self.encoder(x))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B D"]:
        """Logits of p(x|z), one for each pixel."""
        return self.logits(self.activation(self.decoder(z)))


def reparameterize(
    mean: Float[Tensor, "*B Z"], log_variance: Float[Tensor, "*B Z"], epsilon: Float[Tensor, "*B Z"]
) -> Float[Tensor, "*B Z"]:
    """z = mu + sigma * epsilon (section 2.4): a sample through which gradients flow."""
    return mean + (0.5 * log_variance).exp() * epsilon


class VAETask(Task):
    """Maximise the bound of every image.

    Args:
        config: Sizes of the networks.
    """

    model: VAE
    image_shape: tuple[int, ...]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        self.image_shape = info.input_shape
        self.model = VAE(torch.Size(info.input_shape).numel(), self.config)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The bound with one sample of z an image, drawn anew."""
        x = to_vectors(batch["image"])
        epsilon = torch.randn(len(x), self.config.latent, device=x.device)
        return self._bound(x, epsilon)[0]

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The same with noise of a fixed seed, so that it depends on the weights alone."""
        x = to_vectors(batch["image"])
        generator = torch.Generator().manual_seed(_EVALUATION_SEED)
        epsilon = torch.randn(len(x), self.config.latent, generator=generator).to(x.device)
        output, mean = self._bound(x, epsilon)
        output.collected = {"posterior_mean": mean}
        return output

    def compute_metrics(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """How many dimensions of z say something about the image."""
        return {"active_units": float(active_units(collected["posterior_mean"]))}

    def _bound(self, x: Tensor, epsilon: Tensor) -> tuple[StepOutput, Tensor]:
        """Equation 7 with its first term in closed form (appendix B)."""
        mean, log_variance = self.model.encode(x)
        logits = self.model.decode(reparameterize(mean, log_variance, epsilon))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = kl_to_standard_normal(mean, log_variance).sum()
        loss = reconstruction + kl
        metrics = {"elbo": -loss, "reconstruction": reconstruction, "kl": kl}
        return StepOutput(loss, len(x), {k: v.detach() for k, v in metrics.items()}), mean

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Float[Tensor, "B C H W"]:
        """E[x | z] at the mean of q(z|x), values from 0 to 1.

        Args:
            images: uint8 ``(B, C, H, W)``.
        """
        mean, _ = self.model.encode(to_vectors(images.to(self.model.mean.weight.device)))
        return self.images_of(mean)

    @torch.no_grad()
    def images_of(self, z: Float[Tensor, "B Z"]) -> Float[Tensor, "B C H W"]:
        """E[x | z] as images on the CPU, values from 0 to 1."""
        x = self.model.decode(z.to(self.model.mean.weight.device)).sigmoid().cpu()
        return x.view(-1, *self.image_shape)


def to_vectors(images: Tensor) -> Float[Tensor, "B D"]:
    """Pixels 0 to 255 as values from 0 to 1, an image a row."""
    return rearrange(images.float() / 255.0, "b c h w -> b (c h w)")
