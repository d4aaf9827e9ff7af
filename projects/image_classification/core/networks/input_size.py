"""Whether a network can take the images: one forward pass without numbers, before any download."""

from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from common.utils.errors import ConfigError
from projects.image_classification.core.model_config import ModelConfig
from projects.image_classification.core.networks.architectures import Shape, build_architecture

_SIDES = (16, 32, 48, 64, 75, 96, 112, 128, 160, 192, 224, 256, 288, 299, 384, 448, 512)
_SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, ZeroDivisionError, IndexError, TypeError)


def check_input(settings: ModelConfig, shape: Shape) -> None:
    """Refuse images that the network cannot take, and say when they are very small for it.

    Raises:
        ConfigError: naming a size that works, if one does; or what the network gives instead of
            logits.
    """
    try:
        reason = _try(settings, shape, "meta")
        if reason is None:
            return
        fitting = next((side for side in _SIDES if _try_side(settings, shape, side) is None), None)
    except NotImplementedError:  # the network looks at numbers
        fitting = None
    if fitting is None:
        reason = _try(settings, shape, "cpu")
        if reason is None:
            return
        raise ConfigError(
            f"model {settings.name} fails on images of {shape.height} x {shape.width}: {reason}"
        )
    raise ConfigError(
        f"model {settings.name} cannot take images of {shape.height} x {shape.width} ({reason}); "
        f"the smallest size tried that it takes is {fitting} x {fitting}: set "
        f"preprocessing.image_size=[{fitting},{fitting}], or take another network"
    )


def _try_side(settings: ModelConfig, shape: Shape, side: int) -> str | None:
    if side <= min(shape.height, shape.width) and shape.height == shape.width:
        return "smaller"
    other = Shape(shape.num_classes, shape.channels, side, side)
    return _try(settings, other, "meta", is_quiet=True)


def _try(settings: ModelConfig, shape: Shape, device: str, is_quiet: bool = False) -> str | None:
    """Why a forward pass fails; ``None`` if it does not."""
    try:
        model = _build(settings, shape, device).eval()
        images = torch.zeros(2, shape.channels, shape.height, shape.width, device=device)
        seen = _Pixels(model)
        with torch.no_grad():
            logits: Any = model(images)
    except ConfigError:
        if is_quiet:
            return "refused"
        raise
    except NotImplementedError:
        raise
    except _SIZE_ERRORS as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    if not isinstance(logits, Tensor) or logits.shape != (2, shape.num_classes):
        kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model {settings.name} gives {kind} for two images, expected logits of the shape "
            f"(2, {shape.num_classes})"
        )
    if not is_quiet:
        seen.warn(settings.name, shape)
    return None


def _build(settings: ModelConfig, shape: Shape, device: str) -> nn.Module:
    try:
        with torch.device(device):
            return build_architecture(settings, shape)
    except NotImplementedError:  # some compute their sizes with tensors
        return build_architecture(settings, shape).to(device)


class _Pixels:
    """Counts the convolutions that look at a map of a single pixel."""

    def __init__(self, model: nn.Module) -> None:
        self.blind = self.total = 0
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                module.register_forward_pre_hook(self._look)

    def _look(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.total += 1
        self.blind += inputs[0].shape[-2:] == (1, 1)

    def warn(self, name: str, shape: Shape) -> None:
        if self.blind:
            logger.warning(
                f"images of {shape.height} x {shape.width} are small for {name}: {self.blind} of "
                f"its {self.total} convolutions larger than 1 x 1 see a single pixel; a larger "
                "preprocessing.image_size, or model.type=custom, will do better"
            )
