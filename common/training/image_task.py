"""What every task on images shares: pixels become floats once for a batch, by the data's statistics.

Batches have ``image``, uint8 ``(B, C, H, W)``. The statistics are buffers that travel with the
weights, so that a network sees the same numbers wherever it is loaded.
"""

from typing import Any

import torch
from torch import Tensor

from common.config import RunContext
from common.data.info import DatasetInfo
from common.models import Normalize
from common.training.task import Task


class ImageTask(Task):
    """A task whose network takes normalised images.

    Attributes:
        mean: Of each channel, with values from 0 to 1.
        std: The standard deviation of the same.
    """

    mean: Tensor
    std: Tensor
    _normalize: Normalize

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        """Take the statistics of ``info``."""
        self.register_buffer("mean", torch.tensor(info.mean))
        self.register_buffer("std", torch.tensor(info.std))
        self._normalize = Normalize(info.mean, info.std)
        self.register_load_state_dict_post_hook(_take_statistics)

    def normalized(self, images: Tensor) -> Tensor:
        """Images as the network sees them, float32; valid until the next batch is normalised."""
        normalized: Tensor = self._normalize(images)
        return normalized


def _take_statistics(task: ImageTask, keys: Any) -> None:
    """Loaded weights bring the statistics they were trained with."""
    task._normalize = Normalize(task.mean.tolist(), task.std.tolist()).to(task.mean.device)
