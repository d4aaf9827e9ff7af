"""First and last layers: where they are in any network, and how they are fitted to the data."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from common.utils.errors import ConfigError


def head_of(model: nn.Module, num_classes: int) -> str:
    """The name of the layer that makes the logits: what is trained when the backbone is frozen.

    timm's models say it themselves; of others it is the last linear layer or convolution with
    ``num_classes`` outputs.

    Raises:
        ConfigError: if there is none.
    """
    named = dict(model.named_modules())
    declared = getattr(model, "pretrained_cfg", {}).get("classifier")
    names = [declared] if isinstance(declared, str) else list(declared or ())
    found = [name for name in names if _outputs(named.get(name)) == num_classes]
    if len(found) == 1:
        return found[0]
    fitting = [name for name, module in named.items() if _outputs(module) == num_classes]
    if not fitting:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer or convolution with {num_classes} "
            "outputs, so nothing in it is the last layer"
        )
    return fitting[-1]


def heads_of(model: nn.Module, num_classes: int) -> list[str]:
    """All last layers: some of timm's networks (distilled ones) have two."""
    declared = getattr(model, "pretrained_cfg", {}).get("classifier")
    named = dict(model.named_modules())
    if isinstance(declared, list | tuple):
        found = [name for name in declared if _outputs(named.get(name)) == num_classes]
        if found:
            return found
    return [head_of(model, num_classes)]


def first_convolution(model: nn.Module) -> str | None:
    """The name of the convolution that sees the pixels; None in a network without."""
    return next((n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)


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


def adapted_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weights for another number of channels, with the same response.

    Of grey images all channels of an RGB kernel see the same, so their sum is one kernel; the
    other way, a grey kernel is spread over three equal ones.
    """
    if weight.ndim != 4 or weight.shape[1] == channels:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    if weight.shape[1] == 1:
        return weight.expand(-1, channels, -1, -1) / channels
    return weight


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


def without_heads(state: Mapping[str, Tensor], heads: list[str]) -> dict[str, Tensor]:
    """A state dict without the tensors of the last layers."""
    below = tuple(f"{head}." for head in heads)
    return {name: value for name, value in state.items() if not name.startswith(below)}


def _outputs(module: nn.Module | None) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
