"""From the files of a repository to Arrow tables, reading only what the wanted splits need.

``datasets`` itself decides which files make up which split, by the rules of its documentation: it
looks at a folder that has the repository's card and empty files of the right names. Only then are
the files of the wanted splits fetched. Loading scripts are never run.
"""

import errno
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from common.data.archives import check_archive, is_archive
from common.data.hub import Repository, fetch
from common.utils.errors import DataError
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict

_DESCRIPTIONS = ("README.md", "dataset_infos.json")


@dataclass
class Plan:
    """Which files make up which split of one configuration.

    Args:
        repository: Where the files are.
        folder: The local copy of the repository, empty files included.
        config: The configuration's name.
        default_config: The one meant when none is named, if there is one.
        configs: All configurations.
        files: Names of the repository's files by split.
        rows: What the repository promises, where it does.
        license: As the repository's card states it.
    """

    repository: Repository
    folder: Path
    config: str
    default_config: str | None
    configs: list[str]
    files: dict[str, list[str]]
    rows: dict[str, int]
    license: str
    _builder: "DatasetBuilder"

    def load(self, splits: Collection[str]) -> "DatasetDict":
        """Fetch the files of ``splits`` and read them.

        Raises:
            DataError: if the files cannot be read, or hold other rows than promised.
            DownloadError: if they cannot be fetched.
        """
        from datasets.data_files import DataFilesDict

        needed = {name for split in splits for name in self.files[split]}
        # What had to be looked into to find the splits is here already.
        missing = [name for name in sorted(needed) if not (self.folder / name).stat().st_size]
        fetch(self.repository, missing, self.folder)
        builder, repository_id = self._builder, self.repository.repository_id
        for name in filter(is_archive, missing):
            check_archive(self.folder / name, f"{repository_id}, {name}")
        wanted = {s: files for s, files in builder.config.data_files.items() if s in splits}
        builder.config.data_files = DataFilesDict(wanted)
        with _readable(repository_id), quiet_unless_terminal():
            builder.download_and_prepare(verification_mode="no_checks")
            tables: DatasetDict = builder.as_dataset()
        for split, table in tables.items():
            if (promised := self.rows.get(split, len(table))) != len(table):
                raise DataError(
                    f"{repository_id} promises {promised:,} rows in {split!r}, its files have "
                    f"{len(table):,}"
                )
        return tables


def plan(repository: Repository, config: str | None, scratch: Path) -> Plan:
    """Find out which files make up which split.

    Args:
        repository: The data set's repository.
        config: The configuration; ``None`` takes the repository's default.
        scratch: An empty folder for copies and caches.

    Raises:
        DataError: if the repository needs a loading script, names files outside itself, has no
            data files, or has no such configuration.
    """
    import datasets

    repository_id = repository.repository_id
    basename = repository_id.split("/")[-1]
    if f"{basename}.py" in repository.files:
        raise DataError(
            f"{repository_id} relies on a loading script ({basename}.py), and code from the Hub is "
            "never run here; try the Hub's own conversion: --revision refs/convert/parquet"
        )
    if magic := set("*?[") & set(str(scratch)):
        raise DataError(
            f"{scratch.parent} has {' '.join(sorted(magic))} in its name, which `datasets` takes for "
            "a pattern; choose another place"
        )
    folder = scratch / basename
    for name in repository.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    # An archive's content decides how it is read, so it has to be there to be looked into.
    looked_into = [n for n in repository.files if n in _DESCRIPTIONS or n.endswith(".zip")]
    fetch(repository, looked_into, folder)
    for name in filter(is_archive, looked_into):
        check_archive(folder / name, f"{repository_id}, {name}")
    card = read_repository_card(folder)
    if not card:  # without metadata it would only make `datasets` complain
        (folder / "README.md").unlink(missing_ok=True)
    for text in _places(card.get("configs")):
        place = PurePosixPath(text)
        if "://" in text or "::" in text or ".." in place.parts or place.is_absolute():
            raise DataError(f"{repository_id} names data outside itself: {text!a}")
    with _readable(repository_id), quiet_unless_terminal():
        configs = datasets.get_dataset_config_names(str(folder))
        default = datasets.get_dataset_default_config_name(str(folder))
    config = _choose(repository_id, config or default, configs)
    with _readable(repository_id):
        builder = datasets.load_dataset_builder(
            str(folder), name=config, cache_dir=str(scratch / "cache")
        )
        found = builder.config.data_files or {}
    root = folder.resolve()
    files: dict[str, list[str]] = {}
    for split, paths in found.items():
        names = [Path(path).resolve() for path in paths]
        if outside := [path for path in names if not path.is_relative_to(root)]:
            raise DataError(f"{repository_id} names data outside itself: {str(outside[0])!a}")
        files[str(split)] = [path.relative_to(root).as_posix() for path in names]
    if not files:
        raise DataError(f"{repository_id} has no data files that can be read")
    rows = {name: info.num_examples for name, info in (builder.info.splits or {}).items()}
    return Plan(
        repository, folder, config, default, configs, files, rows, license_of(card), builder
    )


def read_repository_card(folder: Path) -> dict[str, Any]:
    """The metadata at the head of a repository's ``README.md``; empty if there is none."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    path = folder / "README.md"
    try:
        return (metadata_load(path) or {}) if path.is_file() else {}
    except (YAMLError, ValueError) as error:
        raise DataError(f"the card of {folder.name} cannot be read: {_line(error)}") from None


def license_of(card: dict[str, Any]) -> str:
    """The licence a repository's card states, or ``unknown``."""
    stated = card.get("license")
    names = stated if isinstance(stated, list) else [stated] if stated else []
    known = [str(card.get("license_name") or name) if name == "other" else name for name in names]
    return ", ".join(map(str, known)) or "unknown"


@contextmanager
def quiet_unless_terminal() -> Iterator[None]:
    """Show the bars of ``datasets`` on a terminal only."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _readable(repository_id: str) -> Iterator[None]:
    """Turn whatever a reader raises for bad files into one line; a full disk stays what it is."""
    try:
        yield
    except Exception as error:  # pyarrow, pandas, PIL, zipfile, ...: each reader has its own
        cause: BaseException = error
        while (inner := cause.__cause__ or cause.__context__) is not None:
            cause = inner
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES):
            raise cause from None
        raise DataError(f"{repository_id} cannot be read: {_line(cause)}") from None


def _choose(repository_id: str, config: str | None, configs: list[str]) -> str:
    if config in configs:
        return config
    if config is None:
        shown = ", ".join(configs[:8]) + (", ..." if len(configs) > 8 else "")
        raise DataError(f"{repository_id} has several configurations, choose one: {shown}")
    raise DataError(
        f"{repository_id} has no configuration {config!a}; {did_you_mean(config, configs)}"
    )


def _places(configs: Any) -> Iterator[str]:
    """Every text in the ``configs`` of a card that may say where data is."""
    for entry in configs if isinstance(configs, list) else []:
        if isinstance(entry, dict):
            yield from _texts([entry.get("data_files"), entry.get("data_dir")])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
