"""ArcFace (Deng et al. 2018, arXiv 1801.07698): an embedding network, and losses to compare.

The margin of equation 3 is ``common.losses.AngularMarginHead``, because others use it too. What
this file adds is the paper's network, a backbone and the head BN-Dropout-FC-BN of section 3.1, and
one name for each loss that is compared.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from common.config import option
from common.data import OpenSetImagesConfig
from common.data.info import DatasetInfo
from common.losses import AngularMarginHead, ProxyAnchorLoss, TripletMarginLoss
from common.models import ConvBackbone, Dropout
from common.training import EmbeddingTask
from common.utils.errors import ConfigError
from papers.arcface.iresnet import LAYERS, IResNet

# Each loss with the margin that its own paper trains with.
MARGINS = {
    "arcface": 0.5,
    "cosface": 0.35,
    "curricular": 0.5,
    "softmax": 0.0,
    "proxy_anchor": 0.1,
    "triplet": 0.2,
}
_WITH_CENTERS = ("arcface", "cosface", "curricular", "softmax")


@dataclass
class ModelConfig:
    """The network from images to embeddings."""

    backbone: str = option(
        "conv: blocks of a convolution; ir50 ...: the paper's residual networks",
        "conv",
        choices=("conv", *LAYERS),
    )
    channels: list[int] = option("conv: channels of each block", [32, 64, 128], ge=1)
    embedding_dim: int = option("width of the embeddings (d)", 128, ge=1)
    dropout: float = option("before the fully connected layer", 0.0, ge=0, lt=1)


@dataclass
class LossConfig:
    """Which loss, and its values."""

    kind: str = option("softmax: arcface without a margin", "arcface", choices=tuple(MARGINS))
    margin: float | None = option(
        "m: radians (arcface, curricular), a cosine (cosface, proxy_anchor) or a distance "
        "(triplet); null: that of the loss's paper",
        None,
        ge=0,
    )
    scale: float | str = option("s; auto: sqrt(2) ln(C - 1), proxy_anchor: 32", "auto")
    learnable_scale: bool = option("train s", False)
    num_centers: int = option("sub-centers of each class (K)", 1, ge=1)
    center_lr_multiplier: float = option(
        "rate of centres and proxies over the network's", 10.0, gt=0
    )

    def __post_init__(self) -> None:
        is_number = not isinstance(self.scale, str)
        if not is_number and self.scale != "auto":
            raise ConfigError(f"loss.scale is '{self.scale}'; expected a positive number or auto")
        if is_number and not cast(float, self.scale) > 0:
            raise ConfigError(f"loss.scale is {self.scale}; expected a positive number or auto")
        if self.kind not in _WITH_CENTERS and (self.num_centers > 1 or self.learnable_scale):
            raise ConfigError(
                f"loss.kind is {self.kind}, which has neither sub-centers nor a scale to train; "
                "set loss.num_centers=1 loss.learnable_scale=false, or take arcface"
            )
        if self.kind == "softmax" and self.margin:
            raise ConfigError(
                f"loss.kind is softmax, which has no margin, and loss.margin is {self.margin}; "
                "set loss.margin=null"
            )
        if self.kind == "triplet" and is_number:
            raise ConfigError("loss.kind is triplet, which has no scale; set loss.scale=auto")


def check_pairs(loss: LossConfig, data: OpenSetImagesConfig) -> None:
    """Refuse a loss that finds its pairs in the batch with batches that have none but by chance.

    Raises:
        ConfigError: for triplets, unless ``data.per_class`` is 2 or more.
    """
    if loss.kind == "triplet" and data.per_class < 2:
        raise ConfigError(
            "loss.kind is triplet, which finds its pairs in the batch, and data.per_class is "
            f"{data.per_class}; set data.per_class=4 or another divisor of data.batch_size"
        )


class ArcFaceNetwork(nn.Module):
    """A backbone, and on its last map BN-Dropout-FC-BN (section 3.1).

    The fully connected layer sees the whole map and not its mean, so images have one size. It has
    no bias, which the normalisation behind it would take away again.

    Args:
        backbone: Gives maps ``(B, C, h, w)``.
        input_shape: ``(C, H, W)`` of an image.
        embedding_dim: d.
        dropout: Of the map, in training only.

    Attributes:
        embedding_dim: d.
    """

    def __init__(
        self,
        backbone: nn.Module,
        input_shape: tuple[int, ...],
        embedding_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.embedding_dim = backbone, embedding_dim
        with torch.no_grad():
            channels, height, width = backbone.eval()(torch.zeros(1, *input_shape)).shape[1:]
        backbone.train()
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels),
            Dropout(dropout),
            nn.Flatten(),
            nn.Linear(channels * height * width, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim),
        )

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embeddings, of any length."""
        return cast(Tensor, self.head(self.backbone(images)))


class ArcFaceTask(EmbeddingTask):
    """Embeddings of images, learnt with one of the losses.

    Args:
        model: The network's values.
        loss: The loss's.
    """

    model: ArcFaceNetwork

    def __init__(self, model: ModelConfig, loss: LossConfig) -> None:
        super().__init__(
            lambda info: build_network(model, info),
            lambda dim, info: build_loss(loss, dim, info.num_classes or 0),
            center_lr_multiplier=loss.center_lr_multiplier,
        )


def build_network(config: ModelConfig, info: DatasetInfo) -> ArcFaceNetwork:
    """The network for images of the data's shape."""
    channels = info.input_shape[0]
    backbone: nn.Module
    if config.backbone == "conv":
        backbone = ConvBackbone(channels, config.channels)
    else:
        backbone = IResNet(LAYERS[config.backbone], channels)
    return ArcFaceNetwork(backbone, info.input_shape, config.embedding_dim, config.dropout)


def build_loss(config: LossConfig, embedding_dim: int, num_classes: int) -> nn.Module:
    """The loss of embeddings ``(B, D)`` and labels ``(B,)``.

    Raises:
        ConfigError: for a margin the loss has no meaning for.
    """
    margin = MARGINS[config.kind] if config.margin is None else config.margin
    try:
        if config.kind == "proxy_anchor":
            scale = 32.0 if isinstance(config.scale, str) else config.scale
            return ProxyAnchorLoss(embedding_dim, num_classes, margin, scale)
        if config.kind == "triplet":
            return TripletMarginLoss(margin)
        return AngularMarginHead(
            embedding_dim,
            num_classes,
            kind="arcface" if config.kind == "softmax" else config.kind,
            margin=margin,
            scale=config.scale,
            learnable_scale=config.learnable_scale,
            num_centers=config.num_centers,
        )
    except ValueError as error:
        raise ConfigError(f"loss: {error}") from None
