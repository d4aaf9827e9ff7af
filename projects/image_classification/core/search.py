"""The search for good values: each trial is a training of its own, judged by its validation images.

    runs/optuna_studies/<study>/trial_0000/     a run as ml-train makes it, without test images
    runs/optuna_studies/<study>/best_config.yaml
    runs/optuna_studies/<study>/{study.json,trials.csv,plots/*.html}

Trials report after every epoch, and one that does worse than the others is ended early. What does
not fit into memory, is not finite or does not fit together is a failed trial, and the search goes
on; what every trial would fail at stops it.
"""

import gc
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from common.config.files import parse_config
from common.config.tree import leaves, plain
from common.training import Callback, Trainer
from common.training.out_of_memory import is_out_of_memory
from common.utils.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FaultError,
    InterruptedRun,
)
from common.utils.logging import setup_logger
from common.utils.paths import validate_name
from projects.image_classification.core.config import ALL_FOLDS, Config
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.experiment import MONITORS
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.index_files import find_files, read_index
from projects.image_classification.core.run_directories import RUNS, dataset_name
from projects.image_classification.core.search_methods import (
    WILCOXON,
    build_pruner,
    build_sampler,
    sampler_seed,
)
from projects.image_classification.core.search_report import StudyReport, short
from projects.image_classification.core.search_space import (
    Parameter,
    override_word,
    parse_space,
    split_words,
)
from projects.image_classification.core.studies import (
    REASON,
    WORKER,
    Worker,
    explained_storage,
    fail_dead_trials,
    import_optuna,
    living_workers,
    masked,
    open_storage,
    open_study,
    requeue,
)
from projects.image_classification.core.training import fold_number, folds_of, train_fold

STUDIES = RUNS / "optuna_studies"
DIRECTORY = "directory"
# Not the loss that is trained with: label smoothing and focal losses may be varied.
_MEASURED = {"val_acc": "val/accuracy", "val_loss": "val/log_loss"}
_HOPELESS = 5  # failed trials in a row, with none that came to a value, end a search
_SETTINGS = "settings"
_IN_NO_SETTINGS = ("search.", "data.class_names", "data.class_counts", "training.device")


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


def search(
    config_file: str, overrides: Sequence[str] = (), mode: str = "create", *, draws: bool = True
) -> StudyReport:
    """Run ``search.n_trials`` trials of a study.

    Args:
        config_file: The configuration; its section ``search`` says what is varied.
        overrides: ``key=value`` words.
        mode: ``create`` a study, ``resume`` one, or ``join``: whichever is needed.
        draws: Whether to draw the plots at the end.

    Returns:
        What the study came to; its files are written.

    Raises:
        ConfigError: for what can be seen to be wrong before the first trial.
        InterruptedRun: after SIGINT or SIGTERM; the running trial is queued again.
        FaultError: if the storage fails, or no trial of the study came to a value.
    """
    setup_logger()
    plan = _Plan(config_file, list(overrides))
    settings = plan.config.search
    url = settings.storage
    sys.argv = [masked(word) for word in sys.argv]  # runs record the command
    plan.check_data()
    storage = open_storage(url, must_exist=mode == "resume")
    study, is_new = open_study(storage, url, plan.name, plan.direction, mode)
    with explained_storage(url):
        _compare_settings(study, plan, is_new)
        retried = 0 if is_new else fail_dead_trials(study)
        if retried:
            logger.info(f"{retried} trials whose process is gone are queued again")
        if url.startswith("sqlite") and not is_new and living_workers(study):
            logger.warning(
                "another process works on this study; SQLite lets them wait for one another: "
                "search.storage=journal:///FILE is made for many processes"
            )
        seed = sampler_seed(plan.config.seed, is_new)
        if not is_new:
            logger.info(f"this process's sampler has the seed {seed}")
        study.sampler = build_sampler(settings, plan.parameters, seed)
        study.pruner = build_pruner(settings, len(plan.folds) > 1)
        report = StudyReport(study, plan.directory, settings.metric, plan.best_yaml, masked(url))
        trials = _Trials(study, plan, report)
        try:
            with _stops_between_steps():
                study.optimize(
                    trials,
                    n_trials=settings.n_trials,
                    timeout=settings.timeout,
                    catch=(InfeasibleTrial,),
                    callbacks=[trials.after],
                    gc_after_trial=True,
                )
        except (InterruptedRun, KeyboardInterrupt) as error:
            report.write()
            number = getattr(error, "exit_code", 128 + signal.SIGINT) - 128
            raise InterruptedRun(
                f"stopped by {signal.Signals(number).name}; a trial that was running is queued "
                f"again; go on with: ml-search --config {config_file} --resume --study-name "
                f"{plan.name}" + plan.storage_words(),
                number,
            ) from None
        report.write(plots=draws)
    if report.best is None:
        raise FaultError(f"no trial came to a value: {report.states()}; see {report.table_file}")
    return report


class _Plan:
    """What the configuration says, checked before there is a study."""

    def __init__(self, config_file: str, overrides: list[str]) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "ml-search trains each trial in one process; start the command once for each "
                "process, with --join"
            )
        self.file, self.overrides = config_file, overrides
        self.config, self.context = load_config(config_file, overrides)
        settings = self.config.search
        self.parameters: list[Parameter] = parse_space(settings.search_space)
        typed = split_words(overrides)
        for parameter in self.parameters:
            if parameter.key in typed:
                raise ConfigError(
                    f"{parameter.key} is given on the command line and varied by "
                    "search.search_space; leave one of them out"
                )
        if "data.fold" in typed:
            raise ConfigError("ml-search takes its fold as --fold K or search.fold=K")
        self.name = validate_name(settings.study_name or dataset_name(self.config), "study name")
        if "/" in self.name:
            raise ConfigError(f"search.study_name is '{self.name}'; expected a name without '/'")
        best = {"max": "maximize", "min": "minimize"}[MONITORS[settings.metric][1]]
        self.direction = settings.direction or best
        if self.direction != best:
            raise ConfigError(
                f"search.direction is {self.direction}, but {settings.metric} gets better the "
                f"other way; leave it null or set {best}"
            )
        if settings.metric != self.config.training.monitor:
            logger.warning(
                f"trials are judged by {settings.metric} of the weights that are best by "
                f"{self.config.training.monitor}; training.monitor={settings.metric} takes those "
                "that are best by what is searched for"
            )
        self.folds = self._folds(settings.fold)
        build_sampler(settings, self.parameters, 0)
        build_pruner(settings, len(self.folds) > 1)
        self.directory = STUDIES / self.name
        # What a run would save: for a password from the environment the reference to it.
        self._saved_storage = str(
            parse_config(self.context.to_yaml(), "").content["search"]["storage"]
        )

    def _folds(self, fold: int | str) -> list[int]:
        if fold != ALL_FOLDS:
            config, _ = load_config(self.file, [*self.overrides, override_word("data.fold", fold)])
            return [fold_number(config)]
        folds = folds_of(self.config)
        if len(folds) < 2:
            raise ConfigError(f"search.fold is all, but there are {len(folds)} folds")
        return folds

    def check_data(self) -> None:
        """What no trial could do without; on a configuration of its own.

        Raises:
            ConfigError, DataError: if data are missing, or are not what the configuration says.
        """
        splits = Path(self.config.data.data_dir) / "splits"
        for fold in self.folds:
            for split in ("train", "val"):
                file = splits / f"fold_{fold}_{split}.txt"
                if not find_files(file, read_index(file)):
                    raise DataError(f"{file} lists no image; a trial trains and is judged by some")
        config, context = load_config(self.file, self.overrides)
        resolve_facts(config, context, self.folds[0])

    def words(self, values: dict[str, Any], fold: int | str) -> list[str]:
        """The ``key=value`` words of a trial's configuration."""
        found = [override_word(key, value) for key, value in values.items()]
        typed, storage = self.overrides, self._saved_storage
        if storage != masked(storage):  # a password, which every run would save
            typed = [word for word in typed if not word.startswith("search.storage=")]
            found.append(override_word("search.storage", masked(storage)))
        return [*typed, *found, override_word("data.fold", fold)]

    def load(self, values: dict[str, Any], fold: int | str) -> tuple[Config, Any]:
        """The configuration of a trial, and its context."""
        return load_config(self.file, self.words(values, fold))

    def decoded(self, params: dict[str, Any]) -> dict[str, Any]:
        """What a trial of the storage stands for, as values of the configuration."""
        known = {each.key: each for each in self.parameters}
        return {key: known[key].decode(value) for key, value in params.items() if key in known}

    def best_yaml(self, params: dict[str, Any]) -> str:
        """The whole configuration with a trial's values, which trains what the trial trained."""
        fold = ALL_FOLDS if len(self.folds) > 1 else self.folds[0]
        return str(self.load(self.decoded(params), fold)[1].to_yaml())

    def storage_words(self) -> str:
        """The flag that names the storage, if the command line did."""
        typed = split_words(self.overrides)
        given = "search.storage" in typed
        return f" --storage '{masked(self.config.search.storage)}'" if given else ""

    def settings(self) -> dict[str, Any]:
        """What makes trials comparable, with the space: kept with the study."""
        found = {
            key: value
            for key, value in leaves(plain(self.config))
            if not key.startswith(_IN_NO_SETTINGS)
            and key not in {each.key for each in self.parameters}
        }
        space = {each.key: each.describe() for each in self.parameters}
        search_ = self.config.search
        fold = str(search_.fold)
        return {"metric": search_.metric, "fold": fold, "space": space, "config": found}


class _Trials:
    """The objective, and what is done after each trial."""

    def __init__(self, study: Any, plan: _Plan, report: StudyReport) -> None:
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
        except (DataError, CheckpointError):
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
        home = plan.directory / f"trial_{trial.number:04d}"
        if len(plan.folds) == 1:
            reporter = ReportToTrial(trial, metric)
            value, directory = self._train_fold(values, plan.folds[0], home, metric, [reporter])
            trial.set_user_attr(DIRECTORY, directory.name)
            if reporter.pruned:
                trial.set_user_attr(REASON, reporter.pruned)
                raise self._optuna.TrialPruned(reporter.pruned)
            return value
        trial.set_user_attr(DIRECTORY, home.name)
        is_wilcoxon = type(self.study.pruner).__name__ == WILCOXON
        found: list[float] = []
        for step, fold in enumerate(plan.folds):
            found.append(self._train_fold(values, fold, home / f"fold_{fold}", metric)[0])
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
        metric: str,
        callbacks: Sequence[Callback] = (),
    ) -> tuple[float, Path]:
        config, context = self.plan.load(values, fold)
        outcome = train_fold(
            config, context, directory=directory, callbacks=callbacks, evaluates=False
        )
        return outcome.metrics[_MEASURED[metric]], outcome.directory

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
        gc.collect()
        return InfeasibleTrial(reason)

    def _has_values(self) -> bool:
        states = self._optuna.trial.TrialState
        done = (states.COMPLETE, states.PRUNED)
        return bool(self.study.get_trials(deepcopy=False, states=done))


def _blames(values: dict[str, Any], message: str) -> bool:
    """Whether a message is about something that is varied."""
    return any(key in message or key.rpartition(".")[2] in message for key in values)


def _compare_settings(study: Any, plan: _Plan, is_new: bool) -> None:
    """Keep what makes trials comparable with a new study; compare it with an earlier one's.

    Raises:
        ConfigError: if the earlier trials measured something else, or chose from other choices.
    """
    ours = plan.settings()
    theirs = study.user_attrs.get(_SETTINGS)
    if is_new or theirs is None:
        study.set_user_attr(_SETTINGS, ours)
        return
    for name in ("metric", "fold"):
        if theirs[name] != ours[name]:
            raise ConfigError(
                f"study '{plan.name}' was made with search.{name}={theirs[name]}, the configuration "
                f"says {ours[name]}; values of both cannot be compared: give another --study-name"
            )
    for key, space in ours["space"].items():
        before = theirs["space"].get(key)
        if before == space or before is None:
            continue
        if "categorical" in (before["type"], space["type"]) or before["type"] != space["type"]:
            raise ConfigError(
                f"study '{plan.name}' was made with another search space of {key}; Optuna takes "
                "other limits into a study, but not other choices or types: give another "
                "--study-name"
            )
        logger.warning(f"the search space of {key} differs from the study's earlier one")
    changed = [
        f"{key} ({theirs['config'].get(key)!r}, now {value!r})"
        for key, value in ours["config"].items()
        if theirs["config"].get(key) != value and key not in theirs["space"]
    ]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        logger.warning(
            f"earlier trials were trained with other values: {', '.join(changed[:5])}{more}"
        )


@contextmanager
def _stops_between_steps() -> Iterator[None]:
    """SIGTERM ends what is between two trainings as Ctrl-C does; a training answers it itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise InterruptedRun("stopped", number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
