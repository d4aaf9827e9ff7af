"""A data set in the store: where each configuration lies, and which of its splits are there.

A folder is what ``DatasetDict.save_to_disk`` writes, with the splits that were asked for so far.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.card import Card, file_records
from common.data.convert import Plan, quiet_unless_terminal
from common.data.store import add, publish
from common.utils.errors import DataError
from common.utils.files import atomic_write_text
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from datasets import DatasetDict

_SPLITS_NAME = "dataset_dict.json"  # where `save_to_disk` keeps the list of splits


def locate(base: Path, name: str, config: str | None) -> tuple[Path, Card | None]:
    """Where a configuration is or will be, and its card: the first one has the plain name.

    Args:
        base: The folder of the first configuration.
        name: The data set's name.
        config: The configuration; ``None`` is the repository's default.

    Raises:
        DataError: if no configuration is named and there is no default.
    """
    card = Card.read(base, name)
    wanted = config or (card.default_config if card else None)
    if card is None or wanted == card.config:
        return base, card
    if wanted is None:
        shown = ", ".join(card.configs[:8]) + (", ..." if len(card.configs) > 8 else "")
        raise DataError(
            f"{name} has several configurations, choose one: {shown} ({card.config} is stored)"
        )
    other = base.with_name(f"{base.name}@{wanted}")
    return other, Card.read(other, name)


def has_splits(card: Card | None, split: str | None, revision: str | None) -> bool:
    """Whether everything that is asked for is stored.

    Raises:
        DataError: if the configuration has no such split.
    """
    if card is None or not card.is_at(revision):
        return False
    return set(_wanted(split, card.available)) <= card.splits.keys()


def store_splits(found: Plan, card: Card, split: str | None, scratch: Path, target: Path) -> None:
    """Read the splits that are missing and put them beside those that are stored.

    Args:
        found: What the repository has.
        card: The card of the stored splits, or a new one without any; it is completed.
        split: The split that is asked for; ``None`` is all.
        scratch: A folder beside ``target`` to work in.
        target: The data set's folder.

    Raises:
        DataError: if there is no such split, or its files cannot be read.
        DownloadError: if they cannot be fetched.
    """
    missing = [one for one in _wanted(split, list(found.files)) if one not in card.splits]
    tables = found.load(missing)
    is_new = not card.splits
    if not is_new:
        _require_same_columns(tables, target / next(iter(card.splits)))
    staged = scratch / "data"
    with quiet_unless_terminal():
        tables.save_to_disk(str(staged))
    card.splits |= {one: len(tables[one]) for one in missing}
    stored = [one for one in card.available if one in card.splits]
    atomic_write_text(staged / _SPLITS_NAME, json.dumps({"splits": stored}))
    sources = {name for one in missing for name in found.files[one]}
    written = [path for path in staged.rglob("*") if path.is_file()]
    card.source_files |= file_records(found.folder, sources)
    card.stored_files |= file_records(staged, [str(path.relative_to(staged)) for path in written])
    if is_new:
        card.write(staged)
        publish(staged, target)
    else:
        for name in [*missing, _SPLITS_NAME]:
            add(staged / name, target / name)
        card.write(target)


def _wanted(split: str | None, available: Sequence[str]) -> list[str]:
    if split is None:
        return list(available)
    if split not in available:
        raise DataError(f"there is no split {split!a}; {did_you_mean(split, available)}")
    return [split]


def _require_same_columns(tables: "DatasetDict", stored: Path) -> None:
    from datasets import Dataset

    expected = Dataset.load_from_disk(str(stored)).features
    for split, table in tables.items():
        if table.features != expected:
            raise DataError(
                f"split {split!r} has other columns than {stored}; remove {stored.parent} and "
                "download all splits at once"
            )
