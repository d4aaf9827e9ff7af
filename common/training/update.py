"""The arithmetic of one optimizer update, exact under accumulation and several ranks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from common.training.gradients import scale_gradients
from common.training.meters import Meter
from common.training.precision import Precision
from common.training.task import Batch, StepOutput, Task, Weight, batch_size, to_device
from common.utils.errors import DataError

if TYPE_CHECKING:
    from common.training.strategies import Strategy

TrainStep = Callable[[Batch], StepOutput]


class Updater:
    """Turns micro-batches into one update.

    The gradient is that of ``sum(loss_sum) / sum(weight)`` over micro-batches and ranks: how a
    batch is cut up cannot change it.

    Args:
        task: Whose training step runs.
        optimizer: Over the task's parameters.
        strategy: Where it runs.
        precision: How it computes.

    Attributes:
        loss: The last micro-batch's loss, detached, on the device.
        is_asked_to_stop: Whether somebody asked this rank to end the run.
    """

    def __init__(
        self, task: Task, optimizer: Optimizer, strategy: "Strategy", precision: Precision
    ) -> None:
        self._optimizer = optimizer
        self._strategy = strategy
        self._precision = precision
        self._train_step = strategy.wrap(task)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._previous: Batch = None
        self.loss: Tensor = torch.zeros(())
        self.is_asked_to_stop: Callable[[], bool] = lambda: False
        self._stops: Weight = 0

    @property
    def must_stop(self) -> bool:
        """Whether any of several ranks had been asked to stop when the last update began.

        The answer travels with the weights: an exchange of its own would cost every step.
        """
        return bool(self._stops)

    def backward(self, group: Sequence[Batch | None], meter: Meter) -> Weight:
        """Form the gradient of the micro-batches in ``group``; returns their global weight.

        The first micro-batch's weight divides while gradients accumulate, which keeps them in
        range for fp16; the total corrects at the end. ``None`` is a micro-batch too small to leave
        this rank an example: it takes part in the exchange with weight 0.
        """
        reference: Weight = 1
        rest: Weight = 0
        for position, batch in enumerate(group):
            is_idle = batch is None
            batch = self._previous if is_idle else to_device(batch, self._strategy.device)
            if batch is None:
                raise DataError("the first batch has fewer examples than there are processes")
            with self._strategy.gradient_sync(position == len(group) - 1):
                with self._precision.autocast():
                    output = self._train_step(batch)
                if is_idle:
                    output = StepOutput(output.loss_sum * 0.0, output.weight * 0)
                if position == 0:
                    first = self._first_weight(output.weight)
                    reference = _at_least_one(first)
                else:
                    rest = rest + output.weight
                loss = output.loss_sum * self._strategy.world_size / reference
                self._precision.backward(loss)
            self.loss = loss.detach()
            self._previous = batch
            meter.add(output, 0 if is_idle else batch_size(batch))
        self._precision.unscale(self._optimizer)
        if len(group) == 1:
            return first
        total = first + self._over_ranks(rest)
        scale_gradients(self._parameters, reference / _at_least_one(total))
        return total

    def apply(self, weight: Weight) -> bool:
        """Update the parameters and drop the gradients.

        Returns:
            Whether there was an update: not for an empty batch, or an overflow under fp16. On an
            accelerator an empty batch is not looked for, because looking would cost a wait.
        """
        is_empty = self._strategy.device.type == "cpu" and not weight
        was_made = not is_empty and self._precision.step(self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)
        return was_made

    def _first_weight(self, weight: Weight) -> Weight:
        """The first micro-batch's weight over all ranks; the one exchange most updates make."""
        if self._strategy.world_size == 1:
            return weight
        asked = torch.tensor(float(self.is_asked_to_stop()), dtype=torch.float64)
        own = torch.as_tensor(weight, dtype=torch.float64)
        total, self._stops = self._strategy.sum(torch.stack([own, asked.to(own.device)])).unbind()
        return total

    def _over_ranks(self, weight: Weight) -> Weight:
        if self._strategy.world_size == 1:
            return weight
        return self._strategy.sum(torch.as_tensor(weight, dtype=torch.float64))


def _at_least_one(weight: Weight) -> Weight:
    return weight.clamp(min=1) if isinstance(weight, Tensor) else max(weight, 1)
