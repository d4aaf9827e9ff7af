"""The images that index files list, read by one recipe: for training also cropped and augmented.

datasets = get_datasets(config)          # {"train": ..., "val": ..., "test": ...}
datasets["train"][0]                     # {"image": uint8 (C, H, W), "label": 3}
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from common.data.augmentation_config import AugmentationConfig
from common.data.image_batches import collate_images
from common.data.image_cache import ImageCache
from common.data.image_dataset import ImageDataset
from common.data.info import DatasetInfo, DataSplits
from common.data.loaders import SampleLoader
from common.data.mixing import Mixing
from common.data.orders import BalancedBatches, Order, ShuffledBatches
from common.data.preprocessed_images import PreprocessedImages
from common.data.preprocessing import Preprocessing
from common.utils.errors import DataError
from projects.image_classification.core.config import Config
from projects.image_classification.core.facts import labels_of
from projects.image_classification.core.folder.split_files import read_classes
from projects.image_classification.core.index_files import escape, find_files, read_index

SPLITS = ("train", "val", "test")


class MixedBatches:
    """Collates samples and mixes the batch; in a worker, if any.

    Args:
        mixing: mixup, cutmix or both.
    """

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing

    def __call__(self, samples: list[Any]) -> Any:
        return self.mixing(collate_images(samples))


class IndexedImageDataset(ImageDataset):
    """The images of one index file, with the class each one's folder names.

    Args:
        index_file: Lines ``raw/<class>/.../image.jpg``.
        data_dir: What the lines are relative to.
        preprocessing: The recipe.
        class_names: In the order of the labels; ``splits/classes.json`` by default.
        augmentation: For training.
        on_bad: ``fail`` or ``skip``, see ``ImageDataset``.
        cache: ``none``, ``memory`` or ``disk`` (below ``data_dir/cache``).
        workers: Processes that look for bad images and fill the cache.

    Attributes:
        paths: As the index file has them, bad images left out.
        class_names: In the order of the labels.

    Raises:
        DataError: if a file, or all of the folder, is missing, or a class is none of the names.
    """

    def __init__(
        self,
        index_file: str | Path,
        data_dir: str | Path,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None = None,
        *,
        augmentation: AugmentationConfig | None = None,
        on_bad: str = "fail",
        cache: str = "none",
        workers: int = 0,
    ) -> None:
        index_file, data_dir = Path(index_file), Path(data_dir)
        listed = read_index(index_file)
        self.class_names = list(class_names or read_classes(data_dir))
        labels = labels_of(listed, self.class_names, index_file)
        sources = find_files(index_file, listed, data_dir)
        # Whether an image is bad is judged without the changes of training: those draw random
        # numbers, of the training's own generator where there are no workers.
        plain = PreprocessedImages(sources, preprocessing)
        super().__init__(plain, labels, len(self.class_names), on_bad=on_bad, workers=workers)
        self.images = PreprocessedImages(sources, preprocessing, augmentation)
        self.paths = [listed[i] for i in self.indices]
        if cache != "none":
            kept = [sources[i] for i in self.indices]
            place = data_dir / "cache" if cache == "disk" else None
            store = ImageCache(kept, preprocessing, cache, place, workers=workers)
            self.images = PreprocessedImages(kept, preprocessing, augmentation, store)
            self.labels = [labels[i] for i in self.indices]
            self.indices = np.arange(len(kept))


def get_datasets(config: Config, fold: int | None = None) -> dict[str, IndexedImageDataset]:
    """``train``, ``val`` and ``test`` of a fold; a split whose index file is empty is left out.

    Args:
        config: With what the data decides filled in (``core.facts.resolve_facts``).
        fold: ``data.fold`` by default.

    Raises:
        DataError: if a list is missing, or an image is trained on and measured.
    """
    fold = int(config.data.fold) if fold is None else fold
    data_dir = Path(config.data.data_dir)
    preprocessing = Preprocessing(config.preprocessing)
    files = index_files(config, fold)
    listed = {split: read_index(file) for split, file in files.items()}
    _check_apart(listed, files)
    return {
        split: IndexedImageDataset(
            file,
            data_dir,
            preprocessing,
            config.data.class_names,
            augmentation=config.augmentation if split == "train" else None,
            on_bad=config.data.on_bad,
            cache=config.data.cache,
            workers=config.data.num_workers,
        )
        for split, file in files.items()
        if split == "train" or listed[split]
    }


def index_files(config: Config, fold: int) -> dict[str, Path]:
    """The list of each split of a fold."""
    splits = Path(config.data.data_dir) / "splits"
    names = (f"fold_{fold}_train.txt", f"fold_{fold}_val.txt", "test.txt")
    return {split: splits / name for split, name in zip(SPLITS, names, strict=True)}


def dataset_info(config: Config, sizes: dict[str, int]) -> DatasetInfo:
    """What a configuration whose facts are filled in says of the data."""
    recipe, data = config.preprocessing, config.data
    return DatasetInfo(
        name=data.dataset_name or Path(data.data_dir).absolute().name,
        sizes=sizes,
        num_classes=data.num_classes,
        class_names=tuple(data.class_names or ()),
        input_shape=(1 if recipe.mode == "L" else 3, *(recipe.image_size or ())),
        mean=tuple(recipe.mean or ()),
        std=tuple(recipe.std or ()),
    )


def data_splits(config: Config, datasets: dict[str, IndexedImageDataset]) -> DataSplits:
    """The loaders of the data sets, as the Trainer takes them."""
    train = datasets["train"]
    collate: Callable[[list[Any]], Any] = collate_images
    if config.augmentation.mixup_alpha or config.augmentation.cutmix_alpha:
        collate = MixedBatches(Mixing(config.augmentation, len(train.class_names)))
    loaders: dict[str, SampleLoader | None] = {
        split: evaluation_loader(config, datasets[split]) if split in datasets else None
        for split in ("val", "test")
    }
    sizes = {split: len(dataset) for split, dataset in datasets.items()}
    return DataSplits(
        train=SampleLoader(
            train,
            _training_order(config, train),
            collate=collate,
            num_workers=config.data.num_workers,
            seed=config.seed,
            pin_memory=True,
        ),
        validation=loaders["val"],
        test=loaders["test"],
        info=dataset_info(config, sizes),
    )


def evaluation_loader(config: Config, dataset: Any) -> SampleLoader:
    """Every image once, in order."""
    order = ShuffledBatches(len(dataset), config.data.eval_batch_size, shuffle=False)
    workers = config.data.num_workers
    return SampleLoader(dataset, order, collate=collate_images, num_workers=workers)


def _training_order(config: Config, train: IndexedImageDataset) -> Order:
    size, batch_size = len(train), config.training.batch_size
    # Batch normalisation of a single image has no variance.
    drops = size > batch_size and size % batch_size == 1
    if config.data.sampling == "balanced":
        labels = [train.labels[i] for i in train.indices]
        return BalancedBatches(labels, batch_size, config.seed, drop_last=drops)
    return ShuffledBatches(size, batch_size, config.seed, drop_last=drops)


def _check_apart(listed: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> None:
    """Stop if what is measured was trained on: lists made by hand, or by half a split."""
    for one, other in combinations(SPLITS, 2):
        shared = set(listed[one]).intersection(listed[other])
        if not shared:
            continue
        first = escape(min(shared))
        message = f"{len(shared):,} images are in {files[one]} and in {files[other].name}: {first}"
        if one == "train":
            raise DataError(
                f"{message}; what is trained on cannot be measured: correct the lists, or make "
                "them anew with ml-split"
            )
        logger.warning(f"{message}; what the best weights are chosen by is no independent test")
