"""The residual networks of ArcFace's experiments, for faces of 112 x 112 pixels.

Deng et al. 2018 (arXiv 1801.07698v1, section 3.2): LResNet-IR. "L": the first convolution is 3x3
and keeps the resolution, so that the last map has 7 x 7 positions. "IR": a block is
BN-Conv-BN-PReLU-Conv-BN, and nothing follows the sum. The number in a name counts convolutions
and the fully connected layer.
"""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

# Blocks of the four stages.
LAYERS: dict[str, tuple[int, ...]] = {
    "ir18": (2, 2, 2, 2),
    "ir34": (3, 4, 6, 3),
    "ir50": (3, 4, 14, 3),
    "ir100": (3, 13, 30, 3),
}
_WIDTHS = (64, 128, 256, 512)


class IRBlock(nn.Module):
    """BN-Conv-BN-PReLU-Conv-BN beside a shortcut; the second convolution strides.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: 1, or 2 for half the resolution; then the shortcut is a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        return cast(Tensor, self.branch(x) + self.shortcut(x))


class IResNet(nn.Module):
    """Four stages of ``IRBlock``, each of half the resolution: a map of 512 channels, stride 16.

    Args:
        layers: Blocks of each stage, see ``LAYERS``.
        in_channels: C of the images.

    Attributes:
        num_features: Channels of the map.
    """

    def __init__(self, layers: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        width = _WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
        )
        stages = []
        for count, outputs in zip(layers, _WIDTHS, strict=True):
            rest = [IRBlock(outputs, outputs) for _ in range(count - 1)]
            stages.append(nn.Sequential(IRBlock(width, outputs, stride=2), *rest))
            width = outputs
        self.stages = nn.Sequential(*stages)
        self.num_features = width

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The last stage's map."""
        return cast(Tensor, self.stages(self.stem(images)))
