"""Random changes of one uint8 image, as the section ``augmentation`` asks for them.

The operations are torchvision's v2 transforms. They draw from the global generators of PyTorch,
Python and NumPy only, which ``SampleLoader`` seeds from (seed, epoch, index): the same image in the
same epoch is changed in the same way in every worker, and after every resume.

    augment = build_augmentation(config.augmentation, channels=3)
    image = augment(image)          # uint8 (C, H, W) -> uint8 (C, H, W)
"""

from collections.abc import Callable
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from common.config import instantiate
from common.data.augmentation_config import AugmentationConfig
from common.utils.errors import ConfigError, DataError

_RAND_AUGMENT_BINS = 31  # the magnitudes 0 to 30 of the paper
_TRANSFORMS = "torchvision.transforms.v2"


class Augmentation:
    """Transforms in a row; every result must be an image again.

    Args:
        transforms: Callables from an image to an image.
    """

    def __init__(self, transforms: list[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Tensor) -> Tensor:
        """A changed copy of ``image``, uint8 ``(C, H, W)``; height and width may differ.

        Raises:
            DataError: if a transform gives anything but a uint8 image of as many channels.
        """
        for transform in self.transforms:
            changed = transform(image)
            if not isinstance(changed, Tensor) or changed.dtype != torch.uint8:
                kind = getattr(changed, "dtype", type(changed).__name__)
                raise DataError(
                    f"augmentation.transforms: {type(transform).__name__} gives {kind}, expected a "
                    "uint8 image; numbers are scaled and normalised later, once for a whole batch"
                )
            if changed.ndim != 3 or len(changed) != len(image):
                raise DataError(
                    f"augmentation.transforms: {type(transform).__name__} gives the shape "
                    f"{tuple(changed.shape)}, expected ({len(image)}, H, W)"
                )
            image = changed
        return image


def build_augmentation(config: AugmentationConfig, channels: int = 3) -> Augmentation | None:
    """The transform of training images that ``config`` asks for; ``None`` if it asks for none.

    ``random_crop`` is not part of it: a crop is chosen before an image is decoded in full (see
    ``common.data.preprocessing``). Neither is mixing, which needs a batch (``common.data.mixing``).

    Args:
        config: The section.
        channels: 3, or 1 for grey images. Of those, saturation and hue are left alone with a
            word; a policy that draws such an operation leaves them as they are.

    Raises:
        ConfigError: for another number of channels, or a transform that is not allowed.
    """
    from torchvision.transforms import v2

    if channels not in (1, 3):
        raise ConfigError(f"images have {channels} channels; augmentation knows 1 and 3")
    steps: list[Any] = []
    if config.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
    if config.vertical_flip:
        steps.append(v2.RandomVerticalFlip(config.vertical_flip))
    if config.rotation:
        bilinear = v2.InterpolationMode.BILINEAR
        steps.append(v2.RandomRotation(config.rotation, interpolation=bilinear))
    if any(config.color_jitter):
        brightness, contrast, saturation, hue = config.color_jitter
        if channels == 1 and (saturation or hue):
            logger.warning(
                "augmentation.color_jitter: grey images have no saturation and no hue; only "
                "brightness and contrast change"
            )
            saturation = hue = 0.0
        if brightness or contrast or saturation or hue:
            steps.append(v2.ColorJitter(brightness, contrast, saturation, hue))
    if config.rand_augment:
        strength = (config.rand_augment_ops, config.rand_augment_magnitude, _RAND_AUGMENT_BINS)
        steps.append(v2.RandAugment(*strength))
    if config.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    if config.random_erasing:
        steps.append(v2.RandomErasing(config.random_erasing))
    steps += [_from_section(section, i) for i, section in enumerate(config.transforms)]
    return Augmentation(steps) if steps else None


def _from_section(section: Any, number: int) -> Any:
    key = f"augmentation.transforms[{number}]"
    target = section.get("_target_") if isinstance(section, dict) else None
    if not isinstance(target, str) or not target.startswith(f"{_TRANSFORMS}."):
        raise ConfigError(
            f"{key} is {section!r}; expected a section such as "
            f"{{_target_: {_TRANSFORMS}.GaussianBlur, kernel_size: 3}}"
        )
    try:
        return instantiate(section)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {target}: {error}") from None
