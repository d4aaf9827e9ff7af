"""The task of a classification: the network, the loss and the rates its configuration names."""

from torch import nn

from common.data.info import DatasetInfo
from common.losses.config import build_loss
from common.models import head_of
from common.training.classification import ClassificationTask
from projects.image_classification.core.config import Config
from projects.image_classification.core.models import get_model


class ImageClassifier(ClassificationTask):
    """Trains ``get_model(config)``.

    Args:
        config: With the facts of the data filled in.
        has_weights: The weights come from a checkpoint: none are fetched or read beforehand.
    """

    def __init__(self, config: Config, *, has_weights: bool = False) -> None:
        model = config.model
        super().__init__(
            loss=build_loss(config.loss, config.data.class_counts),
            layer_decay=model.layer_decay,
            head_lr_multiplier=model.head_lr_multiplier,
            train_frozen=model.unfreeze_epoch is not None,
        )
        self._config, self._has_weights = config, has_weights

    def build(self, info: DatasetInfo) -> nn.Module:
        """The network, on the CPU."""
        network = get_model(self._config, has_weights=self._has_weights)
        assert info.num_classes is not None  # the facts of the data are filled in
        self._head = head_of(network, info.num_classes)
        return network
