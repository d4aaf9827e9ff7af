"""The task of every image classifier: a network, the statistics of its pixels, and a loss.

    task = ClassificationTask(lambda info: ResNet.of_depth(18, info.num_classes), CrossEntropy(0.1))

Batches are ``{"image": uint8 (B, C, H, W), "label": (B,)}``, or soft labels ``(B, K)`` as mixup
makes them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from loguru import logger
from torch import Tensor, nn

from common.config import RunContext, Source
from common.data.info import DatasetInfo
from common.losses import CrossEntropy, expected_hits
from common.training.image_task import ImageTask
from common.training.layer_decay import layered_groups
from common.training.task import StepOutput, Weight

Loss: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Weight]]
Metrics: TypeAlias = Callable[[Tensor, Tensor], Mapping[str, float]]


class ClassificationTask(ImageTask):
    """Trains a network that gives logits of the classes.

    A subclass may override ``build`` in place of giving one.

    Args:
        build: Makes the network from what the data says of itself (classes, input shape).
        loss: Of logits ``(B, K)`` and labels: the sum over the batch, and what to divide it by.
            Cross-entropy by default.
        top_k: Report how often the label is among so many classes, at most all; 0: do not.
        metrics: Computes more from all logits ``(N, K)`` and labels of an evaluation at once.
        layer_decay: Each layer, from the last to the first, learns at so much of the rate of the
            one behind it (2106.08254, appendix); 1: all at the same.
        head: The name of the last layer below ``model``, for ``head_lr_multiplier``.
        head_lr_multiplier: How much faster the head learns than what is before it.
        train_frozen: Give the optimizer also what is frozen now, because ``Unfreeze`` will free it.

    Attributes:
        model: The network.
    """

    model: nn.Module

    def __init__(
        self,
        build: Callable[[DatasetInfo], nn.Module] | None = None,
        loss: Loss | None = None,
        *,
        top_k: int = 0,
        metrics: Metrics | None = None,
        layer_decay: float = 1.0,
        head: str = "",
        head_lr_multiplier: float = 1.0,
        train_frozen: bool = False,
    ) -> None:
        super().__init__()
        self._build = build
        self.loss: Loss = CrossEntropy() if loss is None else loss
        self._top_k, self._metrics = top_k, metrics
        self._layer_decay, self._train_frozen = layer_decay, train_frozen
        self._head, self._head_lr_multiplier = head, head_lr_multiplier

    def build(self, info: DatasetInfo) -> nn.Module:
        """The network for this data."""
        if self._build is None:
            raise TypeError(f"{type(self).__name__} was given no build(info), and defines none")
        return self._build(info)

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        classes = context.resolve("data.num_classes", info.num_classes, Source.DATA)
        if self._top_k > classes:
            logger.info(f"top-{self._top_k} of {classes} classes is reported as top-{classes}")
            self._top_k = classes
        self.model = self.build(replace(info, num_classes=classes))
        super().configure(info, context)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of uint8 images ``(B, C, H, W)``."""
        logits: Tensor = self.model(self.normalized(images))
        return logits

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Loss and accuracy of ``image`` and ``label``; of a soft label, its share counts."""
        return self._step(self(batch["image"]), batch["label"])

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The same; for ``metrics``, logits and labels are kept as well."""
        logits = self(batch["image"])
        output = self._step(logits, batch["label"])
        if self._metrics is not None:
            output.collected = {"logits": logits.float(), "label": batch["label"]}
        return output

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``(B, K)``."""
        return self(batch["image"])

    def compute_metrics(self, collected: Mapping[str, Tensor]) -> dict[str, float]:
        if self._metrics is None:
            return {}
        return dict(self._metrics(collected["logits"], collected["label"]))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups by decay and, if asked, by the layers' own rates (see ``layered_groups``)."""
        if self._layer_decay == self._head_lr_multiplier == 1.0 and not self._train_frozen:
            return super().parameter_groups(weight_decay)
        return layered_groups(
            self.model,
            weight_decay,
            layer_decay=self._layer_decay,
            head=self._head,
            head_lr_multiplier=self._head_lr_multiplier,
            with_frozen=self._train_frozen,
        )

    def _step(self, logits: Tensor, labels: Tensor) -> StepOutput:
        metrics = {"accuracy": expected_hits(logits, labels)}
        if self._top_k:
            metrics[f"top{self._top_k}"] = _top_hits(logits, labels, self._top_k)
        loss, weight = self.loss(logits, labels)
        # Class weights divide the loss; an accuracy is of examples, which all count the same.
        counted = None if type(weight) is int else len(labels)
        return StepOutput(loss, weight, metrics, metrics_weight=counted)


def _top_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    best = logits.topk(k, dim=1).indices
    if labels.is_floating_point():
        return labels.gather(1, best).sum()
    return (best == labels[:, None]).sum()
