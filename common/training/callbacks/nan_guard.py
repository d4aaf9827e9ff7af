"""Stop before an update that would spoil the weights."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.training.callbacks.base import Callback
from common.training.gradients import OverflowCheck
from common.training.sharding import is_sharded
from common.utils.errors import FaultError

if TYPE_CHECKING:
    from common.training.trainer import Trainer

_SHOWN_IDS = 16


@dataclass(frozen=True)
class _Update:
    """Where an update stood, for the message about it."""

    step: int
    epoch: int
    batch: int
    rate: float


class NanGuard(Callback):
    """Keeps an update from being made if the loss or a gradient is not finite, and ends the run.

    The error names the step, the batch (epoch, position, data-set indices) and the learning rate.
    The same, with every index, stands in ``run.json`` under ``not_finite``. The weights on disk and
    in memory are those before the update.

    Looking makes the host wait for the device, which costs nothing on a CPU. On an accelerator a
    fused optimizer looks instead, on the device: it leaves out the bad update and all after it, and
    the host asks at the next log record or checkpoint. (With several ranks it looks at gradients
    only, which are the same on all of them.)

    Args:
        deferred: Let the optimizer look; by default on an accelerator, where it can.

    Raises:
        FaultError: as described.
    """

    priority = -100

    def __init__(self, deferred: bool | None = None) -> None:
        self._wants_deferred = deferred
        self._is_deferred = False
        self._check = OverflowCheck([], torch.device("cpu"))
        self._first = torch.zeros(())
        self._unchecked: list[_Update] = []
        self._trainer: Trainer | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        groups = trainer.optimizer.param_groups
        is_possible = all(group.get("fused") for group in groups) and not any(
            is_sharded(parameter) for parameter in trainer.parameters
        )
        wanted = self._wants_deferred
        self._is_deferred = is_possible and (
            trainer.device.type != "cpu" if wanted is None else wanted
        )
        self._trainer = trainer
        self._check = OverflowCheck(trainer.parameters, trainer.device)
        if self._is_deferred and trainer.precision.scaler is None:
            self._first = torch.full((), -1.0, device=trainer.device)
            self._unchecked = []
            trainer.optimizer.found_inf = self._check.found  # type: ignore[attr-defined]

    def before_update(self, trainer: "Trainer") -> None:
        if trainer.precision.scaler is not None:  # it leaves out such updates by itself
            scale = trainer.precision.scaler.get_scale()
            if scale < 1.0:
                what = f"gradients overflow fp16 at any scale (now {scale:.2g})"
                self._stop(trainer, _position(trainer), what)
            return
        if self._is_deferred:
            self._let_the_optimizer_look(trainer)
            return
        loss, norm = trainer.loss.item(), trainer.grad_norm
        # A finite norm of all gradients says it too. Every rank asks, whatever its own loss is:
        # of shards the answer is an exchange.
        is_unknown = norm is None or not math.isfinite(norm.item())
        overflows = is_unknown and self._check.finds_one()
        if math.isfinite(loss) and not overflows:
            return
        what = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        self._stop(trainer, _position(trainer), what)

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._ask_the_device()

    def state_dict(self) -> dict[str, Any]:
        self._ask_the_device()  # before a checkpoint says that the skipped updates were made
        return {}

    def _let_the_optimizer_look(self, trainer: "Trainer") -> None:
        self._unchecked.append(_position(trainer))
        self._check.mark()
        found = self._check.found
        if trainer.strategy.world_size == 1:
            found.masked_fill_(~trainer.loss.isfinite(), 1.0)
        is_first: Tensor = (found > 0) & (self._first < 0)
        self._first.masked_fill_(is_first, float(len(self._unchecked) - 1))

    def _ask_the_device(self) -> None:
        if not self._unchecked or self._trainer is None:
            return
        first, updates = int(self._first.item()), self._unchecked
        self._unchecked = []
        if first >= 0:
            self._stop(self._trainer, updates[first], "the loss or a gradient is not finite")

    def _stop(self, trainer: "Trainer", update: _Update, what: str) -> None:
        ids = trainer.batch_ids(update.epoch, update.batch)
        shown = ", ".join(map(str, ids[:_SHOWN_IDS])) + (", ..." if len(ids) > _SHOWN_IDS else "")
        if trainer.run is not None and trainer.is_main:
            trainer.run.record(
                not_finite={
                    "what": what,
                    "step": update.step,
                    "epoch": update.epoch,
                    "batch": update.batch,
                    "lr": update.rate,
                    "examples": ids,
                }
            )
        raise FaultError(
            f"{what} at step {update.step} "
            f"(epoch {update.epoch}, batch {update.batch}, lr {update.rate:.3g}); "
            f"examples [{shown}]; the update was not made. "
            "Lower optim.lr, clip gradients, or look at these examples"
        )


def _position(trainer: "Trainer") -> _Update:
    state = trainer.state
    return _Update(state.step + 1, state.epoch, state.batch, trainer.learning_rate)
