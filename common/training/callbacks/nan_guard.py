"""Stop before an update that would spoil the weights."""

import math
from typing import TYPE_CHECKING

from common.training.callbacks.base import Callback
from common.training.gradients import gradients_overflow
from common.utils.errors import FaultError

if TYPE_CHECKING:
    from common.training.trainer import Trainer

_SHOWN_IDS = 16


class NanGuard(Callback):
    """Raises before the update if the loss or a gradient is not finite.

    The error names the step, the batch (epoch, position, data-set indices) and the learning rate.
    The same, with every index, stands in ``run.json`` under ``not_finite``. The weights on disk and
    in memory are those before the update.

    Args:
        every: Look at every n-th step. Looking makes the host wait for the device, which costs
            nothing on a CPU.

    Raises:
        FaultError: as described, from ``before_update``.
    """

    priority = -100

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def before_update(self, trainer: "Trainer") -> None:
        state = trainer.state
        if state.step % self.every or trainer.precision.scaler is not None:
            return  # the fp16 scaler leaves out such updates by itself
        loss, norm = trainer.loss.item(), trainer.grad_norm
        if math.isfinite(loss):
            if norm is not None and math.isfinite(norm.item()):
                return  # a finite norm of all gradients says it too
            if not gradients_overflow(trainer.parameters):
                return
        ids = trainer.batch_ids()
        shown = ", ".join(map(str, ids[:_SHOWN_IDS])) + (", ..." if len(ids) > _SHOWN_IDS else "")
        what = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        if trainer.run is not None and trainer.is_main:
            trainer.run.record(
                not_finite={
                    "what": what,
                    "step": state.step + 1,
                    "epoch": state.epoch,
                    "batch": state.batch,
                    "lr": trainer.learning_rate,
                    "examples": ids,
                }
            )
        raise FaultError(
            f"{what} at step {state.step + 1} "
            f"(epoch {state.epoch}, batch {state.batch}, lr {trainer.learning_rate:.3g}); "
            f"examples [{shown}]; the update was not made. "
            "Lower optim.lr, clip gradients, or look at these examples"
        )
