"""The U-Net that predicts the noise (Ho et al. 2020, 2006.11239, appendix B).

Levels of halved resolution, each with residual blocks that know the time (Transformer sinusoids
through two dense layers), self-attention at one resolution, group normalisation throughout. With
the CIFAR-10 values it has the paper's 35.7 million parameters.

Two things are ours: ``patch_size`` folds small squares of pixels into channels, which makes the
first level cheaper, and a level of odd size is cropped on its way up, so that 7 -> 4 -> 7 works.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.config import option
from common.models import Dropout, MultiHeadAttention
from common.utils.errors import ConfigError


@dataclass
class UNetConfig:
    """Sizes of the network; the defaults are the paper's for CIFAR-10."""

    channels: int = option("channels of the first level", 128, ge=1)
    multipliers: list[int] = option("channels of each level over those", [1, 2, 2, 2], ge=1)
    num_blocks: int = option("residual blocks of a level", 2, ge=1)
    attention_level: int = option("level whose blocks attend, from 0; -1: none", 1, ge=-1)
    num_heads: int = option("heads of the attention", 1, ge=1)
    groups: int = option("groups of the normalisation", 32, ge=1)
    dropout: float = option("inside the residual blocks", 0.1, ge=0, lt=1)
    patch_size: int = option("pixels folded into channels, along each side", 1, ge=1)

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise ConfigError("model.multipliers is empty; give one factor for each level")
        if self.channels % self.groups:
            raise ConfigError(
                f"model.channels {self.channels} is not divisible by model.groups {self.groups}"
            )
        if self.attention_level >= len(self.multipliers):
            raise ConfigError(
                f"model.attention_level is {self.attention_level}, but there are "
                f"{len(self.multipliers)} levels; expected -1 to {len(self.multipliers) - 1}"
            )


def time_embedding(t: Int[Tensor, " B"], width: int) -> Float[Tensor, "B D"]:
    """Sines, then cosines, of t at wavelengths from 2 pi to 10000 times 2 pi (appendix B)."""
    half = width // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / max(half - 1, 1)
    angles = t.float()[:, None] * (10000.0**-exponents)[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResidualBlock(nn.Module):
    """Two convolutions with the time added between them, beside a shortcut."""

    def __init__(self, before: int, after: int, time_width: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(config.groups, before)
        self.conv_1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(time_width, after)
        self.norm_2 = nn.GroupNorm(config.groups, after)
        self.dropout = Dropout(config.dropout)
        self.conv_2 = zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B E H W"]:
        hidden = self.conv_1(F.silu(self.norm_1(x)))
        hidden = hidden + self.time(F.silu(time))[:, :, None, None]
        hidden = self.conv_2(self.dropout(F.silu(self.norm_2(hidden))))
        return self.shortcut(x) + hidden


class AttentionBlock(nn.Module):
    """Every pixel attends to every pixel, beside a shortcut."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels)
        self.attention = MultiHeadAttention(channels, config.num_heads)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")
        attended, _ = self.attention(pixels)
        return x + rearrange(attended, "b (h w) c -> b c h w", h=x.shape[2])


class Stage(nn.Module):
    """A residual block, and the attention that follows it at one level."""

    def __init__(
        self, before: int, after: int, time_width: int, config: UNetConfig, attends: bool
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(before, after, time_width, config)
        self.attention = AttentionBlock(after, config) if attends else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B E H W"]:
        return self.attention(self.residual(x, time))


class UNet(nn.Module):
    """epsilon_theta(x_t, t).

    Args:
        image_channels: Of the images; as many are predicted.
        config: The sizes.
    """

    def __init__(self, image_channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, time_width = config.channels, 4 * config.channels
        folded = image_channels * config.patch_size**2
        levels = [width * factor for factor in config.multipliers]
        self.time_1 = nn.Linear(width, time_width)
        self.time_2 = nn.Linear(time_width, time_width)
        self.first = nn.Conv2d(folded, width, 3, padding=1)

        skips, channels = [width], width
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        for level, size in enumerate(levels):
            attends = level == config.attention_level
            for _ in range(config.num_blocks):
                self.down.append(Stage(channels, size, time_width, config, attends))
                channels = size
                skips.append(channels)
            if level < len(levels) - 1:
                self.downsample.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)

        has_attention = config.attention_level >= 0
        self.middle = nn.ModuleList(
            [
                Stage(channels, channels, time_width, config, has_attention),
                Stage(channels, channels, time_width, config, False),
            ]
        )

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, size in reversed(list(enumerate(levels))):
            attends = level == config.attention_level
            for _ in range(config.num_blocks + 1):
                self.up.append(Stage(channels + skips.pop(), size, time_width, config, attends))
                channels = size
            if level:
                self.upsample.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.last_norm = nn.GroupNorm(config.groups, channels)
        self.last = zeroed(nn.Conv2d(channels, folded, 3, padding=1))

    def forward(
        self, x: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """The noise in ``x`` at step ``t``."""
        config, patch = self.config, self.config.patch_size
        time = self.time_2(F.silu(self.time_1(time_embedding(t, config.channels))))
        hidden = self.first(rearrange(x, "b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch))
        skips = [hidden]
        for index, stage in enumerate(self.down):
            hidden = stage(hidden, time)
            skips.append(hidden)
            level, place = divmod(index + 1, config.num_blocks)
            if place == 0 and level <= len(self.downsample):
                hidden = self.downsample[level - 1](hidden)
                skips.append(hidden)
        for stage in self.middle:
            hidden = stage(hidden, time)
        for index, stage in enumerate(self.up):
            hidden = stage(torch.cat([hidden, skips.pop()], dim=1), time)
            level, place = divmod(index + 1, config.num_blocks + 1)
            if place == 0 and level <= len(self.upsample):
                height, breadth = skips[-1].shape[-2:]
                doubled = repeat(hidden, "b c h w -> b c (h two) (w too)", two=2, too=2)
                hidden = self.upsample[level - 1](doubled[..., :height, :breadth])
        noise = self.last(F.silu(self.last_norm(hidden)))
        return rearrange(noise, "b (c p q) h w -> b c (h p) (w q)", p=patch, q=patch)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that gives 0 at first: a block begins as its shortcut, the network as 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
