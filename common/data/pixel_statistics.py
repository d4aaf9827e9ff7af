"""What images say of themselves, filled into the section ``preprocessing`` with the data as its source.

Channels, size, mean and deviation of the pixels come from some of the images. What the user set
stays, and stops the run where the data says otherwise.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from PIL import Image

from common.config import RunContext, Source
from common.data.images import read_bytes
from common.data.preprocessing import Preprocessing
from common.data.preprocessing_config import PreprocessingConfig
from common.utils.errors import DataError

LOOKED_AT = 500  # images, evenly spaced, from which size, channels, mean and deviation are taken
LARGEST_OWN_SIZE = 64  # images of one size up to this are taken as they are
_USUAL_SIZE = 224


def resolve_recipe(
    recipe: PreprocessingConfig,
    context: RunContext,
    sources: Sequence[Any],
    by: str,
    key: str = "preprocessing",
) -> None:
    """Fill in size, channels, mean and deviation from some of the images.

    Args:
        recipe: Changed through ``context``.
        context: Of the configuration it is a section of.
        sources: The images; ``LOOKED_AT`` of them are looked at.
        by: What lists them.
        key: Of the section.

    Raises:
        DataError: if none of those can be read.
    """
    resolve_size(recipe, context, sources, by, key)
    if recipe.mean is None or recipe.std is None:
        looked_at = [sources[i] for i in evenly_spaced(len(sources), LOOKED_AT)]
        mean, std = pixel_statistics(looked_at, Preprocessing(recipe))
        context.resolve(f"{key}.mean", recipe.mean or mean, Source.DATA, by=by)
        context.resolve(f"{key}.std", recipe.std or std, Source.DATA, by=by)


def resolve_size(
    recipe: PreprocessingConfig,
    context: RunContext,
    sources: Sequence[Any],
    by: str,
    key: str = "preprocessing",
) -> None:
    """The first part of ``resolve_recipe``: size and channels, from no more than the headers."""
    if recipe.mode is None or recipe.image_size is None:
        looked_at = [sources[i] for i in evenly_spaced(len(sources), LOOKED_AT)]
        mode, size = _mode_and_size(looked_at)
        context.resolve(f"{key}.mode", recipe.mode or mode, Source.DATA, by=by)
        is_own = recipe.image_size is None and max(size) <= LARGEST_OWN_SIZE
        if is_own and context.source(f"{key}.crop_share") is Source.DEFAULT:
            # They have the input's size: nothing is cut off.
            context.resolve(f"{key}.crop_share", 1.0, Source.DATA, by=by)
        context.resolve(f"{key}.image_size", recipe.image_size or size, Source.DATA, by=by)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most so many of the indices below ``count``, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def pixel_statistics(
    sources: Sequence[Any], preprocessing: Preprocessing
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, as the network sees the images, from 0 to 1.

    Args:
        sources: Images; those that cannot be read are left out.
        preprocessing: The recipe.

    Raises:
        DataError: if none of them can be read.
    """
    sums, pixels = torch.zeros(2, 3, dtype=torch.float64), 0
    channels, bad = 0, []
    for source in sources:
        try:
            image = preprocessing(source).double() / 255.0
        except DataError as error:
            bad.append(error)  # reading the data set fails or skips it
            continue
        channels = image.shape[0]
        sums[0, :channels] += image.sum((1, 2))
        sums[1, :channels] += image.square().sum((1, 2))
        pixels += image[0].numel()
    if not pixels:
        raise DataError(f"none of {len(sources)} images can be read; the first: {bad[0]}")
    if bad:
        logger.warning(
            f"{len(bad):,} of the {len(sources):,} images looked at cannot be read and do not count "
            f"for mean and deviation; the first: {bad[0]}"
        )
    mean = sums[0, :channels] / pixels
    std = (sums[1, :channels] / pixels - mean.square()).clamp(min=0.0).sqrt()
    return [round(v, 6) for v in mean.tolist()], [round(v, 6) for v in std.tolist()]


def _mode_and_size(sources: Sequence[Any]) -> tuple[str, list[int]]:
    """Channels and input size from the headers: L if all are grey, their own size if it is one."""
    modes: set[str] = set()
    sizes: set[tuple[int, int]] = set()
    for source in sources:
        try:
            with _opened(source) as image:
                modes.add(image.mode)
                sizes.add(image.size)
        except (OSError, ValueError, SyntaxError, DataError):
            continue
    mode = "L" if modes and modes <= {"1", "L", "I;16", "I"} else "RGB"
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_OWN_SIZE:
        width, height = next(iter(sizes))
        return mode, [height, width]
    return mode, [_USUAL_SIZE, _USUAL_SIZE]


def _opened(source: Any) -> Any:
    """The header of an image in any form that is decoded."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, str | Path):  # no more than the header is read
        return Image.open(source)
    return Image.open(BytesIO(read_bytes(source) or b""))
