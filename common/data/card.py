"""The card beside stored data: where it came from, what it is, and what every byte should be.

``card.json`` lies in the folder of each data set and model. A folder is complete when its card
says so, which needs no network; ``verify`` compares the folder with its card.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from common.utils.errors import DataError, FaultError
from common.utils.files import atomic_write_text, sha256_file
from common.utils.paths import get_assets_dir

CARD_NAME = "card.json"
_FORMAT = 1
_LIBRARIES = ("datasets", "huggingface-hub", "pyarrow")


@dataclass
class Card:
    """What is known about stored data. Files map a name to ``{"size": bytes, "sha256": hex}``.

    Args:
        kind: ``"datasets"`` or ``"models"``.
        name: What was asked for, e.g. ``squad``.
        repository: What it resolved to, e.g. ``rajpurkar/squad``.
        requested_revision: The branch, tag or commit that was asked for.
        revision: The commit it resolved to, 40 hex digits.
        available: What the repository offers at this commit: a model's files, or the splits of a
            data set's configuration.
        license: As the repository's own card states it, or ``unknown``.
        config: The configuration of a data set.
        default_config: The one meant when none is named; ``None`` if there is no such.
        configs: All configurations of a data set.
        splits: Rows of the stored splits.
        created: When, in UTC.
        versions: The libraries that wrote the files.
        source_files: The files of the repository that a data set was made of.
        stored_files: The files in the folder.
    """

    kind: str
    name: str
    repository: str
    requested_revision: str
    revision: str
    available: list[str]
    license: str = "unknown"
    config: str | None = None
    default_config: str | None = None
    configs: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(
        default_factory=lambda: {name: metadata.version(name) for name in _LIBRARIES}
    )
    source_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored_files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> Self | None:
        """The card in ``folder``, or ``None`` if there is no such folder or it is empty.

        Args:
            folder: The data set's or model's folder.
            name: What should be in it.

        Raises:
            DataError: if the folder holds something but no readable card, or something else.
        """
        path = folder / CARD_NAME
        try:
            if not path.is_file():
                if not folder.exists() or not any(folder.iterdir()):
                    return None
                raise DataError(
                    f"{folder} holds something that is not from the store (no {CARD_NAME}); "
                    "move it away or choose another place"
                )
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            card = cls(**fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}); remove {folder}") from None
        if name is not None and card.name != name:
            raise DataError(f"{folder} holds {card.name}, not {name}; choose another place")
        return card

    def write(self, folder: Path) -> None:
        """Write the card into ``folder``, all or nothing."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2, ensure_ascii=False)
        atomic_write_text(folder / CARD_NAME, text + "\n")

    def is_at(self, revision: str | None) -> bool:
        """Whether what is stored satisfies a request for ``revision`` (``None``: any)."""
        return revision is None or revision in (self.requested_revision, self.revision)

    @property
    def size(self) -> int:
        """Bytes of the stored files."""
        return sum(record["size"] for record in self.stored_files.values())


def file_records(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files in ``folder``."""
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in sorted(names)
    }


def list_store(kind: str) -> list[tuple[Path, Card]]:
    """Folder and card of everything of one kind in the store, by name.

    Args:
        kind: ``"datasets"`` or ``"models"``.

    Raises:
        DataError: if a card cannot be read.
    """
    root = get_assets_dir() / kind
    folders = sorted(path.parent for path in root.glob(f"[!.]*/{CARD_NAME}"))
    return [(folder, card) for folder in folders if (card := Card.read(folder)) is not None]


def verify(folder: Path) -> list[str]:
    """Hash every file that the card of ``folder`` names.

    Files that the card does not name, such as caches of ``datasets``, are left alone.

    Returns:
        One line for each file that is missing or differs; empty if all is well.

    Raises:
        DataError: if there is no readable card.
    """
    card = Card.read(folder)
    if card is None:
        raise DataError(f"nothing is stored in {folder}")
    problems = []
    for name, record in card.stored_files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif (size := path.stat().st_size) != record["size"]:
            problems.append(f"{name} has {size:,} bytes, expected {record['size']:,}")
        elif sha256_file(path) != record["sha256"]:
            problems.append(f"{name} has other bytes than were stored (SHA-256 differs)")
    return problems


def verify_store(kind: str, name: str | None = None) -> Iterator[str]:
    """Verify one entry of the store, or all of them, and report each as it is done.

    Args:
        kind: ``"datasets"`` or ``"models"``.
        name: What to verify, as it was asked for; all its configurations are.

    Yields:
        One line for each entry that is whole.

    Raises:
        DataError: if there is no such entry.
        FaultError: at the end, naming what is damaged.
    """
    entries = [entry for entry in list_store(kind) if name in (None, entry[1].name)]
    if name is not None and not entries:
        raise DataError(f"{name} is not in the store ({get_assets_dir() / kind})")
    damaged = []
    for folder, card in entries:
        if problems := verify(folder):
            damaged.append(f"{folder}: {'; '.join(problems[:10])}")
        else:
            yield f"{folder.name}: {len(card.stored_files)} files, as stored {card.created}"
    if damaged:
        raise FaultError(f"{' | '.join(damaged)}; remove what is damaged and download it again")
