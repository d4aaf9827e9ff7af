"""A model in the store: which files of its repository were asked for, and which are there."""

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from common.data.card import CARD_NAME, Card, file_records
from common.data.convert import license_of, read_repository_card
from common.data.hub import Repository, fetch
from common.data.store import add, publish
from common.utils.errors import DataError
from common.utils.paths import safe_join, validate_name
from common.utils.text import did_you_mean

Selection = Callable[[Sequence[str]], list[str]]
_ABOUT = "README.md"


def selection(
    filename: str | None, include: Sequence[str] | str | None, exclude: Sequence[str] | str | None
) -> Selection:
    """A function from the names of a repository's files to those that are asked for.

    Args:
        filename: One file.
        include: Shell patterns of the files to take; all by default.
        exclude: Shell patterns of files to leave out.
    """
    taken, left = (
        [patterns] if isinstance(patterns, str) else list(patterns or [])
        for patterns in (include, exclude)
    )

    def select(names: Sequence[str]) -> list[str]:
        if filename is not None:
            if filename not in names:
                raise DataError(f"there is no file {filename!a}; {did_you_mean(filename, names)}")
            return [filename]
        chosen = [
            name
            for name in names
            if any(fnmatchcase(name, pattern) for pattern in taken or ["*"])
            and not any(fnmatchcase(name, pattern) for pattern in left)
        ]
        if not chosen:
            raise DataError(f"no file is chosen; there are {', '.join(list(names)[:8]) or 'none'}")
        return chosen

    return select


def has_files(card: Card | None, select: Selection, revision: str | None) -> bool:
    """Whether everything that is asked for is stored.

    Raises:
        DataError: if the repository has no such file.
    """
    if card is None or not card.is_at(revision):
        return False
    return set(select(card.available)) <= card.stored_files.keys()


def store_files(
    repository: Repository, card: Card, select: Selection, scratch: Path, target: Path
) -> None:
    """Fetch the files that are missing and put them beside those that are stored.

    Args:
        repository: Where the files are.
        card: The card of the stored files, or a new one without any; it is completed.
        select: What is asked for.
        scratch: A folder beside ``target`` to work in.
        target: The model's folder.

    Raises:
        DataError: if there is no such file, or the repository holds something unsafe.
        DownloadError: if a file cannot be fetched.
    """
    names = select(list(repository.files))
    if CARD_NAME in names:
        raise DataError(
            f"{repository.repository_id} has a {CARD_NAME} of its own, where the store keeps its "
            f"card; leave it out with --exclude {CARD_NAME}"
        )
    missing = [name for name in names if name not in card.stored_files]
    staged = scratch / "data"
    fetch(repository, missing, staged)
    _check_weight_indexes(staged, repository)
    is_new = not card.stored_files
    if is_new:
        about = staged if _ABOUT in missing else scratch / "about"
        fetch(repository, {_ABOUT} & repository.files.keys() - set(missing), about)
        card.license = license_of(read_repository_card(about))
    card.stored_files |= file_records(staged, missing)
    if is_new:
        card.write(staged)
        publish(staged, target)
    else:
        for name in missing:
            add(staged / name, safe_join(target, *name.split("/")))
        card.write(target)


def _check_weight_indexes(folder: Path, repository: Repository) -> None:
    """An index of sharded weights may only name files of its repository: readers open them all."""
    for path in folder.rglob("*.index.json"):
        try:
            shards = set(json.loads(path.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # another kind of index
        beside = path.parent.relative_to(folder)
        for shard in shards:
            name = validate_name(str(shard), f"{repository.repository_id}: {path.name} names")
            if (beside / name).as_posix() not in repository.files:
                raise DataError(
                    f"{path.name} of {repository.repository_id} names {name!a}, which the "
                    "repository does not have"
                )
