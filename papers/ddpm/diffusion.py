"""The two Markov chains of "Denoising Diffusion Probabilistic Models" (Ho et al. 2020, 2006.11239).

The forward chain q turns an image into noise in T fixed steps (section 2, eq. 2, 4, 6, 7); the
reverse chain p turns noise into an image with what a network predicts (section 3.2, algorithm 2).
Nothing here is learned and nothing knows the network: it is any function ``(x_t, t) -> epsilon``.

The paper counts t from 1 to T; here an index from 0 to T - 1 stands for it.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.utils.errors import ConfigError

EpsilonModel = Callable[[Tensor, Tensor], Tensor]


def linear_betas(num_steps: int, beta_start: float, beta_end: float) -> Float[Tensor, " T"]:
    """The variances beta_1 .. beta_T of section 4: equally spaced, in float64.

    Raises:
        ConfigError: if they do not grow within (0, 1).
    """
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise ConfigError(
            f"beta_start is {beta_start} and beta_end is {beta_end}; "
            "expected 0 < beta_start <= beta_end < 1"
        )
    return torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)


class GaussianDiffusion(nn.Module):
    """Both chains of one variance schedule.

    Its tables are computed in float64 and kept in float32; they are no part of a state dict.

    Args:
        betas: beta_1 .. beta_T, variances of the forward steps.
        variance: sigma_t^2 of the reverse steps (section 3.2): ``large`` is beta_t, right for data
            that is Gaussian noise itself, ``small`` is beta~_t, right for data that is one point.
        timesteps: The steps of the original chain that these stand for; see ``respaced``.
    """

    betas: Tensor
    alphas_bar: Tensor
    posterior_variance: Tensor
    sigmas: Tensor
    timesteps: Tensor

    def __init__(
        self,
        betas: Float[Tensor, " T"],
        variance: str = "large",
        timesteps: Int[Tensor, " T"] | None = None,
    ) -> None:
        super().__init__()
        betas = betas.double()
        alphas = 1.0 - betas
        alphas_bar = alphas.cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
        posterior_variance = (1.0 - before) / (1.0 - alphas_bar) * betas
        self.num_steps = len(betas)
        self.variance = variance
        tables = {
            "betas": betas,
            "alphas_bar": alphas_bar,
            "signal": alphas_bar.sqrt(),
            "noise": (1.0 - alphas_bar).sqrt(),
            # equation 7
            "posterior_variance": posterior_variance,
            "weight_of_x_0": before.sqrt() * betas / (1.0 - alphas_bar),
            "weight_of_x_t": alphas.sqrt() * (1.0 - before) / (1.0 - alphas_bar),
            "sigmas": (betas if variance == "large" else posterior_variance).sqrt(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)
        steps = torch.arange(len(betas)) if timesteps is None else timesteps
        self.register_buffer("timesteps", steps, persistent=False)

    def _at(self, name: str, t: Int[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
        table: Tensor = getattr(self, name)
        return table[t].view(-1, 1, 1, 1)

    # ---- the forward chain ----------------------------------------------------------------

    def q_sample(
        self,
        x_0: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
        epsilon: Float[Tensor, "B C H W"],
    ) -> Float[Tensor, "B C H W"]:
        """x_t ~ q(x_t | x_0), equation 4: sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon."""
        return self._at("signal", t) * x_0 + self._at("noise", t) * epsilon

    def predict_x_0(
        self,
        x_t: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
        epsilon: Float[Tensor, "B C H W"],
    ) -> Float[Tensor, "B C H W"]:
        """Equation 4 solved for x_0 (eq. 15)."""
        return (x_t - self._at("noise", t) * epsilon) / self._at("signal", t)

    def posterior_mean(
        self,
        x_0: Float[Tensor, "B C H W"],
        x_t: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """mu~_t of q(x_{t-1} | x_t, x_0), equation 7; its variance is ``posterior_variance``."""
        return self._at("weight_of_x_0", t) * x_0 + self._at("weight_of_x_t", t) * x_t

    # ---- training -------------------------------------------------------------------------

    def losses(
        self,
        model: EpsilonModel,
        x_0: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
        epsilon: Float[Tensor, "B C H W"],
    ) -> Float[Tensor, " B"]:
        """L_simple of each image, equation 14; the mean over pixels stands for the squared norm."""
        predicted = model(self.q_sample(x_0, t, epsilon), self.timesteps[t])
        return (epsilon - predicted).square().mean(dim=(1, 2, 3))

    # ---- the reverse chain ----------------------------------------------------------------

    def p_sample(
        self,
        x_t: Float[Tensor, "B C H W"],
        t: Int[Tensor, " B"],
        epsilon: Float[Tensor, "B C H W"],
        z: Float[Tensor, "B C H W"],
        *,
        clip: bool = True,
    ) -> Float[Tensor, "B C H W"]:
        """x_{t-1} ~ p(x_{t-1} | x_t), line 4 of algorithm 2, written with equations 7 and 15.

        Args:
            x_t: Where the chain stands.
            t: Its step; at 0 no noise is added.
            epsilon: What the network predicts.
            z: Standard normal noise.
            clip: Keep the predicted x_0 within the pixels' range, -1 to 1. Without it this is the
                paper's 1/sqrt(alpha_t) (x_t - beta_t / sqrt(1 - abar_t) epsilon) + sigma_t z.
        """
        x_0 = self.predict_x_0(x_t, t, epsilon)
        if clip:
            x_0 = x_0.clamp(-1.0, 1.0)
        sigma = torch.where(t.view(-1, 1, 1, 1) > 0, self._at("sigmas", t), 0.0)
        return self.posterior_mean(x_0, x_t, t) + sigma * z

    @torch.no_grad()
    def trajectory(
        self, model: EpsilonModel, shape: tuple[int, ...], generator: torch.Generator
    ) -> Iterator[Float[Tensor, "B C H W"]]:
        """Algorithm 2: x_T, x_{T-1}, .., x_0.

        Args:
            model: In evaluation mode.
            shape: ``(B, C, H, W)``.
            generator: On the CPU, so that every device begins with the same noise.
        """
        device = self.betas.device

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        x = noise()
        yield x
        for step in reversed(range(self.num_steps)):
            t = torch.full((shape[0],), step, device=device)
            x = self.p_sample(x, t, model(x, self.timesteps[t]), noise())
            yield x

    def respaced(self, num_steps: int) -> "GaussianDiffusion":
        """A chain of fewer steps with the same marginals at the steps that remain.

        Nichol & Dhariwal 2021 (2102.09672), section 4: steps evenly spaced over the chain, and
        variances such that abar is the original's there.

        Raises:
            ConfigError: if there would be no step, or more than there are.
        """
        if not 1 <= num_steps <= self.num_steps:
            raise ConfigError(
                f"steps is {num_steps}, expected 1 to {self.num_steps}, the length of the chain"
            )
        kept = torch.linspace(0, self.num_steps - 1, num_steps, dtype=torch.float64).round().long()
        if num_steps == 1:
            kept = torch.tensor([self.num_steps - 1])
        alphas_bar = (1.0 - self.betas.double().cpu()).cumprod(0)[kept]
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_bar[:-1]])
        shorter = GaussianDiffusion(
            1.0 - alphas_bar / before, self.variance, self.timesteps.cpu()[kept]
        )
        return shorter.to(self.betas.device)
