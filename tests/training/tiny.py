"""The smallest task and data there are, for tests of the engine."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.data import TensorLoader
from common.testing.equality import metric_records, run_differences
from common.training import StepOutput, Task, Trainer, TrainerConfig
from common.utils import Run, seed_everything


class TinyTask(Task):
    """Two layers with dropout between, on eight features and three classes."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def compute_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.net(batch["x"])
        accuracy = (logits.argmax(1) == batch["y"]).float().mean()
        return {"loss": nn.functional.cross_entropy(logits, batch["y"]), "accuracy": accuracy}


class TokenTask(Task):
    """Predicts a token from itself; its loss is over tokens that are not 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.out = nn.Linear(6, 10)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        tokens = batch["tokens"]
        logits = self.out(self.embedding(tokens))
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens.flatten(), ignore_index=0, reduction="sum"
        )
        return StepOutput(loss, (tokens != 0).sum())


def features(size: int = 200) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 8, generator=generator)
    return {"x": x, "y": (x[:, 0] > 0).long() + (x[:, 1] > 0).long()}


def loaders(size: int = 200, batch_size: int = 32) -> tuple[TensorLoader, TensorLoader]:
    data = features(size)
    return TensorLoader(data, batch_size, shuffle=True, seed=1), TensorLoader(data, 64)


def fit(
    directory: Path | None = None,
    *,
    resume: Path | None = None,
    callbacks: Any = (),
    kind: type[Task] = TinyTask,
    seed: int = 3,
    **values: Any,
) -> Trainer:
    """Train ``TinyTask`` for a few epochs; returns the trainer afterwards."""
    seed_everything(seed)
    task = kind()
    settings = {"max_epochs": 3, "log_every": 3, "loggers": []} | values
    config = TrainerConfig(**settings)
    if directory is None:
        trainer = Trainer(config, callbacks=callbacks)
        trainer.fit(task, *loaders())
        return trainer
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, seed) as run:
        trainer = Trainer(config, run=run, callbacks=callbacks)
        trainer.fit(task, *loaders(), resume=resume)
    return trainer


def records(directory: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without what a clock measured."""
    return metric_records(directory)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, generators, callbacks and records agree to the last bit."""
    assert run_differences(one, other) == []
