"""Sub-center ArcFace, and which training images it holds for mislabelled (ECCV 2020, section 3.3).

With several centres a class, wrong images gather at other centres than the one to which most of the
class belongs; what lies more than 75 degrees from that one is worth a look. Labels can be made wrong
by intent, to see how many of them are found. ``papers.arcface.suspects`` writes the list.
"""

import copy
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.data import TensorLoader
from common.data.info import DataSplits
from common.losses import AngularMarginHead
from common.training import EmbeddingTask, Trainer
from common.utils.seeding import mix_seed

DEGREES = 75.0
"""The paper's: what is further from its dominant centre is dropped."""

_BATCH = 500


def with_wrong_labels(
    data: DataSplits, share: float, seed: int
) -> tuple[DataSplits, Bool[Tensor, " N"]]:
    """The data with a share of training images given another class, and which these are.

    Args:
        data: In memory.
        share: Of the training images.
        seed: Of which they are, and which class they are given; each other one is as probable.
    """
    labels = data.train.tensors["label"]
    generator = np.random.default_rng(mix_seed(seed, 2))
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.from_numpy(chosen)] = True
    if not len(chosen):
        return data, wrong
    classes = int(data.info.num_classes or 0)
    further = torch.from_numpy(generator.integers(1, classes, size=len(chosen)))
    changed = labels.clone()
    changed[torch.from_numpy(chosen)] = (labels[torch.from_numpy(chosen)] + further) % classes
    train = copy.copy(data.train)
    train.tensors = {**data.train.tensors, "label": changed}
    return replace(data, train=train), wrong


def dominant_angles(task: EmbeddingTask, trainer: Trainer, data: DataSplits) -> Float[Tensor, " N"]:
    """Degrees of every training image, as it is stored, from its class's dominant centre.

    Args:
        task: Trained, with a loss of class centres.
        trainer: Embeds.
        data: In memory.
    """
    tensors = data.train.tensors
    embeddings = torch.cat(list(trainer.predict(task, TensorLoader(tensors, _BATCH))))
    labels = tensors["label"].to(embeddings.device)
    return cast(AngularMarginHead, task.loss).dominant_angles(embeddings, labels).cpu()


def suspicion(angles: Float[Tensor, " N"], wrong: Bool[Tensor, " N"]) -> dict[str, float]:
    """The share of images beyond 75 degrees, and how well that fits what is known to be wrong.

    Args:
        angles: Of ``dominant_angles``.
        wrong: Labels that were made wrong; if none was, only the share is given.

    Returns:
        ``suspects/share``; ``suspects/precision``, the share of suspects that are wrong, and
        ``suspects/recall``, the share of wrong ones that are suspects.
    """
    suspects = angles > DEGREES
    found = {"suspects/share": suspects.double().mean().item()}
    if wrong.any():
        hits = (suspects & wrong).sum().item()
        found["suspects/precision"] = hits / max(int(suspects.sum()), 1)
        found["suspects/recall"] = hits / int(wrong.sum())
    return found
