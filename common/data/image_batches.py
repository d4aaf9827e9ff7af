"""Samples of images to a batch whose layout is the images' own.

    loader = SampleLoader(dataset, order, collate=collate_images)

Decoders and resizing leave an image with its channels last. ``torch.stack`` moves every byte to
its place in ``(C, H, W)``; kept as they are, images are copied row by row, and the network's first
convolution takes ``torch.channels_last`` as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def collate_images(samples: Sequence[Any]) -> Any:
    """Make a batch of dicts with an ``image``, or of images.

    Args:
        samples: ``{"image": (C, H, W), ...}`` each, or ``(C, H, W)``; all images of one size.

    Returns:
        ``{"image": (B, C, H, W), ...}`` or ``(B, C, H, W)``, with the channels last in memory if
        all images have them last. Everything else is collated as PyTorch does.
    """
    if not isinstance(samples[0], Mapping):
        return stack_images(samples)
    batch = default_collate([{k: v for k, v in s.items() if k != "image"} for s in samples])
    return {"image": stack_images([sample["image"] for sample in samples]), **batch}


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images of one size.

    Args:
        images: ``(C, H, W)``, of any layout.

    Returns:
        ``(B, C, H, W)`` with the channels last in memory if all images have them last, else
        contiguous.
    """
    rows = [image.permute(1, 2, 0) for image in images]
    if all(row.is_contiguous() for row in rows):
        return torch.stack(rows).permute(0, 3, 1, 2)
    return torch.stack(list(images))
