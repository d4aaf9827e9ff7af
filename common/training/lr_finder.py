"""The learning-rate range test (Smith 2015, arXiv 1506.01186, section 3.3).

A copy of the task is trained while the rate grows exponentially; where the loss falls fastest and
where it begins to grow bracket the rates worth trying.

    found = find_learning_rate(Trainer(TrainerConfig()), task, train_loader)
    found.save(directory)  # results.json and lr_plot.png
"""

import copy
import json
import math
from bisect import bisect_left
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger
from torch.optim import Optimizer

from common.data.foreign import as_epoch_loader
from common.data.info import DatasetInfo
from common.training.gradients import clip_gradients
from common.training.meters import Meter
from common.training.optim import OptimizerConfig, build_optimizer
from common.training.task import Batch, Task
from common.training.trainer import Trainer
from common.training.undisturbed import epoch_batches, undisturbed
from common.training.update import Updater
from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEWEST_POINTS = 10


@dataclass(frozen=True)
class LearningRateRange:
    """What a sweep saw, one point per update.

    Attributes:
        rates: The rate of each update.
        losses: The loss of its batch, before the update.
        smoothed: Exponentially weighted mean of the losses, corrected for its start at zero.
        steepest: A tenth of the rate at which the smoothed loss falls fastest.
        valley: The rate in the middle of the longest decrease of the smoothed loss.
        stopped_early: Whether the loss diverged before the largest rate.
        remark: Why the sweep ended early, or why there is no suggestion.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    valley: float | None
    stopped_early: bool
    remark: str = ""

    def save(self, directory: Path | str) -> None:
        """Write ``results.json`` and ``lr_plot.png`` into a directory, which is made if needed."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write_text(directory / "results.json", json.dumps(asdict(self), indent=1) + "\n")
        self.plot(directory / "lr_plot.png")

    def plot(self, out: Path | str | None = None) -> "Figure":
        """Draw the loss over the rate (logarithmic), with the suggestions marked.

        Args:
            out: Where to write the picture.
        """
        from common.visualization.style import house_style, new_figure, save_figure

        with house_style():
            figure = new_figure(6.4, 4.0)
            axis = figure.subplots()
            axis.plot(self.rates, self.losses, color="#bbbbbb", linewidth=0.8, label="loss")
            axis.plot(self.rates, self.smoothed, color="C0", label="smoothed")
            for name, rate, colour in (
                ("steepest / 10", self.steepest, "C1"),
                ("valley", self.valley, "C2"),
            ):
                if rate is not None:
                    loss = float(np.interp(math.log(rate), np.log(self.rates), self.smoothed))
                    axis.axvline(rate, color=colour, linewidth=1.0, linestyle="--")
                    axis.plot([rate], [loss], "o", color=colour, label=f"{name}: {rate:.2e}")
            axis.set_xscale("log")
            # The point that ended the sweep may lie anywhere above the others.
            shown = self.smoothed[:-1] if self.stopped_early else self.smoothed
            if shown:
                low, high = min(shown), max(shown)
                margin = 0.1 * (high - low) or 1.0
                axis.set_ylim(low - margin, high + margin)
            axis.set_xlabel("learning rate")
            axis.set_ylabel("loss")
            axis.set_title("learning-rate range test")
            axis.legend(frameon=True, edgecolor="none", framealpha=0.9)
            save_figure(figure, out)
        return figure


def find_learning_rate(
    trainer: Trainer,
    task: Task,
    loader: Any,
    *,
    info: DatasetInfo | None = None,
    optim: OptimizerConfig | None = None,
    start_lr: float = 1e-7,
    end_lr: float = 1.0,
    num_iter: int = 200,
    beta: float = 0.95,
    diverge_threshold: float = 2.0,
) -> LearningRateRange:
    """Sweep the learning rate over the updates that ``trainer.fit`` would make.

    Everything is done to copies: afterwards the task, an optimizer, the generators and the
    loader's position are what they were, and a ``fit`` with the same arguments draws the initial
    weights the sweep saw. A task the trainer has prepared already is swept from where it stands,
    moments of its optimizer included. Needs memory for one more task, its gradients and optimizer.

    Args:
        trainer: Gives device, strategy, precision, accumulation, clipping and seed.
        task: What is to be trained; configured as ``fit`` does it.
        loader: Training batches; read again from its beginning if it is shorter than the sweep.
        info: What the data says of itself, for ``task.configure``.
        optim: The optimizer; its ``lr`` only says how the groups' rates relate.
        start_lr: The first update's rate.
        end_lr: The last update's rate.
        num_iter: Updates of the whole sweep.
        beta: The weight of the past in the smoothed loss, in [0, 1).
        diverge_threshold: The sweep ends when the smoothed loss exceeds its minimum so many times.

    Raises:
        ConfigError: if the values of the sweep do not fit together.
        DataError: if the loader has no batch.
    """
    check_sweep(start_lr, end_lr, num_iter, beta, diverge_threshold)
    sweep = _Points(beta, diverge_threshold)
    with undisturbed(loader):
        updates = _Updates(trainer, *_copies(trainer, task, info, optim))
        with closing(_groups(trainer, loader)) as groups:
            for number, group in enumerate(islice(groups, num_iter)):
                rate = start_lr * (end_lr / start_lr) ** (number / max(num_iter - 1, 1))
                loss = updates.make(group, rate)
                if loss is not None and sweep.ends_with(rate, loss):
                    break
    found = sweep.result()
    logger.info(
        f"learning rate: valley {_show(found.valley)}, steepest / 10 {_show(found.steepest)}"
        + (f" ({found.remark})" if found.remark else "")
    )
    return found


class _Updates:
    """The engine's own updates on copies, at rates given from outside."""

    def __init__(self, trainer: Trainer, task: Task, optimizer: Optimizer) -> None:
        self._strategy = copy.copy(trainer.strategy)  # wrapping leaves the trainer's own alone
        precision = copy.deepcopy(trainer.precision)
        self._updater = Updater(
            task.train(), optimizer, self._strategy, precision, trainer.config.channels_last
        )
        self._clip = trainer.config.clip_norm
        self._groups = optimizer.param_groups
        peaks = [group.get("initial_lr", group["lr"]) for group in self._groups]
        self._shares = [peak / peaks[0] for peak in peaks]
        self._parameters = [p for group in self._groups for p in group["params"]]

    def make(self, group: list[Batch | None], rate: float) -> float | None:
        """One update; the loss of the whole batch, over ranks, or ``None`` for an empty batch."""
        meter = Meter()
        weight = self._updater.backward(group, meter)
        if self._clip:
            clip_gradients(self._parameters, self._clip)
        for parameters, share in zip(self._groups, self._shares, strict=True):
            parameters["lr"] = rate * share
        self._updater.apply(weight)
        _, totals = meter.totals(self._strategy.device)
        loss, units = self._strategy.sum(totals)[:2].tolist()
        return loss / units if units else None


class _Points:
    """The curve while it grows."""

    def __init__(self, beta: float, threshold: float) -> None:
        self.beta = beta
        self.threshold = threshold
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.stopped = ""
        self._mean = 0.0
        self._lowest = math.inf

    def ends_with(self, rate: float, loss: float) -> bool:
        """Take a point; whether it ends the sweep."""
        if not math.isfinite(loss):
            self.stopped = f"the loss is {loss} at {rate:.2e}"
            return True
        self._mean = self.beta * self._mean + (1.0 - self.beta) * loss
        smoothed = self._mean / (1.0 - self.beta ** (len(self.rates) + 1))
        self.rates.append(rate)
        self.losses.append(loss)
        self.smoothed.append(smoothed)
        self._lowest = min(self._lowest, smoothed)
        # For a positive minimum this is threshold * minimum; a loss may also be negative.
        bound = self._lowest + (self.threshold - 1.0) * abs(self._lowest)
        if smoothed > bound:
            self.stopped = f"the loss diverged at {rate:.2e}"
        return bool(self.stopped)

    def result(self) -> LearningRateRange:
        """The curve with its suggestions."""
        steepest = valley = None
        remark = self.stopped
        if len(self.rates) < _FEWEST_POINTS:
            remark = _join(
                remark,
                f"{len(self.rates)} points are too few for a suggestion, expected at least "
                f"{_FEWEST_POINTS}: start lower or take more updates",
            )
        else:
            steepest = steepest_rate(self.rates, self.smoothed, span=round(1 / (1 - self.beta)))
            valley = valley_rate(self.rates, self.smoothed)
            if steepest is None or valley is None:
                remark = _join(remark, "the loss does not fall, so there is nothing to suggest")
        curve = (self.rates, self.losses, self.smoothed)
        return LearningRateRange(*curve, steepest, valley, bool(self.stopped), remark)


def steepest_rate(rates: Sequence[float], losses: Sequence[float], span: int = 1) -> float | None:
    """A tenth of the rate at which the loss falls fastest over the logarithm of the rate.

    Args:
        rates: Growing, by the same factor each.
        losses: Smoothed, as many.
        span: Points between which a slope is measured, at most a quarter of all: as many as the
            running mean looks back on, or the noise of batches at the lowest rates is steeper than
            any descent. So many points at the beginning are left out too.

    Returns:
        ``None`` if the loss nowhere falls before its minimum.
    """
    span = max(1, min(span, len(rates) // 4))
    first, last = span if span > 1 else 0, int(np.argmin(losses)) + 1
    if last - first <= span:
        return None
    used = np.asarray(losses[first:last])
    falls = used[span:] - used[:-span]
    fastest = int(falls.argmin())
    between = math.sqrt(rates[first + fastest] * rates[first + fastest + span])
    return between / 10.0 if falls[fastest] < 0.0 else None


def valley_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate in the middle of the longest decrease of the loss, bumps on the way left out.

    Returns:
        ``None`` if the longest decrease is less than half of what suggestions are made from.
    """
    decrease = longest_decrease(losses)
    if len(decrease) < _FEWEST_POINTS // 2:
        return None
    return float(rates[decrease[len(decrease) // 2]])


def longest_decrease(values: Sequence[float]) -> list[int]:
    """Where a longest strictly decreasing subsequence stands, by patience sorting.

    ``tops[k]`` is the largest value that ends a decrease of ``k + 1`` values seen so far; negated,
    the tops are sorted, and each value's pile is found by bisection.
    """
    tops: list[float] = []
    ends: list[int] = []
    before: list[int | None] = []
    for index, value in enumerate(values):
        pile = bisect_left(tops, -value)
        before.append(ends[pile - 1] if pile else None)
        tops[pile : pile + 1] = [-value]
        ends[pile : pile + 1] = [index]
    decrease: list[int] = []
    at = ends[-1] if ends else None
    while at is not None:
        decrease.append(at)
        at = before[at]
    return decrease[::-1]


def _copies(
    trainer: Trainer, task: Task, info: DatasetInfo | None, optim: OptimizerConfig | None
) -> tuple[Task, Optimizer]:
    if getattr(trainer, "task", None) is task:
        # One call, so that the copied optimizer holds the copied parameters.
        task, optimizer = copy.deepcopy((task, trainer.optimizer))
        return task, optimizer if optim is None else build_optimizer(optim, task)
    task = copy.deepcopy(task)
    task.configure(info or DatasetInfo(), copy.deepcopy(trainer.context))
    task = task.to(trainer.device)
    return task, build_optimizer(optim or OptimizerConfig(), task)


def _groups(trainer: Trainer, loader: Any) -> Generator[list[Batch | None]]:
    """The micro-batches of one update after the other, epoch after epoch."""
    source = as_epoch_loader(loader, trainer.seed)
    for epoch in count():
        found = False
        with closing(epoch_batches(source, epoch, trainer.strategy)) as batches:
            while group := list(islice(batches, trainer.config.accumulate)):
                found = True
                yield group
        if epoch and not found:  # a loader that keeps its position may stand at its end
            raise DataError("the training data has no batch; is the data set empty?")


def check_sweep(
    start_lr: float, end_lr: float, num_iter: int, beta: float, diverge_threshold: float
) -> None:
    """Refuse values of a sweep before anything is built.

    Raises:
        ConfigError: if they do not fit together.
    """
    if not (0.0 < start_lr < end_lr < math.inf):
        raise ConfigError(
            f"start_lr is {start_lr}, end_lr is {end_lr}; expected 0 < start_lr < end_lr"
        )
    if num_iter < 1:
        raise ConfigError(f"num_iter is {num_iter}; expected at least 1")
    if not 0.0 <= beta < 1.0:
        raise ConfigError(f"beta is {beta}; expected a value in [0, 1)")
    if not diverge_threshold > 1.0:
        raise ConfigError(f"diverge_threshold is {diverge_threshold}; expected more than 1")


def _join(*remarks: str) -> str:
    return "; ".join(remark for remark in remarks if remark)


def _show(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.2e}"
