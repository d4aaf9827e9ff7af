"""A run of several ranks of which one fails: ``failing_rank.py DIRECTORY STRATEGY raise|kill``."""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common.config import RunContext
from common.training import Trainer, TrainerConfig, open_run
from common.training.callbacks import Callback
from common.utils.errors import DataError, exit_on_error
from tests.training.ranks import StackTask, data

DIRECTORY, STRATEGY, HOW = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


@dataclass
class Config:
    """What ``open_run`` reads."""

    seed: int = 0
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            max_steps=100_000, device="cpu", strategy=STRATEGY, loggers=[]
        )
    )


class Fail(Callback):
    """Ends rank 1 after its fifth update."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step != 5 or trainer.strategy.rank != 1:
            return
        if HOW == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("sample 7 is damaged")


(DIRECTORY / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
with exit_on_error(), open_run(Config(), RunContext(experiment="failing")) as run:
    Trainer(Config().trainer, run=run, callbacks=[Fail()]).fit(StackTask(), *data())
