"""The images of "A Template": a data set in memory, each training image shifted by a pixel or none.

What ``shifted`` draws is seeded from (seed, epoch, batch), so a resumed run draws the same.
"""

import torch
from torch.nn import functional as F

from common.config import RunContext
from common.data.info import DataSplits
from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
from common.data.loaders import Batch


def build_data(config: LabelledImagesConfig, context: RunContext, seed: int) -> DataSplits:
    """Loaders of the training, validation and test images."""
    return load_labelled_images(config, context, seed, transform=shifted)


def shifted(batch: Batch) -> Batch:
    """The whole batch moved by -1, 0 or 1 pixels along each axis; what comes in is black."""
    images = batch["image"]  # (B, C, H, W)
    height, width = images.shape[2:]
    top, left = torch.randint(0, 3, (2,)).tolist()
    padded = F.pad(images, (1, 1, 1, 1))
    return batch | {"image": padded[:, :, top : top + height, left : left + width]}
