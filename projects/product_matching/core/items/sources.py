"""Where items are read from: the splits of a data set, and the lines of a CSV file.

Images of a stored data set stay encoded until one is asked for; arrays become images one at a time.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from common.data.labelled_images import column_of
from common.data.splits import Columns, class_names, encoded_images, load_splits
from common.utils.errors import DataError
from common.utils.text import did_you_mean, printable


@dataclass(frozen=True)
class CsvRow:
    """A line of a CSV file.

    Attributes:
        image: As it is written.
        file: The same, from the file's folder.
        label: Not empty.
        title: May be empty.
    """

    image: str
    file: Path
    label: str
    title: str


def read_csv(path: Path, image: str, label: str | None, title: str | None) -> list[CsvRow]:
    """The lines of a CSV file with a header.

    Args:
        path: UTF-8, comma-separated.
        image: Column of image files, relative to the folder of ``path``.
        label: Column of labels; ``None``: labels are empty.
        title: Column of titles; ``None``: titles are empty.

    Raises:
        DataError: naming the line, if a column, a file or a label is missing, an image comes twice,
            or the file is none.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            header = reader.fieldnames or []
            if not header:
                needed = ", ".join(filter(None, (image, label, title)))
                raise DataError(f"{path} is empty; expected a first line with the columns {needed}")
            for column in filter(None, (image, label, title)):
                if column not in header:
                    hint = did_you_mean(column, header)
                    raise DataError(f"{path}:1: there is no column '{column}'; {hint}")
            lines = [(reader.line_num, line) for line in reader]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8: {error}") from None
    if not lines:
        raise DataError(f"{path} has no line below its header; expected one for each image")
    rows: list[CsvRow] = []
    seen: dict[str, tuple[int, str]] = {}
    for number, line in lines:
        name = line[image] or ""
        file = path.parent / name
        text = line[label] if label is not None else "-"
        if not name or not text:
            what = image if not name else label
            raise DataError(f"{path}:{number}: the column '{what}' is empty; expected a value")
        # However it is written: else it could be trained on under one name and judged under another.
        key = os.path.realpath(file)
        if key in seen:
            before, spelled = seen[key]
            as_what = "" if spelled == name else f" as {printable(spelled)}"
            raise DataError(
                f"{path}:{number}: {printable(name)} is on line {before} already{as_what}; an image "
                "has one line"
            )
        if not file.is_file():
            raise DataError(
                f"{path}:{number}: there is no file {printable(str(file))}; paths are relative to "
                "the folder of the CSV file"
            )
        seen[key] = (number, name)
        rows.append(CsvRow(name, file, text if label else "", (line[title] or "") if title else ""))
    return rows


class SplitTable:
    """The columns of one split.

    Args:
        columns: As ``load_splits`` gives them.
        image: The column of images.
    """

    def __init__(self, columns: Columns, image: str) -> None:
        self._columns, self._image = columns, image

    def images(self, where: str) -> Sequence[Any]:
        """What ``Preprocessing`` decodes, read when it is asked for."""
        if self._image not in self._columns:
            hint = did_you_mean(self._image, list(self._columns))
            raise DataError(f"{where}: there is no column '{self._image}'; {hint}")
        images: Any = encoded_images(self._columns, self._image)
        return _Arrays(images) if isinstance(images, np.ndarray) else images

    def labels(self, column: str, where: str) -> list[str]:
        """Names of classes where the data set has them, else the values as text."""
        values = column_of(self._columns, column, where)
        names = class_names(self._columns, column)
        texts = []
        for row, value in enumerate(values):
            if value is None or (names and not 0 <= int(value) < len(names)):
                raise DataError(f"{where}: row {row} has the label {value!r}; expected a class")
            texts.append(names[int(value)] if names else str(value))
        return texts

    def texts(self, column: str, where: str) -> list[str]:
        """A column of text; what is missing is empty."""
        values = column_of(self._columns, column, where)
        return ["" if value is None else str(value) for value in values]


def stored_splits(name: str, config: str | None, image: str) -> Mapping[str, SplitTable]:
    """The splits of a data set, embedded or stored.

    Raises:
        DataError: if there is no such data set.
        DownloadError: if it is not in the store and cannot be fetched.
    """
    return {
        split: SplitTable(columns, image) for split, columns in load_splits(name, config).items()
    }


class _Arrays(Sequence[Any]):
    """Images of an array, one at a time."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Any) -> Any:
        return PillowImage.fromarray(self._pixels[index])
