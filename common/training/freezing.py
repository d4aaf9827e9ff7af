"""Frozen parts of a network: no gradient for their parameters, no news for their statistics.

A batch normalisation whose parameters are frozen normalises with the statistics it has, also in
training mode: otherwise a "frozen" backbone would change with every batch it sees.
"""

from collections.abc import Iterable
from types import MethodType

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def freeze(model: nn.Module, names: Iterable[str]) -> None:
    """Freeze the parts of ``model`` that ``names`` begin.

    Args:
        model: From now on its ``train()`` leaves the statistics of frozen layers alone.
        names: Of modules or parameters, such as ``layer1`` or ``layer1.0.conv1``.
    """
    set_trainable(model, names, False)


def set_trainable(model: nn.Module, names: Iterable[str], trainable: bool) -> None:
    """Let the parameters that ``names`` begin need a gradient, or not; modes follow."""
    prefixes = tuple(names)
    for name, parameter in model.named_parameters():
        if is_named(name, prefixes):
            parameter.requires_grad_(trainable)
    hold_frozen_norms(model)
    model.train(model.training)


def is_named(name: str, prefixes: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``prefixes``, or lies below one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def hold_frozen_norms(model: nn.Module) -> None:
    """Make ``model.train()`` keep frozen batch normalisations in evaluation mode."""
    model.train = MethodType(_train, model)  # type: ignore[method-assign]


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    type(model).train(model, mode)
    for module in model.modules():
        if isinstance(module, _NormBase) and _is_frozen(module):
            module.eval()
    return model


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
