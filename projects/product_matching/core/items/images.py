"""The loaders of one fold: images to train on, labels counted from 0, and the images held out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import RunContext, Source
from common.data.class_batches import ClassBatches
from common.data.image_batches import collate_images
from common.data.image_cache import ImageCache
from common.data.image_dataset import DecodedImages, ImageDataset
from common.data.info import DatasetInfo, DataSplits
from common.data.loaders import SampleLoader
from common.data.orders import BalancedBatches, Order, ShuffledBatches
from common.data.pixel_statistics import resolve_recipe, resolve_size
from common.data.preprocessed_images import PreprocessedImages
from common.data.preprocessing import Preprocessing
from common.utils.errors import ConfigError
from common.utils.paths import get_assets_dir
from projects.product_matching.core.config import Config
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.network import fill_sections, published_statistics

RECIPE = "transforms.preprocessing"


@dataclass(frozen=True)
class FoldImages:
    """What a fold is trained and judged on.

    Attributes:
        splits: Loaders of the training images and of those held out (as ``test``).
        train: Every training image once, in order, without augmentation.
        train_labels: The class of each training item.
        held_out: The items, in the order of the loader ``splits.test``.
        preprocessing: From a file to the network's uint8 pixels.
    """

    splits: DataSplits
    train: SampleLoader
    train_labels: list[int]
    held_out: Items
    preprocessing: Preprocessing


def readable(items: Items, config: Config, place: Path) -> tuple[Items, dict[str, str]]:
    """The items whose images can be read, and why each of the others cannot.

    Args:
        items: All of them.
        config: With ``data.on_bad=fail`` nothing is looked at: a bad image stops the run that reads it.
        place: A folder; it keeps what was found, so that a resumed run need not look again.

    Raises:
        DataError: if none can be read.
    """
    if config.data.on_bad == "fail" or isinstance(items.sources[0], Image.Image):
        return items, {}
    data = ImageDataset(
        DecodedImages(items.sources, config.transforms.preprocessing.mode or "RGB"),
        [0] * len(items),
        1,
        on_bad="skip",
        manifest=place / "unreadable.json",
        workers=config.dataloader.num_workers,
    )
    bad = {items.names[row]: why for row, why in data.skipped.items()}
    return (items.subset(data.indices) if bad else items), bad


def fold_images(config: Config, context: RunContext, train: Items, held_out: Items) -> FoldImages:
    """Fill in what the training images decide, and make the loaders.

    Args:
        config: Changed through ``context``.
        context: Of the same configuration.
        train: What is trained on.
        held_out: What is judged.

    Raises:
        DataError: if images cannot be read.
        ConfigError: if a value that is set contradicts the data.
    """
    recipe = config.transforms.preprocessing
    by = "the images that are trained on"
    resolve_size(recipe, context, train.sources, by, RECIPE)
    known = published_statistics(config.model, channels=1 if recipe.mode == "L" else 3)
    if known is not None:
        for key, value in zip(("mean", "std"), known, strict=True):
            given = getattr(recipe, key)
            context.resolve(f"{RECIPE}.{key}", given or value, Source.DATA, by="published weights")
    resolve_recipe(recipe, context, train.sources, by, RECIPE)
    counts = Counter(train.labels)
    names = sorted(counts)
    context.resolve("data.num_classes", len(names), Source.DATA, by="labels")
    preprocessing = Preprocessing(recipe)
    shape = (preprocessing.channels, *preprocessing.size)
    fill_sections(config, context, shape, [counts[name] for name in names])
    number = {name: place for place, name in enumerate(names)}
    labels = [number[label] for label in train.labels]
    cache = _cached(train.sources, config, preprocessing)
    augmented = PreprocessedImages(
        train.sources, preprocessing, config.transforms.augmentation, cache
    )
    plain = PreprocessedImages(train.sources, preprocessing, cache=cache)
    # Filled before the training begins: an image that cannot be read stops it now, not at its end.
    held_cache = _cached(held_out.sources, config, preprocessing)
    held = PreprocessedImages(held_out.sources, preprocessing, cache=held_cache)
    sizes = {"train": len(train), "held out": len(held_out)}
    info = DatasetInfo(
        name=train.origin,
        sizes=sizes,
        num_classes=len(names),
        class_names=tuple(names),
        input_shape=shape,
        mean=tuple(recipe.mean or ()),
        std=tuple(recipe.std or ()),
    )
    loader = SampleLoader(
        ImageDataset(augmented, labels, len(names)),
        _training_order(config, labels),
        collate=collate_images,
        num_workers=config.dataloader.num_workers,
        seed=config.seed,
        pin_memory=True,
    )
    splits = DataSplits(train=loader, validation=None, test=every_image(config, held), info=info)
    return FoldImages(splits, every_image(config, plain), labels, held_out, preprocessing)


def every_image(config: Config, images: PreprocessedImages) -> SampleLoader:
    """Every image once, in order, in batches ``{"image": (B, C, H, W), "label": ...}`` of label 0."""
    size = config.dataloader.eval_batch_size
    return SampleLoader(
        ImageDataset(images, [0] * len(images), 1),
        ShuffledBatches(len(images), size, shuffle=False),
        collate=collate_images,
        num_workers=config.dataloader.num_workers,
    )


def _training_order(config: Config, labels: Sequence[int]) -> Order:
    data, size = config.data, len(labels)
    # Batch normalisation of a single image has no variance.
    drops = size > data.batch_size and size % data.batch_size == 1
    if data.per_class:
        classes, there = data.batch_size // data.per_class, len(set(labels))
        if classes > there:
            raise ConfigError(
                f"data.batch_size {data.batch_size} of data.per_class {data.per_class} takes {classes} "
                f"labels, and {there} are trained on; use a smaller batch or more of each label"
            )
        return ClassBatches(np.asarray(labels), classes, data.per_class, config.seed)
    if data.balanced:
        return BalancedBatches(list(labels), data.batch_size, config.seed, drop_last=drops)
    return ShuffledBatches(size, data.batch_size, config.seed, drop_last=drops)


def _cached(
    sources: Sequence[Any], config: Config, preprocessing: Preprocessing
) -> ImageCache | None:
    kind = config.dataloader.cache
    if kind == "none":
        return None
    place = None
    if kind == "disk":
        place = get_assets_dir() / "cache" / "product_matching"
        place.mkdir(parents=True, exist_ok=True)
    workers = config.dataloader.num_workers
    return ImageCache(sources, preprocessing, kind, place, workers=workers)
