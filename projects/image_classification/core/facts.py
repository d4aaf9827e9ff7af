"""What the images say of themselves, filled into the configuration with the data as its source.

Classes, their counts, the size and the channels of the images, mean and deviation of their pixels:
what the user set stays, and stops the run where the data says otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from PIL import Image

from common.config import RunContext, Source
from common.data.preprocessing import Preprocessing
from common.utils.errors import ConfigError, DataError
from common.utils.text import did_you_mean
from projects.image_classification.core.config import Config
from projects.image_classification.core.folder.split_files import read_classes
from projects.image_classification.core.index_files import find_files, read_index

LOOKED_AT = 500  # images, evenly spaced, from which size, channels, mean and deviation are taken
LARGEST_OWN_SIZE = 64  # images of one size up to this are taken as they are
_USUAL_SIZE = 224


def resolve_facts(config: Config, context: RunContext, fold: int) -> None:
    """Fill in what is ``null`` from the training images of a fold.

    Args:
        config: Changed through ``context``.
        context: Of the same configuration; it keeps where each value comes from.
        fold: Whose training images are looked at.

    Raises:
        DataError: if the index files or the images they list are missing.
        ConfigError: if a value that is set contradicts the data.
    """
    data_dir = Path(config.data.data_dir)
    index_file = data_dir / "splits" / f"fold_{fold}_train.txt"
    listed = read_index(index_file)
    found = read_classes(data_dir)
    names = config.data.class_names
    if names is None:
        names = context.resolve("data.class_names", found, Source.DATA, by="splits/classes.json")
    _check_classes(names, found)
    context.resolve("data.num_classes", len(names), Source.DATA, by="data.class_names")
    counts = Counter(labels_of(listed, names, index_file))
    by = f"splits/fold_{fold}_train.txt"
    # Those of a file were another fold's, perhaps: this fold's are a fact.
    values = [counts[index] for index in range(len(names))]
    context.set("data.class_counts", values, Source.DATA, by=by)
    resolve_recipe(config, context, find_files(index_file, listed), by)


def resolve_recipe(config: Config, context: RunContext, files: Sequence[Path], by: str) -> None:
    """Fill in size, channels, mean and deviation from some of the images.

    Args:
        config: Changed through ``context``.
        context: Of the same configuration.
        files: The images; ``LOOKED_AT`` of them are looked at.
        by: What lists them.

    Raises:
        DataError: if none of those can be read.
    """
    sources = [files[i] for i in evenly_spaced(len(files), LOOKED_AT)]
    recipe = config.preprocessing
    if recipe.mode is None or recipe.image_size is None:
        mode, size = _mode_and_size(sources)
        context.resolve("preprocessing.mode", recipe.mode or mode, Source.DATA, by=by)
        is_own = recipe.image_size is None and max(size) <= LARGEST_OWN_SIZE
        if is_own and context.source("preprocessing.crop_share") is Source.DEFAULT:
            # They have the input's size: nothing is cut off.
            context.resolve("preprocessing.crop_share", 1.0, Source.DATA, by=by)
        context.resolve("preprocessing.image_size", recipe.image_size or size, Source.DATA, by=by)
    if recipe.mean is None or recipe.std is None:
        mean, std = pixel_statistics(sources, Preprocessing(recipe))
        context.resolve("preprocessing.mean", recipe.mean or mean, Source.DATA, by=by)
        context.resolve("preprocessing.std", recipe.std or std, Source.DATA, by=by)


def labels_of(paths: Sequence[str], class_names: Sequence[str], index_file: Path) -> list[int]:
    """The class of each path ``raw/<class>/...`` as its place among the names.

    Raises:
        DataError: for a path in no class folder, or a class that is none of the names.
    """
    index_of = {name: index for index, name in enumerate(class_names)}
    labels = []
    for number, path in enumerate(paths, 1):
        name = path.split("/")[1] if path.count("/") > 1 else ""
        if name not in index_of:
            hint = did_you_mean(name, class_names)
            raise DataError(f"{index_file}, image {number}: {path!r} is of no class; {hint}")
        labels.append(index_of[name])
    return labels


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most so many of the indices below ``count``, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def pixel_statistics(
    sources: Sequence[Path], preprocessing: Preprocessing
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


def _check_classes(names: Sequence[str], found: Sequence[str]) -> None:
    missing = sorted(set(names) - set(found))
    unknown = sorted(set(found) - set(names))
    if missing or unknown or len(set(names)) != len(names):
        parts = []
        if missing:
            parts.append(f"{', '.join(map(repr, missing[:5]))} only in data.class_names")
        if unknown:
            parts.append(f"{', '.join(map(repr, unknown[:5]))} only in splits/classes.json")
        raise ConfigError(
            f"data.class_names ({len(names)}) are not the classes of the data ({len(found)}): "
            f"{'; '.join(parts) or 'a name is there twice'}; make the configuration anew with "
            "ml-init-config"
        )


def _mode_and_size(sources: Sequence[Path]) -> tuple[str, list[int]]:
    """Channels and input size from the headers: L if all are grey, their own size if it is one."""
    modes: set[str] = set()
    sizes: set[tuple[int, int]] = set()
    for source in sources:
        try:
            with Image.open(source) as image:
                modes.add(image.mode)
                sizes.add(image.size)
        except (OSError, ValueError, SyntaxError):
            continue
    mode = "L" if modes and modes <= {"1", "L", "I;16", "I"} else "RGB"
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_OWN_SIZE:
        width, height = next(iter(sizes))
        return mode, [height, width]
    return mode, [_USUAL_SIZE, _USUAL_SIZE]
