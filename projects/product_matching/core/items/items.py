"""What is matched: images with labels, and perhaps titles, from a data set, a folder or a CSV file.

    items = read_items(config.data, config.dataloader.root)
    items.names[0], items.labels[0], items.sources[0]
    fold = items.subset(rows)

Nothing is decoded here. Labels are text, so that 7 and "7" are one; names tell items apart, and are
what folds, predictions and pictures are written with.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from common.data.image_places import find_places
from common.utils.errors import DataError
from common.utils.text import did_you_mean, printable
from projects.product_matching.core.config import DataConfig
from projects.product_matching.core.items.sources import read_csv, stored_splits

_DIGITS = 5  # of a row's number in a name


@dataclass(frozen=True)
class Items:
    """Items in order.

    Attributes:
        names: Of each, none twice: a path, or split and row.
        sources: What ``Preprocessing`` decodes, one for each; read when it is asked for.
        labels: The product of each.
        titles: Of each; ``None`` if there are none.
        splits: The split each comes from; empty text where there are no splits.
        origin: What they were read from, for messages.
    """

    names: tuple[str, ...]
    sources: Sequence[Any]
    labels: tuple[str, ...]
    titles: tuple[str, ...] | None
    splits: tuple[str, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Items":
        """Some of them, in the order of ``rows``."""
        chosen = [int(row) for row in rows]

        def of(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[row] for row in chosen)

        return Items(
            names=of(self.names),
            sources=Chosen(self.sources, chosen),
            labels=of(self.labels),
            titles=None if self.titles is None else of(self.titles),
            splits=of(self.splits),
            origin=self.origin,
        )

    @property
    def alone(self) -> int:
        """How many share their label with nothing: they have no match to find."""
        return sum(count == 1 for count in Counter(self.labels).values())


class Chosen(Sequence[Any]):
    """Some of the sources, still read when they are asked for.

    Args:
        sources: All of them.
        rows: Which, in order.
    """

    def __init__(self, sources: Sequence[Any], rows: Sequence[int]) -> None:
        self._sources, self._rows = sources, list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._sources[self._rows[index]]


def read_items(
    config: DataConfig, root: str | Path | None = None, *, titles: bool = False
) -> Items:
    """The items that the section ``data`` names.

    Args:
        config: The section.
        root: What ``folder`` and ``csv`` are relative to; the working directory by default.
        titles: Whether to read the column of titles.

    Raises:
        DataError: if there are none, a column or a file is missing, or all labels are one, with what
            to do about it.
        DownloadError: if a data set is not in the store and cannot be fetched.
    """
    if config.name:
        items = _of_data_set(config, config.title if titles else None)
    elif config.folder:
        items = _of_folder(_placed(config.folder, root))
    else:
        items = _of_csv(_placed(config.csv or "", root), config, config.title if titles else None)
    return _checked(items, config.min_per_label)


def _placed(path: str, root: str | Path | None) -> Path:
    return Path(root or ".").expanduser() / Path(path).expanduser()


def _of_data_set(config: DataConfig, title: str | None) -> Items:
    assert config.name
    splits = stored_splits(config.name, config.config, config.image)
    wanted = config.splits or list(splits)
    for split in wanted:
        if split not in splits:
            raise DataError(f"{config.name} has no split '{split}'; {did_you_mean(split, splits)}")
    names: list[str] = []
    parts: list[Sequence[Any]] = []
    labels: list[str] = []
    titles: list[str] = []
    of_split: list[str] = []
    for split in wanted:
        table = splits[split]
        where = f"{config.name}, {split}"
        images = table.images(where)
        parts.append(images)
        labels += table.labels(config.label, where)
        if title is not None:
            titles += table.texts(title, where)
        names += [f"{split}/{row:0{_DIGITS}d}" for row in range(len(images))]
        of_split += [split] * len(images)
    return Items(
        names=tuple(names),
        sources=_Joined(parts),
        labels=tuple(labels),
        titles=None if title is None else tuple(titles),
        splits=tuple(of_split),
        origin=config.name,
    )


def _of_folder(folder: Path) -> Items:
    if not folder.is_dir():
        raise DataError(f"data.folder: {folder} is no folder (in {Path.cwd()})")
    found = find_places([str(folder)], "data.folder")
    loose = [file for file, label in zip(found.files, found.folders, strict=True) if not label]
    if loose:
        raise DataError(
            f"data.folder: {len(loose):,} of {len(found.files):,} images in {folder} lie in no "
            f"sub-folder, which names the label (the first: {printable(loose[0].name)}); sort them "
            "into sub-folders, or list them with data.csv"
        )
    seen: dict[str, Path] = {}
    for file in found.files:
        before = seen.setdefault(os.path.realpath(file), file)
        if before is not file:
            first, again = (
                printable(each.relative_to(folder).as_posix()) for each in (before, file)
            )
            raise DataError(
                f"data.folder: {first} and {again} in {folder} are one file, by a link; an image is one "
                "item, lest it be trained on and judged: remove the link"
            )
    return Items(
        names=tuple(file.relative_to(folder).as_posix() for file in found.files),
        sources=found.files,
        labels=tuple(found.folders),
        titles=None,
        splits=("",) * len(found.files),
        origin=str(folder),
    )


def _of_csv(path: Path, config: DataConfig, title: str | None) -> Items:
    rows = read_csv(path, config.image, config.label, title)
    return Items(
        names=tuple(row.image for row in rows),
        sources=[row.file for row in rows],
        labels=tuple(row.label for row in rows),
        titles=None if title is None else tuple(row.title for row in rows),
        splits=("",) * len(rows),
        origin=str(path),
    )


def _checked(items: Items, least: int) -> Items:
    if not len(items):
        raise DataError(f"{items.origin} holds no items; expected images with labels")
    counts = Counter(items.labels)
    if least > 1:
        rows = [row for row, label in enumerate(items.labels) if counts[label] >= least]
        if len(rows) < len(items):
            logger.info(
                f"{items.origin}: {len(items) - len(rows):,} of {len(items):,} items are left out, "
                f"whose labels have fewer than {least} (data.min_per_label)"
            )
        if not rows:
            raise DataError(
                f"{items.origin}: no label has {least} items (data.min_per_label); the most any has "
                f"is {max(counts.values())}"
            )
        items = items.subset(rows)
    if len(set(items.labels)) == 1:
        raise DataError(
            f"{items.origin}: all {len(items):,} items have the label "
            f"'{printable(items.labels[0])}'; there is nothing to tell apart"
        )
    if len(set(items.labels)) == len(items):
        raise DataError(
            f"{items.origin}: no two of the {len(items):,} items share a label, so there is no match "
            "to learn or to find; is the column of labels the right one?"
        )
    if items.alone:
        have = "has" if items.alone == 1 else "have"
        logger.warning(
            f"{items.origin}: {items.alone:,} of {len(set(items.labels)):,} labels {have} one item, "
            "which has no match to find"
        )
    return items


class _Joined(Sequence[Any]):
    """Several sequences as one."""

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (self._ends[part] - len(self._parts[part]))]
