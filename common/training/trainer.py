"""The training loop: small, exact, and the same for every paper.

``fit`` goes through data -> configure -> optimizer -> strategy -> restore -> loop. The position of
a run is its ``TrainState``; the order of its data is a pure function of (seed, epoch); everything
random is in the checkpoint. So a run that was killed and resumed is the run that was not.
"""

import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from common.config import RunContext, Source
from common.data.foreign import as_epoch_loader, keeps_state
from common.data.info import DatasetInfo
from common.data.loaders import EpochLoader
from common.training.cadence import Cadence, count_steps
from common.training.callbacks import HOOKS, Callback, standard_callbacks
from common.training.checkpointing import Checkpointer
from common.training.config import TrainerConfig
from common.training.evaluation import AbandonedEvaluation, evaluate, predict
from common.training.loggers import Logger, Record, standard_loggers
from common.training.memory import keep_freed_memory
from common.training.meters import Meter, averages
from common.training.optim import OptimizerConfig, build_optimizer
from common.training.precision import Precision
from common.training.resume import capture, restore
from common.training.rng import preserved_rng
from common.training.schedules import Schedule, ScheduleConfig, build_schedule
from common.training.signals import StopRequest
from common.training.state import TrainState
from common.training.strategies import build_strategy
from common.training.task import Batch, Task
from common.training.update import Updater
from common.utils.errors import ConfigError, DataError, InterruptedRun
from common.utils.runs import Run
from common.utils.text import did_you_mean


class Trainer:
    """Trains, evaluates and predicts with a ``Task``.

    Args:
        config: How long, on what, how often.
        run: An entered run directory for records and checkpoints; without one nothing is written.
        context: Where values come from; filled while the task is configured.
        callbacks: Beside the ones every run has (progress, history, NaN guard).
        loggers: Beside the ones in ``config``.
        seed: Decides the order of the data.
        units: What the loss is averaged over, for display.

    Attributes:
        state: The ``TrainState``.
        task: The task being trained.
        parameters: What is being trained.
        loss: The last micro-batch's loss, on the device.
        grad_norm: The last update's gradient norm before clipping, if it was computed.
        train_loader: The training batches.
        loader_state: The training loader, if its position is a state of its own.
        is_main: Whether this process writes the record.
        lr_scale: A factor on the scheduled rate, for callbacks.
    """

    def __init__(
        self,
        config: TrainerConfig | None = None,
        *,
        run: Run | None = None,
        context: RunContext | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        seed: int = 0,
        units: str = "examples",
    ) -> None:
        self.config = config or TrainerConfig()
        self.run = run
        self.context = context or RunContext()
        self.seed = seed
        self.units = units
        values = self.config
        self.strategy = build_strategy(values.strategy, values.device, values, seed)
        self.device = self.strategy.device
        self.precision = Precision(self.config.precision, self.device)
        self.state = TrainState()
        self.metrics: dict[str, float] = {}
        self.meter = Meter()
        self.loss: Tensor = torch.zeros(())
        self.grad_norm: Tensor | None = None
        self.lr_scale = 1.0
        self.total_steps = 0
        self.first_epoch_batches = 0
        self.train_loader: EpochLoader
        self.loader_state: Any = None
        self.task: Task
        self.parameters: list[Parameter] = []
        self.optimizer: Optimizer
        self._updater: Updater
        self._schedule: Schedule
        self._request = StopRequest()
        self._stop_reason: str | None = None
        self._saved_at = 0
        self._started = 0.0
        self._speed_from = (0.0, 0.0)
        self.is_main = self.strategy.rank == 0
        records = run.directory if run is not None and self.is_main else None
        self.callbacks = sorted(
            [*callbacks, *self.strategy.callbacks(), *standard_callbacks(records)],
            key=lambda c: c.priority,
        )
        self._hooks = {name: self._overriding(name) for name in HOOKS}
        self.loggers = [*loggers, *standard_loggers(self.config.loggers, records)]
        self._checkpointer = Checkpointer(run.checkpoints, self.config.keep) if run else None
        if self.device.type == "cpu" and self.config.keep_memory:
            keep_freed_memory()

    # ---- the three verbs ------------------------------------------------------------------

    def fit(
        self,
        task: Task,
        train: Any,
        validation: Any = None,
        *,
        info: DatasetInfo | None = None,
        optim: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        resume: Path | None = None,
    ) -> dict[str, float]:
        """Train ``task``.

        Args:
            task: What to train.
            train: A loader of training batches (see ``common.data.loaders.iterate``).
            validation: A loader of validation batches.
            info: What the data says of itself, for ``task.configure``.
            optim: The optimizer; AdamW by default.
            schedule: The learning rate's course; constant by default.
            resume: A checkpoint to go on from.

        Returns:
            The last validation's metrics, or the last training record's without validation.

        Raises:
            InterruptedRun: after SIGINT, SIGTERM or SIGUSR1, once the state is saved.
            ConfigError: if the values contradict each other or the data.
            CheckpointError: if ``resume`` is damaged or belongs to another run.
        """
        self._prepare(task, train, validation, info, optim, schedule)
        if resume is not None:
            restore(self, resume)
            self._saved_at = self.state.step
            for backend in self.loggers:
                backend.rewind(self.state.step)
        self._started = time.monotonic() - self.state.wall_seconds
        self._speed_from = (self.state.wall_seconds, self.state.units)
        task.train()
        try:
            with self._request:
                self._call("on_fit_start")
                self._loop()
        finally:
            self._call("on_fit_end")
            for backend in self.loggers:
                backend.close()
        if self._stop_reason:
            logger.info(f"stopped at step {self.state.step:,}: {self._stop_reason}")
        return self.metrics

    def evaluate(
        self, task: Task, loader: Any, *, prefix: str = "test", limit: int | None = None
    ) -> dict[str, float]:
        """Average ``eval_step`` over a loader, every example once.

        Args:
            task: The task; it comes back in the mode (training or not) it had.
            loader: Evaluation batches.
            prefix: Put before every metric's name.
            limit: Look at so many batches only.

        Returns:
            ``{prefix/loss, prefix/<metric>, ...}``.
        """
        if not hasattr(self, "task") or task is not self.task:
            task.to(self.device)
        with closing(self._batches(loader)) as stream:
            batches = islice(stream, limit)
            stops = self._stops_evaluation
            return evaluate(task, batches, self.strategy, self.precision, prefix, stops)

    def predict(self, task: Task, loader: Any) -> Iterator[Any]:
        """``task.predict_step`` of every batch, in evaluation mode."""
        return predict(task.to(self.device), self._batches(loader), self.precision)

    # ---- what callbacks may use -----------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def stop(self, reason: str) -> None:
        """End the run after the current step."""
        self._stop_reason = reason

    def batch_ids(self) -> list[int]:
        """Data-set indices of the batches in the current update, if the loader knows them."""
        epoch, first = self.state.epoch, self.state.batch
        end = min(first + self.config.accumulate, self.train_loader.num_batches(epoch))
        return [i for batch in range(first, end) for i in self.train_loader.indices(epoch, batch)]

    def save(self, best: bool = False) -> Path | None:
        """Write a checkpoint of this moment; ``None`` without a run directory."""
        self._saved_at = self.state.step
        if self._checkpointer is None:
            return None
        self.state.wall_seconds = time.monotonic() - self._started
        state = capture(self)
        return self._checkpointer.save(state, self.state.step, best) if self.is_main else None

    # ---- phases ---------------------------------------------------------------------------

    def _prepare(
        self,
        task: Task,
        train: Any,
        validation: Any,
        info: DatasetInfo | None,
        optim: OptimizerConfig | None,
        schedule: ScheduleConfig | None,
    ) -> None:
        self.train_loader = self.strategy.loader(as_epoch_loader(train, self.seed))
        self.loader_state = train if keeps_state(train) else None
        self._validation = validation
        task.configure(info or DatasetInfo(), self.context)
        self.task = self.strategy.place(task)
        if self.config.compile:
            for part in task.children():
                part.compile()
        optimizer = build_optimizer(optim or OptimizerConfig(), task)
        self.optimizer = self.strategy.wrap_optimizer(optimizer)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self._updater = self.strategy.updater(task, self.optimizer, self.precision)
        self._cadence = Cadence(self.config, validation is not None)
        self.first_epoch_batches = self.train_loader.num_batches(0)
        if self.first_epoch_batches == 0:
            raise DataError("the training data has no batch; is the data set empty?")
        self.total_steps = (
            1 if self.context.dry_run else count_steps(self.config, self.train_loader)
        )
        self.context.set("trainer.total_steps", self.total_steps, Source.DERIVED)
        self._schedule = build_schedule(schedule or ScheduleConfig(), self.total_steps)
        if self.run is not None and self.is_main:
            self.run.write_config(self.context.to_yaml())

    # ---- the loop -------------------------------------------------------------------------

    def _loop(self) -> None:
        self._boundary()  # a resumed run first does what its last step still owes
        while not self._finished():
            self._call("on_epoch_start")
            epoch, count = self.state.epoch, self.train_loader.num_batches(self.state.epoch)
            with closing(self._batches(self.train_loader, epoch, self.state.batch)) as stream:
                while group := list(islice(stream, self.config.accumulate)):
                    self._update(group)
                    if self.state.batch >= count:
                        self.state.epoch += 1
                        self.state.batch = 0
                    self._call("on_step_end")
                    self._boundary()
                    if self._finished():
                        return
            if self.state.epoch == epoch:
                came = self.state.batch
                raise DataError(f"epoch {epoch} ended after {came} of its {count} batches")

    def _batches(self, loader: Any, epoch: int = 0, start: int = 0) -> Generator[Batch | None]:
        """This rank's batches; closing the iterator ends the loader's workers."""
        batches = as_epoch_loader(loader, self.seed).batches
        yield from batches(epoch, start, self.strategy.rank, self.strategy.world_size)

    def _update(self, group: list[Batch | None]) -> None:
        step = self.state.step + 1
        weight = self._updater.backward(group, self.meter)
        self.loss = self._updater.loss
        clip = self.config.clip_norm
        measures = clip or self._cadence.logs(step)
        self.grad_norm = self.strategy.clip(self.parameters, clip) if measures else None
        rate = self._schedule(step) * self.lr_scale
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = parameters["initial_lr"] * rate
        self._call("before_update")
        self.state.skipped += not self._updater.apply(weight)
        self.state.step = step
        self.state.batch += len(group)

    def _boundary(self) -> None:
        """Between two updates: log, validate, save, and stop if somebody asked for it."""
        state, finished = self.state, self._finished()
        step = state.step
        if len(self.meter) and (finished or self._cadence.logs(step)):
            self._log()
        try:
            improved = self._cadence.validates(state, finished) and self._validate()
        except AbandonedEvaluation:
            improved = False
        if improved or (self._saved_at != step and self._cadence.saves(state, finished)):
            self.save(best=improved)
        if self._stop_requested():
            if self._saved_at != step:
                self.save()
            number = self._request.signal_number or signal.SIGTERM
            where = f"; resume with: {self.run.resume_command()}" if self.run else ""
            raise InterruptedRun(
                f"stopped by {signal.Signals(number).name} after step {step}{where}", number
            )

    def _finished(self) -> bool:
        return self.state.step >= self.total_steps or self._stop_reason is not None

    def _stops_evaluation(self) -> bool:
        return self._request.signal_number is not None and self.strategy.world_size == 1

    def _stop_requested(self) -> bool:
        requested = self._request.signal_number is not None
        if self.strategy.world_size == 1:
            return requested
        return bool(self.strategy.sum(torch.tensor(float(requested))))

    def _log(self) -> None:
        names, totals = self.meter.totals(self.device)
        totals = self.strategy.sum(totals)
        self.meter.clear()
        self.state.units += totals[1].item()
        self.state.samples += int(totals[2].item())
        seconds = time.monotonic() - self._started
        then, units = self._speed_from
        self._speed_from = (seconds, self.state.units)
        record: Record = {"step": self.state.step, "epoch": self.state.epoch}
        record |= averages(names, totals, "train")
        record["lr"] = self.learning_rate
        if self.grad_norm is not None:
            record["grad_norm"] = float(self.grad_norm)
        record["time/seconds"] = seconds
        record["time/units_per_second"] = (self.state.units - units) / max(seconds - then, 1e-9)
        for hook in self._hooks["on_log"]:
            hook(self, record)
        self._emit(record)

    def _validate(self) -> bool:
        """Evaluate on the validation data; ``True`` if the monitored metric is the best so far."""
        state, config = self.state, self.config
        record: Record = {"step": state.step, "epoch": state.epoch}
        with preserved_rng(), ExitStack() as stack:  # how often one looks changes no training step
            for around in self._hooks["around_evaluation"]:
                stack.enter_context(around(self))
            limit = 1 if self.context.dry_run else None
            record |= self.evaluate(self.task, self._validation, prefix="validation", limit=limit)
        if config.monitor not in record:
            hint = did_you_mean(config.monitor, record)
            raise ConfigError(
                f"trainer.monitor is '{config.monitor}', which is not measured: {hint}"
            )
        value = record[config.monitor]
        sign = 1.0 if config.mode == "max" else -1.0
        improved = state.best is None or sign * value > sign * state.best
        if improved:
            state.best, state.best_step = value, state.step
        state.evaluated_at = state.step
        for hook in self._hooks["on_evaluation_end"]:
            hook(self, record)
        self.metrics = {key: value for key, value in record.items() if isinstance(value, float)}
        self._emit(record)
        return improved

    def _emit(self, record: Record) -> None:
        for backend in self.loggers:
            backend.log(record)

    # ---- callbacks and loggers ------------------------------------------------------------

    def _overriding(self, name: str) -> list[Callable[..., Any]]:
        """The callbacks' own versions of a hook; one that is not overridden is never called."""
        base = getattr(Callback, name)
        return [getattr(c, name) for c in self.callbacks if getattr(type(c), name) is not base]

    def _call(self, name: str) -> None:
        for hook in self._hooks[name]:
            hook(self)
