"""Images of classes that training does not see are what is tested: open-set data in memory.

Train, validation and test have different classes. The test classes are the data set's own test
split, or the rows in which a column has certain values (alphabets of Omniglot); the validation
classes are some of the remaining ones, the same for every seed. Batches are as those of
``labelled_images``; labels count the training classes from 0, and those of a test from 0 again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loguru import logger
from numpy.typing import NDArray
from torch import Tensor

from common.config import RunContext, Source, option
from common.data.class_batches import ClassBatches
from common.data.info import DatasetInfo, DataSplits
from common.data.labelled_images import (
    Transform,
    channel_statistics,
    column_of,
    read_images,
)
from common.data.loaders import OrderedLoader, TensorLoader
from common.data.splits import Columns, class_names, load_splits
from common.utils.errors import ConfigError, DataError
from common.utils.seeding import mix_seed
from common.utils.text import did_you_mean


@dataclass(frozen=True)
class _Rows:
    images: Tensor
    labels: NDArray[Any]

    def where(self, mask: NDArray[np.bool_]) -> "_Rows":
        return _Rows(self.images[torch.from_numpy(mask)], self.labels[mask])

    def tensors(self) -> dict[str, Tensor]:
        """A loader's, with the classes numbered in their sorted order."""
        numbers = np.unique(self.labels, return_inverse=True)[1]
        return {"image": self.images, "label": torch.from_numpy(numbers.astype(np.int64))}


@dataclass
class OpenSetImagesConfig:
    """Which images, which of their classes are trained on, and how they are batched."""

    name: str = option("data set: embedded/..., or a name in the store", "embedded/digit_products")
    config: str | None = option("configuration of the data set", None)
    image: str = option("column of images", "image")
    label: str = option("column of labels: numbers or names", "label")
    mode: str = option("RGB, or L for one channel", "L", choices=("RGB", "L"))
    image_size: int | None = option(
        "resize to this height and width; null: as they are", None, ge=1
    )
    invert: bool = option("ink is dark: turn black into white", False)
    test_column: str | None = option(
        "column that tells the test classes; null: the split 'test' has them", None
    )
    test_values: list[str] = option("its values in test rows", [])
    validation_share: float = option("of the other classes, held out", 0.15, ge=0, lt=1)
    batch_size: int = option("images of an update", 64, ge=1)
    per_class: int = option("images of each class in a batch; 0: as they come", 0, ge=0)
    eval_batch_size: int = option("images of an evaluation batch", 500, ge=1)
    num_classes: int | None = option("training classes, from the data", None)

    def __post_init__(self) -> None:
        if self.per_class and self.batch_size % self.per_class:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, which is no multiple of data.per_class "
                f"{self.per_class}"
            )
        if (self.test_column is None) != (not self.test_values):
            raise ConfigError("data.test_column and data.test_values go together; one is not set")


def load_open_set_images(
    config: OpenSetImagesConfig,
    context: RunContext,
    seed: int,
    transform: Transform | None = None,
) -> DataSplits:
    """Read a data set into memory and make its loaders.

    Args:
        config: Which data.
        context: Where the number of training classes is recorded.
        seed: Of the order, and of what ``transform`` draws.
        transform: Applied to training batches, see ``TensorLoader``.

    Raises:
        DataError: if a column is missing, no row is left for training or testing, training and test
            share a class, or the images differ in size and ``image_size`` is not set.
    """
    splits = dict(load_splits(config.name, config.config))
    if "train" not in splits:
        raise DataError(f"{config.name} has the splits {sorted(splits)}; train is missing")
    names = class_names(splits["train"], config.label)
    rows = {"train": _rows(splits["train"], config, "train")}
    if config.test_column is None:
        if "test" not in splits:
            raise DataError(
                f"{config.name} has the splits {sorted(splits)}; test is missing: say with "
                "data.test_column and data.test_values which rows are tested"
            )
        rows["test"] = _rows(splits["test"], config, "test")
    else:
        rows["train"], rows["test"] = _by_column(rows["train"], splits["train"], config)
    rows["train"], rows["validation"] = _held_out(rows["train"], config.validation_share)
    _check(rows, config)
    known = np.unique(rows["train"].labels)
    mean, std = channel_statistics(rows["train"].images)
    tensors = {split: part.tensors() for split, part in rows.items() if len(part.labels)}
    classes = context.resolve("data.num_classes", len(known), Source.DATA)
    train: OrderedLoader = TensorLoader(
        tensors["train"], config.batch_size, seed=seed, shuffle=True, transform=transform
    )
    if config.per_class:
        of_batch = config.batch_size // config.per_class
        order = ClassBatches(tensors["train"]["label"], of_batch, config.per_class, seed)
        train = train.with_order(order)
    return DataSplits(
        train=train,
        validation=(
            TensorLoader(tensors["validation"], config.eval_batch_size)
            if "validation" in tensors
            else None
        ),
        test=TensorLoader(tensors["test"], config.eval_batch_size),
        info=DatasetInfo(
            name=config.name,
            sizes={split: len(part["label"]) for split, part in tensors.items()},
            num_classes=classes,
            class_names=tuple(names[label] if names else str(label) for label in known.tolist()),
            input_shape=tuple(tensors["train"]["image"].shape[1:]),
            mean=mean,
            std=std,
        ),
    )


def _rows(columns: Columns, config: OpenSetImagesConfig, split: str) -> _Rows:
    where = f"{config.name}, {split}"
    labels = np.asarray(column_of(columns, config.label, where))
    images = read_images(columns, config.image, config.mode, where, config.image_size)
    return _Rows(255 - images if config.invert else images, labels)


def _by_column(rows: _Rows, columns: Columns, config: OpenSetImagesConfig) -> tuple[_Rows, _Rows]:
    """The rows for training, and those whose ``test_column`` has one of ``test_values``."""
    assert config.test_column is not None
    values = [str(v) for v in column_of(columns, config.test_column, f"{config.name}, train")]
    for wanted in config.test_values:
        if wanted not in values:
            raise DataError(
                f"{config.name}: no row has '{wanted}' in the column '{config.test_column}'; "
                f"{did_you_mean(wanted, sorted(set(values)))}"
            )
    is_test = np.isin(values, config.test_values)
    return rows.where(~is_test), rows.where(is_test)


def _held_out(rows: _Rows, share: float) -> tuple[_Rows, _Rows]:
    """The rows without some classes, and the rows of these; the same ones for every seed."""
    classes = np.unique(rows.labels)
    order = np.random.default_rng(mix_seed(0)).permutation(len(classes))
    held_out = np.isin(rows.labels, classes[order[: round(share * len(classes))]])
    return rows.where(~held_out), rows.where(held_out)


def _check(rows: Mapping[str, _Rows], config: OpenSetImagesConfig) -> None:
    for split in ("train", "test"):
        if not len(rows[split].labels):
            raise DataError(f"{config.name}: no image is left for {split}")
    shared = np.intersect1d(rows["train"].labels, rows["test"].labels)
    if len(shared):
        raise DataError(
            f"{config.name}: {len(shared)} classes are in both train and test (first: {shared[0]}); "
            "retrieval of classes that were not seen needs other classes in test"
        )
    lone = int((np.unique(rows["test"].labels, return_counts=True)[1] == 1).sum())
    if lone:
        logger.warning(f"{config.name}: {lone} test classes have one image, which has no match")
