"""What is probably mislabelled: training images far from the centre that most of their label belong to.

A loss with several centres for a label (Deng et al., ECCV 2020, section 3.3) gives what does not fit a
centre of its own. What lies more than 75 degrees from the dominant one is worth a look.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor, nn

from common.losses.angular import AngularMarginHead
from common.utils.files import atomic_write
from projects.product_matching.core.items.items import Items

FAR = 75.0  # degrees
FILE = "far_from_center.csv"


def write_far_samples(
    directory: Path, loss: nn.Module, embeddings: Tensor, items: Items, labels: Sequence[int]
) -> int:
    """Write ``far_from_center.csv``: item, label and angle, the farthest first; returns how many.

    Args:
        directory: The run's.
        loss: With several centres for each label.
        embeddings: Of the training items, ``(N, D)``.
        items: Those.
        labels: The class of each.
    """
    assert isinstance(loss, AngularMarginHead)
    device = loss.centers.device
    angles = loss.dominant_angles(embeddings.to(device), torch.tensor(labels, device=device)).cpu()
    order = angles.argsort(descending=True, stable=True).tolist()
    far = [row for row in order if angles[row] > FAR]
    with atomic_write(directory / FILE, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "label", "degrees"])
        writer.writerows([items.names[r], items.labels[r], f"{angles[r]:.2f}"] for r in far)
    logger.info(
        f"{len(far):,} of {len(items):,} training images lie more than {FAR:g} degrees from the dominant "
        f"centre of their label: {directory / FILE}"
    )
    return len(far)
