"""ResNet: residual networks for images.

Source: He et al. 2015, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), Table 1.
As in torchvision (and unlike the paper) a bottleneck strides in its 3x3 convolution. Parameter
names are torchvision's, so its weights load as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from common.utils.errors import ConfigError


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class PaddedIdentity(nn.Module):
    """Option A of the paper: every ``stride``-th pixel, and zeros in the new channels.

    Args:
        stride: Step over rows and columns.
        extra: Channels of zeros behind those of the input.
    """

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module | None:
    """What stands in for the identity where the shape changes; elsewhere None."""
    if stride == 1 and inputs == outputs:
        return None
    if kind == "padding":
        return PaddedIdentity(stride, outputs - inputs)
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the block of ResNet-18 and 34."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int = 1, shortcut: str = "projection"
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride, shortcut)

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the block of ResNet-50, 101 and 152."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int = 1, shortcut: str = "projection"
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}
SHORTCUTS = ("projection", "padding")
# Table 1 of the paper: depth -> block, blocks per stage.
DEPTHS: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Stages of residual blocks, each of half the resolution and twice the width of the last.

    ``ResNet.of_depth(50)`` is a network of the paper's Table 1;
    ``ResNet("basic", (3, 3, 3), num_classes=10, width=16, stem="cifar", shortcut="padding")`` is the
    ResNet-20 of its section 4.2.

    Args:
        block: "basic" or "bottleneck".
        layers: Number of blocks in each stage.
        num_classes: Number of classes K.
        in_channels: Channels C of the image.
        width: Channels of the first stage.
        stem: "imagenet" (7x7 convolution and max-pooling, a quarter of the resolution) or
            "cifar" (3x3 convolution, full resolution).
        shortcut: Where the shape changes: "projection" (a 1x1 convolution, option B of section 3.3)
            or "padding" (no parameters, option A).

    Raises:
        ConfigError: ``block``, ``stem`` or ``shortcut`` is not one of those above.
    """

    def __init__(
        self,
        block: str = "basic",
        layers: Sequence[int] = (2, 2, 2, 2),
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        width: int = 64,
        stem: str = "imagenet",
        shortcut: str = "projection",
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ConfigError(f"block is {block!r}: expected one of {', '.join(BLOCKS)}")
        if shortcut not in SHORTCUTS:
            raise ConfigError(f"shortcut is {shortcut!r}: expected one of {', '.join(SHORTCUTS)}")
        if stem == "imagenet":
            self.conv1 = _conv(in_channels, width, 7, stride=2)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        elif stem == "cifar":
            self.conv1 = _conv(in_channels, width, 3)
            self.maxpool = nn.Identity()
        else:
            raise ConfigError(f"stem is {stem!r}: expected one of imagenet, cifar")
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

        make = BLOCKS[block]
        channels = width
        self.stages: list[str] = []
        for stage, count in enumerate(layers):
            stage_width = width * 2**stage
            blocks: list[nn.Module] = []
            for i in range(count):
                stride = 2 if i == 0 and stage else 1
                blocks.append(make(channels, stage_width, stride, shortcut))
                channels = stage_width * make.expansion
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv 1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def of_depth(cls, depth: int, num_classes: int = 1000, **options: Any) -> "ResNet":
        """A network of the paper's Table 1: ``depth`` is 18, 34, 50, 101 or 152.

        Raises:
            ConfigError: there is no such depth.
        """
        if depth not in DEPTHS:
            raise ConfigError(f"depth is {depth}: expected one of {', '.join(map(str, DEPTHS))}")
        block, layers = DEPTHS[depth]
        return cls(block, layers, num_classes, **options)

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The last stage's maps, before pooling; D is ``num_features``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logits of the classes."""
        return self.fc(self.features(images).mean(dim=(2, 3)))
