"""A data set of the store as a folder of image files: ``data/<name>/raw/<class>/...``.

    raw = unpack_dataset("zalando-datasets/fashion_mnist", Path("data/fashion_mnist"))

Encoded images are written as the store has them, byte for byte; arrays become PNG files. One batch
of rows is in memory at a time. The folder appears when it is complete, with ``source.json`` (where
it came from) and, if the data set has a test split, ``own_test.txt`` (which images are its).
"""

import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.images import read_bytes
from common.data.store import add, locked, staging
from common.utils.errors import DataError
from common.utils.files import atomic_write_text, explained_write, fsync_dir
from common.utils.text import did_you_mean
from projects.image_classification.core.index_files import write_index

if TYPE_CHECKING:
    from datasets import Dataset

OWN_TEST = "own_test.txt"
SOURCE = "source.json"
_BATCH = 64  # rows
_LONGEST = 80  # letters of a folder's name
_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\0\0\0\x0cjP", ".jp2"),
    (b"\xff\x4f\xff\x51", ".j2k"),
)

Row = tuple[bytes | None, Any]


def default_folder(name: str) -> Path:
    """Where a data set is unpacked unless told otherwise: ``data/<last part of its name>``."""
    return Path("data") / name.rstrip("/").rsplit("/", 1)[-1]


def unpack_dataset(name: str, folder: Path, config: str | None = None) -> Path:
    """Write a data set's images to files, once.

    Args:
        name: ``embedded/digits``, or a name in the store; what is not there yet is fetched.
        folder: ``data/<name>``; its ``raw`` must not exist, or come from this data set.
        config: Which configuration of a stored data set.

    Returns:
        ``folder / "raw"``.

    Raises:
        DataError: if there is no such data set, it has no images with labels, or ``raw`` holds
            something else.
        DownloadError: if it is not in the store and cannot be fetched.
        FaultError: if it cannot be written.
    """
    raw = folder / "raw"
    if raw.exists():
        _check_source(folder, name, config)
        return raw
    splits, names = _open(name, config)
    folders = safe_class_names(names)
    with explained_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(raw):
        if raw.exists():  # another process was at it
            _check_source(folder, name, config)
            return raw
        with staging(raw) as staged:
            test, counts = _write(splits, folders, staged / "raw")
            source = {
                "dataset": name,
                "config": config,
                "class_names": list(names),
                "folders": folders,
                "images": counts,
            }
            if test:
                write_index(staged / OWN_TEST, test)
                add(staged / OWN_TEST, folder / OWN_TEST)
            text = json.dumps(source, indent=2, ensure_ascii=False) + "\n"
            atomic_write_text(staged / SOURCE, text)
            add(staged / SOURCE, folder / SOURCE)
            os.sync()  # all files at once; one by one would take minutes
            os.rename(staged / "raw", raw)
            fsync_dir(folder)
    return raw


def original_class_names(folder: Path, class_names: Sequence[str]) -> dict[str, str]:
    """What classes were called in the data set they came from, where that could be no folder's name.

    Args:
        folder: ``data/<name>``.
        class_names: The folders' names.
    """
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        pairs = dict(zip(source["folders"], source["class_names"], strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: pairs[name] for name in class_names if pairs.get(name, name) != name}


def safe_class_names(names: Sequence[str]) -> list[str]:
    """Folder names for classes: letters, digits and spaces stay, what no file name may hold goes.

    Two classes never share one, also where ``A`` and ``a`` are the same file.
    """
    taken: set[str] = set()
    folders = []
    for name in names:
        text = unicodedata.normalize("NFC", name)
        text = re.sub(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff]+', "_", text).strip(" .")
        text = text[:_LONGEST].encode()[:200].decode(errors="ignore").strip(" .") or "class"
        text = f"_{text}" if text[0] == "-" else text
        unique, number = text, 2
        while unique.casefold() in taken:
            unique, number = f"{text}_{number}", number + 1
        taken.add(unique.casefold())
        folders.append(unique)
    return folders


def _open(name: str, config: str | None) -> tuple[dict[str, Iterator[Row]], list[str]]:
    """The rows ``(encoded image, class index)`` of each split, and the names of the classes."""
    if name.startswith("embedded/"):
        from common.data.splits import load_splits

        splits = load_splits(name, config)
        first = next(iter(splits.values()))
        if "image" not in first or "label" not in first:
            raise DataError(
                f"{name} has the columns {', '.join(first)}, expected images with labels; for "
                "instance embedded/digits"
            )
        labels = np.concatenate([np.asarray(columns["label"]) for columns in splits.values()])
        names = _numbered(int(labels.max()) + 1)
        return {split: _arrays(columns) for split, columns in splits.items()}, names
    from common.data.hf_utils import download_dataset

    tables = dict(download_dataset(name, config))
    image, label, names = _columns(name, tables)
    return {split: _rows(table, image, label, names) for split, table in tables.items()}, names


def _columns(name: str, tables: Mapping[str, "Dataset"]) -> tuple[str, str, list[str]]:
    """The columns of images and labels, and the class names."""
    from datasets import ClassLabel, Image

    features = next(iter(tables.values())).features
    images = [column for column, feature in features.items() if isinstance(feature, Image)]
    classes = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if not images:
        raise DataError(f"{name} has the columns {', '.join(features)}, and none holds images")
    if not classes:
        classes = [column for column in ("label", "labels", "class") if column in features]
    if not classes:
        hint = did_you_mean("label", features)
        raise DataError(f"{name} has no column of class labels; {hint}")
    preferred = [column for column in classes if column in ("label", "labels", "fine_label")]
    label = (preferred or classes)[0]
    known = getattr(features[label], "names", None)
    if known:
        return images[0], label, list(known)
    values = {value for table in tables.values() for value in table.unique(label)} - {None}
    if all(isinstance(value, int) for value in values):
        return images[0], label, _numbered(max(values) + 1)
    return images[0], label, sorted(str(value) for value in values)


def _numbered(count: int) -> list[str]:
    """Names of classes without names, whose order as text is their order as numbers."""
    return [f"{number:0{len(str(count - 1))}d}" for number in range(count)]


def _rows(table: "Dataset", image: str, label: str, names: list[str]) -> Iterator[Row]:
    from datasets import Image

    index = {name: position for position, name in enumerate(names)}
    plain = table.select_columns([image, label]).cast_column(image, Image(decode=False))
    for batch in plain.iter(batch_size=_BATCH):
        for source, value in zip(batch[image], batch[label], strict=True):
            number = index.get(value) if isinstance(value, str) else value
            yield (None if source is None else read_bytes(source)), number


def _arrays(columns: Mapping[str, Any]) -> Iterator[Row]:
    from PIL import Image

    for pixels, label in zip(columns["image"], columns["label"], strict=True):
        file = io.BytesIO()
        Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
        yield file.getvalue(), int(label)


def _write(
    splits: Mapping[str, Iterator[Row]], folders: Sequence[str], raw: Path
) -> tuple[list[str], dict[str, int]]:
    """Write all files; returns which are the test split's, and how many each split has."""
    for folder in folders:
        (raw / folder).mkdir(parents=True)
    test: list[str] = []
    counts: dict[str, int] = {}
    for split, rows in splits.items():
        written = 0
        for number, (content, label) in enumerate(rows):
            if label is None or label == -1:  # how test sets without labels are published
                continue
            if not 0 <= label < len(folders):
                raise DataError(
                    f"split {split!r}, row {number}: the label is {label}, expected 0 to "
                    f"{len(folders) - 1}"
                )
            name = f"{folders[label]}/{split}_{number:06d}{_ending(content or b'')}"
            (raw / name).write_bytes(content or b"")
            written += 1
            if split == "test":
                test.append(f"raw/{name}")
        if written:
            counts[split] = written
    if not counts:
        raise DataError("the data set has no row with a label")
    return sorted(test), counts


def _ending(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((end for start, end in _SIGNATURES if content.startswith(start)), ".png")


def _check_source(folder: Path, name: str, config: str | None) -> None:
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        same = (source["dataset"], source["config"]) == (name, config)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DataError(
            f"{folder / 'raw'} exists and does not come from {name}; unpack it elsewhere with "
            f"--raw_data data/ANOTHER_NAME/raw, or split what is there without --dataset"
        )
