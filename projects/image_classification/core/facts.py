"""What the images say of themselves, filled into the configuration with the data as its source.

Classes, their counts, the size and the channels of the images, mean and deviation of their pixels:
what the user set stays, and stops the run where the data says otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.config import RunContext, Source
from common.data.pixel_statistics import resolve_recipe
from common.utils.errors import ConfigError, DataError
from common.utils.text import did_you_mean
from projects.image_classification.core.config import Config
from projects.image_classification.core.folder.split_files import read_classes
from projects.image_classification.core.index_files import find_files, read_index


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
    resolve_recipe(config.preprocessing, context, find_files(index_file, listed), by)


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
