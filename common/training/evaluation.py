"""Evaluation and prediction over a stream of batches, every example counted exactly once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.training.meters import Collector, Meter, averages
from common.training.precision import Precision
from common.training.strategies import Strategy
from common.training.task import Batch, Task, batch_size, to_device


class AbandonedEvaluation(Exception):
    """A stop was asked for during an evaluation; it is done anew after a resume."""


@torch.no_grad()
def evaluate(
    task: Task,
    batches: Iterable[Batch | None],
    strategy: Strategy,
    precision: Precision,
    prefix: str,
    should_stop: Callable[[], bool] = lambda: False,
    channels_last: bool = False,
) -> dict[str, float]:
    """Average ``task.eval_step`` over batches, then compute the metrics of the whole.

    Args:
        task: On the strategy's device; it comes back in the mode (training or not) it had.
        batches: This rank's batches; ``None`` where a small batch left it nothing.
        strategy: For the device and for sums over ranks.
        precision: For the forward pass.
        prefix: Put before every metric's name.
        should_stop: Asked after every batch.
        channels_last: Lay images out with the channels innermost.

    Raises:
        AbandonedEvaluation: if ``should_stop`` says so.
    """
    meter, collector = Meter(), Collector()
    with _evaluation_mode(task):
        for batch in batches:
            if batch is None:
                continue
            with precision.autocast():
                output = task.eval_step(to_device(batch, strategy.device, channels_last))
            meter.add(output, batch_size(batch))
            collector.add(output)
            if should_stop():
                raise AbandonedEvaluation
    names, totals = meter.totals(strategy.device)
    metrics = averages(names, strategy.sum(totals), prefix)
    whole = collector.result(strategy.gather_rows)
    extra = task.compute_metrics(whole) if whole else {}
    return metrics | {f"{prefix}/{name}": float(value) for name, value in extra.items()}


@torch.no_grad()
def predict(task: Task, batches: Iterable[Batch | None], precision: Precision) -> Iterator[Any]:
    """``task.predict_step`` of every batch, in evaluation mode."""
    with _evaluation_mode(task):
        device = next(task.parameters()).device
        for batch in batches:
            if batch is not None:
                with precision.autocast():
                    yield task.predict_step(to_device(batch, device))


@contextmanager
def _evaluation_mode(task: Task) -> Iterator[None]:
    was_training = task.training
    task.eval()
    try:
        yield
    finally:
        task.train(was_training)
