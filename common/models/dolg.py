"""DOLG: local features made orthogonal to the global one (Yang et al. 2021, 2108.02927).

With f_g the global vector and f_l the local vector at a position (section 3.3, equations 1 to 3),

    f_proj = <f_l, f_g> / |f_g|^2  f_g          f_orth = f_l - f_proj

and the embedding is a linear layer of f_g and of the average of f_orth over all positions. The norm
is squared: divided by |f_g| once, f_orth keeps a part along f_g unless f_g has length one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from common.models.full_precision import full_precision
from common.models.pooling import GeM
from common.utils.errors import ConfigError

SCALES = (0.3535, 0.5, 0.7071, 1.0, 1.4142)


class TwoStageBackbone(Protocol):
    """What DOLG asks of a backbone: ``TimmBackbone`` and ``ConvBackbone`` with two features."""

    features: tuple[int, ...]
    channels: dict[int, int]

    def feature_maps(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """The local and the global stage's maps."""
        ...


class LocalFeatures(NamedTuple):
    """What the local branch gives.

    Attributes:
        features: ``(B, C, h, w)``; the length of each position's vector is its attention.
        attention: ``(B, h, w)``, above 0.
    """

    features: Float[Tensor, "B C h w"]
    attention: Float[Tensor, "B h w"]


class OrthogonalFusion(nn.Module):
    """The global vector beside the average of the local components orthogonal to it.

    The projection is linear, so the average of f_orth over positions is the average of f_l without
    its own projection: no map is made but by ``orthogonal_map``. In float32, also under autocast.
    """

    def forward(
        self, local: Float[Tensor, "B C h w"], global_: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B D"]:
        """``(B, 2 C)``: f_g, then the pooled f_orth.

        Args:
            local: f_l at every position.
            global_: f_g; where it is 0 nothing is projected.
        """
        with full_precision(local.device.type):
            vector, pooled = global_.float(), local.float().mean((2, 3))
            share = (pooled * vector).sum(1, keepdim=True) / _squared_norm(vector)
            return torch.cat([vector, pooled - share * vector], dim=1)

    @staticmethod
    def orthogonal_map(
        local: Float[Tensor, "B C h w"], global_: Float[Tensor, "B C"]
    ) -> Float[Tensor, "B C h w"]:
        """f_orth at every position, for pictures."""
        with full_precision(local.device.type):
            vector, features = global_.float(), local.float()
            share = torch.einsum("bchw,bc->bhw", features, vector)
            share = share / _squared_norm(vector)[:, :, None]
            return features - share[:, None] * vector[:, :, None, None]


class MultiAtrous(nn.Module):
    """Dilated convolutions beside the average of the image, mixed by a 1x1 convolution (figure 3).

    Args:
        channels: C of the map, in and out; each branch has half of them.
        rates: The dilation of each convolution.
    """

    def __init__(self, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.dilated = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=rate, dilation=rate) for rate in rates
        )
        self.average = nn.Conv2d(channels, width, 1)
        self.mix = nn.Conv2d(width * (len(rates) + 1), channels, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """A map of the same shape that sees further."""
        average = self.average(x.mean((2, 3), keepdim=True)).relu()
        branches = [layer(x) for layer in self.dilated]
        together = torch.cat([*branches, average.expand(-1, -1, *x.shape[2:])], dim=1)
        return cast(Tensor, self.mix(together).relu())


class LocalBranch(nn.Module):
    """Local features and how much each position counts (section 3.2, figure 3).

    Args:
        in_channels: Of the local stage's map.
        channels: C of the features.
        atrous_rates: Dilations of the multi-atrous module; without any there is none.
    """

    def __init__(self, in_channels: int, channels: int, atrous_rates: Sequence[int]) -> None:
        super().__init__()
        self.atrous = MultiAtrous(in_channels, atrous_rates) if atrous_rates else nn.Identity()
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.attend = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Float[Tensor, "B _ h w"]) -> LocalFeatures:
        """Features of length one, times their attention."""
        x = self.project(self.atrous(x))
        scores = self.attend(x.relu())
        with full_precision(x.device.type):
            attention = F.softplus(scores.float())
            return LocalFeatures(F.normalize(x.float()) * attention, attention.squeeze(1))


class DOLG(nn.Module):
    """One embedding of what an image shows as a whole and of what else stands out in it.

    Args:
        backbone: With two ``features``, whose maps are the local (stage 3 in the paper) and the
            global one (stage 4).
        embedding_dim: D.
        atrous_rates: Dilations of the local branch, by default those of the authors' code; ``()``
            leaves the multi-atrous module out.
        fusion_dim: Length of f_g and f_l; ``None`` is the channels of the local stage, as in the
            paper. Networks whose stages are narrow want more.

    Attributes:
        embedding_dim: D.

    Raises:
        ConfigError: if the backbone has not two features, or a number has no meaning.
    """

    def __init__(
        self,
        backbone: nn.Module,
        embedding_dim: int = 512,
        *,
        atrous_rates: Sequence[int] = (6, 12, 18),
        fusion_dim: int | None = None,
    ) -> None:
        super().__init__()
        stages = getattr(backbone, "features", ())
        if len(stages) != 2:
            raise ConfigError(
                f"the backbone {type(backbone).__name__} has features {stages}; DOLG takes two "
                "stages, such as features=(3, 4)"
            )
        source = cast(TwoStageBackbone, backbone)
        local, deep = (source.channels[stage] for stage in source.features)
        width = local if fusion_dim is None else fusion_dim
        if min(embedding_dim, width, *atrous_rates) < 1:
            raise ConfigError(
                f"embedding_dim is {embedding_dim}, fusion_dim {fusion_dim}, atrous_rates "
                f"{tuple(atrous_rates)}; expected at least 1 each"
            )
        self.backbone, self.embedding_dim = backbone, embedding_dim
        self.local = LocalBranch(local, width, atrous_rates)
        self.pool = GeM()
        self.to_global = nn.Linear(deep, width)
        self.fuse = OrthogonalFusion()
        self.embed = nn.Linear(2 * width, embedding_dim)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embeddings, not normalised."""
        local, deep = self._maps(images)
        vector = self.to_global(self.pool(deep))
        return cast(Tensor, self.embed(self.fuse(self.local(local).features, vector)))

    def attention(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w"]:
        """How much each position of the local stage counts, above 0."""
        return cast(LocalFeatures, self.local(self._maps(images)[0])).attention

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        return cast(TwoStageBackbone, self.backbone).feature_maps(images)


@torch.no_grad()
def embed_multi_scale(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B C H W"],
    scales: Sequence[float] = SCALES,
) -> Float[Tensor, "B D"]:
    """The mean of an image's embeddings at several sizes, of length one (section 4.1).

    Args:
        model: From images to embeddings: any that takes images of any size; in evaluation mode.
        images: As the model takes them, in floating point.
        scales: Factors of height and width; the defaults are the paper's five.

    Raises:
        ConfigError: without a scale, for one that is not positive, or if the model is training.
    """
    if not scales or not min(scales) > 0:
        raise ConfigError(f"scales are {tuple(scales)}; expected positive numbers")
    if isinstance(model, nn.Module) and model.training:
        raise ConfigError("the model is in training mode, where sizes disturb it; call eval()")
    total: Tensor | float = 0.0
    for scale in scales:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        resized = images
        if size != list(images.shape[2:]):
            resized = F.interpolate(
                images, size, mode="bilinear", align_corners=False, antialias=True
            )
        total = total + F.normalize(model(resized).float())
    return F.normalize(torch.as_tensor(total))


def _squared_norm(vector: Tensor) -> Tensor:
    """``(B, 1)``, and 1 for a vector of zeros."""
    squared = vector.square().sum(1, keepdim=True)
    return torch.where(squared > 0, squared, 1.0)
