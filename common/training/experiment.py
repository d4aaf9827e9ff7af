"""An experiment from its parts to its record: what the scripts of every paper have in common.

``train.py`` says what is built and what is measured, ``evaluate.py`` how a run is measured again:

    with open_run(config, context) as run:
        data = build_data(config.data, context, config.seed)
        task = ClassificationTask(config.model)
        trainer = fit(task, data, config, context, run)
        metrics = trainer.evaluate(task, data.test)
        finish(task, trainer, run, metrics)
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from loguru import logger

from common.config import RunContext, nested, option
from common.data.info import DatasetInfo, DataSplits
from common.training.callbacks import Callback
from common.training.config import TrainerConfig
from common.training.optim import OptimizerConfig
from common.training.run_weights import load_run_weights
from common.training.schedules import ScheduleConfig
from common.training.task import Task
from common.training.trainer import Trainer
from common.utils.files import atomic_write_text
from common.utils.runs import Run
from common.utils.seeding import seed_everything
from common.utils.weights import save_weights
from common.visualization.tables import text_table

AnyTask = TypeVar("AnyTask", bound=Task)


@dataclass
class ExperimentConfig:
    """What every experiment has; a paper's ``Config`` adds ``model``, ``data`` and its own."""

    seed: int = option("seed of everything random", 0, ge=0)
    optim: OptimizerConfig = nested(OptimizerConfig)
    schedule: ScheduleConfig = nested(ScheduleConfig)
    trainer: TrainerConfig = nested(TrainerConfig)


def fit(
    task: Task,
    data: DataSplits,
    config: ExperimentConfig,
    context: RunContext,
    run: Run,
    *,
    callbacks: Sequence[Callback] = (),
    units: str = "examples",
) -> Trainer:
    """Train ``task`` as the configuration says, or go on if the run is resumed.

    Args:
        task: Its weights are those of the last step afterwards.
        data: Loaders and what the data says of itself.
        config: The experiment's.
        context: What the command line said, and where values come from.
        run: The open run.
        callbacks: Beside the ones every run has.
        units: What the loss is averaged over, for display.

    Returns:
        The trainer, for evaluations.
    """
    sizes = ", ".join(f"{count:,} {name}" for name, count in data.info.sizes.items())
    logger.info(f"{data.info.name}: {sizes}")
    trainer = Trainer(
        config.trainer,
        run=run,
        context=context,
        callbacks=callbacks,
        seed=config.seed,
        units=units,
    )
    trainer.fit(
        task,
        data.train,
        data.validation,
        info=data.info,
        optim=config.optim,
        schedule=config.schedule,
        resume=run.resume_from,
    )
    return trainer


def finish(task: Task, trainer: Trainer, run: Run, metrics: Mapping[str, float]) -> None:
    """Write the finished weights and what they reach; show both. Only the main process does."""
    if not trainer.is_main:
        return
    save_weights(task, run.directory / "model.safetensors")
    parameters = sum(p.numel() for p in task.parameters())
    run.record(metrics=dict(metrics), parameters=parameters)
    show_metrics(metrics)
    sys.stdout.write(f"record: {run.directory}\n")


def restore_task(
    task: AnyTask, info: DatasetInfo, config: ExperimentConfig, context: RunContext
) -> AnyTask:
    """The task of an earlier run with its weights, in evaluation mode; seeds everything.

    Args:
        task: Not configured yet.
        info: What the run's data says of itself.
        config: The run's.
        context: Names the run and which of its weights to take.

    Raises:
        ValueError: if ``context`` names no run.
        CheckpointError: if the weights are missing, damaged, or do not fit.
    """
    path = context.checkpoint_path
    if path is None:
        raise ValueError("the context names no run; make it with load_run_config")
    seed_everything(config.seed, config.trainer.deterministic)
    task.configure(info, context)
    load_run_weights(task, path)
    logger.info(f"weights: {path}")
    return task.eval()


def report(metrics: Mapping[str, float], context: RunContext) -> None:
    """Show what an evaluation found and write it to the run's ``evaluation.json``.

    Raises:
        ValueError: if ``context`` names no run.
    """
    if context.run_dir is None:
        raise ValueError("the context names no run; make it with load_run_config")
    found: dict[str, Any] = {
        "checkpoint": context.checkpoint,
        "overrides": list(context.overrides),
        "metrics": dict(metrics),
    }
    atomic_write_text(context.run_dir / "evaluation.json", json.dumps(found, indent=2) + "\n")
    show_metrics(metrics)


def show_metrics(metrics: Mapping[str, float]) -> None:
    """A table of metrics on standard output."""
    rows = [[name, f"{value:.4f}"] for name, value in metrics.items()]
    sys.stdout.write(text_table(rows, ["metric", "value"], "Results") + "\n")
