"""Where the gradient is large, small or broken: norms per layer, at log steps only."""

from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch import Tensor
from torch.nn import Parameter

from common.training.callbacks.base import Callback

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class GradientNorms(Callback):
    """Adds L2 norms per module to the log record.

    - ``grad_norm/<module>``: of the gradient before clipping; their squares add up to that of
      ``grad_norm``.
    - ``weight_norm/<module>``: of the weights before the update.
    - ``update_ratio/<module>``: of the update over that of the weights; about 1e-3 is usual.

    A module is one that owns parameters itself. Between log steps it costs two comparisons; at a
    log step two fused norms, a copy of the weights, and no wait for the device but the record's.
    When a run ends on gradients that are not finite, it names the modules that have them.

    Args:
        depth: Put modules together whose names agree in so many parts.
    """

    def __init__(self, depth: int | None = None) -> None:
        if depth is not None and depth < 1:
            raise ValueError(f"depth is {depth}; expected at least 1")
        self.depth = depth
        self._modules: list[str] = []
        self._owners: list[tuple[int, Parameter]] = []
        self._before: list[Tensor] | None = None
        self._measured: list[tuple[int, Parameter]] = []
        self._norms: Tensor | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        named = [(n, p) for n, p in trainer.task.named_parameters() if p.requires_grad]
        names = [self._module(name) for name, _ in named]
        self._modules = list(dict.fromkeys(names))
        places = {name: place for place, name in enumerate(self._modules)}
        self._owners = [(places[n], p) for n, (_, p) in zip(names, named, strict=True)]

    @torch.no_grad()
    def before_update(self, trainer: "Trainer") -> None:
        step = trainer.state.step + 1
        if step % trainer.config.log_every and step != trainer.total_steps:
            return
        self._measured = [(place, p) for place, p in self._owners if p.grad is not None]
        gradients = [p.grad for _, p in self._measured if p.grad is not None]
        self._before = [p.detach().clone() for _, p in self._measured]
        norms = self._per_module(gradients) * _clipped_by(trainer)
        self._norms = torch.stack([norms, self._per_module(self._before)])

    @torch.no_grad()
    def on_step_end(self, trainer: "Trainer") -> None:
        if self._before is None or self._norms is None:
            return
        updates = torch._foreach_sub([p.detach() for _, p in self._measured], self._before)
        ratio = self._per_module(list(updates)) / self._norms[1]
        self._norms = torch.cat([self._norms, ratio[None]])
        self._before = None

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self._norms is None:
            return
        seen = {place for place, _ in self._measured}
        for kind, values in zip(
            ("grad_norm", "weight_norm", "update_ratio"), self._norms.tolist(), strict=True
        ):
            for place, value in enumerate(values):
                if place in seen:
                    record[f"{kind}/{self._modules[place]}"] = value
        self._norms = None

    def on_fit_end(self, trainer: "Trainer") -> None:
        # An update that was made leaves no gradient behind.
        broken = {
            self._modules[place]: None
            for place, p in self._owners
            if p.grad is not None and not _own_part(p.grad).isfinite().all()
        }
        if broken:
            logger.error(
                f"gradients are not finite in {len(broken)} of {len(self._modules)} modules: "
                f"{', '.join(broken)}; in the backward pass, '{next(reversed(broken))}' came first"
            )

    def _module(self, parameter: str) -> str:
        owner = parameter.rpartition(".")[0] or parameter
        return ".".join(owner.split(".")[: self.depth])

    def _per_module(self, tensors: list[Tensor]) -> Tensor:
        """Joint norms, (modules,) in float64, of tensors that belong to the measured parameters."""
        norms = [_whole(norm) for norm in torch._foreach_norm(tensors)]
        squares = torch.stack(norms).double().square()
        places = torch.tensor([place for place, _ in self._measured], device=squares.device)
        return squares.new_zeros(len(self._modules)).index_add_(0, places, squares).sqrt()


def _clipped_by(trainer: "Trainer") -> Tensor | float:
    """The factor that undoes ``clip_gradients``."""
    if not trainer.config.clip_norm or trainer.grad_norm is None:
        return 1.0
    return ((trainer.grad_norm + 1e-6) / trainer.config.clip_norm).clamp(min=1.0)


def _whole(tensor: Tensor) -> Tensor:
    """A tensor that is spread over ranks, put together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that is spread over ranks; asking for more could wait forever."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
