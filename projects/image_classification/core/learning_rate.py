"""The range test of the learning rate on a classification, and its record.

``runs/lr_finder_<time>/`` holds ``lr_plot.png``, ``results.json``, ``lr_finder.log`` and the
``config.yaml`` that was swept.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from loguru import logger

from common.training import Trainer
from common.training.lr_finder import LearningRateRange, check_sweep, find_learning_rate
from common.training.rng import seed_rank
from common.utils.errors import RepriseError
from common.utils.files import atomic_write_text
from common.utils.logging import setup_logger
from common.utils.runs import Run
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.datasets import data_splits, get_datasets
from projects.image_classification.core.experiment import optimizer_config, trainer_config
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.run_directories import RUNS
from projects.image_classification.core.task import ImageClassifier
from projects.image_classification.core.training import fold_number


def sweep_learning_rate(
    config_file: str, overrides: Sequence[str] = (), **sweep: Any
) -> tuple[LearningRateRange, Path]:
    """Sweep the learning rate over the updates that ``ml-train`` would make.

    Args:
        config_file: The configuration.
        overrides: ``key=value`` words.
        **sweep: ``start_lr``, ``end_lr``, ``num_iter``, ``beta`` and ``diverge_threshold`` of
            ``common.training.lr_finder.find_learning_rate``.

    Returns:
        What was found, and the directory of its record.

    Raises:
        ConfigError: for a wrong configuration, or values of the sweep that do not fit together.
        DataError: for missing or unreadable images.
    """
    setup_logger()
    check_sweep(**sweep)
    config, context = load_config(config_file, overrides)
    fold = fold_number(config)
    directory = Run.claim(RUNS / f"lr_finder_{datetime.now():%Y-%m-%d_%H-%M-%S}").directory
    setup_logger(directory / "lr_finder.log")
    try:
        trainer_values = replace(trainer_config(config), loggers=[])
        if trainer_values.strategy == "private":
            logger.warning("the sweep has neither the clipping nor the noise of trainer_type dp")
            trainer_values = replace(trainer_values, strategy="auto", privacy=None)
        seed_rank(config.seed, 0, config.deterministic)
        resolve_facts(config, context, fold)
        data = data_splits(config, get_datasets(config, fold))
        sizes = ", ".join(f"{count:,} {name}" for name, count in data.info.sizes.items())
        logger.info(f"{data.info.name}, fold {fold}: {sizes}")
        trainer = Trainer(trainer_values, context=context, seed=config.seed, units="images")
        found = find_learning_rate(
            trainer,
            ImageClassifier(config),
            data.train,
            info=data.info,
            optim=optimizer_config(config),
            **sweep,
        )
        atomic_write_text(directory / "config.yaml", context.to_yaml())
        found.save(directory)
    except (RepriseError, KeyboardInterrupt):
        setup_logger()
        shutil.rmtree(directory, ignore_errors=True)  # nothing came of it
        raise
    setup_logger()
    return found, directory
