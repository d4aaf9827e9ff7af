"""``configs/<dataset>_config.yaml``: every key of the schema, and what the images say filled in.

    made = dataset_template(Path("data/pets"))
    made.text                       # the file

What is filled in comes from the training images of a fold or, before there are folds, from all
images of ``raw/``; the counts of training images are then left to ``ml-train``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunContext, Source
from common.config.template import template
from common.config.tree import read
from common.data.pixel_statistics import LOOKED_AT, resolve_recipe
from common.utils.errors import ConfigError, DataError
from projects.image_classification.core.config import Config
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.folder.image_folder import find_images
from projects.image_classification.core.index_files import read_index

IMBALANCED = 2.0  # the largest class over the smallest from which class weights are suggested
_FACTS = (
    *("data.class_names", "data.num_classes", "data.class_counts"),
    *("preprocessing.image_size", "preprocessing.mode", "preprocessing.mean", "preprocessing.std"),
)
_SMALL = 64  # pixels a side up to which a small network of our own is the first to try
_TOLD = 40  # classes up to which each is written on a line of its own, with its count


@dataclass(frozen=True)
class DatasetTemplate:
    """A configuration that was made.

    Attributes:
        text: The file.
        config: What it means.
        seen: Which images were looked at, in words.
        counts: Images of each class among them.
        is_split: Whether there were index files.
    """

    text: str
    config: Config
    seen: str
    counts: dict[str, int]
    is_split: bool


def dataset_template(
    data_dir: Path,
    fold: int | None = None,
    *,
    searches: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> DatasetTemplate:
    """Look at a data set and write its configuration.

    Args:
        data_dir: ``data/<name>`` with ``raw/`` in it.
        fold: Whose training images count; 0 by default, if the data is split.
        searches: Fill in the section ``search`` as well.
        settings: Further values by key.

    Raises:
        DataError: if there is no ``raw/``, or nothing in it that can be learned from.
        ConfigError: if there is no such fold, or a class has a name that a configuration cannot
            hold.
    """
    check_data_dir(data_dir)
    config = Config()
    config.data.data_dir = data_dir.as_posix()
    values: dict[str, Any] = {"data.data_dir": config.data.data_dir, **(settings or {})}
    context = RunContext(config)
    folds = _folds(data_dir)
    if not folds and fold is not None:
        raise ConfigError(
            f"--fold is {fold}, but {data_dir} is not split; run ml-split --raw_data "
            f"{data_dir}/raw first, or leave --fold out"
        )
    if fold is not None and fold not in folds:
        raise ConfigError(
            f"--fold is {fold}; the folds of {data_dir}: {', '.join(map(str, folds))}"
        )
    if folds:
        number = folds[0] if fold is None else fold
        listed = read_index(data_dir / "splits" / f"fold_{number}_train.txt")
        resolve_facts(config, context, number)
        if number:
            values["data.fold"] = number
        seen = f"the {len(listed):,} training images of fold {number}"
    else:
        found = find_images(data_dir / "raw")
        listed = found.names
        names = sorted(set(found.classes))
        context.resolve("data.class_names", names, Source.DATA, by="raw/")
        context.resolve("data.num_classes", len(names), Source.DATA, by="raw/")
        resolve_recipe(
            config.preprocessing, context, [data_dir / path for path in listed], by="raw/"
        )
        seen = f"all {len(listed):,} images of raw/"
    counts = Counter(path.split("/")[1] for path in listed)
    names = list(config.data.class_names or ())
    _check_names(names, data_dir)
    values |= {key: value for key in _FACTS if (value := read(config, key)) is not None}
    if context.source("preprocessing.crop_share") is Source.DATA:
        values["preprocessing.crop_share"] = config.preprocessing.crop_share
    if max(config.preprocessing.image_size or [0]) <= _SMALL and "model.type" not in values:
        values |= {"model.type": "custom", "model.custom_architecture": "simple_cnn"}
    if searches:
        values |= search_values(len(listed))
    ordered = {name: counts[name] for name in names}
    text = template(Config, values, _notes(values, ordered, len(listed)), _header(data_dir, seen))
    return DatasetTemplate(text, config, seen, ordered, bool(folds))


def search_values(images: int) -> dict[str, Any]:
    """A search that suits most data: learning rate, weight decay, batch size, label smoothing.

    Args:
        images: For training; a batch takes at most an eighth of them.
    """
    sizes = [size for size in (16, 32, 64, 128) if size * 8 <= images] or [8, 16]
    return {
        "search.n_trials": 30,
        "search.sampler.type": "TPESampler",
        "search.pruner.type": "MedianPruner",
        "search.search_space": {
            "optimizer.lr": {"type": "loguniform", "low": 1e-4, "high": 1e-2},
            "optimizer.weight_decay": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
            "training.batch_size": {"type": "categorical", "choices": sizes},
            "loss.label_smoothing": {"type": "uniform", "low": 0.0, "high": 0.2},
        },
    }


def check_data_dir(data_dir: Path) -> None:
    """See whether a folder is a data set's.

    Raises:
        DataError: saying what is missing, and where it seems to be.
    """
    if (data_dir / "raw").is_dir():
        return
    wanted = "expected a folder such as data/pets, with the photos in data/pets/raw/<class>/"
    if not data_dir.exists():
        raise DataError(f"there is no folder {data_dir}; {wanted}")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file; {wanted}")
    if data_dir.name == "raw":
        raise DataError(f"{data_dir} is the raw folder itself; give {data_dir.parent}")
    raise DataError(f"{data_dir} has no folder raw; {wanted}")


def _notes(values: Mapping[str, Any], counts: Mapping[str, int], looked_at: int) -> dict[str, str]:
    """What stands behind values in place of their help."""
    notes: dict[str, str] = {}
    if len(counts) <= _TOLD:
        for index, count in enumerate(counts.values()):
            notes[f"data.class_names[{index}]"] = f"{count:,} image{'s' * (count != 1)}"
    pixels = f"of {min(looked_at, LOOKED_AT):,} images evenly spaced"
    notes["preprocessing.mean"] = f"of each channel from 0 to 1, {pixels}"
    notes["preprocessing.std"] = f"standard deviation of the same, {pixels}"
    if "preprocessing.crop_share" in values:
        notes["preprocessing.crop_share"] = "the images have the input's size: nothing is cut off"
    notes["data.class_counts"] = "training images of each class; ml-train counts those of its fold"
    if values.get("model.type") == "custom":
        notes["model.type"] = "base (torchvision) and timm have networks for larger images"
    largest, smallest = max(counts.values()), max(1, min(counts.values()))
    if largest >= IMBALANCED * smallest:
        ratio = f"the largest class has {largest / smallest:.3g} times the images of the smallest"
        notes["loss.class_weights"] = (
            f"{ratio}: consider inverse_sqrt or balanced (none, balanced, inverse_sqrt, effective)"
        )
        notes["data.sampling"] = f"shuffle, or balanced: every class equally often; {ratio}"
    return notes


def _header(data_dir: Path, seen: str) -> str:
    return (
        f"Image classification of {data_dir.name}, made by ml-init-config from {seen}.\n"
        "\n"
        "A line that begins with # is a key with its default: take the # away and change the value.\n"
        "A command takes other values for one run: ml-train --config THIS_FILE section.key=value\n"
    )


def _check_names(names: Sequence[str], data_dir: Path) -> None:
    if len(names) < 2:
        raise DataError(
            f"{data_dir}/raw has images of one class only, '{names[0]}'; a classifier needs two: "
            "one folder for each class"
        )
    for name in names:
        if "${" in name or name == "???":
            raise ConfigError(
                f"the class folder '{name}' in {data_dir}/raw has a name that means something else "
                "in a configuration ('${' a reference, '???' a missing value); rename it"
            )


def _folds(data_dir: Path) -> list[int]:
    """The folds that were split; none before ``ml-split``."""
    names = (path.name.split("_")[1] for path in (data_dir / "splits").glob("fold_*_train.txt"))
    return sorted(int(name) for name in names if name.isdecimal())
