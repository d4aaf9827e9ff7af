"""What the trials of this folder run in processes of their own."""

import os
import signal
from typing import Any

from common.training import Callback, Trainer
from projects.image_classification.cli.train import main
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.training import train_fold


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
    main(words)


def killed(directory: str, words: list[str], kill_at: int) -> None:
    """A training that is killed after ``kill_at`` updates."""
    os.chdir(directory)
    config, context = load_config("config.yaml", words)
    callbacks: list[Any] = [KillAt(kill_at)]
    train_fold(config, context, callbacks=callbacks)
