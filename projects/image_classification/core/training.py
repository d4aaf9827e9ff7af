"""One fold from its configuration to its record: trained, measured, drawn, described.

config, context = load_config("configs/digits_config.yaml", ["data.fold=2"])
outcome = train_fold(config, context)
outcome.metrics["test/accuracy"]
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from common.config import RunContext
from common.config.tree import leaves, plain
from common.training import Trainer, fit, load_run_weights, open_run, show_metrics
from common.utils.checkpoint import load_checkpoint, save_checkpoint
from common.utils.errors import ConfigError
from common.utils.files import atomic_write_text
from common.utils.runs import Run
from common.utils.weights import save_weights
from projects.image_classification.core.config import ALL_FOLDS, Config
from projects.image_classification.core.config_files import load_config, run_config
from projects.image_classification.core.datasets import (
    data_splits,
    evaluation_loader,
    get_datasets,
)
from projects.image_classification.core.evaluation.run_evaluation import evaluate_run
from projects.image_classification.core.experiment import callbacks_of, experiment_config
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.lists_of_run import check_lists
from projects.image_classification.core.own_names import own_names
from projects.image_classification.core.predictions import (
    Predictions,
    predict_logits,
    read_predictions,
)
from projects.image_classification.core.run_directories import (
    EVALUATION,
    RUNS,
    WEIGHTS,
    dataset_name,
    run_name,
)
from projects.image_classification.core.task import ImageClassifier

CALIBRATION = "calibration"
_SHOWN = (  # the rest is in evaluation/<split>/report.txt
    *("val/accuracy", "val/log_loss", "test/accuracy", "test/balanced_accuracy", "test/f1_macro"),
    *("test/log_loss", "test/ece", "test/ece_calibrated"),
)


@dataclass(frozen=True)
class FoldOutcome:
    """What the training of a fold came to.

    Attributes:
        directory: The run's.
        metrics: By name, such as ``val/accuracy`` and ``test/accuracy``.
        predictions: Of the validation images (``val``) and the test images (``test``).
        is_main: Whether this process wrote the record; others have no metrics.
    """

    directory: Path
    metrics: dict[str, float]
    predictions: dict[str, Predictions]
    is_main: bool = True


def train_fold(
    config: Config,
    context: RunContext,
    *,
    directory: Path | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[Any] = (),
    evaluates: bool = True,
    opened: Callable[[Path], None] | None = None,
) -> FoldOutcome:
    """Train the fold ``data.fold``, or go on with it, then evaluate the best weights.

    Args:
        config: Facts of the data are filled in.
        context: Of the same configuration.
        directory: Of a new run; ``runs/<dataset>_<overrides>_fold_<N>`` by default.
        checkpoint: Of a resumed run, the one to go on from; by default the newest that is whole.
        callbacks: Beside those of the configuration.
        evaluates: Whether to measure the test images, draw and describe; the validation images
            are measured always.
        opened: Told the run's directory, which may have got a number, before anything is trained.

    Raises:
        ConfigError, DataError, CheckpointError, FaultError: see the parts.
    """
    fold = fold_number(config)
    name = run_name(dataset_name(config), context.overrides, fold)
    with (
        own_names(),
        open_run(
            experiment_config(config, steps_per_epoch=1),
            context,
            directory=directory or RUNS / name,
            checkpoints=WEIGHTS,
        ) as run,
    ):
        if opened is not None:
            opened(run.directory)
        check_lists(run.directory, config, fold)
        resolve_facts(config, context, fold)
        datasets = get_datasets(config, fold)
        data = data_splits(config, datasets)
        updates = -(-data.train.num_batches(0) // config.training.gradient_accumulation_steps)
        if checkpoint is not None:
            run.resume_from = checkpoint
        task = ImageClassifier(config, has_weights=run.resume_from is not None)
        experiment = experiment_config(config, updates)
        attached = [*callbacks_of(config), *callbacks]
        trainer = fit(task, data, experiment, context, run, callbacks=attached, units="images")
        if not trainer.is_main:
            return FoldOutcome(run.directory, {}, {}, is_main=False)
        best = best_weights(run)
        if best is not None:
            load_run_weights(task, best)
        splits = ("val", "test") if evaluates else ("val",)
        precision = experiment.trainer.precision
        predictions = {
            split: predict_logits(
                task, evaluation_loader(config, datasets[split]), datasets[split].paths, precision
            )
            for split in splits
            if split in datasets
        }
        for split, made in predictions.items():
            made.save(run.directory / EVALUATION / f"{split}.pt")
        metrics, temperature = evaluate_run(
            config, context, run, task, datasets, predictions, draws=evaluates
        )
        if best is not None and temperature is not None:
            _add_calibration(best, temperature)
        save_weights(task, run.directory / "model.safetensors")
        parameters = sum(p.numel() for p in task.parameters())
        run.record(metrics=metrics, parameters=parameters)
        show_metrics({name: metrics[name] for name in _SHOWN if name in metrics})
        sys.stdout.write(f"record: {run.directory}\n")
        _write_summary(config, run, trainer, metrics, temperature, best)
        return FoldOutcome(run.directory, metrics, predictions)


def resume_fold(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    checkpoint: Path | None = None,
    config_file: str | None = None,
) -> FoldOutcome:
    """Go on with a run under its own configuration.

    Args:
        directory: The run's.
        overrides: ``key=value`` words that replace its values, e.g. ``training.num_epochs=40``.
        checkpoint: The one to go on from; by default the newest that is whole.
        config_file: A configuration given beside; where it differs, the run's values count.
    """
    config, context = run_config(directory, overrides)
    context.resume = directory
    if config_file is not None:
        _tell_differences(config, config_file, overrides)
    return train_fold(config, context, checkpoint=checkpoint)


def read_outcome(directory: Path) -> FoldOutcome | None:
    """What a finished run came to; ``None`` if it is not finished."""
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    files = sorted((directory / EVALUATION).glob("*.pt"))
    return FoldOutcome(directory, summary["metrics"], {f.stem: read_predictions(f) for f in files})


def fold_number(config: Config) -> int:
    """The one fold of a configuration.

    Raises:
        ConfigError: if it is no number, or there is no such fold.
    """
    text = str(config.data.fold)
    there = folds_of(config)
    if not text.isdecimal() or int(text) not in there:
        known = ", ".join(map(str, there)) or "none: run ml-split first"
        raise ConfigError(
            f"data.fold is {text}; the folds in {config.data.data_dir}/splits: {known}"
        )
    return int(text)


def folds_of(config: Config) -> list[int]:
    """The folds there are index files of.

    Raises:
        ConfigError: if there is no folder of them.
    """
    splits = Path(config.data.data_dir) / "splits"
    if not splits.is_dir():
        raise ConfigError(
            f"{splits} does not exist; make it with ml-split --raw_data {config.data.data_dir}/raw "
            f"(data.data_dir is '{config.data.data_dir}', relative to {Path.cwd()})"
        )
    names = (path.name.split("_")[1] for path in splits.glob("fold_*_train.txt"))
    return sorted(int(name) for name in names if name.isdecimal())


def is_cross_validation(directory: Path) -> bool:
    """Whether a directory is the record of all folds, not of one."""
    return (directory / "cross_validation.json").is_file()


def best_weights(run: Run) -> Path | None:
    """The checkpoint that counts: the best by ``training.monitor``, else the last."""
    for name in ("best.pt", "last.pt"):
        if (path := run.checkpoints / name).is_file():
            return path
    return None


def _add_calibration(path: Path, temperature: float) -> None:
    """Put the temperature beside the weights: one file says what a probability is."""
    state = load_checkpoint(path)
    save_checkpoint({**state, CALIBRATION: {"temperature": temperature}}, path)


def _write_summary(
    config: Config,
    run: Run,
    trainer: Trainer,
    metrics: dict[str, float],
    temperature: float | None,
    best: Path | None,
) -> None:
    state = trainer.state
    summary = {
        "dataset": dataset_name(config),
        "fold": fold_number(config),
        "seed": config.seed,
        "epochs": state.epoch,
        "updates": state.step,
        "best_update": state.best_step,
        "monitor": config.training.monitor,
        "stopped": state.stopped or None,
        "checkpoint": None if best is None else best.relative_to(run.directory).as_posix(),
        "temperature": temperature,
        "metrics": metrics,
        "train_seconds": round(state.wall_seconds, 2),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(run.directory / "summary.json", text)


def _tell_differences(config: Config, file: str, overrides: Sequence[str]) -> None:
    given = dict(leaves(plain(load_config(file, overrides)[0])))
    ours = dict(leaves(plain(config)))
    differ = [
        f"{key} ({ours.get(key)!r}, {value!r} in the file)"
        for key, value in given.items()
        if value is not None and ours.get(key) != value
    ]
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        logger.warning(
            f"a resumed run keeps its own values; {file} differs in {', '.join(differ[:5])}{more}; "
            "key=value words change them"
        )
    if given.get("data.fold") == ALL_FOLDS:
        logger.warning(f"{file} asks for all folds; only the resumed one is trained")
