"""Images read by one recipe, from files or a cache: for training also cropped and augmented.

images = PreprocessedImages(paths, preprocessing)                    # what is evaluated
images = PreprocessedImages(paths, preprocessing, augmentation)      # what is trained on
images[0]                                                            # uint8 (C, H, W)
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from common.data.augmentation_config import AugmentationConfig
from common.data.image_augmentation import build_augmentation
from common.data.image_cache import ImageCache
from common.data.image_dataset import DecodedImages
from common.data.preprocessing import Preprocessing


class PreprocessedImages(DecodedImages):
    """Images as the network's pixels.

    Args:
        sources: Paths, bytes, PIL images, or what ``datasets`` stores.
        preprocessing: The recipe of evaluation.
        augmentation: For training: a random crop, and what moves and colours the image.
        cache: Decoded and resized images of the same sources.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        preprocessing: Preprocessing,
        augmentation: AugmentationConfig | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        super().__init__(sources, preprocessing.mode)
        self.preprocessing, self.cache = preprocessing, cache
        self._crop = augmentation if augmentation and augmentation.random_crop else None
        self._augment: Callable[[Tensor], Tensor] | None = (
            build_augmentation(augmentation, preprocessing.channels) if augmentation else None
        )

    def __getitem__(self, index: int) -> Tensor:
        image = self._read(index)
        return self._augment(image) if self._augment else image

    def _read(self, index: int) -> Tensor:
        source = self.sources[index] if self.cache is None else self.cache[index]
        if self._crop is not None:
            (least, most), (narrow, wide) = self._crop.crop_scale, self._crop.crop_ratio
            return self.preprocessing.random_crop(source, (least, most), (narrow, wide))
        if self.cache is not None:
            return self.preprocessing.finish(source)
        return self.preprocessing(source)
