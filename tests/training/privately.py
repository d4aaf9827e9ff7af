"""Trainings under ``strategy=private``, for its tests."""

from pathlib import Path
from typing import Any

import torch

from common.data import TensorLoader
from common.training import OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.privacy.budget import PrivacyConfig
from common.utils import Run
from tests.training.tiny import TinyTask, features

N, B = 200, 32


def train(
    task: Task | None = None,
    directory: Path | None = None,
    *,
    loader: Any = None,
    privacy: dict[str, Any] | None = None,
    callbacks: Any = (),
    resume: Path | None = None,
    lr: float = 0.1,
    validation: Any = None,
    **values: Any,
) -> Trainer:
    """Train privately with plain SGD; returns the trainer."""
    settings = {"noise_multiplier": 1.0} | (privacy or {})
    config = TrainerConfig(
        **({"strategy": "private", "max_epochs": 2, "log_every": 3, "loggers": []} | values),
        privacy=PrivacyConfig(**settings),
    )
    task = TinyTask(dropout=0.0) if task is None else task
    loader = TensorLoader(features(N), B, shuffle=True, seed=1) if loader is None else loader
    arguments = {"optim": OptimizerConfig("sgd", lr=lr), "resume": resume}
    if directory is None:
        trainer = Trainer(config, callbacks=callbacks)
        trainer.fit(task, loader, validation, **arguments)
        return trainer
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, 3) as run:
        trainer = Trainer(config, run=run, callbacks=callbacks, seed=3)
        trainer.fit(task, loader, validation, **arguments)
    return trainer


def twins(kind: type[Task] = TinyTask, **arguments: Any) -> tuple[Task, Task]:
    torch.manual_seed(0)
    one, other = kind(**arguments), kind(**arguments)
    other.load_state_dict(one.state_dict())
    return one, other


def assert_same_weights(one: Task, other: Task) -> None:
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)
