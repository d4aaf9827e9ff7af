"""The folder ``data/<name>/splits``: how a split is written, read and checked.

    split = read_split(Path("data/pets"))
    train, validation = split.folds[0]                 # raw/cat/1.jpg, ...

    test.txt, fold_K_train.txt, fold_K_val.txt   index files (``core/index_files.py``)
    classes.json                                 class names; a class's index is its place there
    split.json                                   options, seed, and hashes of lists and images
    report.txt, report.json, report.png          what the data looks like

``split.json`` is removed before anything else changes and written last: where it is, all is whole.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from loguru import logger

from common.utils.errors import DataError
from common.utils.files import (
    atomic_write,
    atomic_write_text,
    explained_write,
    fsync_dir,
    sha256_file,
)
from common.utils.text import did_you_mean
from projects.image_classification.core.index_files import read_index, write_index

FORMAT = 1
_FOLD_FILE = re.compile(r"fold_\d+_(train|val)\.txt")


@dataclass(frozen=True)
class Split:
    """A data set's images, by use.

    Attributes:
        folder: ``data/<name>``, which names are relative to.
        class_names: In the order of their indices.
        test: Images of the test set.
        folds: For each fold the images of training and of validation.
        facts: What ``split.json`` holds: options, seed, hashes.
        report: What ``report.json`` holds; empty unless just made.
    """

    folder: Path
    class_names: tuple[str, ...]
    test: list[str]
    folds: list[tuple[list[str], list[str]]]
    facts: dict[str, Any]
    report: dict[str, Any] = field(default_factory=dict)

    def labels(self, names: Sequence[str]) -> list[int]:
        """The class indices of some images.

        Raises:
            DataError: if an image is of no class of this split.
        """
        index = {name: position for position, name in enumerate(self.class_names)}
        labels = []
        for name in names:
            label = name.split("/")[1] if name.count("/") > 1 else ""
            if label not in index:
                raise DataError(
                    f"{name!r} is in no class folder of {self.folder}; "
                    f"{did_you_mean(label, self.class_names)}"
                )
            labels.append(index[label])
        return labels


def prepare(splits: Path) -> None:
    """Make the folder, before the work is done that would be lost.

    Raises:
        DataError: if nothing can be written there.
    """
    if splits.is_symlink():
        raise DataError(f"{splits} is a link; nothing is written through links: remove it")
    try:
        splits.mkdir(exist_ok=True)
        with TemporaryFile(dir=splits):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write the splits to {splits}: {error.strerror}; if the photos lie on a "
            "read-only disk, make a folder of your own with a link named raw to them"
        ) from None


def write_split(split: Split, original_names: dict[str, str], others: dict[str, bytes]) -> None:
    """Write all lists and reports, remove lists of an older split, and seal them.

    Args:
        split: What to write.
        original_names: What classes were called where their name could be no folder's.
        others: What else to write, by name.

    Raises:
        FaultError: if the disk does not take them.
    """
    splits = split.folder / "splits"
    seal = splits / "split.json"
    _tell_of_change(seal, split.facts)
    with explained_write(splits):
        seal.unlink(missing_ok=True)
        fsync_dir(splits)
    lists = {"test.txt": split.test}
    for number, (train, validation) in enumerate(split.folds):
        lists |= {f"fold_{number}_train.txt": train, f"fold_{number}_val.txt": validation}
    for name, images in lists.items():
        write_index(splits / name, images)
    for path in sorted(splits.iterdir()):
        if _FOLD_FILE.fullmatch(path.name) and path.name not in lists:
            path.unlink()
    classes = {"class_names": split.class_names, "original_names": original_names}
    for name, content in (others | {"classes.json": as_json(classes).encode()}).items():
        with explained_write(splits / name), atomic_write(splits / name) as file:
            file.write(content)
    sealed = {name: sha256_file(splits / name) for name in sorted([*lists, "classes.json"])}
    atomic_write_text(seal, as_json({"format": FORMAT, **split.facts, "files": sealed}))


def read_split(folder: Path) -> Split:
    """Read a split, and check that no list was changed after it was made.

    Args:
        folder: ``data/<name>``.

    Raises:
        DataError: if it is missing, half written or changed.
    """
    splits = folder / "splits"
    facts = _read_json(splits / "split.json", folder)
    options, files = facts.get("options"), facts.get("files")
    is_known = facts.get("format") == FORMAT
    if not is_known or not isinstance(options, dict) or not isinstance(files, dict):
        raise DataError(
            f"{splits / 'split.json'} has the format {facts.get('format')!r}, expected {FORMAT}; "
            f"split again: ml-split --raw_data {folder / 'raw'}"
        )
    for name, digest in files.items():
        if not (splits / name).is_file() or sha256_file(splits / name) != digest:
            raise DataError(
                f"{splits / name} is not as ml-split wrote it; split again, or remove "
                f"{splits / 'split.json'} to use lists of your own"
            )
    names = tuple(_read_json(splits / "classes.json", folder)["class_names"])
    count = options["folds"]
    folds = [
        (read_index(splits / f"fold_{k}_train.txt"), read_index(splits / f"fold_{k}_val.txt"))
        for k in range(count)
    ]
    return Split(folder, names, read_index(splits / "test.txt"), folds, facts)


def read_classes(folder: Path) -> list[str]:
    """The names of the classes in the order of their indices.

    ``splits/classes.json`` has them. Lists made elsewhere come without it: then they are the
    folders that all lists name, sorted.

    Raises:
        DataError: if there are neither.
    """
    splits = folder / "splits"
    if (splits / "classes.json").is_file():
        return [str(name) for name in _read_json(splits / "classes.json", folder)["class_names"]]
    lists = [
        p for p in splits.glob("*.txt") if p.name == "test.txt" or _FOLD_FILE.fullmatch(p.name)
    ]
    found = {name.split("/")[1] for p in lists for name in read_index(p) if name.count("/") > 1}
    if not found:
        raise DataError(
            f"{splits} holds no lists of images; split the data set first: "
            f"ml-split --raw_data {folder / 'raw'}"
        )
    return sorted(found)


def _tell_of_change(seal: Path, facts: dict[str, Any]) -> None:
    """Say so if this split replaces another one: results on the two cannot be compared."""
    try:
        before = json.loads(seal.read_text(encoding="utf-8"))
        options, now = before["options"], facts["options"]
        changed = [
            f"{key} {options.get(key)} -> {now[key]}" for key in now if options.get(key) != now[key]
        ]
        if before["contents_sha256"] != facts["contents_sha256"]:
            changed.append("the images")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if changed:
        logger.warning(
            f"this replaces a split of {before.get('images')} images made with other settings "
            f"({', '.join(changed)}): what was trained on it cannot be compared with what comes now"
        )


def as_json(content: Any) -> str:
    """The one form in which this package writes JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def hash_lines(lines: Sequence[bytes]) -> str:
    """A hash of a list."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(len(line).to_bytes(8, "big") + line)
    return digest.hexdigest()


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no {path}; split the data set first: ml-split --raw_data {folder / 'raw'}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); split again with ml-split") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no mapping; split again with ml-split")
    return content
