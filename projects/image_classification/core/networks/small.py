"""Small networks of our own, and the registry in which anybody's network gets a name.

    @register_model("my_net")
    def my_net(num_classes: int, in_channels: int, norm: str) -> nn.Module: ...

    model.type=custom model.custom_architecture=my_net

Additions make new tensors and nothing is changed in place, as per-example gradients need it; with
``norm="group"`` no example sees another, so that ``trainer_type=dp`` takes them as they are.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from common.utils.errors import ConfigError

Builder = Callable[..., nn.Module]

MODEL_REGISTRY: dict[str, Builder] = {}
_GROUPS = 8


def register_model(name: str) -> Callable[[Builder], Builder]:
    """Give a class or function the name that ``model.custom_architecture`` calls it by.

    It is called with ``num_classes``, ``in_channels`` and ``norm``, and returns a module that makes
    logits ``(B, K)`` of normalised images ``(B, C, H, W)``.

    Raises:
        ConfigError: if another network has the name.
    """

    def register(builder: Builder) -> Builder:
        known = MODEL_REGISTRY.get(name)
        if known is not None and known.__qualname__ != builder.__qualname__:
            raise ConfigError(f"the name '{name}' is {known.__qualname__}'s; choose another")
        MODEL_REGISTRY[name] = builder
        return builder

    return register


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(_GROUPS, channels)


def _conv(inputs: int, outputs: int, norm: str, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        _norm(norm, outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    """``relu(x + f(x))`` with two 3x3 convolutions."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(width, width, norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))))


@register_model("simple_cnn")
class SimpleCNN(nn.Module):
    """Three stages of residual blocks with 32, 64 and 128 channels; about 400,000 parameters.

    Args:
        num_classes: Number of classes K.
        in_channels: Channels C of the image.
        norm: "batch" or "group".
        width: Channels of the first stage, a multiple of 8.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, norm: str = "batch", width: int = 32
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _conv(in_channels, width, norm),
            _Residual(width, norm),
            _conv(width, 2 * width, norm, stride=2),
            _Residual(2 * width, norm),
            _conv(2 * width, 4 * width, norm, stride=2),
        )
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of ``(B, C, H, W)``, of any size."""
        return self.head(self.dropout(self.stages(images).mean((2, 3))))


@register_model("tiny_net")
class TinyNet(nn.Module):
    """Two convolutions and a linear layer, for first tries; about 6,000 parameters.

    Args:
        num_classes: Number of classes K.
        in_channels: Channels C of the image.
        norm: "batch" or "group".
    """

    def __init__(self, num_classes: int, in_channels: int = 3, norm: str = "batch") -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _conv(in_channels, 16, norm, stride=2), _conv(16, 32, norm, stride=2)
        )
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of ``(B, C, H, W)``, of any size."""
        return self.head(self.dropout(self.stages(images).mean((2, 3))))
