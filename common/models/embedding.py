"""From a feature map to one embedding: a backbone, a pooling and a neck.

    network = EmbeddingNetwork(TimmBackbone("resnet18"), embedding_dim=128, neck="bn_fc_bn")
    embeddings = network(images)  # (B, 128)

The neck ``bn_fc_bn`` is option E of ArcFace (Deng et al. 2018, 1801.07698v1, section 3.2.2), batch
normalisation, dropout, a linear layer and batch normalisation, here behind a pooling.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from common.models.dropout import Dropout
from common.models.full_precision import full_precision
from common.models.pooling import GeM
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

POOLINGS = ("gem", "avg")
NECKS = ("bn_fc_bn", "linear", "none")


class EmbeddingNetwork(nn.Module):
    """One vector for an image; its length is not one, losses and searches see to that.

    Args:
        backbone: Gives maps ``(B, C, h, w)`` and has C as ``num_features``.
        embedding_dim: D; ``None`` is C.
        pooling: "gem", generalized-mean pooling with a learned p, or "avg".
        neck: "bn_fc_bn", "linear", or "none" for the pooled map itself, of which D is C.
        dropout: The probability of dropping an input of the linear layer of "bn_fc_bn"; the paper
            uses 0.4 with millions of images.

    Attributes:
        embedding_dim: D.

    Raises:
        ConfigError: for a name or a number that has no meaning.
    """

    def __init__(
        self,
        backbone: nn.Module,
        embedding_dim: int | None = None,
        *,
        pooling: str = "gem",
        neck: str = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = getattr(backbone, "num_features", None)
        if not isinstance(width, int):
            raise ConfigError(
                f"{type(backbone).__name__} has no num_features; expected a backbone that gives "
                "maps (B, C, h, w) and says C"
            )
        dimension = width if embedding_dim is None else embedding_dim
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling is '{pooling}'; {did_you_mean(pooling, POOLINGS)}")
        if neck not in NECKS:
            raise ConfigError(f"neck is '{neck}'; {did_you_mean(neck, NECKS)}")
        if dimension < 1 or (neck == "none" and dimension != width):
            raise ConfigError(
                f"embedding_dim is {dimension} with neck={neck} and a backbone of {width} "
                f"channels; expected {'at least 1' if neck != 'none' else width}"
            )
        if not 0.0 <= dropout < 1.0 or (dropout and neck != "bn_fc_bn"):
            raise ConfigError(
                f"dropout is {dropout} with neck={neck}; expected 0 to below 1, and 0 unless the "
                "neck is bn_fc_bn"
            )
        self.backbone, self.embedding_dim = backbone, dimension
        self.pool: nn.Module = GeM() if pooling == "gem" else _Average()
        self.neck: nn.Module = nn.Identity()
        if neck == "linear":
            self.neck = nn.Linear(width, dimension)
        elif neck == "bn_fc_bn":
            # The bias would be taken away again by what follows.
            layer = nn.Linear(width, dimension, bias=False)
            self.neck = nn.Sequential(
                nn.BatchNorm1d(width), Dropout(dropout), layer, nn.BatchNorm1d(dimension)
            )

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embeddings, not normalised.

        Raises:
            ConfigError: if the backbone gives no map.
        """
        maps = self.backbone(images)
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ConfigError(
                f"{type(self.backbone).__name__} gives {shape}; expected a map (B, C, h, w)"
            )
        return cast(Tensor, self.neck(self.pool(maps)))


class ConvBackbone(nn.Module):
    """Blocks of a 3x3 convolution, batch normalisation, ReLU and 2x2 max-pooling, for small images.

    Args:
        in_channels: C of the images.
        channels: Of each block; its stage is its number, from 1, and its stride 2^stage.
        features: Stages that ``feature_maps`` gives, in ascending order.

    Attributes:
        num_features: C of the last map.
        channels: C of each stage.
        reduction: The stride of each stage.

    Raises:
        ConfigError: without a block, or for a stage that is none.
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64),
        features: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not channels or min(in_channels, *channels) < 1:
            raise ConfigError(
                f"in_channels is {in_channels} and channels {tuple(channels)}; expected at least "
                "one block, and one channel in each"
            )
        stages = range(1, len(channels) + 1)
        if list(features) != sorted(set(features) & set(stages)):
            raise ConfigError(
                f"features are {tuple(features)}; expected ascending stages from 1 to {stages[-1]}"
            )
        self.features = tuple(features)
        self.num_features = channels[-1]
        self.channels = dict(zip(stages, channels, strict=True))
        self.reduction = {stage: 2**stage for stage in stages}
        widths = [in_channels, *channels]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, ceil_mode=True),  # of one pixel one remains
            )
            for inputs, outputs in pairwise(widths)
        )

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ _ _"]:
        """The last block's map."""
        x = images
        for block in self.blocks:
            x = block(x)
        return x

    def feature_maps(
        self, images: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """The maps of the stages in ``features``."""
        maps, x = [], images
        for stage, block in enumerate(self.blocks, start=1):
            x = block(x)
            maps += [x] if stage in self.features else []
        return tuple(maps)


class _Average(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device.type):
            return x.float().mean((2, 3))
