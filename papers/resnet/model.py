"""The residual networks for small images of He et al. 2015 (arXiv 1512.03385), section 4.2.

The blocks are ``common.models.ResNet``; what this file adds is the family: 6n + 2 weighted layers in
three stages of n blocks with 16, 32 and 64 channels, identity shortcuts throughout (option A), and
weight decay on every weight.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from common.config import RunContext, Source, option
from common.data.info import DatasetInfo
from common.data.labelled_images import normalized
from common.models import ResNet
from common.training import StepOutput, Task
from common.utils.errors import ConfigError


@dataclass
class ModelConfig:
    """One network of the family; the defaults are the paper's ResNet-20."""

    depth: int = option("weighted layers, 6n + 2: 20, 32, 44, 56, 110, ...", 20, ge=8)
    width: int = option("channels of the first of three stages", 16, ge=1)
    shortcut: str = option(
        "where the shape changes: padding (option A) or projection (option B)",
        "padding",
        choices=("padding", "projection"),
    )

    def __post_init__(self) -> None:
        if (self.depth - 2) % 6:
            raise ConfigError(
                f"model.depth is {self.depth}: the networks of section 4.2 have 6n + 2 layers, "
                f"e.g. {self.depth - (self.depth - 2) % 6}"
            )


class ClassificationTask(Task):
    """Cross-entropy of the class, from images normalised by the training split's statistics.

    Args:
        config: The network's values.
    """

    model: ResNet
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        classes = context.resolve("data.num_classes", info.num_classes, Source.DATA)
        self.model = ResNet(
            "basic",
            [(self.config.depth - 2) // 6] * 3,
            classes,
            in_channels=info.input_shape[0],
            width=self.config.width,
            stem="cifar",
            shortcut=self.config.shortcut,
        )
        self.register_buffer("mean", torch.tensor(info.mean))
        self.register_buffer("std", torch.tensor(info.std))

    def forward(self, images: Tensor) -> Float[Tensor, "B K"]:
        """Logits of uint8 images ``(B, C, H, W)``."""
        return self.model(normalized(images, self.mean, self.std))

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Loss and accuracy of ``image``, uint8 ``(B, C, H, W)``, and ``label`` ``(B,)``."""
        logits, labels = self(batch["image"]), batch["label"]
        correct = (logits.argmax(1) == labels).sum()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return StepOutput(loss, len(labels), {"accuracy": correct})

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """One group: the paper's weight decay of 1e-4 excepts nothing, batch norm included."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]
