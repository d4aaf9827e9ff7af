"""Records of a run: what the meters hold becomes a flat dict for callbacks, loggers and the eye."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from common.training.loggers import Logger, Record
from common.training.meters import averages
from common.training.rng import preserved_rng
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from common.training.trainer import Trainer

Hook = Callable[..., Any]


class Reporter:
    """Makes the records of a run and hands them to the loggers.

    Args:
        loggers: Where records go.
        on_log: Callbacks' hooks that see a training record before it goes.
        on_evaluation_end: Those that see a validation record.
    """

    def __init__(
        self, loggers: Sequence[Logger], on_log: Sequence[Hook], on_evaluation_end: Sequence[Hook]
    ) -> None:
        self._loggers = loggers
        self._on_log = on_log
        self._on_evaluation_end = on_evaluation_end
        self._started = 0.0
        self._speed_from = (0.0, 0.0)

    def start(self, trainer: "Trainer", is_resumed: bool) -> None:
        """Start the clock where it stood; a resumed run writes what comes after its step anew."""
        state = trainer.state
        self._started = time.monotonic() - state.wall_seconds
        self._speed_from = (state.wall_seconds, state.units)
        if is_resumed:
            for backend in self._loggers:
                backend.rewind(state.step, state.records)

    @property
    def seconds(self) -> float:
        """Time spent in the loop, over all resumptions."""
        return time.monotonic() - self._started

    def log(self, trainer: "Trainer") -> None:
        """The record of the log interval that ends here."""
        state, strategy = trainer.state, trainer.strategy
        names, totals = trainer.meter.totals(trainer.device)
        totals = strategy.sum(totals)
        trainer.meter.clear()
        state.units += totals[1].item()
        state.samples += int(totals[2].item())
        seconds = self.seconds
        then, units = self._speed_from
        self._speed_from = (seconds, state.units)
        record: Record = {"step": state.step, "epoch": state.epoch}
        record |= averages(names, totals, "train")
        record["lr"] = trainer.learning_rate
        if trainer.grad_norm is not None:
            record["grad_norm"] = float(trainer.grad_norm)
        record["time/seconds"] = seconds
        record["time/units_per_second"] = (state.units - units) / max(seconds - then, 1e-9)
        for hook in self._on_log:
            hook(trainer, record)
        if trainer.validation_loader is None:
            trainer.metrics = _numbers(record)
        self.emit(trainer, record)

    def validate(
        self, trainer: "Trainer", around: Sequence[Callable[..., AbstractContextManager[None]]]
    ) -> bool:
        """Evaluate on the validation data; ``True`` if the monitored metric is the best so far.

        Args:
            trainer: Whose task and data.
            around: Callbacks' context managers to be entered meanwhile.

        Raises:
            ConfigError: if the monitored metric is not measured.
        """
        state, config = trainer.state, trainer.config
        record: Record = {"step": state.step, "epoch": state.epoch}
        with preserved_rng(), ExitStack() as stack:  # how often one looks changes no training step
            for enter in around:
                stack.enter_context(enter(trainer))
            limit = 1 if trainer.context.dry_run else None
            record |= trainer.evaluate(
                trainer.task, trainer.validation_loader, prefix="validation", limit=limit
            )
        if config.monitor not in record:
            hint = did_you_mean(config.monitor, record)
            raise ConfigError(
                f"trainer.monitor is '{config.monitor}', which is not measured: {hint}"
            )
        value = record[config.monitor]
        sign = 1.0 if config.mode == "max" else -1.0
        is_better = state.best is None or sign * value > sign * state.best
        improved = is_better and not math.isnan(value)
        if improved:
            state.best, state.best_step = value, state.step
        state.evaluated_at = state.step
        for hook in self._on_evaluation_end:
            hook(trainer, record)
        trainer.metrics = _numbers(record)
        self.emit(trainer, record)
        return improved

    def close(self) -> None:
        """Flush and let go of every logger."""
        for backend in self._loggers:
            backend.close()

    def emit(self, trainer: "Trainer", record: Record) -> None:
        """Hand a record to every logger."""
        trainer.state.records += 1
        for backend in self._loggers:
            backend.log(record)


def _numbers(record: Record) -> dict[str, float]:
    return {key: value for key, value in record.items() if isinstance(value, float)}
