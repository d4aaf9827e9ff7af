"""The residual networks for small images of He et al. 2015 (arXiv 1512.03385), section 4.2.

The blocks are ``common.models.ResNet``; what this file adds is the family: 6n + 2 weighted layers in
three stages of n blocks with 16, 32 and 64 channels, identity shortcuts throughout (option A), and
weight decay on every weight.
"""

from dataclasses import dataclass
from typing import Any

from common.config import option
from common.data.info import DatasetInfo
from common.models import ResNet
from common.training import classification
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


class ClassificationTask(classification.ClassificationTask):
    """Cross-entropy of the class, from images normalised by the training split's statistics.

    Args:
        config: The network's values.
    """

    model: ResNet

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def build(self, info: DatasetInfo) -> ResNet:
        """The network of the family with as many classes as the data has."""
        return ResNet(
            "basic",
            [(self.config.depth - 2) // 6] * 3,
            info.num_classes,
            in_channels=info.input_shape[0],
            width=self.config.width,
            stem="cifar",
            shortcut=self.config.shortcut,
        )

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """One group: the paper's weight decay of 1e-4 excepts nothing, batch norm included."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]
