"""The section ``loss`` of a classifier's configuration, and the loss it names.

Importing it does not load PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.config import option
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from common.losses.classification import CrossEntropy, FocalLoss

_WEIGHTS = ("none", "balanced", "inverse_sqrt", "effective")


@dataclass
class LossConfig:
    """What is minimised; all of it works with the soft targets of mixup and cutmix."""

    name: str = option("which loss", "cross_entropy", choices=("cross_entropy", "focal"))
    label_smoothing: float = option(
        "the part of the target spread over all classes", 0.0, ge=0, lt=1
    )
    gamma: float = option("focal: how fast easy examples stop to count", 2.0, ge=0)
    class_weights: str | list[float] = option(
        "none; balanced (1/n), inverse_sqrt (1/sqrt n) or effective (1901.05555) by the training "
        "images of each class; or one number for each class",
        "none",
    )
    beta: float = option("effective: of the effective number of examples", 0.999, ge=0, lt=1)

    def __post_init__(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            if weights not in _WEIGHTS:
                hint = did_you_mean(weights, _WEIGHTS)
                raise ConfigError(f"loss.class_weights is '{weights}': {hint}")
        elif not weights or min(weights) < 0 or not max(weights) > 0:
            raise ConfigError(
                f"loss.class_weights is {weights}; expected a number of at least 0 for each class, "
                "not all of them 0"
            )


def build_loss(
    config: LossConfig, counts: Sequence[int] | None = None
) -> "CrossEntropy | FocalLoss":
    """The loss that ``config`` names.

    Args:
        config: The section.
        counts: Training examples of each class, for class weights that come from them.

    Raises:
        ConfigError: if weights are to come from counts that nobody gave, or differ in number.
    """
    from common.losses.balance import class_weights
    from common.losses.classification import CrossEntropy, FocalLoss

    weights: list[float] | None = None
    if isinstance(config.class_weights, list):
        weights = config.class_weights
        if counts is not None and len(counts) != len(weights):
            raise ConfigError(
                f"loss.class_weights has {len(weights)} numbers for {len(counts)} classes; give "
                "one for each class, in the order of data.class_names"
            )
    elif config.class_weights != "none":
        if counts is None:
            raise ConfigError(
                f"loss.class_weights={config.class_weights} needs the training images of each class"
            )
        weights = class_weights(counts, config.class_weights, config.beta)
    if config.name == "focal":
        return FocalLoss(config.gamma, config.label_smoothing, weights)
    return CrossEntropy(config.label_smoothing, weights)
