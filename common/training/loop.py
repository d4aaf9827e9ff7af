"""What happens at every step: an update, then a boundary at which everything else is done.

A boundary logs, validates, saves and stops, in this order and each as a pure function of the
``TrainState``: a run that goes on from a checkpoint does at its first boundary what is still owed.
"""

import signal
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

import torch

from common.config import Lifetime
from common.training.evaluation import AbandonedEvaluation
from common.training.streams import batches_of
from common.training.task import Batch
from common.utils.errors import DataError, InterruptedRun

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class Loop:
    """Runs a prepared trainer to its end.

    Args:
        trainer: Whose state moves on.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self._rate = float("nan")  # the optimizer's own rates may come from a checkpoint
        self._log_every = trainer.config.log_every
        self._clip_norm = trainer.config.clip_norm
        self._before_update = trainer.hooks["before_update"]
        self._on_step_end = trainer.hooks["on_step_end"]

    def run(self) -> None:
        """From where the state stands to the end.

        Raises:
            InterruptedRun: after a stop signal, once the state is on the disk.
            DataError: if an epoch has fewer batches than its loader says.
        """
        trainer, accumulate = self._trainer, self._trainer.config.accumulate
        finished = self._boundary()
        while not finished:
            trainer.call("on_epoch_start")
            state = trainer.state
            epoch, count = state.epoch, trainer.train_loader.num_batches(state.epoch)
            with closing(batches_of(trainer, trainer.train_loader, epoch, state.batch)) as stream:
                while group := list(islice(stream, accumulate)):
                    self._update(group)
                    if state.batch >= count:
                        state.epoch += 1
                        state.batch = 0
                        if trainer.loader_state is not None:
                            next(stream, None)  # lets it see its end before its state is saved
                    for hook in self._on_step_end:
                        hook(trainer)
                    if finished := self._boundary():
                        break
            if state.epoch == epoch and not finished:
                raise DataError(f"epoch {epoch} ended after {state.batch} of its {count} batches")
        trainer.settle()
        if trainer.strategy.world_size == 1 and trainer.request.is_set():
            self._interrupt()

    def _update(self, group: list[Batch | None]) -> None:
        trainer = self._trainer
        state, updater = trainer.state, trainer.updater
        step = state.step + 1
        weight = updater.backward(group, trainer.meter)
        trainer.loss = updater.loss
        measures = self._clip_norm or step % self._log_every == 0
        trainer.grad_norm = (
            trainer.strategy.clip(trainer.parameters, self._clip_norm) if measures else None
        )
        rate = trainer.schedule(step) * trainer.lr_scale
        if rate != self._rate:
            self._rate = rate
            for parameters in trainer.optimizer.param_groups:
                parameters["lr"] = parameters["initial_lr"] * rate
        for hook in self._before_update:
            hook(trainer)
        if not updater.apply(weight):
            state.skipped += 1
        state.step = step
        state.batch += len(group)

    def _boundary(self) -> bool:
        """Between two updates; returns whether the run is finished."""
        trainer = self._trainer
        state, reporter = trainer.state, trainer.reporter
        step = state.step
        finished = step >= trainer.total_steps or state.stopped is not None
        if (finished or step % self._log_every == 0) and len(trainer.meter):
            reporter.log(trainer)
        improved = is_abandoned = False
        if trainer.cadence.validates(state, finished):
            try:
                improved = reporter.validate(trainer, trainer.hooks["around_evaluation"])
            except AbandonedEvaluation:
                is_abandoned = True
            if state.stopped is not None and not finished:
                finished = True
                if len(trainer.meter):
                    reporter.log(trainer)
        if improved or (trainer.saved_at != step and trainer.cadence.saves(state, finished)):
            trainer.save(best=improved)
        if is_abandoned or self._stop_requested():
            self._interrupt()
        if state.batch == 0 or trainer.context.step_values:  # what is over is forgotten
            trainer.context.end(Lifetime.EPOCH if state.batch == 0 else Lifetime.STEP)
        return finished

    def _interrupt(self) -> None:
        """Make sure that the state is on the disk, and end the run."""
        trainer = self._trainer
        step = trainer.state.step
        if trainer.saved_at != step:
            trainer.save(is_extra=True)
        trainer.settle()
        trainer.strategy.barrier()  # who ends first has the launcher end the others, in a save too
        number = trainer.request.signal_number or signal.SIGTERM
        says = trainer.run is not None and trainer.is_main
        where = f"; resume with: {trainer.run.resume_command()}" if trainer.run and says else ""
        raise InterruptedRun(
            f"stopped by {signal.Signals(number).name} after step {step}{where}", number
        )

    def _stop_requested(self) -> bool:
        trainer = self._trainer
        if trainer.strategy.world_size > 1:
            return trainer.updater.must_stop
        return trainer.request.signal_number is not None


def stops_evaluation(trainer: "Trainer") -> bool:
    """Whether an evaluation should be given up now."""
    if trainer.strategy.lockstep:  # no rank may leave while another waits for it
        asked = torch.tensor(float(trainer.request.is_set()))
        return bool(trainer.strategy.sum(asked))
    return trainer.request.is_set()
