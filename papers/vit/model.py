"""Classification with the Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929).

The architecture, equations 1 to 4, is ``common.models.VisionTransformer``; what this file adds is
the classification task that sizes it from the data, and the models of Table 1 as constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common.config import option
from common.data.info import DatasetInfo
from common.models import VisionTransformer
from common.training import classification
from common.utils.errors import ConfigError
from papers.vit.pretrained import load_pretrained


@dataclass
class ModelConfig:
    """The sizes of Table 1; the defaults are ViT-Tiny (Touvron et al. 2020) on small images."""

    patch_size: int = option("height and width of a patch (P)", 4, ge=1)
    d_model: int = option("width (D)", 192, ge=1)
    num_heads: int = option("attention heads", 3, ge=1)
    num_layers: int = option("encoder layers (L)", 12, ge=1)
    d_ff: int = option("width of the MLP", 768, ge=1)
    dropout: float = option("after positions, attention and in the MLP", 0.0, ge=0, lt=1)
    image_size: int | None = option("resize images to this; null: as they are", None, ge=1)
    weights: str | None = option("repository of timm's weights to start from", None)

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ConfigError(
                f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}"
            )


# Table 1 of the paper.
VIT_BASE = ModelConfig(patch_size=16, d_model=768, num_heads=12, num_layers=12, d_ff=3072)
VIT_LARGE = ModelConfig(patch_size=16, d_model=1024, num_heads=16, num_layers=24, d_ff=4096)


class ClassificationTask(classification.ClassificationTask):
    """Cross-entropy of the class, from images normalised by the training split's statistics.

    Args:
        config: The network's values; image size and classes are filled in from the data.
        pretrained: The weights to start from, see ``papers.vit.pretrained``; None for random ones,
            and where the weights of all come from a run.
    """

    model: VisionTransformer

    def __init__(self, config: ModelConfig, pretrained: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.config = config
        self._pretrained = pretrained

    def build(self, info: DatasetInfo) -> VisionTransformer:
        """The network, with the weights to start from."""
        model = build_model(self.config, info.input_shape, info.num_classes)
        if self._pretrained is not None:
            load_pretrained(model, self._pretrained)
            self._pretrained = None
        return model

    def normalized(self, images: Tensor) -> Float[Tensor, "B C H W"]:
        """Images as the network sees them."""
        pixels = super().normalized(images)
        if self.config.image_size is None:
            return pixels
        return F.interpolate(pixels, (self.config.image_size,) * 2, mode="bilinear", antialias=True)


def build_model(
    config: ModelConfig, input_shape: tuple[int, ...], num_classes: int
) -> VisionTransformer:
    """The network for images of ``input_shape``, ``(C, H, W)``.

    Raises:
        ConfigError: if the images are not square, or their side is no multiple of the patch's.
    """
    channels, height, width = input_shape
    if config.image_size is not None:
        height = width = config.image_size
    if height != width or height % config.patch_size:
        raise ConfigError(
            f"images are {height} x {width} and model.patch_size is {config.patch_size}; expected "
            "square images, and a patch size that divides their side"
        )
    return VisionTransformer(
        image_size=height,
        patch_size=config.patch_size,
        in_channels=channels,
        num_classes=num_classes,
        d_model=config.d_model,
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        d_ff=config.d_ff,
        dropout=config.dropout,
    )
