"""A classification data set small enough for memory: uint8 images and labels, whole.

Batches are ``{"image": uint8 (B, C, H, W), "label": int64 (B,)}``; what scales, normalises or
augments them is the paper's, because papers differ in it. For photos of many sizes there is
``ImageDataset``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import RunContext, Source, option
from common.data.images import decode_image
from common.data.info import DatasetInfo, DataSplits
from common.data.labels import check_labels
from common.data.loaders import Batch, TensorLoader
from common.data.preprocessing import resized
from common.data.splits import Columns, class_names, load_splits
from common.utils.errors import DataError
from common.utils.seeding import mix_seed
from common.utils.text import did_you_mean

_CHUNK = 4096  # images at once when pixels are counted

Transform = Callable[[Batch], Batch]


@dataclass
class LabelledImagesConfig:
    """Which images, and how they are split and batched."""

    name: str = option("data set: embedded/digits, or a name in the store", "embedded/digits")
    config: str | None = option("configuration of the data set", None)
    image: str = option("column of images", "image")
    label: str = option("column of labels", "label")
    mode: str = option("RGB, or L for one channel", "L", choices=("RGB", "L"))
    validation_share: float = option(
        "held out of the training split, if the data has no validation split", 0.1, ge=0, lt=1
    )
    batch_size: int = option("images of an update", 128, ge=1)
    eval_batch_size: int = option("images of an evaluation batch", 500, ge=1)
    num_classes: int | None = option("from the data", None)


def load_labelled_images(
    config: LabelledImagesConfig,
    context: RunContext,
    seed: int,
    transform: Transform | None = None,
) -> DataSplits:
    """Read a data set into memory and make its loaders.

    What is held out for validation is the same for every ``seed``.

    Args:
        config: Which data.
        context: Where the number of classes is recorded.
        seed: Of the order, and of what ``transform`` draws.
        transform: Applied to training batches, see ``TensorLoader``.

    Raises:
        DataError: if a split or column is missing, a label is out of range, or the images differ
            in size.
    """
    splits = dict(load_splits(config.name, config.config))
    for split in ("train", "test"):
        if split not in splits:
            raise DataError(f"{config.name} has the splits {sorted(splits)}; {split} is missing")
    names = class_names(splits["train"], config.label)
    tensors = {split: _read(splits[split], config, split) for split in splits}
    if "validation" not in tensors and config.validation_share:
        tensors["train"], tensors["validation"] = _held_out(
            tensors["train"], config.validation_share
        )
    labels = torch.cat([split["label"] for split in tensors.values()])
    classes = context.resolve("data.num_classes", len(names) or int(labels.max()) + 1, Source.DATA)
    for split, columns in tensors.items():
        check_labels(columns["label"], classes, f"{config.name}, {split}")
    mean, std = channel_statistics(tensors["train"]["image"])

    def loader(split: str) -> TensorLoader | None:
        if split not in tensors:
            return None
        if split == "train":
            return TensorLoader(
                tensors[split], config.batch_size, seed=seed, shuffle=True, transform=transform
            )
        return TensorLoader(tensors[split], config.eval_batch_size)

    return DataSplits(
        train=loader("train"),
        validation=loader("validation"),
        test=loader("test"),
        info=DatasetInfo(
            name=config.name,
            sizes={split: len(columns["label"]) for split, columns in tensors.items()},
            num_classes=classes,
            class_names=names,
            input_shape=tuple(tensors["train"]["image"].shape[1:]),
            mean=mean,
            std=std,
        ),
    )


def _read(columns: Columns, config: LabelledImagesConfig, split: str) -> dict[str, Tensor]:
    where = f"{config.name}, {split}"
    labels = column_of(columns, config.label, where)
    return {
        "image": read_images(columns, config.image, config.mode, where),
        "label": torch.as_tensor(np.asarray(labels)).long(),
    }


def column_of(columns: Columns, name: str, where: str) -> Any:
    """The values of a column.

    Raises:
        DataError: if there is none of this name, naming the nearest.
    """
    if name not in columns:
        raise DataError(
            f"{where}: there is no column '{name}'; {did_you_mean(name, list(columns))}"
        )
    return columns[name]


def read_images(
    columns: Columns, name: str, mode: str, where: str, side: int | None = None
) -> Tensor:
    """A column of images as one tensor, uint8 ``(N, C, H, W)``.

    Args:
        columns: Of the split.
        name: Of the column.
        mode: ``RGB`` or ``L``, for images that are decoded.
        where: Data set and split, for messages.
        side: Resize to this height and width.

    Raises:
        DataError: if there is no such column, an image cannot be read, or they differ in size.
    """
    images = column_of(columns, name, where)
    if isinstance(images, np.ndarray):
        pixels = torch.from_numpy(images)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        decoded = list(pixels) if side else []
    else:
        decoded = [decode_image(image, mode) for image in images]
    if side:
        return torch.stack([resized(image, (side, side)) for image in decoded])
    if isinstance(images, np.ndarray):
        return pixels
    shapes = {tuple(image.shape) for image in decoded}
    if len(shapes) != 1:
        raise DataError(
            f"{where}: images have {len(shapes)} sizes; set data.image_size where there is one, "
            "or use ImageDataset, which resizes them"
        )
    return torch.stack(decoded)


def _held_out(
    columns: Mapping[str, Tensor], share: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    size = len(columns["label"])
    order = torch.randperm(size, generator=torch.Generator().manual_seed(mix_seed(0)))
    count = round(share * size)
    parts = order[count:].sort().values, order[:count].sort().values
    first, second = ({name: value[rows] for name, value in columns.items()} for rows in parts)
    return first, second


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of ``(N, C, H, W)``, with values from 0 to 1."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for chunk in images.split(_CHUNK):
        values = chunk.double() / 255.0
        sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
    mean, square = sums / (images.numel() / images.shape[1])
    std = (square - mean.square()).clamp(min=0.0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def normalized(images: Tensor, mean: Any, std: Any) -> Tensor:
    """Pixels 0 to 255 as float32 with mean 0 and standard deviation 1 in every channel.

    Args:
        images: uint8 ``(B, C, H, W)``.
        mean: Of each channel, with values from 0 to 1; a tensor ``(C,)`` or a sequence.
        std: The standard deviation of the same; a channel without any is only centred.
    """
    mean = torch.as_tensor(mean, device=images.device).view(-1, 1, 1)
    std = torch.as_tensor(std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255.0 - mean) / torch.where(std > 0, std, 1.0)
