"""Lightning, HF Trainer, Accelerate and Ignite on a ``Workload``, each the way its guide shows it.

A plain loop has every record and bar switched off. The realistic one has a progress bar (written
to the null device), loss and accuracy every 50 steps as lines of text and as TensorBoard events,
and a checkpoint of weights and optimizer after every epoch. Peers are imported where they are used.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.workloads import (
    BATCH_SIZE,
    LEARNING_RATE,
    LOG_EVERY,
    VALIDATION_BATCH_SIZE,
    Classifier,
    Tick,
    Workload,
    adamw,
)


def lightning_trainer(workload: Workload, on_forward: Tick) -> None:
    """``lightning.Trainer``; lines of text are its CSV logger's."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    directory = workload.directory

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = workload.model(on_forward)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            x, y = batch
            loss, accuracy = _loss_and_accuracy(self.model, x, y, directory is not None)
            if accuracy is not None:
                self.log("train/loss", loss, prog_bar=True)
                self.log("train/accuracy", accuracy)
            return loss

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            x, y = batch
            loss, accuracy = _loss_and_accuracy(self.model, x, y, True)
            self.log_dict({"validation/loss": loss, "validation/accuracy": accuracy})

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adamw(list(self.parameters()))

    options: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    if directory is not None:
        options = {
            "logger": [CSVLogger(directory), TensorBoardLogger(directory)],
            "callbacks": [ModelCheckpoint(directory / "checkpoints", save_last=True)],
        }
    with _silent("lightning.pytorch"):
        trainer = Trainer(
            max_epochs=workload.epochs,
            accelerator="cpu",
            devices=1,
            log_every_n_steps=LOG_EVERY,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(Module(), workload.data_loader(), workload.validation_data_loader())


def hf_trainer(workload: Workload, on_forward: Tick) -> None:
    """``transformers.Trainer``; it logs no accuracy while it trains, and keeps its lines of text
    in each checkpoint's ``trainer_state.json``."""
    from transformers import Trainer, TrainingArguments

    directory = workload.directory
    realistic = directory is not None
    place = directory or Path(tempfile.gettempdir())  # it must exist; a plain loop writes nothing
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(place / "tensorboard")
    arguments = TrainingArguments(
        output_dir=str(place),
        num_train_epochs=workload.epochs,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=VALIDATION_BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=0.0,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="tensorboard" if realistic else "none",
        logging_strategy="steps" if realistic else "no",
        logging_steps=LOG_EVERY,
        save_strategy="epoch" if realistic else "no",
        save_total_limit=1,
        eval_strategy="epoch" if workload.validation is not None else "no",
        disable_tqdm=not realistic,
    )
    with _silent("transformers"):
        trainer = Trainer(
            model=_WithLoss(workload.model(on_forward)),
            args=arguments,
            train_dataset=_Examples(*workload.train),
            eval_dataset=None if workload.validation is None else _Examples(*workload.validation),
            compute_metrics=_hf_accuracy,
        )
        trainer.train()


def accelerate_loop(workload: Workload, on_forward: Tick) -> None:
    """A loop by hand around ``accelerate.Accelerator``, with its tracker and its ``save_state``."""
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration
    from tqdm import tqdm

    directory = workload.directory
    tracked: dict[str, Any] = {}
    if directory is not None:
        project = ProjectConfiguration(
            str(directory), automatic_checkpoint_naming=True, total_limit=1
        )
        tracked = {"log_with": "tensorboard", "project_config": project}
    with _silent("accelerate"):
        accelerator = Accelerator(cpu=True, **tracked)
        model = workload.model(on_forward)
        model, optimizer, loader = accelerator.prepare(
            model, adamw(list(model.parameters())), workload.data_loader()
        )
        validation = workload.validation_data_loader()
        validation = None if validation is None else accelerator.prepare(validation)
        if directory is not None:
            accelerator.init_trackers("benchmark")
        step = 0
        for _ in range(workload.epochs):
            model.train()
            for x, y in tqdm(loader, disable=directory is None):
                loss, accuracy = _loss_and_accuracy(model, x, y, directory is not None)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                if directory is not None and accuracy is not None and step % LOG_EVERY == 0:
                    record = {"train/loss": loss.item(), "train/accuracy": accuracy.item()}
                    accelerator.log(record, step=step)
                    _append(directory / "metrics.jsonl", {"step": step, **record})
            if validation is not None:
                _accelerate_validation(accelerator, model, validation)
            if directory is not None:
                accelerator.save_state()
        accelerator.end_training()


def ignite_engine(workload: Workload, on_forward: Tick) -> None:
    """``create_supervised_trainer`` and its handlers."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers import Checkpoint, DiskSaver, ProgressBar
    from ignite.handlers.tensorboard_logger import TensorboardLogger
    from ignite.metrics import Accuracy, Loss, RunningAverage

    directory = workload.directory
    model = workload.model(on_forward)
    optimizer = adamw(list(model.parameters()))
    cross_entropy = nn.CrossEntropyLoss()
    if directory is None:
        trainer = create_supervised_trainer(model, optimizer, cross_entropy)
    else:
        trainer = create_supervised_trainer(
            model, optimizer, cross_entropy, output_transform=lambda x, y, p, loss: (p, y, loss)
        )
        RunningAverage(output_transform=lambda output: output[2]).attach(trainer, "loss")
        right = RunningAverage(Accuracy(output_transform=lambda output: output[:2]))
        right.attach(trainer, "accuracy")
    validation = workload.validation_data_loader()
    if validation is not None:
        metrics = {"loss": Loss(cross_entropy), "accuracy": Accuracy()}
        evaluator = create_supervised_evaluator(model, metrics=metrics)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation))
    with _silent("ignite"):
        if directory is None:
            trainer.run(workload.data_loader(), max_epochs=workload.epochs)
            return
        every = Events.ITERATION_COMPLETED(every=LOG_EVERY)
        ProgressBar().attach(trainer, ["loss"])
        text = directory / "metrics.jsonl"
        trainer.add_event_handler(every, lambda engine: _append(text, dict(engine.state.metrics)))
        saved = {"model": model, "optimizer": optimizer, "trainer": trainer}
        disk = DiskSaver(str(directory / "checkpoints"), require_empty=False)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(saved, disk, n_saved=1))
        with TensorboardLogger(log_dir=str(directory / "tensorboard")) as board:
            board.attach_output_handler(trainer, every, tag="train", metric_names="all")
            trainer.run(workload.data_loader(), max_epochs=workload.epochs)


# Row name -> the module that must be installed, and the loop.
PEERS: dict[str, tuple[str, Callable[[Workload, Tick], None]]] = {
    "Ignite": ("ignite", ignite_engine),
    "Accelerate": ("accelerate", accelerate_loop),
    "HF Trainer": ("transformers", hf_trainer),
    "Lightning": ("lightning", lightning_trainer),
}


class _WithLoss(nn.Module):
    """What HF Trainer wants of a model: the loss comes from the forward pass."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class _Examples(Dataset[dict[str, Tensor]]):
    """Examples as HF Trainer collates them."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


def _hf_accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


@torch.no_grad()
def _accelerate_validation(accelerator: Any, model: nn.Module, batches: Any) -> float:
    model.eval()
    correct = []
    for x, y in batches:
        predicted, label = accelerator.gather_for_metrics((model(x).argmax(1), y))
        correct.append((predicted == label).float())
    return float(torch.cat(correct).mean())


def _loss_and_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, with_accuracy: bool
) -> tuple[Tensor, Tensor | None]:
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, y)
    return loss, (logits.argmax(1) == y).float().mean() if with_accuracy else None


def _append(path: Path, record: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Bars and lines go to the null device, where they are still written; hints are left out."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink:
            warnings.simplefilter("ignore")
            with redirect_stdout(sink), redirect_stderr(sink):
                yield
    finally:
        logger.setLevel(level)
