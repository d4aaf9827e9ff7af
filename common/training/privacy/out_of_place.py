"""Networks of others under per-example gradients: what they change in place is made anew.

Opacus hangs hooks on every layer, and PyTorch forbids to change a hooked layer's output in place:
torchvision's ``out += identity`` and ``nn.ReLU(inplace=True)`` fail (opacus#828). While such a
network runs, these operations give a new tensor in place of the changed one. That is right where
the result is used by its name, as it is in these networks, and it is tried out before it is trusted.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.utils.errors import ConfigError

_OPERATORS = {
    "__iadd__": Tensor.__add__,
    "__isub__": Tensor.__sub__,
    "__imul__": Tensor.__mul__,
    "__itruediv__": Tensor.__truediv__,
}
_METHODS = ("add", "sub", "mul", "div", "relu", "sigmoid", "tanh", "clamp", "clamp_min")


class OutOfPlace(TorchFunctionMode):
    """While it is entered, arithmetic and activations in place make new tensors."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if kwargs.get("inplace") is True:
            kwargs["inplace"] = False
        if name in _OPERATORS:
            func = _OPERATORS[name]
        elif name.endswith("_") and name[:-1] in _METHODS:
            func = getattr(torch.Tensor, name[:-1])
        return func(*args, **kwargs)


def make_out_of_place(model: nn.Module, images: Tensor) -> None:
    """Let ``model`` run without changing anything in place; names in the state dict stay.

    Args:
        model: A network; it is changed.
        images: An input to try it with.

    Raises:
        ConfigError: if it then computes something else: it changes a tensor in place and goes on
            with the old name, which cannot be rewritten from outside.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        expected = model(images)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    model.forward = MethodType(_forward, model)
    with torch.no_grad():
        found = model(images)
    model.train(was_training)
    if not torch.equal(found, expected):
        raise ConfigError(
            f"{type(model).__name__} changes tensors in place in a way that cannot be rewritten, "
            "so it cannot train with differential privacy; take a network without such "
            "operations, e.g. model.type=custom model.custom_architecture=simple_cnn"
        )


def _forward(model: nn.Module, images: Tensor) -> Any:
    """The class's own forward method inside ``OutOfPlace``; what is exported or compiled is plain.

    Exporting reads the signature, so it is that of a network: one input.
    """
    if torch.compiler.is_compiling():
        return type(model).forward(model, images)
    with OutOfPlace():
        return type(model).forward(model, images)
