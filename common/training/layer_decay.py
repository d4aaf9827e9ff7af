"""Learning rates by depth: early layers of a pretrained network move less than late ones.

Layer-wise learning-rate decay of BEiT (Bao et al. 2021, 2106.08254) after Howard & Ruder 2018
(1801.06146): of n layers, layer i learns at ``layer_decay ** (n - 1 - i)`` of the peak rate. Which
layers there are says timm for its own models, and the order of the modules for all others.
"""

import math
from typing import Any

from torch import nn
from torch.nn import Parameter

from common.utils.errors import ConfigError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layered_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    layer_decay: float = 1.0,
    head: str = "",
    head_lr_multiplier: float = 1.0,
    with_frozen: bool = False,
) -> list[dict[str, Any]]:
    """Groups for the optimizer, each with the factor ``lr_scale`` of its peak rate.

    Matrices decay; vectors, and what the model itself names in ``no_weight_decay()``, do not.

    Args:
        model: Whose parameters.
        weight_decay: Of the matrices.
        layer_decay: Of a layer's rate, over that of the layer behind it, in (0, 1].
        head: The name of the last layer, which is behind all others.
        head_lr_multiplier: On top of the head's rate.
        with_frozen: Also parameters that need no gradient now.

    Returns:
        Groups in which every parameter is once; those of the full rate come first, because the
        first group's rate is the one that is reported.

    Raises:
        ConfigError: if there is no module ``head``, or a factor is out of range.
    """
    if not 0.0 < layer_decay <= 1.0 or not head_lr_multiplier > 0.0:
        raise ConfigError(
            f"model.layer_decay is {layer_decay} and model.head_lr_multiplier "
            f"{head_lr_multiplier}; expected more than 0, and a decay of at most 1"
        )
    depths = layer_depths(model, head)
    last = max(depths.values(), default=0)
    named = dict(model.named_parameters())
    if head and not any(_is_below(name, head) for name in named):
        raise ConfigError(f"{type(model).__name__} has no layer '{head}' to be its head")
    undecayed: Any = getattr(model, "no_weight_decay", None)
    kept = set() if undecayed is None else set(undecayed())
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in named.items():
        if not (parameter.requires_grad or with_frozen):
            continue
        scale = layer_decay ** (last - depths[name])
        if head and _is_below(name, head):
            scale *= head_lr_multiplier
        decays = parameter.ndim >= 2 and name not in kept
        groups.setdefault((scale, weight_decay if decays else 0.0), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: abs(math.log(item[0][0])))
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in ordered
    ]


def layer_depths(model: nn.Module, head: str = "") -> dict[str, int]:
    """The layer of each parameter, counted from 0 at the input, by its name.

    Args:
        model: timm's models say it themselves (``group_matcher``); of others, the parts of the
            outermost ``Sequential``, ``ModuleList`` and ``ModuleDict`` are layers in their order,
            a normalisation belongs to the layer before it, and a parameter beside the layers (a
            class token, positions) to the first.
        head: The name of the last layer.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        depths = group_parameters(model, matcher(coarse=False), reverse=True)
        found = {name: int(depths[name]) for name, _ in model.named_parameters()}
    else:
        layers = _layers(model, "")
        found = {name: 0 for name, _ in model.named_parameters()}
        number = -1
        for prefix, module in layers:
            if number < 0 or not _is_norm(module):
                number += 1
            found |= {n: number for n in found if _is_below(n, prefix)}
    if head:
        behind = [n for n in found if _is_below(n, head)]
        last = max((depth for n, depth in found.items() if n not in set(behind)), default=-1)
        found |= dict.fromkeys(behind, last + 1)
    places = {depth: place for place, depth in enumerate(sorted(set(found.values())))}
    return {name: places[depth] for name, depth in found.items()}


def _layers(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """Modules with parameters that are layers, first to last, with their names."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if next(child.parameters(), None) is None:
            continue
        is_part = isinstance(module, _CONTAINERS)
        is_leaf = next(child.children(), None) is None
        if isinstance(child, _CONTAINERS) or not (is_part or is_leaf):
            found += _layers(child, f"{path}.")
        else:
            found.append((path, child))
    return found


def _is_norm(module: nn.Module) -> bool:
    """A layer that only scales: all its parameters are vectors."""
    return all(parameter.ndim < 2 for parameter in module.parameters())


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
