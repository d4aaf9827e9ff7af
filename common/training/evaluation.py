"""Evaluation and prediction over a stream of batches, every example counted exactly once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.training.meters import Collector, Meter, averages, share_of
from common.training.precision import Precision
from common.training.strategies import Strategy
from common.training.task import Batch, Task, batch_size, to_device
from common.utils.errors import DataError


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
        batches: This rank's batches; ``None`` where a small batch left it nothing. All ranks have
            as many.
        strategy: For the device and for sums over ranks.
        precision: For the forward pass.
        prefix: Put before every metric's name.
        should_stop: Asked after every batch.
        channels_last: Lay images out with the channels innermost.

    Raises:
        AbandonedEvaluation: on every rank, if ``should_stop`` says so on one.
    """
    meter, collector = Meter(), Collector()
    is_abandoned = False
    strategy.align_buffers(task)
    with _evaluation_mode(task):
        for batch, counts in _steps(batches, strategy):
            with precision.autocast():
                output = task.eval_step(to_device(batch, strategy.device, channels_last))
            if counts:
                meter.add(output, batch_size(batch))
                collector.add_rows(output.collected)
            if is_abandoned := should_stop():
                break
    if strategy.world_size > 1:
        is_abandoned = _agree(strategy, is_abandoned, meter, collector)
    if is_abandoned:
        raise AbandonedEvaluation
    names, totals = meter.totals(strategy.device)
    metrics = averages(names, strategy.sum(totals), prefix)
    whole = collector.result(strategy.gather_rows)
    extra = task.compute_metrics(whole) if whole else {}
    return metrics | {f"{prefix}/{name}": float(value) for name, value in extra.items()}


def _steps(batches: Iterable[Batch | None], strategy: Strategy) -> Iterator[tuple[Batch, bool]]:
    """The batches to compute, and whether each counts: in lockstep a rank without one repeats."""
    previous: Batch = None
    for batch in batches:
        if batch is not None:
            previous = batch
            yield batch, True
        elif strategy.lockstep:
            if previous is None:
                raise DataError(
                    f"the first batch of an evaluation has no example for rank {strategy.rank} of "
                    f"{strategy.world_size}; use larger batches, or trainer.strategy=ddp"
                )
            yield previous, False


def _agree(strategy: Strategy, is_abandoned: bool, meter: Meter, collector: Collector) -> bool:
    """Whether any rank gave up. A rank that saw no example learns what there is to be summed."""
    is_empty = not len(meter)
    flags = strategy.sum(torch.tensor([float(is_abandoned), float(is_empty)]))
    someone_abandoned, someone_is_empty = map(bool, flags.tolist())
    if someone_is_empty and not someone_abandoned:
        states = strategy.gather_states({"meter": meter.state_dict(), "rows": collector.no_rows()})
        informed = next((state for state in states if state["meter"]["samples"]), None)
        if is_empty and informed is not None:
            meter.load_state_dict(share_of([informed["meter"]], 1, 2))
            collector.add_rows(informed["rows"])
    return someone_abandoned


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
