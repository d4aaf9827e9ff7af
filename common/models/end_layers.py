"""First and last layers: where they are in any network, and their weights for other channels."""

from collections.abc import Mapping

from jaxtyping import Float
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


def adapted_channels(weight: Float[Tensor, "..."], channels: int) -> Float[Tensor, "..."]:
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


def without_heads(state: Mapping[str, Tensor], heads: list[str]) -> dict[str, Tensor]:
    """A state dict without the tensors of the last layers."""
    below = tuple(f"{head}." for head in heads)
    return {name: value for name, value in state.items() if not name.startswith(below)}


def _outputs(module: nn.Module | None) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
