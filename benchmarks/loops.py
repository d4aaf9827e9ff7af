"""The loops written by hand, and ours: each trains a ``Workload`` from start to end."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.workloads import (
    LEARNING_RATE,
    LOG_EVERY,
    Classifier,
    Tick,
    Workload,
    adamw,
)
from common.training import OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.callbacks import Progress
from common.utils import Run


def raw_naive(workload: Workload, on_forward: Tick) -> None:
    """What many a script has: ``DataLoader``, ``torch.optim.AdamW`` as it comes, ``.item()``."""
    model = workload.model(on_forward)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    loader, validation = workload.data_loader(), workload.validation_data_loader()
    for _ in range(workload.epochs):
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        if validation is not None:
            _validate(model, validation)


def raw_data_loader(workload: Workload, on_forward: Tick) -> None:
    """``DataLoader``, fused AdamW, losses kept in a list."""
    model = workload.model(on_forward)
    optimizer = adamw(list(model.parameters()))
    loader, validation = workload.data_loader(), workload.validation_data_loader()
    losses: list[Tensor] = []
    for _ in range(workload.epochs):
        model.train()
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        losses.clear()
        if validation is not None:
            _validate(model, validation)


def raw_tensor_loader(workload: Workload, on_forward: Tick) -> None:
    """Our ``TensorLoader``, fused AdamW, losses kept in a list: the leanest of all.

    With a realistic set-up also what a hand would add: accuracies, a printed line every so many
    steps, and ``torch.save`` of model and optimizer after every epoch.
    """
    model = workload.model(on_forward)
    optimizer = adamw(list(model.parameters()))
    loader, validation = workload.tensor_loader(), workload.validation_tensor_loader()
    losses: list[Tensor] = []
    accuracies: list[Tensor] = []
    for epoch in range(workload.epochs):
        model.train()
        for batch in loader.batches(epoch):
            logits = model(batch["x"])
            loss = nn.functional.cross_entropy(logits, batch["y"])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            if workload.directory is None:
                continue
            accuracies.append((logits.argmax(1) == batch["y"]).float().mean())
            if len(losses) % LOG_EVERY == 0:
                means = [torch.stack(values[-LOG_EVERY:]).mean() for values in (losses, accuracies)]
                with _quiet():
                    print(len(losses), *map(float, means), file=sys.stderr)
        losses.clear()
        accuracies.clear()
        if validation is not None:
            _validate(model, ((b["x"], b["y"]) for b in validation.batches(0)))
        if workload.directory is not None:
            workload.directory.mkdir(parents=True, exist_ok=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, workload.directory / "last.pt")


class ClassifierTask(Task):
    """The classifier as a task; with a realistic set-up it also measures its accuracy."""

    def __init__(self, model: Classifier, with_accuracy: bool) -> None:
        super().__init__()
        self.model = model
        self._with_accuracy = with_accuracy

    def compute_loss(self, batch: Any) -> Any:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        logits = self.model(x)
        loss = nn.functional.cross_entropy(logits, y)
        if not self._with_accuracy:
            return loss
        return {"loss": loss, "accuracy": (logits.argmax(1) == y).float().mean()}


def ours_tensor_loader(workload: Workload, on_forward: Tick) -> None:
    """Our trainer with our loader: the defaults of a user whose data is in memory."""
    loaders = workload.tensor_loader(), workload.validation_tensor_loader()
    _ours(workload, on_forward, *loaders)


def ours_data_loader(workload: Workload, on_forward: Tick) -> None:
    """Our trainer with a ``DataLoader``, as the peers have it."""
    loaders = workload.data_loader(), workload.validation_data_loader()
    _ours(workload, on_forward, *loaders)


def _ours(workload: Workload, on_forward: Tick, train: Any, validation: Any) -> None:
    directory = workload.directory
    task = ClassifierTask(workload.model(on_forward), with_accuracy=directory is not None)
    optim = OptimizerConfig(lr=LEARNING_RATE)
    config = TrainerConfig(max_epochs=workload.epochs, log_every=LOG_EVERY, device="cpu")
    with _quiet():
        if directory is None:
            Trainer(config).fit(task, train, validation, optim=optim)
            return
        directory.mkdir(parents=True, exist_ok=True)
        with Run(directory) as run:
            trainer = Trainer(config, run=run, callbacks=[Progress(bar=True)])
            trainer.fit(task, train, validation, optim=optim)


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bar and log lines go to the null device, where they are still written."""
    with open(os.devnull, "w") as sink, redirect_stderr(sink):
        yield


def _validate(model: Classifier, batches: Any) -> float:
    model.eval()
    correct = torch.zeros((), dtype=torch.int64)
    with torch.no_grad():
        for x, y in batches:
            correct += (model(x).argmax(1) == y).sum()
    return float(correct)
