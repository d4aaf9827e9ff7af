"""The Vision Transformer: an image is a sequence of patches.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words" (arXiv 2010.11929), section 3.1.
The layers are the Transformer's own, with normalisation before each sub-layer and GELU.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from common.models.attention import MultiHeadAttention
from common.models.dropout import Dropout
from common.models.layers import EncoderLayer, FeedForward, Residual
from common.utils.errors import ConfigError, DataError


class VisionTransformer(nn.Module):
    """Encoder over patches and a class token; the defaults are ViT-B/16 at 224 pixels (Table 1).

    Args:
        image_size: Height and width of the image in pixels.
        patch_size: Height and width of a patch in pixels.
        in_channels: Channels C of the image.
        num_classes: Number of classes K.
        d_model: Width D.
        num_heads: Attention heads.
        num_layers: Encoder layers.
        d_ff: Inner width of the feed-forward networks.
        dropout: After the positions, each feed-forward layer and each attention (appendix B.1).
        attention_dropout: Dropout on attention weights.

    Raises:
        ConfigError: image_size is not a multiple of patch_size, or d_model not of num_heads.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        d_model: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        d_ff: int = 3072,
        dropout: float = 0.0,
        *,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ConfigError(
                f"image_size is {image_size} and patch_size is {patch_size}: "
                f"image_size must be a multiple of patch_size"
            )

        def residual() -> Residual:
            return Residual(d_model, dropout, norm="pre", eps=1e-6)

        self.image_size = image_size
        self.patch_embedding = nn.Conv2d(in_channels, d_model, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, d_model))
        tokens = 1 + (image_size // patch_size) ** 2
        self.positions = nn.Parameter(torch.randn(1, tokens, d_model) * 0.02)
        self.dropout = Dropout(dropout)
        self.encoder = nn.ModuleList(
            EncoderLayer(
                MultiHeadAttention(d_model, num_heads, attention_dropout),
                FeedForward(d_model, d_ff, "gelu", dropout),
                residual(),
                residual(),
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model, eps=1e-6)
        self.head = nn.Linear(d_model, num_classes)
        nn.init.zeros_(self.head.weight)  # section 3.2: all classes are equally probable at first
        nn.init.zeros_(self.head.bias)

    def features(
        self, images: Float[Tensor, "B C H W"], maps: list[Tensor] | None = None
    ) -> Float[Tensor, "B T D"]:
        """States of the class token (first) and the patches, row by row, after the last norm.

        Args:
            images: The images.
            maps: A list to which each layer's attention weights (B, heads, T, T) are appended.

        Raises:
            DataError: the images do not have the model's size.
        """
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            raise DataError(f"images are {tuple(images.shape[-2:])}: the model was made for {size}")
        patches = rearrange(self.patch_embedding(images), "b d h w -> b (h w) d")
        x = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        x = self.dropout(x + self.positions)
        for layer in self.encoder:
            x, weights = layer(x, need_weights=maps is not None)
            if maps is not None:
                maps.append(weights)
        return self.norm(x)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logits of the classes, from the class token's state."""
        return self.head(self.features(images)[:, 0])
