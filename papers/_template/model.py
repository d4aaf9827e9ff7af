"""The classifier of "A Template" (arXiv 1801.00000): a perceptron with one hidden layer (eq. 1).

What the paper proposes goes here; everything else is imported from ``common``.
"""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import RunContext, option
from common.data.info import DatasetInfo
from common.data.labelled_images import normalized
from common.training import Task


@dataclass
class ModelConfig:
    """The values of the model."""

    d_hidden: int = option("width of the hidden layer (D)", 128, ge=1)
    dropout: float = option("probability that a hidden unit is left out", 0.1, ge=0, lt=1)


class Template(nn.Module):
    """Equation 1: ``f(x) = W2 max(0, W1 x + b1) + b2``.

    Args:
        d_in: Pixels of an image, over all channels.
        d_hidden: Width of the hidden layer.
        num_classes: Classes (K).
        dropout: Of hidden units, in training only.
    """

    def __init__(self, d_in: int, d_hidden: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_in, d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(d_hidden, num_classes)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logits of every class."""
        x = images.flatten(1)  # (B, C * H * W)
        return self.output(self.dropout(self.hidden(x).relu()))


class TemplateTask(Task):
    """Classify images: mean cross-entropy, and the share that is right.

    Args:
        config: The model's values; the sizes of images and classes come from the data.
    """

    model: Template

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        d_hidden, dropout = self.config.d_hidden, self.config.dropout
        d_in = prod(info.input_shape)
        self.model = Template(d_in, d_hidden, info.num_classes, dropout)
        self.register_buffer("mean", torch.tensor(info.mean), persistent=False)
        self.register_buffer("std", torch.tensor(info.std), persistent=False)

    def forward(self, images: Tensor) -> Float[Tensor, "B K"]:
        """Logits of uint8 images."""
        return self.model(normalized(images, self.mean, self.std))

    def compute_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self(batch["image"])
        right = logits.argmax(1) == batch["label"]
        return {"loss": F.cross_entropy(logits, batch["label"]), "accuracy": right.float().mean()}
