"""What the trials of this folder run in processes of their own.

The server of the trials imports this, and with it what a training imports only when it is needed:
each trial then begins where these imports end, two seconds later.
"""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from common.training import Callback, Trainer
from projects.image_classification.cli.search import main as search
from projects.image_classification.cli.train import main as train
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.training import train_fold

for _name in (
    *("hydra.core.override_parser.overrides_parser", "matplotlib.backends.backend_agg"),
    *("matplotlib.figure", "scipy.optimize", "torchmetrics.functional.classification"),
    *("projects.image_classification.core.search.search", "torchvision.transforms.v2"),
    *("optuna.visualization", "psycopg"),
):
    if find_spec(_name.split(".")[0]):
        import_module(_name)


class KillAt(Callback):
    """Ends the process without a word once so many updates were made."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def ml_train(directory: str, words: list[str]) -> None:
    """``ml-train`` in a directory."""
    os.chdir(directory)
    sys.argv = ["ml-train", *words]  # what the record says was typed
    train(words)


def ml_search(directory: str, words: list[str]) -> None:
    """``ml-search`` in a directory."""
    os.chdir(directory)
    sys.argv = ["ml-search", *words]  # what the record says was typed
    search(words)


def killed(directory: str, words: list[str], kill_at: int) -> None:
    """A training that is killed after ``kill_at`` updates."""
    os.chdir(directory)
    config, context = load_config("config.yaml", words)
    callbacks: list[Any] = [KillAt(kill_at)]
    train_fold(config, context, callbacks=callbacks)
