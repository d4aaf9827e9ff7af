"""How far samples are from the data, measured without any download.

The Fréchet distance (Heusel et al. 2017, 1706.08500, eq. 6) between hidden activations of a small
classifier of the data set itself, trained here on the training split. It is not FID, which takes
Inception's features: its values compare models of one data set only, and only beside the distance
of real test images, which is not 0 either.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from common.config import option
from common.data.info import DataSplits
from common.metrics import frechet_distance

_SEED = 0  # the features are the same whatever the seed of the run


@dataclass
class SamplingConfig:
    """What is drawn after training and at an evaluation."""

    samples: int = option("images drawn, and test images they are compared with", 256, ge=2)
    steps: int | None = option("steps of a shorter chain; null: all", None, ge=1)
    seed: int = option("seed of their noise", 0, ge=0)


class ClassFeatures:
    """The 64 hidden activations of a classifier, learned from labelled images.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        epochs = max(10, 60_000 // len(labels))  # about as many updates for small data as for large
        network = MLPClassifier((64,), batch_size=128, max_iter=epochs, random_state=_SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after its epochs
            network.fit(_rows(images), labels.numpy())
        self._network = network

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of images the classifier gets right."""
        return float(self._network.score(_rows(images), labels.numpy()))

    def __call__(self, images: Tensor) -> Tensor:
        """Features ``(N, 64)`` of images."""
        weight, bias = self._network.coefs_[0], self._network.intercepts_[0]
        return torch.from_numpy(np.maximum(_rows(images) @ weight + bias, 0.0))


def _rows(images: Tensor) -> np.ndarray:
    return (images.flatten(1).float() / 255.0).numpy()


def sample_quality(samples: Tensor, data: DataSplits) -> dict[str, float]:
    """Distances to the training split: of samples, and of as many real images of the test split.

    Args:
        samples: uint8 ``(N, C, H, W)``.
        data: Its loaders hold their images in memory.
    """
    train, test = data.train.tensors, data.test.tensors
    features = ClassFeatures(train["image"], train["label"])
    accuracy = features.accuracy(test["image"], test["label"])
    logger.info(f"features of a classifier with test accuracy {accuracy:.3f}")
    reference = features(train["image"])
    real = test["image"][: len(samples)]
    return {
        "frechet_distance": frechet_distance(features(samples), reference),
        "frechet_distance_of_real": frechet_distance(features(real), reference),
    }
