"""What a network says of images: logits, computed once and measured in every way afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.training import Task
from common.training.evaluation import predict
from common.training.precision import Precision
from common.utils.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Predictions:
    """Logits of images in order.

    Attributes:
        ids: What each image is called: its path in the index file.
        logits: float32 ``(N, K)``, on the CPU.
        labels: int64 ``(N,)``.
    """

    ids: list[str]
    logits: Tensor
    labels: Tensor

    def save(self, path: Path) -> None:
        """Write them to a file that ``read_predictions`` reads."""
        save_checkpoint({"ids": self.ids, "logits": self.logits, "labels": self.labels}, path)


def read_predictions(path: Path) -> Predictions:
    """What ``Predictions.save`` wrote.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    state = load_checkpoint(path)
    return Predictions(list(state["ids"]), state["logits"], state["labels"])


def predict_logits(task: Task, loader: Any, ids: list[str], precision: str = "fp32") -> Predictions:
    """Logits of every image of a loader, in its order.

    Args:
        task: On its device; comes back in the mode it had.
        loader: Batches with ``image`` and ``label``.
        ids: The images' names.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    labels: list[Tensor] = []

    def batches() -> Iterator[Any]:
        for batch in loader.batches(0):
            labels.append(batch["label"])
            yield batch

    device = next(task.parameters()).device
    arithmetic = Precision(precision, device)
    logits = [output.float().cpu() for output in predict(task, batches(), arithmetic)]
    return Predictions(ids, torch.cat(logits), torch.cat(labels).cpu())
