"""The training loop: small, exact, and the same for every paper.

``fit`` goes through data -> configure -> optimizer -> strategy -> restore -> loop. The position of
a run is its ``TrainState``; the order of its data is a pure function of (seed, epoch); everything
random is in the checkpoint. So a run that was killed and resumed is the run that was not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
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
from common.data.subsets import FirstBatches
from common.training.acceleration import accelerate_task, set_up_device
from common.training.cadence import Cadence, already_ended, count_steps
from common.training.callbacks import HOOKS, Callback, standard_callbacks
from common.training.checkpointing import Checkpointer
from common.training.config import TrainerConfig
from common.training.evaluation import evaluate, predict
from common.training.loggers import Logger, Record, standard_loggers
from common.training.loop import Loop, stops_evaluation
from common.training.meters import Meter
from common.training.optim import OptimizerConfig, checked_optimizer
from common.training.out_of_memory import explained_out_of_memory
from common.training.precision import Precision
from common.training.reporting import Reporter
from common.training.resume import capture, expected_size, restore
from common.training.schedules import Schedule, ScheduleConfig, build_schedule
from common.training.signals import StopRequest
from common.training.state import TrainState
from common.training.strategies import build_strategy
from common.training.streams import batches_of, first_batch_of
from common.training.task import Task
from common.training.update import Updater
from common.utils.errors import DataError
from common.utils.runs import Run


class Trainer:
    """Trains, evaluates and predicts with a ``Task``.

    Args:
        config: How long, on what, how often.
        run: An entered run directory for records and checkpoints; without one nothing is written.
        context: Where values come from; filled while the task is configured.
        callbacks: Beside the ones every run has (progress, history, NaN guard); one of their class
            takes their place.
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
        self.strategy = build_strategy(self.config, seed)
        self.device = self.strategy.device
        self.precision = Precision(self.strategy.precision_name(self.config.precision), self.device)
        self.state = TrainState()
        self.metrics: dict[str, float] = {}
        self.meter = Meter()
        self.loss: Tensor = torch.zeros(())
        self.grad_norm: Tensor | None = None
        self.lr_scale = 1.0
        self.total_steps = 0
        self.first_epoch_batches = 0
        self.first_batch_examples = 0
        self.train_loader: EpochLoader
        self.validation_loader: Any = None
        self.loader_state: Any = None
        self.task: Task
        self.parameters: list[Parameter] = []
        self.optimizer: Optimizer
        self.optimizer_name = ""
        self.updater: Updater
        self.schedule: Schedule
        self.cadence: Cadence
        self.request = StopRequest()
        self.saved_at = 0
        self.is_main = self.strategy.rank == 0
        records = run.directory if run is not None and self.is_main else None
        given = {type(callback) for callback in callbacks}
        standard = standard_callbacks(records, self.config.diagnostics)
        standard = [callback for callback in standard if type(callback) not in given]
        self.callbacks = sorted(
            [*callbacks, *self.strategy.callbacks(), *standard], key=lambda c: c.priority
        )
        self.hooks = {name: self._overriding(name) for name in HOOKS}
        self.reporter = Reporter(
            [*loggers, *standard_loggers(self.config.loggers, records)],
            self.hooks["on_log"],
            self.hooks["on_evaluation_end"],
        )
        on_gpu = self.device.type == "cuda"
        self.checkpointer = Checkpointer(run.checkpoints, self.config.keep, on_gpu) if run else None
        set_up_device(self.config, self.device)

    # ---- the three verbs ------------------------------------------------------------------

    def fit(
        self,
        task: Task,
        train: Any,
        validation: Any = None,
        *,
        info: DatasetInfo | None = None,
        optim: OptimizerConfig | Optimizer | None = None,
        schedule: ScheduleConfig | None = None,
        resume: Path | None = None,
    ) -> dict[str, float]:
        """Train ``task``.

        Args:
            task: What to train.
            train: A loader of training batches (see ``common.data.loaders.iterate``).
            validation: A loader of validation batches.
            info: What the data says of itself, for ``task.configure``.
            optim: The optimizer, or its values; AdamW by default.
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
            self.saved_at = self.state.step
            if self.is_main and self.state.step >= self.total_steps:
                logger.warning(already_ended(self.config, self.total_steps, self.state.step))
            if self.checkpointer is not None and self.is_main:
                self.checkpointer.name(resume, self.state.best_step == self.state.step)
        if self.run is not None and self.is_main:
            self.run.confirm()
        self.reporter.start(self, is_resumed=resume is not None)
        task.train()
        try:
            with self.request, explained_out_of_memory(self):
                self.call("on_fit_start")
                if self.checkpointer is not None:
                    size = expected_size(self)  # every rank takes part
                    if self.is_main:
                        self.checkpointer.prepare(size)
                Loop(self).run()
            if self.context.dry_run and self.checkpointer is not None:
                self.strategy.barrier()
                restore(self, self.checkpointer.last)
            self.strategy.release(task)
        except BaseException:
            self._end(is_failing=True)
            raise
        self._end()
        if self.state.stopped:
            logger.info(f"stopped at step {self.state.step:,}: {self.state.stopped}")
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
        with closing(batches_of(self, loader)) as stream:
            return evaluate(
                task,
                islice(stream, limit),
                self.strategy,
                self.precision,
                prefix,
                partial(stops_evaluation, self),
                self.config.channels_last,
            )

    def predict(self, task: Task, loader: Any) -> Iterator[Any]:
        """``task.predict_step`` of every batch, in evaluation mode."""
        return predict(task.to(self.device), batches_of(self, loader), self.precision)

    # ---- what callbacks may use -----------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def stop(self, reason: str) -> None:
        """End the run after the current step."""
        self.state.stopped = reason

    def batch_ids(self, epoch: int, first: int) -> list[int]:
        """Data-set indices of the update that begins with batch ``first``, if the loader knows."""
        end = min(first + self.config.accumulate, self.train_loader.num_batches(epoch))
        return [i for batch in range(first, end) for i in self.train_loader.indices(epoch, batch)]

    def report(self, record: Record) -> None:
        """Give the loggers a record beside those of training and validation."""
        self.reporter.emit(self, record)

    def save(self, best: bool = False, *, is_extra: bool = False) -> Path | None:
        """Write a checkpoint of this moment; ``None`` without a run directory.

        Args:
            best: Whether it is the best so far.
            is_extra: Whether it is only there to go on from (see ``Checkpointer.save``).
        """
        self.saved_at = self.state.step
        if self.checkpointer is None:
            return None
        self.state.wall_seconds = self.reporter.seconds
        state = capture(self)
        if not self.is_main:
            return None
        return self.checkpointer.save(state, self.state.step, best, is_extra=is_extra)

    # ---- phases ---------------------------------------------------------------------------

    def _prepare(
        self,
        task: Task,
        train: Any,
        validation: Any,
        info: DatasetInfo | None,
        optim: OptimizerConfig | Optimizer | None,
        schedule: ScheduleConfig | None,
    ) -> None:
        self.state, self.metrics, self.saved_at = TrainState(), {}, 0
        self.meter.clear()
        self.loader_state = train if keeps_state(train) else None
        train = as_epoch_loader(train, self.seed)
        if count := self.config.overfit_batches:
            train = validation = FirstBatches(train, count)
        self.first_batch_examples = len(train.indices(0, 0))
        self.train_loader = self.strategy.loader(train)
        self.validation_loader = validation
        task.configure(info or DatasetInfo(), self.context)
        self.task = accelerate_task(self.strategy.place(task), self.config)
        optimizer = checked_optimizer(optim, task)
        self.optimizer_name = type(optimizer).__name__
        self.optimizer = self.strategy.wrap_optimizer(optimizer)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.updater = self.strategy.updater(
            task, self.optimizer, self.precision, self.config.channels_last
        )
        self.updater.is_asked_to_stop = self.request.is_set
        self.updater.any_batch = partial(first_batch_of, self)
        self.cadence = Cadence(self.config, validation is not None)
        self.first_epoch_batches = self.train_loader.num_batches(0)
        if self.first_epoch_batches == 0:
            raise DataError("the training data has no batch; is the data set empty?")
        self.total_steps = (
            1 if self.context.dry_run else count_steps(self.config, self.train_loader)
        )
        self.context.set("trainer.total_steps", self.total_steps, Source.DERIVED)
        self.schedule = build_schedule(schedule or ScheduleConfig(), self.total_steps)
        if self.run is not None and self.is_main:
            self.run.write_config(self.context.to_yaml())

    # ---- what the loop uses ---------------------------------------------------------------

    def settle(self) -> None:
        """Wait until what was saved is on the disk."""
        if self.checkpointer is not None:
            self.checkpointer.wait()

    def call(self, name: str) -> None:
        """Call the callbacks' hook ``name``."""
        for hook in self.hooks[name]:
            hook(self)

    def _overriding(self, name: str) -> list[Callable[..., Any]]:
        """The callbacks' own versions of a hook; one that is not overridden is never called."""
        base = getattr(Callback, name)
        return [getattr(c, name) for c in self.callbacks if getattr(type(c), name) is not base]

    def _end(self, is_failing: bool = False) -> None:
        """Close everything; when an error is on its way, others on the way are only logged."""
        closers: list[Callable[[], Any]] = [partial(h, self) for h in self.hooks["on_fit_end"]]
        closers.append(self.reporter.close)
        if self.checkpointer is not None:
            closers.insert(0, self.checkpointer.wait)
        failures: list[Exception] = []
        for close in closers:
            try:
                close()
            except Exception as failure:
                failures.append(failure)
        if failures and not is_failing:
            raise failures[0]
        for late in failures:
            logger.error(f"{type(late).__name__}: {late}")
