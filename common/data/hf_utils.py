"""Data sets and models from the Hugging Face Hub, kept in the store under ``assets/``.

    dataset = download_dataset("squad")                        # assets/datasets/squad
    model_path = download_model("bert-base-uncased")           # assets/models/bert-base-uncased

Both look at the disk first and ask nobody when everything is there. What is missing is fetched
once, however many processes ask for it, verified, and put in place with a card that says where it
came from. ``docs/data_store.md`` has the whole story.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from common.data.aliases import folder_name, resolve_alias
from common.data.card import Card
from common.data.convert import plan
from common.data.hub import Repository, describe
from common.data.store import locked, staging
from common.data.stored_datasets import has_splits, locate, store_splits
from common.data.stored_models import has_files, selection, store_files
from common.data.transfer import OfflineError
from common.utils.errors import DataError, DownloadError, InputError
from common.utils.paths import (
    get_datasets_dir,
    get_models_dir,
    get_project_root,
    safe_join,
    validate_name,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_DEFAULT_REVISION = "main"


def download_dataset(
    name: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    dest: Path | str | None = None,
) -> "Dataset | DatasetDict":
    """A data set from the store, fetched from the Hub if it is not there yet.

    Args:
        name: A short name such as ``squad``, or ``namespace/name``.
        config: The configuration; ``None`` is the repository's default.
        split: One split; ``None`` is all of them.
        revision: A branch, tag or commit. ``None`` is whatever is stored, or else ``main``. Another
            revision than the stored one replaces it.
        dest: The folder to keep it in, instead of ``assets/datasets/<name>``.

    Returns:
        The split, or a ``DatasetDict`` of all splits of the configuration.

    Raises:
        DataError: if there is no such data set, configuration, split or revision, or it is refused.
        DownloadError: if it is not complete in the store and cannot be fetched.
        UnsafeNameError: for names that would leave the store.
    """
    folder = fetch_dataset(name, config, split, revision, dest)
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder / split if split else folder))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} is damaged ({str(error).splitlines()[0]}); remove it and download it again"
        ) from None


def fetch_dataset(
    name: str,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    dest: Path | str | None = None,
) -> Path:
    """Like ``download_dataset``, but return the folder without opening it."""
    repository_id = resolve_alias("datasets", name)
    if name.startswith("embedded/"):
        raise InputError(f"{name} is part of this project and needs no download")
    _check(config, "configuration")
    _check(revision, "revision")
    base = _destination(dest) or get_datasets_dir() / folder_name(name)
    target, card = locate(base, name, config)
    if has_splits(card, split, revision):
        return target
    with locked(base):
        target, card = locate(base, name, config)  # another process may have been at it
        if has_splits(card, split, revision):
            return target
        if card is not None and not card.is_at(revision):
            card = None  # to be replaced
        wanted = revision or (card.revision if card else _DEFAULT_REVISION)
        command = _command("dataset", name=name, config=config, split=split, revision=revision)
        repository = _describe("datasets", repository_id, wanted, target, command)
        with staging(target) as scratch:
            found = plan(repository, config or (card.config if card else None), scratch)
            if card is None:
                card = Card(
                    *("datasets", name, repository.repository_id, wanted, repository.revision),
                    available=list(found.files),
                    license=found.license,
                    config=found.config,
                    default_config=found.default_config,
                    configs=found.configs,
                )
            store_splits(found, card, split, scratch, target)
    logger.info(f"{name}: {card.repository} at {card.revision[:10]} is in {target}")
    return target


def download_model(
    repo_id: str,
    filename: str | None = None,
    revision: str | None = None,
    include: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    dest: Path | str | None = None,
) -> Path:
    """A model's files from the store, fetched from the Hub if they are not there yet.

    Args:
        repo_id: A short name such as ``bert-base-uncased``, or ``namespace/name``.
        filename: One file of the repository.
        revision: A branch, tag or commit. ``None`` is whatever is stored, or else ``main``. Another
            revision than the stored one replaces it.
        include: Shell patterns of the files to take; all by default.
        exclude: Shell patterns of files to leave out.
        dest: The folder to keep them in, instead of ``assets/models/<repo_id>``.

    Returns:
        The file's path if ``filename`` is given, else the folder.

    Raises:
        DataError: if there is no such model, file or revision, or it is refused.
        DownloadError: if something is missing in the store and cannot be fetched.
        UnsafeNameError: for names that would leave the store.
    """
    repository_id = resolve_alias("models", repo_id)
    if filename is not None and (include or exclude):
        raise InputError("give either one file name or include and exclude patterns, not both")
    _check(filename, "file name")
    _check(revision, "revision")
    select = selection(filename, include, exclude)
    target = _destination(dest) or get_models_dir() / folder_name(repo_id)
    result = target if filename is None else safe_join(target, *filename.split("/"))
    if has_files(Card.read(target, repo_id), select, revision):
        return result
    with locked(target):
        card = Card.read(target, repo_id)  # another process may have been at it
        if has_files(card, select, revision):
            return result
        if card is not None and not card.is_at(revision):
            card = None  # to be replaced
        wanted = revision or (card.revision if card else _DEFAULT_REVISION)
        command = _command("model", repo_id=repo_id, filename=filename, revision=revision)
        repository = _describe("models", repository_id, wanted, target, command)
        with staging(target) as scratch:
            card = card or Card(
                *("models", repo_id, repository.repository_id, wanted, repository.revision),
                available=list(repository.files),
            )
            store_files(repository, card, select, scratch, target)
    logger.info(f"{repo_id}: {card.repository} at {card.revision[:10]} is in {target}")
    return result


def link_dataset(name: str, folder: Path | str, config: str | None = None) -> Path:
    """Make ``<folder>/data`` a relative link to a stored data set.

    Args:
        name: The name it was downloaded under.
        folder: A folder, relative to the working directory or else to the project.
        config: The configuration, if several are stored.

    Returns:
        The link.

    Raises:
        DataError: if the data set is not stored, there is no such folder, or something that is not
            a link lies at ``<folder>/data``.
    """
    resolve_alias("datasets", name)
    _check(config, "configuration")
    target, card = locate(get_datasets_dir() / folder_name(name), name, config)
    if card is None:
        command = _command("dataset", name=name, config=config)
        raise DataError(f"{name} is not in the store; fetch it first: {command}")
    places = [Path(folder).expanduser().absolute(), get_project_root() / folder]
    home = next((place.resolve() for place in places if place.is_dir()), None)
    if home is None:
        raise DataError(f"there is no folder {folder} to put the link in")
    link = home / "data"
    if link.exists() and not link.is_symlink():
        raise DataError(f"{link} exists and is no link; move it away first")
    temporary = home / f".tmp-data-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target.resolve(), home))
    os.replace(temporary, link)
    return link


def _check(name: str | None, what: str) -> None:
    if name is not None:
        validate_name(name, what)


def _destination(dest: Path | str | None) -> Path | None:
    if dest is None:
        return None
    path = Path(os.path.abspath(Path(dest).expanduser()))
    validate_name(path.name, "destination")
    return path


def _describe(
    kind: str, repository_id: str, revision: str, target: Path, command: str
) -> Repository:
    try:
        return describe(kind, repository_id, revision)
    except OfflineError as error:
        raise DownloadError(
            f"{error}; what was asked for is not complete in {target}; with a network, run: {command}"
        ) from None


def _command(tool: str, **options: str | None) -> str:
    words = ["python", f"tools/download_hf_{tool}.py"]
    for option, value in options.items():
        words += [f"--{option.replace('_', '-')}", value] if value is not None else []
    return shlex.join(words)
