"""``get_trainer``: a network, a loss and an optimizer of one's own on the shared engine.

``training.trainer_type`` chooses a strategy and a precision of the one Trainer; there is no second
loop. ``ml-train`` builds everything from the configuration instead (``core.training``).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.config import RunContext
from common.training import Callback, StepOutput, Task, Trainer
from common.utils.errors import ConfigError
from common.utils.runs import Run
from projects.image_classification.core.config import Config
from projects.image_classification.core.experiment import (
    MONITORS,
    callbacks_of,
    experiment_config,
)
from projects.image_classification.core.run_directories import WEIGHTS

Criterion = Callable[[Tensor, Tensor], Tensor]


class SuppliedTask(Task):
    """A network and a loss that somebody else made.

    Args:
        model: Images to logits ``(B, K)``.
        criterion: The mean loss of logits and labels.
    """

    def __init__(self, model: nn.Module, criterion: Criterion) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.model(images)

    def train_step(self, batch: Any) -> StepOutput:
        """Loss and accuracy of ``{"image", "label"}`` or ``(images, labels)``."""
        images, labels = _pair(batch)
        logits = self(images)
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        correct = (logits.argmax(1) == classes).sum()
        loss = self.criterion(logits, labels)
        return StepOutput(loss, len(labels), {"accuracy": correct}, is_mean=True)

    def predict_step(self, batch: Any) -> Tensor:
        """Logits of a batch."""
        return self(_pair(batch)[0])


class TorchScheduler(Callback):
    """A scheduler of ``torch.optim.lr_scheduler``, stepped after every epoch.

    Args:
        scheduler: Over the optimizer that is trained with.
        monitor: What ``ReduceLROnPlateau`` looks at.
    """

    priority = 10

    def __init__(self, scheduler: Any, monitor: str = "validation/loss") -> None:
        self.scheduler, self.monitor = scheduler, monitor
        groups = scheduler.optimizer.param_groups
        self._peaks = [group.get("initial_lr", group["lr"]) for group in groups]
        self._rates = [group["lr"] for group in groups]
        self._is_plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def on_fit_start(self, trainer: Trainer) -> None:
        self._give(trainer)

    def on_evaluation_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        if self._is_plateau:
            self._step(trainer, record[self.monitor])

    def on_epoch_start(self, trainer: Trainer) -> None:
        if not self._is_plateau and trainer.state.epoch > self.scheduler.last_epoch:
            self._step(trainer)

    def _step(self, trainer: Trainer, *metrics: float) -> None:
        groups = trainer.optimizer.param_groups
        for group, rate, peak in zip(groups, self._rates, self._peaks, strict=True):
            group["lr"], group["initial_lr"] = rate, peak  # what the scheduler goes on from
        self.scheduler.step(*metrics)
        self._rates = [group["lr"] for group in groups]
        self._give(trainer)

    def _give(self, trainer: Trainer) -> None:
        """Each group's own rate is what the Trainer's schedule, a constant, multiplies."""
        for group, rate in zip(trainer.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = group["initial_lr"] = rate
        trainer.lr_scale = 1.0

    def state_dict(self) -> dict[str, Any]:
        plain = {k: v for k, v in self.scheduler.state_dict().items() if _is_plain(v)}
        return {"scheduler": plain, "rates": self._rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), **state["scheduler"]})
        self._rates = list(state["rates"])


class ClassificationTrainer:
    """One training, from its parts.

    Attributes:
        run: The record in ``run_dir``; its checkpoints are ``weights/{best,last}.pt``.
        task: The network with its loss.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        dataloaders: Mapping[str, Any],
        optimizer: Optimizer,
        callbacks: list[Callback],
        run: Run,
    ) -> None:
        self.config, self.task, self.dataloaders = config, task, dataloaders
        self.optimizer, self.callbacks, self.run = optimizer, callbacks, run

    def train(self, resume: str | Path | None = None) -> dict[str, float]:
        """Train, and return the last validation's metrics.

        Args:
            resume: A checkpoint to go on from.
        """
        experiment = experiment_config(self.config, steps_per_epoch=1)
        with self.run:
            self._trainer = Trainer(
                experiment.trainer,
                run=self.run,
                context=RunContext(self.config, experiment="image_classification"),
                callbacks=self.callbacks,
                seed=self.config.seed,
                units="images",
            )
            return self._trainer.fit(
                self.task,
                self.dataloaders["train"],
                self.dataloaders.get("val"),
                optim=self.optimizer,
                resume=None if resume is None else Path(resume),
            )

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Loss and accuracy of one of the data loaders."""
        return self._trainer.evaluate(self.task, self.dataloaders[split], prefix=split)


def get_trainer(
    config: Config,
    model: nn.Module,
    dataloaders: Mapping[str, Any],
    criterion: Criterion,
    optimizer: Optimizer,
    scheduler: Any,
    device: torch.device | str,
    run_dir: str | Path,
    num_classes: int,
) -> ClassificationTrainer:
    """The trainer that ``training.trainer_type`` names, around parts of one's own.

    Args:
        config: Its ``training`` section counts; optimizer and scheduler are the ones given.
        model: Images to logits ``(B, num_classes)``.
        dataloaders: ``train``, and perhaps ``val`` and ``test``; batches are
            ``{"image", "label"}`` or ``(images, labels)``.
        criterion: The mean loss of logits and labels, e.g. ``nn.CrossEntropyLoss()``.
        optimizer: Over the parameters of ``model``.
        scheduler: Of ``torch.optim.lr_scheduler``, stepped every epoch; or ``None``.
        device: Where to train.
        run_dir: Where the record and ``weights/`` go; made if needed.
        num_classes: For a check of the network's output.

    Raises:
        ConfigError: if there is no ``train`` loader.
    """
    if "train" not in dataloaders:
        raise ConfigError(f"dataloaders has {sorted(dataloaders)}; 'train' is missing")
    config.training.device = str(device)
    config.data.num_classes = num_classes
    callbacks = callbacks_of(config)
    if scheduler is not None:
        callbacks.append(TorchScheduler(scheduler, MONITORS[config.training.monitor][0]))
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    run = Run(run_dir, config.seed, checkpoints=WEIGHTS)
    task = SuppliedTask(model, criterion)
    return ClassificationTrainer(config, task, dataloaders, optimizer, callbacks, run)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        return batch["image"], batch["label"]
    images, labels = batch
    return images, labels


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
