"""The training task of DDPM (Ho et al. 2020, 2006.11239): predict the noise (algorithm 1, eq. 14).

Images are scaled to [-1, 1] (section 3.3). A training step draws a step of the chain and the noise
of each image anew; an evaluation takes the same ones every time, so that its loss repeats as long
as its batches are the same.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from common.config import RunContext, option
from common.data.info import DatasetInfo
from common.training import StepOutput, Task
from common.utils.errors import ConfigError
from papers.ddpm.diffusion import GaussianDiffusion, linear_betas
from papers.ddpm.unet import UNet, UNetConfig

_EVALUATION_SEED = 0


@dataclass
class DiffusionConfig:
    """The forward chain (section 4) and the variance of the reverse one (section 3.2)."""

    num_steps: int = option("steps of the chain (T)", 1000, ge=1)
    beta_start: float = option("beta_1", 1e-4, gt=0, lt=1)
    beta_end: float = option("beta_T", 0.02, gt=0, lt=1)
    variance: str = option(
        "sigma_t^2: large is beta_t, small that of the posterior",
        "large",
        choices=("large", "small"),
    )


class DiffusionTask(Task):
    """A U-Net that learns to tell noise from image at every step of the chain.

    Args:
        model: Sizes of the network.
        diffusion: The chain.
    """

    model: UNet
    image_shape: tuple[int, ...]

    def __init__(self, model: UNetConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.config = model
        betas = linear_betas(diffusion.num_steps, diffusion.beta_start, diffusion.beta_end)
        self.diffusion = GaussianDiffusion(betas, diffusion.variance)

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        self.image_shape = info.input_shape
        channels, height, width = info.input_shape
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ConfigError(
                f"model.patch_size is {patch}, which does not divide images of "
                f"{height} x {width} pixels"
            )
        self.model = UNet(channels, self.config)

    def forward(
        self, x_t: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """The noise in ``x_t``."""
        return self.model(x_t, t)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Algorithm 1: t uniform over the chain, epsilon standard normal, both drawn anew."""
        x_0 = to_model_range(batch["image"])
        t = torch.randint(self.diffusion.num_steps, (len(x_0),), device=x_0.device)
        return self._loss(x_0, t, torch.randn_like(x_0))

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The same loss at steps spread evenly over the chain, with noise of a fixed seed."""
        x_0 = to_model_range(batch["image"])
        generator = torch.Generator().manual_seed(_EVALUATION_SEED)
        t = torch.arange(len(x_0), device=x_0.device) * self.diffusion.num_steps // len(x_0)
        epsilon = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        return self._loss(x_0, t, epsilon)

    def _loss(self, x_0: Tensor, t: Tensor, epsilon: Tensor) -> StepOutput:
        losses = self.diffusion.losses(self.model, x_0, t, epsilon)
        return StepOutput(losses.sum(), len(losses))

    @torch.no_grad()
    def sample(
        self, count: int, seed: int, *, steps: int | None = None, batch_size: int = 256
    ) -> UInt8[Tensor, "N C H W"]:
        """Images of the reverse chain, algorithm 2; the task is left in evaluation mode.

        Args:
            count: How many.
            seed: Of all noise; the same on every device.
            steps: Of a shorter chain; all of them by default.
            batch_size: Images at a time.
        """
        self.eval()
        diffusion = self.diffusion if steps is None else self.diffusion.respaced(steps)
        generator = torch.Generator().manual_seed(seed)
        batches = []
        for start in range(0, count, batch_size):
            shape = (min(batch_size, count - start), *self.image_shape)
            for x in diffusion.trajectory(self.model, shape, generator):
                last = x
            batches.append(to_pixels(last).cpu())
        return torch.cat(batches)


def to_model_range(images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Pixels 0 to 255 as -1 to 1."""
    return images.float() / 127.5 - 1.0


def to_pixels(x: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """The inverse of ``to_model_range``; what lies outside is cut off."""
    return ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
