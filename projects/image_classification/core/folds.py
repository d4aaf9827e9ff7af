"""Every fold of a data set: one run each, then what they say together.

The record ``runs/<dataset>_<overrides>_fold_all/`` holds ``cross_validation.json`` (which run is which
fold), ``out_of_fold.csv`` (every image judged by the network that has not seen it), ``report.txt`` and
``summary.json`` with mean and spread over the folds, the pooled metrics with their intervals, and the
score of the folds' ensemble on the test images.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from common.config import RunContext
from common.utils.errors import ConfigError
from common.utils.files import atomic_write_text
from common.utils.runs import Run
from projects.image_classification.core.config import ALL_FOLDS, Config
from projects.image_classification.core.config_files import run_config
from projects.image_classification.core.cross_validation import report_folds
from projects.image_classification.core.run_directories import RUNS, dataset_name, run_name
from projects.image_classification.core.training import (
    FoldOutcome,
    folds_of,
    read_outcome,
    resume_fold,
    train_fold,
)

RECORD = "cross_validation.json"


def train_folds(config: Config, context: RunContext) -> None:
    """Train what ``data.fold`` names: one fold, or each of them after the other.

    Raises:
        ConfigError: if there are no folds, or several processes were launched for all of them.
    """
    if str(config.data.fold) != ALL_FOLDS:
        train_fold(config, context)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "data.fold=all trains the folds one after the other in one process; with several "
            "processes start a command for each fold"
        )
    numbers = folds_of(config)
    if not numbers:
        raise ConfigError(f"{config.data.data_dir}/splits holds no fold; run ml-split first")
    name = run_name(dataset_name(config), context.overrides, ALL_FOLDS)
    home = Run.claim(RUNS / name, config.seed).directory
    record = {
        "overrides": list(context.overrides),
        "dry_run": context.dry_run,
        "folds": {},
    }
    atomic_write_text(home / "config.yaml", context.to_yaml())
    _write(home, record)
    _run(home, record, numbers)


def resume_folds(
    directory: Path,
    overrides: Sequence[str] = (),
    *,
    checkpoint: Path | None = None,
    config_file: str | None = None,
) -> None:
    """Go on with a cross-validation: finished folds stay, the open one is resumed, the rest follow.

    Raises:
        ConfigError: for overrides, which would make folds differ.
    """
    if overrides:
        raise ConfigError(
            f"a cross-validation is resumed with its own values; got {' '.join(overrides)}"
        )
    record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    config, _ = run_config(directory)
    _run(directory, record, folds_of(config))


def _run(home: Path, record: dict[str, Any], numbers: Sequence[int]) -> None:
    outcomes: dict[int, FoldOutcome] = {}
    for number in numbers:
        logger.info(f"fold {number} of {', '.join(map(str, numbers))}")
        outcomes[number] = _fold(home, record, number)
    report_folds(home, run_config(outcomes[numbers[0]].directory)[0], outcomes)


def _fold(home: Path, record: dict[str, Any], number: int) -> FoldOutcome:
    known = record["folds"].get(str(number))
    directory = None if known is None else home.parent / known
    if directory is not None and (outcome := read_outcome(directory)) is not None:
        return outcome
    if directory is not None and any((directory / "weights").glob("*.pt")):
        return resume_fold(directory)
    overrides = [w for w in record["overrides"] if not w.startswith("data.fold=")]
    # From the record: the file may have been edited since the first fold began.
    config, context = run_config(home, [f"data.fold={number}"])
    context.overrides = [*overrides, f"data.fold={number}"]
    context.dry_run = record["dry_run"]

    def note(run: Path) -> None:
        record["folds"][str(number)] = run.name
        _write(home, record)

    name = run_name(dataset_name(config), overrides, number)
    return train_fold(config, context, directory=home.parent / name, opened=note)


def _write(home: Path, record: dict[str, Any]) -> None:
    atomic_write_text(home / RECORD, json.dumps(record, indent=2) + "\n")
