"""A trial of a search: a training with some values, and what becomes of one that fails."""

import io
import math
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from common.training import Callback, Trainer
from common.training.out_of_memory import is_out_of_memory
from common.utils.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FaultError,
    InterruptedRun,
)
from projects.image_classification.core.experiment import MONITORS
from projects.image_classification.core.search.methods import WILCOXON
from projects.image_classification.core.search.plan import SearchPlan
from projects.image_classification.core.search.report import DIRECTORY, StudyReport, short
from projects.image_classification.core.search.studies import (
    REASON,
    WORKER,
    Worker,
    import_optuna,
    requeue,
)
from projects.image_classification.core.training import train_fold

# Not the loss that is trained with: label smoothing and focal losses may be varied.
_MEASURED = {"val_acc": "val/accuracy", "val_loss": "val/log_loss"}
_HOPELESS = 5  # failed trials in a row, with none that came to a value, end a search


class InfeasibleTrial(Exception):
    """The values of a trial cannot be trained with; the study goes on."""


class ReportToTrial(Callback):
    """Tells a trial the metric of every epoch, and ends the training where the pruner says so.

    Args:
        trial: Optuna's.
        metric: ``val_acc`` or ``val_loss``.
    """

    priority = 20  # after what makes the record and stops for its own reasons

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.pruned = ""
        self._last = -1

    def on_evaluation_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        epoch, value = trainer.state.epoch, record[MONITORS[self.metric][0]]
        if epoch == self._last:
            return
        self._last = epoch
        self.trial.report(value, epoch)
        is_over = trainer.state.step >= trainer.total_steps or trainer.state.stopped is not None
        if not is_over and self.trial.should_prune():
            self.pruned = f"pruned after epoch {epoch} with {self.metric} {value:.4g}"
            trainer.stop(self.pruned)


class Trials:
    """The objective that Optuna calls, and what is done after each trial.

    Args:
        study: Optuna's.
        plan: What a trial is.
        report: Written after every trial.
    """

    def __init__(self, study: Any, plan: SearchPlan, report: StudyReport) -> None:
        self.study, self.plan, self.report = study, plan, report
        self._optuna = import_optuna()
        self._worker = asdict(Worker.here())
        self._failed = 0

    def __call__(self, trial: Any) -> float:
        trial.set_user_attr(WORKER, self._worker)
        values = {each.key: each.suggest(trial) for each in self.plan.parameters}
        shown = ", ".join(f"{key}={short(value)}" for key, value in values.items())
        logger.info(f"trial {trial.number}: {shown}")
        try:
            with redirect_stdout(io.StringIO()):  # its tables are in its record
                value = self._train(trial, values)
        except (InterruptedRun, KeyboardInterrupt):
            trial.set_user_attr(REASON, "interrupted")
            requeue(self.study, self.study.get_trials(deepcopy=False)[trial.number])
            raise
        except (DataError, CheckpointError) as error:
            trial.set_user_attr(REASON, str(error))
            raise
        except ConfigError as error:
            if not self._has_values() and not _blames(values, str(error)):
                trial.set_user_attr(REASON, str(error))
                raise
            raise self._infeasible(trial, error) from None
        except FaultError as error:
            if isinstance(error.__context__, OSError):  # the disk, not the values
                raise
            raise self._infeasible(trial, error) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._infeasible(trial, error) from None
        if not math.isfinite(value):
            raise self._infeasible(trial, f"{self.plan.config.search.metric} is {value}")
        return value

    def _train(self, trial: Any, values: dict[str, Any]) -> float:
        plan, metric = self.plan, self.plan.config.search.metric
        home = _free(plan.directory / f"trial_{trial.number:04d}")
        trial.set_user_attr(DIRECTORY, home.name)
        if len(plan.folds) == 1:
            reporter = ReportToTrial(trial, metric)
            value = self._train_fold(values, plan.folds[0], home, [reporter])
            if reporter.pruned:
                trial.set_user_attr(REASON, reporter.pruned)
                raise self._optuna.TrialPruned(reporter.pruned)
            return value
        is_wilcoxon = type(self.study.pruner).__name__ == WILCOXON
        found: list[float] = []
        for step, fold in enumerate(plan.folds):
            found.append(self._train_fold(values, fold, home / f"fold_{fold}"))
            mean = sum(found) / len(found)
            trial.report(found[-1] if is_wilcoxon else mean, step)
            if step + 1 < len(plan.folds) and trial.should_prune():
                reason = f"pruned after fold {fold} with a mean {metric} of {mean:.4g}"
                trial.set_user_attr(REASON, reason)
                raise self._optuna.TrialPruned(reason)
        return sum(found) / len(found)

    def _train_fold(
        self,
        values: dict[str, Any],
        fold: int,
        directory: Path,
        callbacks: Sequence[Callback] = (),
    ) -> float:
        config, context = self.plan.load(values, fold)
        outcome = train_fold(
            config, context, directory=directory, callbacks=callbacks, evaluates=False
        )
        return outcome.metrics[_MEASURED[self.plan.config.search.metric]]

    def after(self, study: Any, trial: Any) -> None:
        """Say what became of a trial, and write down where the study stands.

        Raises:
            FaultError: if nothing but failures came so far.
        """
        state = trial.state.name.lower()
        reason = trial.user_attrs.get(REASON, "")
        self.report.write()
        best = self.report.best
        metric = self.plan.config.search.metric
        if trial.value is not None and state == "complete":
            lead = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
            logger.info(f"trial {trial.number}: {metric} {trial.value:.4f}{lead}")
        else:
            logger.info(f"trial {trial.number}: {state}: {reason}")
        self.report.tidy_weights()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._failed = self._failed + 1 if state == "fail" else 0
        if self._failed >= _HOPELESS and not self._has_values():
            raise FaultError(
                f"{self._failed} trials in a row failed and none came to a value; the last: "
                f"{reason}"
            )

    def _infeasible(self, trial: Any, error: object) -> InfeasibleTrial:
        reason = " ".join(str(error).split())
        trial.set_user_attr(REASON, reason[:2000])
        return InfeasibleTrial(reason)

    def _has_values(self) -> bool:
        states = self._optuna.trial.TrialState
        done = (states.COMPLETE, states.PRUNED)
        return bool(self.study.get_trials(deepcopy=False, states=done))


def _blames(values: dict[str, Any], message: str) -> bool:
    """Whether a message is about something that is varied."""
    names = {key.rpartition(".")[2] for key in values}
    return not names.isdisjoint(re.findall(r"\w+", message))


def _free(directory: Path) -> Path:
    """A directory that is not there: an earlier study of this name may have left its trials."""
    found, attempt = directory, 1
    while found.exists():
        attempt += 1
        found = directory.with_name(f"{directory.name}-{attempt}")
    return found
