"""The search for good values: each trial is a training of its own, judged by its validation images.

    runs/optuna_studies/<study>/trial_0000/     a run as ml-train makes it, without test images
    runs/optuna_studies/<study>/best_config.yaml
    runs/optuna_studies/<study>/{study.json,trials.csv,plots/*.html}

Trials report after every epoch, and one that does worse than the others is ended early. What does
not fit into memory, is not finite or does not fit together is a failed trial, and the search goes
on; what every trial would fail at stops it.
"""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loguru import logger

from common.utils.errors import FaultError, InterruptedRun, RepriseError
from common.utils.logging import setup_logger
from projects.image_classification.core.search.methods import (
    build_pruner,
    build_sampler,
    sampler_seed,
)
from projects.image_classification.core.search.plan import SearchPlan, compare_settings
from projects.image_classification.core.search.report import StudyReport
from projects.image_classification.core.search.studies import (
    explained_storage,
    fail_dead_trials,
    living_workers,
    masked,
    open_storage,
    open_study,
)
from projects.image_classification.core.search.trials import InfeasibleTrial, Trials


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
    plan = SearchPlan(config_file, list(overrides))
    settings = plan.config.search
    url = settings.storage
    sys.argv = [masked(word) for word in sys.argv]  # runs record the command
    plan.check_data()
    storage = open_storage(url, must_exist=mode == "resume")
    study, is_new = open_study(storage, url, plan.name, plan.direction, mode)
    with explained_storage(url):
        compare_settings(study, plan, is_new)
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
        trials = Trials(study, plan, report)
        count: int = settings.n_trials
        if hasattr(study.sampler, "is_exhausted") and study.sampler.is_exhausted(study):
            logger.info("every combination of the grid was tried already")
            count = 0
        try:
            with _stops_between_steps():
                study.optimize(
                    trials,
                    n_trials=count,
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
                f"again; go on with: ml-search --config {shlex.quote(config_file)} --resume --study-name "
                f"{shlex.quote(plan.name)}" + plan.storage_words(),
                number,
            ) from None
        except RepriseError:
            report.write()
            raise
        report.write(plots=draws)
    if report.best is None:
        raise FaultError(f"no trial came to a value: {report.states()}; see {report.table_file}")
    return report


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
