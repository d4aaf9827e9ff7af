"""From a configuration to an open run: seed, directory, record."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loguru import logger

from common.config import RunContext
from common.training.cadence import check_end
from common.training.loggers import check_loggers
from common.training.optim import OptimizerConfig, optimizer_values
from common.training.rng import seed_rank
from common.training.schedules import ScheduleConfig, build_schedule
from common.training.strategies import Strategy, build_strategy
from common.utils.checkpoint import latest_checkpoint
from common.utils.errors import CheckpointError
from common.utils.runs import Run


@contextmanager
def open_run(
    config: Any,
    context: RunContext,
    *,
    directory: Path | None = None,
    checkpoints: str = "checkpoints",
) -> Iterator[Run]:
    """Seed everything and open the run directory of an experiment.

    A new run gets a new directory. ``--resume RUN`` opens that one again, and
    ``run.resume_from`` is its newest readable checkpoint. Under ``torchrun`` all ranks have the
    main rank's directory, and only that rank writes the record. What the configuration alone shows
    to be wrong is refused before there is a directory.

    Args:
        config: A configuration with ``seed`` and ``trainer`` (``TrainerConfig``).
        context: What the command line said.
        directory: Of a new run; below ``assets/outputs`` by default.
        checkpoints: The folder of its checkpoints.

    Raises:
        ConfigError: if values contradict each other, the machine, or how the process was started.
        CheckpointError: if the run to be resumed has no readable checkpoint.
        FaultError: if the directory cannot be written, or another process owns it.
    """
    strategy = build_strategy(config.trainer)
    _check(config, strategy, context.dry_run)
    rank = strategy.rank
    seed_rank(config.seed, rank, config.trainer.deterministic)
    places = ""
    if rank == 0:
        run, resume_from = _place(config.seed, context, directory, checkpoints)
        places = f"{run.directory}\n{resume_from or ''}"
    place, resume = strategy.broadcast_text(places).split("\n")
    if rank > 0:
        run = Run(Path(place), config.seed, is_owner=False, checkpoints=checkpoints)
    run.resume_from = Path(resume) if resume else None
    try:
        with run:
            if rank == 0:
                run.write_config(context.to_yaml())
                logger.info(f"record: {run.directory}")
            yield run
    except Exception as error:
        if explained := strategy.explain(error):
            raise explained from error
        raise
    finally:
        strategy.close()


def _check(config: Any, strategy: Strategy, is_dry_run: bool) -> None:
    """Refuse what needs neither data nor model to be refused."""
    trainer = config.trainer
    strategy.precision_name(trainer.precision)
    check_loggers(trainer.loggers)
    if not is_dry_run:  # which ends after a step
        check_end(trainer)
    steps = None if is_dry_run or trainer.max_epochs is not None else trainer.max_steps
    build_schedule(getattr(config, "schedule", ScheduleConfig()), steps or 1)
    optimizer_values(getattr(config, "optim", OptimizerConfig()))


def _place(
    seed: int, context: RunContext, directory: Path | None, checkpoints: str
) -> tuple[Run, Path | None]:
    if context.resume is None and directory is not None:
        return Run.claim(directory, seed, checkpoints=checkpoints), None
    if context.resume is None:
        words = [*context.overrides, "dry-run"] if context.dry_run else context.overrides
        return Run.create(context.experiment, words, seed), None
    run = Run(context.resume, seed, checkpoints=checkpoints)
    newest = latest_checkpoint(run.checkpoints)
    if newest is None:
        raise CheckpointError(f"{run.checkpoints} holds no readable checkpoint to resume from")
    return run, newest
