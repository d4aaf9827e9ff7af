"""The trainings that are killed, stopped and starved: functions that run in a process of their own.

The task has dropout, the data random augmentation, and every batch leaves a trace in the metrics
(``train/order`` from its indices, ``train/seen`` from what was augmented): a run that read another
sample, or read it in another way, has another ``metrics.jsonl``.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.data import SampleLoader, ShuffledBatches
from common.testing import faults
from common.training import EMA, Callback, StepOutput, Task, Trainer, TrainerConfig
from common.training.callbacks import History
from common.training.strategies import build_strategy
from common.utils import Run, latest_checkpoint, seed_everything

SIZE, BATCH = 73, 8  # ten batches, the last of a single sample
Moment = Callable[[str, int], None]


class Augmented(Dataset):
    """Points of two classes, moved by all three generators; ``delay`` seconds each."""

    def __init__(self, size: int, delay: float = 0.0) -> None:
        self.points = torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
        self.delay = delay

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.delay:
            time.sleep(self.delay)
        point = self.points[index]
        noise = torch.randn(8) * 0.1 + random.random() * 0.1 + float(np.random.rand()) * 0.1
        return {
            "x": point + noise,
            "y": (point[:4].sum() > 0).long(),
            "index": torch.tensor(index),
        }


class TracedTask(Task):
    """Two layers with dropout; its metrics are a trace of the data.

    Args:
        dropout: Its probability.
        width: Of the layer between.
        at: Called with ``train`` or ``eval`` and the number of the call within this process.
    """

    def __init__(self, dropout: float, width: int, at: Moment | None = None) -> None:
        super().__init__()
        layers = nn.Linear(8, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2)
        self.net = nn.Sequential(*layers)
        self._at = at
        self._calls = {"train": 0, "eval": 0}

    def _step(self, batch: dict[str, Tensor], kind: str) -> StepOutput:
        self._calls[kind] += 1
        if self._at is not None:
            self._at(kind, self._calls[kind])
        loss = nn.functional.cross_entropy(self.net(batch["x"]), batch["y"], reduction="sum")
        places = torch.arange(1, len(batch["index"]) + 1, dtype=torch.float64)
        trace = {"order": (batch["index"] * places).sum(), "seen": batch["x"].double().sum()}
        return StepOutput(loss, len(batch["y"]), trace, {"index": batch["index"]})

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        return self._step(batch, "train")

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        return self._step(batch, "eval")

    def compute_metrics(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """How many examples an evaluation counted, and how many different ones."""
        index = collected["index"]
        return {"counted": float(len(index)), "different": float(len(index.unique()))}


class At(Callback):
    """Calls ``act`` at the end of an update."""

    def __init__(self, step: int | None, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            self.act()


def loaders(workers: int, delay: float, validation_size: int) -> tuple[SampleLoader, SampleLoader]:
    """Training batches, and validation over a number that neither batches nor ranks divide."""
    train = SampleLoader(
        Augmented(SIZE, delay), ShuffledBatches(SIZE, BATCH, seed=5), num_workers=workers, seed=5
    )
    validation = SampleLoader(
        Augmented(validation_size),
        ShuffledBatches(validation_size, BATCH, shuffle=False),
        num_workers=workers,
    )
    return train, validation


def train(
    directory: str,
    *,
    workers: int = 0,
    accumulate: int = 1,
    kill_at: int | None = None,
    signals: tuple[int, ...] = (),
    signal_at: int | None = None,
    signal_rank: int | None = None,
    moment: str = "step",
    pause: float = 0.0,
    delay: float = 0.0,
    dropout: float = 0.3,
    width: int = 16,
    validation_size: int = 21,
    seed: int = 3,
    fault: dict[str, Any] | None = None,
    at_step: tuple[int | None, Callable[[], None]] | None = None,
    **values: Any,
) -> None:
    """Train in ``directory``; goes on from its newest checkpoint if it has one.

    Args:
        directory: The run's.
        workers: Of both loaders.
        accumulate: Micro-batches an update.
        kill_at: SIGKILL to this process after so many updates.
        signals: Sent to this process's group, one after the other.
        signal_at: When: after this update, or in this call of ``moment``.
        signal_rank: Which process sends them; all by default.
        moment: ``step`` (between updates), ``train`` (inside one) or ``eval``.
        pause: Seconds that every step takes, for signals from outside.
        delay: Seconds that every sample takes.
        dropout: Of the task.
        width: Of the task.
        validation_size: Examples.
        seed: Of everything but the data; a resumed process begins with another one, which must
            not matter.
        fault: ``{"kind": a context manager of common.testing.faults, ...its arguments}``.
        at_step: An update, and what is called after it.
        values: Of ``TrainerConfig``.
    """
    strategy = build_strategy(TrainerConfig(strategy="auto", device="cpu"))

    def send() -> None:
        if signal_rank not in (None, strategy.rank):
            return
        for number in signals:
            os.killpg(os.getpgrp(), number)

    def at(kind: str, call: int) -> None:
        if pause:
            time.sleep(pause)
        if kind == moment and call == signal_at:
            send()

    if at_step is None:
        at_step = kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL)
    stop = At(signal_at if moment == "step" else None, send)
    kill = At(*at_step)
    kill.__class__ = type("Kill", (At,), {})  # two callbacks, two names in the checkpoint
    run_directory = Path(directory)
    run_directory.mkdir(parents=True, exist_ok=True)
    settings = {"max_epochs": 2, "log_every": 1, "loggers": [], "save_every": 2} | values
    with Run(run_directory, seed, is_owner=strategy.rank == 0) as run:
        trainer = Trainer(
            TrainerConfig(accumulate=accumulate, **settings),
            run=run,
            callbacks=[stop, kill, EMA(0.9)],
        )
        for callback in trainer.callbacks:
            if isinstance(callback, History):
                callback._plot = False  # a picture takes ten times as long as this training
        resume = latest_checkpoint(run.checkpoints)
        if resume is None:  # there is nothing to go on from: begin as in a new directory
            (run_directory / "metrics.jsonl").unlink(missing_ok=True)
        seed_everything(seed if resume is None else seed + 96)
        with _entered(fault):
            trainer.fit(
                TracedTask(dropout, width, at),
                *loaders(workers, delay, validation_size),
                resume=resume,
            )
    strategy.close()


def _entered(fault: dict[str, Any] | None) -> AbstractContextManager[Any]:
    if fault is None:
        return nullcontext()
    arguments = dict(fault)
    if "below" in arguments:
        arguments["below"] = Path(arguments["below"])
    context: AbstractContextManager[Any] = getattr(faults, arguments.pop("kind"))(**arguments)
    return context


def create_run(outputs: str) -> None:
    """Open a new run below ``outputs``, as every command does first."""
    with Run.create("paper", outputs=Path(outputs)):
        pass


def train_at_another_time(directory: str, hours: float) -> None:
    """``train`` on a machine whose clocks stand elsewhere."""
    with _clocks_moved(hours):
        train(directory)


def create_run_at_another_time(outputs: str, hours: float) -> None:
    """``create_run`` on a machine whose clocks stand elsewhere."""
    with _clocks_moved(hours):
        create_run(outputs)


@contextmanager
def _clocks_moved(hours: float) -> Iterator[None]:
    """Both clocks: a machine that was set, and one that was started anew in between."""
    from common.utils import runs

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=hours)

    monotonic, wall = time.monotonic, time.time
    time.monotonic = lambda: monotonic() + 3600 * hours
    time.time = lambda: wall() + 3600 * hours
    runs.datetime = Moved
    yield
