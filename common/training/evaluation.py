"""Evaluation and prediction over a stream of batches, every example counted exactly once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

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
    rows = collector.result()
    if strategy.world_size > 1:
        names, totals, rows = _agree(names, totals, rows, strategy)
    metrics = averages(names, strategy.sum(totals), prefix)
    whole = {name: strategy.gather_rows(values) for name, values in rows.items()}
    extra = task.compute_metrics(whole) if whole else {}
    return metrics | {f"{prefix}/{name}": float(value) for name, value in extra.items()}


def _agree(
    names: list[str], totals: Tensor, rows: dict[str, Tensor], strategy: Strategy
) -> tuple[list[str], Tensor, dict[str, Tensor]]:
    """The same metrics on every rank: one that no batch reached knows none of their names."""
    outline = {name: values[:0].clone() for name, values in rows.items()}
    outlines = strategy.gather_states({"names": names, "rows": outline})
    everyone = sorted({name for other in outlines for name in other["names"]})
    known = dict(zip(names, totals[3:], strict=True))
    sums = [known.get(name, totals.new_zeros(())) for name in everyone]
    empty = {name: values for other in outlines for name, values in other["rows"].items()}
    rows = {name: rows.get(name, values) for name, values in sorted(empty.items())}
    return everyone, torch.stack([*totals[:3], *sums]), rows


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
