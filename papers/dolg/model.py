"""DOLG (Yang et al. 2021, arXiv 2108.02927) as a task: the network, and its branches by themselves.

The network is ``common.models.DOLG``, because product matching uses it too. What this file adds is
its training with ArcFace (section 3.4), the two branches alone to compare it with at the same
budget, and embeddings of several sizes of an image (section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from common.config import RunContext, option
from common.data.info import DatasetInfo
from common.models import DOLG, ConvBackbone, EmbeddingNetwork, TimmBackbone, embed_multi_scale
from common.models.dolg import LocalBranch, TwoStageBackbone
from common.training import EmbeddingTask, load_published
from common.utils.errors import ConfigError
from papers.arcface.model import LossConfig, build_loss

BRANCHES = ("both", "global", "local")


@dataclass
class ModelConfig:
    """The network from images to embeddings."""

    backbone: str = option("conv: blocks of a convolution; or a network of timm: resnet50", "conv")
    pretrained: bool = option("timm: start from its published weights", False)
    channels: list[int] = option("conv: channels of each block", [32, 64, 128], ge=1)
    features: list[int] = option("stages of the local and the global branch", [2, 3], ge=1)
    branches: str = option("both (DOLG), or one of them alone", "both", choices=BRANCHES)
    atrous_rates: list[int] = option(
        "local: dilations; []: no multi-atrous module", [6, 12, 18], ge=1
    )
    fusion_dim: int | None = option(
        "length of f_g and f_l; null: the local stage's channels", None, ge=1
    )
    embedding_dim: int = option("width of the embeddings", 512, ge=1)

    def __post_init__(self) -> None:
        if len(self.features) != 2:
            raise ConfigError(f"model.features is {self.features}; expected two stages, e.g. [3,4]")
        if self.pretrained and self.backbone == "conv":
            raise ConfigError("model.pretrained is on, and model.backbone=conv has no weights")
        if self.backbone == "conv" and self.features[1] != len(self.channels):
            raise ConfigError(
                f"model.channels has {len(self.channels)} blocks, and the global branch reads "
                f"stage {self.features[1]} (model.features); expected its stage to be the last"
            )


class LocalOnly(nn.Module):
    """The local branch without the global one: its features' average, and a linear layer.

    Args:
        backbone: With one stage of ``features``.
        fusion_dim: Length of f_l; ``None``: the stage's channels.
        atrous_rates: Dilations of the local branch.
        embedding_dim: Width of the embeddings.
    """

    def __init__(
        self,
        backbone: nn.Module,
        fusion_dim: int | None,
        atrous_rates: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.backbone, self.embedding_dim = backbone, embedding_dim
        source = cast(TwoStageBackbone, backbone)
        channels = source.channels[source.features[0]]
        width = channels if fusion_dim is None else fusion_dim
        self.local = LocalBranch(channels, width, atrous_rates)
        self.embed = nn.Linear(width, embedding_dim)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embeddings, not normalised."""
        (maps,) = cast(TwoStageBackbone, self.backbone).feature_maps(images)
        return cast(Tensor, self.embed(self.local(maps).features.mean((2, 3))))


class DolgTask(EmbeddingTask):
    """Embeddings of images, of several sizes of each where they are searched with.

    Args:
        model: The network's values.
        loss: The loss's.
        scales: Factors of an image's height and width; its embedding is the mean over them.
        starts: Whether training begins here: published weights are read then, and not where the
            weights of all come from a run.
    """

    def __init__(
        self,
        model: ModelConfig,
        loss: LossConfig,
        scales: Sequence[float] = (1.0,),
        *,
        starts: bool = False,
    ) -> None:
        super().__init__(
            lambda info: build_network(model, info),
            lambda dim, info: build_loss(loss, dim, info.num_classes or 0),
            center_lr_multiplier=loss.center_lr_multiplier,
        )
        self.scales, self._starts = tuple(scales), starts

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        super().configure(info, context)
        if self._starts:
            load_published(self.model)

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings ``(B, D)`` of length one, float32."""
        if self.scales == (1.0,):
            return super().predict_step(batch)
        return embed_multi_scale(self.model, self.normalized(batch["image"]), self.scales)


def build_network(config: ModelConfig, info: DatasetInfo) -> nn.Module:
    """The network for images with as many channels as the data's; it has ``embedding_dim``."""
    local, deep = config.features
    if config.branches == "global":
        backbone = _backbone(config, info, (deep,))
        return EmbeddingNetwork(backbone, config.embedding_dim, pooling="gem", neck="linear")
    if config.branches == "local":
        backbone = _backbone(config, info, (local,))
        return LocalOnly(backbone, config.fusion_dim, config.atrous_rates, config.embedding_dim)
    return DOLG(
        _backbone(config, info, (local, deep)),
        config.embedding_dim,
        atrous_rates=config.atrous_rates,
        fusion_dim=config.fusion_dim,
    )


def _backbone(config: ModelConfig, info: DatasetInfo, features: tuple[int, ...]) -> nn.Module:
    """No deeper than the last stage that is read."""
    channels = info.input_shape[0]
    if config.backbone == "conv":
        return ConvBackbone(channels, config.channels[: features[-1]], features)
    return TimmBackbone(
        config.backbone, pretrained=config.pretrained, in_channels=channels, features=features
    )
