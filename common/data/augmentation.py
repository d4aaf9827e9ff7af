"""Augmentation of whole batches: a random crop of the padded image, and a mirror image.

The 4-pixel padding, crop and flip of He et al. 2015 (1512.03385), section 4.2, after Lee et al. 2014
(1409.5185): what small images have been trained with since. Every image of a batch draws its own
place and side; the draws come from PyTorch's global generator, which ``TensorLoader`` seeds from
(seed, epoch, batch), so a resumed run augments as the undisturbed one.

    data = load_labelled_images(config.data, context, config.seed, crop_flip(config.augment))
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import option
from common.data.loaders import Batch


@dataclass
class CropFlipConfig:
    """How training images are moved; nothing by default, because digits have a left and a right."""

    padding: int = option("black pixels on every side before a random crop; 0: no crop", 0, ge=0)
    flip: bool = option("mirror every second image from left to right", False)


def crop_flip(config: CropFlipConfig) -> Callable[[Batch], Batch] | None:
    """The transform of training batches that ``config`` asks for; ``None`` if it asks for nothing."""
    if not config.padding and not config.flip:
        return None

    def transform(batch: Batch) -> Batch:
        images = batch["image"]
        if config.padding:
            images = random_crop(images, config.padding)
        if config.flip:
            images = random_flip(images)
        return {**batch, "image": images}

    return transform


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Each image of ``(B, C, H, W)`` moved by up to ``padding`` pixels; zeros come in at the edge.

    All (2 padding + 1)^2 places are equally probable.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, count, 1))
    rows = (top + torch.arange(height)).view(count, 1, height, 1)
    columns = (left + torch.arange(width)).view(count, 1, 1, width)
    sample = torch.arange(count).view(count, 1, 1, 1)
    channel = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    return padded[sample, channel, rows, columns]


def random_flip(images: Tensor) -> Tensor:
    """Each image of ``(B, C, H, W)`` mirrored from left to right with probability one half."""
    mirrored = torch.rand(len(images)) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
