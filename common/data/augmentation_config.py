"""The section ``augmentation`` of a classifier's configuration.

Importing it does not load PyTorch. What each value does: ``common.data.image_augmentation`` (one
image) and ``common.data.mixing`` (one batch).
"""

from dataclasses import dataclass
from typing import Any

from common.config import option
from common.utils.errors import ConfigError


@dataclass
class AugmentationConfig:
    """How training images differ from epoch to epoch; nothing by default."""

    random_crop: bool = option(
        "a random part of the image, resized (RandomResizedCrop of 1409.4842), not the whole", False
    )
    crop_scale: list[float] = option(
        "random_crop: smallest and largest share of the area", [0.08, 1.0], gt=0, le=1
    )
    crop_ratio: list[float] = option(
        "random_crop: smallest and largest width over height", [0.75, 1.3333333333333333], gt=0
    )
    horizontal_flip: float = option("probability of a mirror image, left to right", 0.0, ge=0, le=1)
    vertical_flip: float = option("probability of an image upside down", 0.0, ge=0, le=1)
    rotation: float = option("largest angle of a random rotation, in degrees", 0.0, ge=0, le=180)
    color_jitter: list[float] = option(
        "largest change of brightness, contrast, saturation (shares) and hue (up to 0.5), e.g. "
        "[0.4, 0.4, 0.4, 0.1]; empty: none",
        [],
        ge=0,
    )
    rand_augment: bool = option("RandAugment (1909.13719)", False)
    rand_augment_ops: int = option("RandAugment: operations on each image (N)", 2, ge=1)
    rand_augment_magnitude: int = option("RandAugment: their strength, 0 to 30 (M)", 9, ge=0, le=30)
    trivial_augment: bool = option("TrivialAugment (2103.10158)", False)
    random_erasing: float = option(
        "probability that a rectangle is blackened (1708.04896)", 0.0, ge=0, le=1
    )
    mixup_alpha: float = option("mixup (1710.09412): alpha of Beta(alpha, alpha); 0: no", 0.0, ge=0)
    cutmix_alpha: float = option("cutmix (1905.04899): alpha of the Beta; 0: no", 0.0, ge=0)
    mix_probability: float = option(
        "the share of batches that are mixed; with both alphas each half of them", 1.0, ge=0, le=1
    )
    transforms: list[Any] = option(
        "more transforms of one image, last: sections with a _target_ below "
        "torchvision.transforms.v2",
        [],
    )

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_ratio"):
            values = getattr(self, name)
            if len(values) != 2 or values[0] > values[1]:
                raise ConfigError(
                    f"augmentation.{name} is {values}; expected the smallest and the largest value"
                )
        if self.color_jitter and (len(self.color_jitter) != 4 or self.color_jitter[3] > 0.5):
            raise ConfigError(
                f"augmentation.color_jitter is {self.color_jitter}; expected four numbers: "
                "brightness, contrast, saturation, and hue of at most 0.5"
            )
        if self.rand_augment and self.trivial_augment:
            raise ConfigError(
                "augmentation.rand_augment and trivial_augment are both on; each replaces the "
                "other, so take one"
            )
