"""The arithmetic of one optimizer update, exact under accumulation and several ranks."""

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from common.training.fused_step import FusedStep
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
        channels_last: Lay images out with the channels innermost.

    Attributes:
        loss: The last micro-batch's loss, detached, on the device.
        any_batch: What a rank computes on, with weight 0, whose first batch is empty.
        is_asked_to_stop: Whether somebody asked this rank to end the run.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        strategy: "Strategy",
        precision: Precision,
        channels_last: bool = False,
    ) -> None:
        self._optimizer = optimizer
        self._strategy = strategy
        self._precision = precision
        self._step = FusedStep(optimizer)
        self._task = task
        self._train_step = precision.autocasted(strategy.wrap(task))
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._previous: Batch = None
        self._reference: Weight = 1
        self._channels_last = channels_last
        self._is_cpu = strategy.device.type == "cpu"
        self.loss: Tensor = torch.zeros(())
        self.is_asked_to_stop: Callable[[], bool] = lambda: False
        self.any_batch: Callable[[], Batch | None] = lambda: None
        self._stops: Weight = 0

    @property
    def must_stop(self) -> bool:
        """Whether any of several ranks had been asked to stop when the last update began.

        The answer travels with the weights: an exchange of its own would cost every step.
        """
        return bool(self._stops)

    def rewrap(self) -> None:
        """Look anew at which parameters need a gradient: wrappers over several ranks count them."""
        self._step = FusedStep(self._optimizer)
        if self._strategy.is_shared:
            self._train_step = self._task.train_step
            self._strategy.unwrap()
            gc.collect()  # a wrapper is a cycle, and keeps its hooks until it is gone
            self._train_step = self._precision.autocasted(self._strategy.wrap(self._task))

    def backward(self, group: Sequence[Batch | None], meter: Meter) -> Weight:
        """Form the gradient of the micro-batches in ``group``; returns their global weight.

        The first micro-batch's weight divides while gradients accumulate, which keeps them in
        range for fp16; the total corrects at the end. ``None`` is a micro-batch too small to leave
        this rank an example: it takes part in the exchange with weight 0.
        """
        first: Weight = 0
        rest: Weight = 0
        count = len(group)
        for position, batch in enumerate(group, 1):
            if self._strategy.is_shared:
                with self._strategy.gradient_sync(position == count):
                    weight = self._micro_batch(batch, position == 1, meter)
            else:
                weight = self._micro_batch(batch, position == 1, meter)
            if position == 1:
                first = weight
            else:
                rest = rest + weight
        if self._precision.scaler is not None:
            self._precision.unscale(self._optimizer)
        if count == 1:
            return first
        if self._strategy.world_size > 1:
            rest = self._strategy.sum(torch.as_tensor(rest, dtype=torch.float64))
        total = first + rest
        scale_gradients(self._parameters, self._reference / _divisor(total))
        return total

    def apply(self, weight: Weight) -> bool:
        """Update the parameters and drop the gradients.

        Returns:
            Whether there was an update: not for an empty batch, or an overflow under fp16. On an
            accelerator an empty batch is not looked for, because looking would cost a wait.
        """
        if self._is_cpu and not weight:
            was_made = False
            self._precision.skip()
        else:
            was_made = self._precision.step(self._optimizer, self._step)
        for parameter in self._parameters:
            parameter.grad = None
        return was_made

    def _micro_batch(self, batch: Batch | None, is_first: bool, meter: Meter) -> Weight:
        """Forward and backward; returns the weight, of the first micro-batch over all ranks."""
        is_idle = batch is None
        if is_idle:
            batch = self._previous if self._previous is not None else self.any_batch()
            if batch is None:
                raise DataError("there are fewer examples than processes")
        batch = to_device(batch, self._strategy.device, self._channels_last)
        output = self._train_step(batch)
        if is_idle:
            nothing = {key: torch.zeros_like(value) for key, value in output.metrics.items()}
            counted = None if output.metrics_weight is None else output.metrics_weight * 0
            output = StepOutput(
                output.loss_sum * 0.0, output.weight * 0, nothing, metrics_weight=counted
            )
        weight = output.weight
        if is_first:
            if self._strategy.world_size > 1:
                weight = self._over_ranks(weight)
            self._reference = _divisor(weight)
        loss = self._share(output)
        self._precision.backward(loss)
        self.loss = loss.detach()
        self._previous = batch
        meter.add(output, 0 if is_idle else batch_size(batch))
        return weight

    def _share(self, output: StepOutput) -> Tensor:
        """The micro-batch's part in the loss of the whole batch."""
        count, weight = self._strategy.world_size, output.weight
        if count > 1:
            return output.loss_sum * count / self._reference
        if output.is_mean and type(weight) is int and weight == self._reference:
            return output.loss  # there is no other part, or all parts are equal
        return output.loss_sum / self._reference

    def _over_ranks(self, weight: Weight) -> Tensor:
        """The sum of a weight; with it goes whether a rank was asked to stop."""
        asked = torch.tensor(float(self.is_asked_to_stop()), dtype=torch.float64)
        own = torch.as_tensor(weight, dtype=torch.float64)
        total, self._stops = self._strategy.sum(torch.stack([own, asked.to(own.device)])).unbind()
        return total


def _divisor(weight: Weight) -> Weight:
    """The weight, or 1 where there is none. Class weights may add up to less than 1."""
    if isinstance(weight, Tensor):
        return weight.where(weight > 0, 1)
    return weight or 1
