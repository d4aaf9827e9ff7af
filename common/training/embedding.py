"""The task of learning embeddings: a network, a loss of vectors and labels, and retrieval as the test.

    task = EmbeddingTask(lambda info: EmbeddingNetwork(...), lambda dim, info: ArcFace(dim, info.num_classes))

Batches are ``{"image": uint8 (B, C, H, W), "label": (B,)}``. The classes of an evaluation need not
be those of training, so it has no loss: each image asks for its nearest neighbours among the others.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.config import RunContext, Source
from common.data.info import DatasetInfo
from common.losses.angular import MarginOutput
from common.losses.triplet import TripletOutput
from common.metrics import RetrievalReport, matches_of, nearest_neighbors, retrieval_metrics
from common.training.image_task import ImageTask
from common.training.task import StepOutput

_MOST_NEIGHBORS = 1000


class EmbeddingTask(ImageTask):
    """Trains a network that gives embeddings.

    What belongs to the loss (class centres, proxies, a learned scale) has a group of its own in the
    optimizer, with a rate of its own and no weight decay: decay would only change lengths that are
    divided away, and with them how far a step turns.

    Args:
        build: Makes the network from what the data says of itself; it has ``embedding_dim``.
        loss: Makes the loss from ``embedding_dim`` and the same. It is called with embeddings
            ``(B, D)`` and labels ``(B,)`` and gives a mean, a ``MarginOutput`` or a
            ``TripletOutput``.
        center_lr_multiplier: How much faster the loss's own parameters learn.

    Attributes:
        model: The network.
        loss: The loss.
    """

    model: nn.Module
    loss: nn.Module

    def __init__(
        self,
        build: Callable[[DatasetInfo], nn.Module],
        loss: Callable[[int, DatasetInfo], nn.Module],
        *,
        center_lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self._build, self._build_loss = build, loss
        self._center_lr_multiplier = center_lr_multiplier

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        context.resolve("data.num_classes", info.num_classes, Source.DATA)
        self.model = self._build(info)
        dimension: Any = self.model.embedding_dim
        self.loss = self._build_loss(dimension, info)
        super().configure(info, context)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` of uint8 images, of any length."""
        embeddings: Tensor = self.model(self.normalized(images))
        return embeddings

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """The loss of ``image`` and ``label``, and what it says beside."""
        labels = batch["label"]
        result = self.loss(self(batch["image"]), labels)
        count = len(labels)
        if isinstance(result, MarginOutput):
            hits = (result.cosines.argmax(1) == labels).sum()
            counted = None if type(result.weight) is int else count
            return StepOutput(
                result.loss, result.weight, {"accuracy": hits}, metrics_weight=counted
            )
        if isinstance(result, TripletOutput):
            means = {
                "active": result.active,
                "positive_distance": result.positive_distance,
                "negative_distance": result.negative_distance,
            }
            # Of triplets, of which a batch may have none: then the means are no numbers.
            sums = {
                name: (value.detach() * result.triplets).nan_to_num(0.0)
                for name, value in means.items()
            }
            return StepOutput(
                result.loss, count, sums, is_mean=True, metrics_weight=result.triplets
            )
        return StepOutput(result, count, is_mean=True)

    def eval_step(self, batch: dict[str, Tensor]) -> StepOutput:
        """Keeps embeddings and labels for ``compute_metrics``."""
        embeddings = self.predict_step(batch)
        kept = {"embedding": embeddings, "label": batch["label"]}
        nothing = embeddings.new_zeros(())
        return StepOutput(nothing, len(embeddings), collected=kept, has_loss=False)

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings ``(B, D)`` of length one, float32."""
        return F.normalize(self(batch["image"]).float())

    def compute_metrics(self, collected: Mapping[str, Tensor]) -> dict[str, float]:
        """Precision at 1, and where neighbours enough are fetched R-precision and MAP@R."""
        found = retrieval_of(collected["embedding"], collected["label"])
        values = {
            "precision_at_1": found.precision_at_1,
            "r_precision": found.r_precision,
            "map_at_r": found.map_at_r,
        }
        return {name: value for name, value in values.items() if value is not None}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The network's groups by decay, and one of the loss's own parameters."""
        own = [p for p in self.loss.parameters() if p.requires_grad]
        is_own = {id(p) for p in own}
        trained = [p for p in self.parameters() if p.requires_grad and id(p) not in is_own]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            {"params": own, "weight_decay": 0.0, "lr_scale": self._center_lr_multiplier},
        ]
        return [group for group in groups if group["params"]]


def retrieval_of(embeddings: Tensor, labels: Tensor) -> RetrievalReport:
    """Each image asks for its neighbours among the others.

    Args:
        embeddings: ``(N, D)``.
        labels: ``(N,)``; one that nothing else has is left out, and counted.

    Raises:
        DataError: if no two labels are equal, or an embedding is not finite.
    """
    labels = labels.cpu()
    most = int(matches_of(labels).max())
    k = min(max(most, 1), _MOST_NEIGHBORS, len(labels) - 1)
    return retrieval_metrics(nearest_neighbors(embeddings, k=k).ids, labels, ks=(1,))
