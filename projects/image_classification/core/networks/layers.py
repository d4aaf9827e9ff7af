"""First and last layers, fitted to the data: channels of the images, dropout before the logits."""

import torch.nn.functional as F
from torch import Tensor, nn

from common.models import first_convolution
from common.utils.errors import ConfigError


def adapt_first_convolution(model: nn.Module, channels: int) -> None:
    """Give the first convolution ``channels`` inputs, with the spread of its initial weights.

    Raises:
        ConfigError: if there is no convolution to adapt.
    """
    name = first_convolution(model)
    layer = None if name is None else model.get_submodule(name)
    if not isinstance(layer, nn.Conv2d):
        raise ConfigError(f"{type(model).__name__} has no convolution that sees the pixels")
    if layer.in_channels == channels:
        return
    if layer.groups != 1:
        raise ConfigError(
            f"the first convolution of {type(model).__name__} has groups, so it cannot take "
            f"{channels} channels; set preprocessing.mode=RGB"
        )
    weight = layer.weight.detach()
    layer.in_channels = channels
    kept = weight[:, :1].expand(-1, channels, -1, -1) if channels > weight.shape[1] else weight
    layer.weight = nn.Parameter(kept[:, :channels].clone())


def set_dropout(model: nn.Module, head: str, probability: float) -> None:
    """Drop inputs of the last layer: by the dropout that stands before it, or by one put there.

    Names in the state dict stay as they are. timm's networks take it when they are made.
    """
    top = head.partition(".")[0]
    before = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout) and name.partition(".")[0] in (top, name)
    ]
    for module in before:
        module.p = probability
    if not before and probability > 0:
        model.get_submodule(head).register_forward_pre_hook(DropInputs(probability))


class DropInputs:
    """A hook that drops a layer's inputs while it trains."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *rest = inputs
        return F.dropout(first, self.probability, module.training), *rest
