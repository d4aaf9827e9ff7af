"""An update by PyTorch's fused Adam kernels, without what ``Optimizer.step`` finds out every time.

For a small network most of an optimizer's step is Python: it looks up every parameter's state,
sorts tensors by device, asks for hooks. None of it changes between two steps. The numbers are
those of ``optimizer.step()``, to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.profiler as profiler
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

from common.training.sharding import is_sharded

_KERNELS: dict[type[Optimizer], Callable[..., Any]] = {
    Adam: torch._fused_adam_,
    AdamW: torch._fused_adamw_,
}
_UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable")


@dataclass(slots=True)
class _Group:
    """A parameter group with its state, in lists that the kernel takes."""

    options: dict[str, Any]
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class FusedStep:
    """``optimizer.step()``; faster, where that is a fused ``Adam`` or ``AdamW`` as they come.

    Everything else (hooks, a patched ``step``, a parameter without a gradient, parameters added
    later, a gradient scaler) goes to the optimizer itself.

    Args:
        optimizer: Whose step it is.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kernel = _KERNELS.get(type(optimizer))
        self._groups: list[_Group] = []
        self._state: Any = None
        self._param_groups: Any = None
        self._no_grad = torch.no_grad()

    def __call__(self) -> None:
        """Make the update."""
        optimizer = self._optimizer
        # Loading a state replaces both, and then the lists are those of tensors nobody reads.
        if self._state is not optimizer.state or self._param_groups is not optimizer.param_groups:
            optimizer.step()
            self._remember()
        elif (gradients := self._gradients()) is None:
            optimizer.step()
        else:
            self._step(gradients)

    def _step(self, gradients: list[list[Tensor]]) -> None:
        with self._no_grad:
            for group, own in zip(self._groups, gradients, strict=True):
                options = group.options
                beta1, beta2 = options["betas"]
                torch._foreach_add_(group.steps, 1)
                self._kernel(  # type: ignore[misc]
                    group.parameters,
                    own,
                    group.means,
                    group.squares,
                    [],
                    group.steps,
                    lr=options["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=options["weight_decay"],
                    eps=options["eps"],
                    amsgrad=False,
                    maximize=False,
                )

    def _gradients(self) -> list[list[Any]] | None:
        """Every group's gradients; ``None`` if this step is one for the optimizer itself."""
        attributes = vars(self._optimizer)
        if (
            not self._groups
            or "step" in attributes
            or "found_inf" in attributes
            or "grad_scale" in attributes
            or attributes["_optimizer_step_pre_hooks"]
            or attributes["_optimizer_step_post_hooks"]
            or profiler._is_profiler_enabled  # whoever looks wants the step under its name
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
            or len(self._groups) != len(self._param_groups)
        ):
            return None
        gradients = []
        for group in self._groups:
            if len(group.parameters) != len(group.options["params"]):
                return None
            own = [parameter.grad for parameter in group.parameters]
            for gradient in own:
                if gradient is None:
                    return None
            gradients.append(own)
        return gradients

    def _remember(self) -> None:
        """Keep the lists, if every group is one for the kernel."""
        optimizer = self._optimizer
        self._groups, self._state, self._param_groups = [], optimizer.state, optimizer.param_groups
        if self._kernel is not None and all(map(_is_plain, optimizer.param_groups)):
            groups = [_with_state(group, optimizer.state) for group in optimizer.param_groups]
            self._groups = [group for group in groups if group is not None]


def _is_plain(group: dict[str, Any]) -> bool:
    parameters = group["params"]
    return (
        bool(group["fused"])
        and not any(group[option] for option in _UNUSUAL)
        and not isinstance(group["lr"], Tensor)
        and not any(map(is_sharded, parameters))
        and len({(parameter.device, parameter.dtype) for parameter in parameters}) == 1
    )


def _with_state(group: dict[str, Any], state: dict[Tensor, Any]) -> _Group | None:
    """The group; ``None`` if a parameter never had a gradient, so that it has no state."""
    parameters = list(group["params"])
    own = [state.get(parameter, {}) for parameter in parameters]
    if not all(own):
        return None
    columns = ([row[key] for row in own] for key in ("exp_avg", "exp_avg_sq", "step"))
    return _Group(group, parameters, *columns)
