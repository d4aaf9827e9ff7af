"""Whether a run's code can be had again: its commit, what the commit holds, what was not in it."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common.config.files import parse_config
from common.config.tree import leaves
from common.records.paper import Paper
from common.records.run_record import RunRecord, is_users
from common.utils.errors import ConfigError

_CHANGED_FILE = re.compile(r"^diff --git a/(?P<old>.+?) b/(?P<new>.+)$", re.MULTILINE)
_NO_CODE = re.compile(
    r"(docs|tests|exploratory|\.ci|\.github)/.*|.*\.(md|ipynb|png)|.*/(results\.json|paper\.yaml)"
)


def check_code(
    commit: str | None, paper: Paper, config: str, records: Sequence[RunRecord], root: Path
) -> None:
    """Refuse runs that no commit of this repository can repeat.

    Args:
        commit: The one all runs name.
        paper: Whose ``train.py`` the commit must hold.
        config: The configuration file it must hold, with the values that the runs have.
        records: The runs.
        root: The repository.

    Raises:
        ConfigError: saying what is missing.
    """
    if commit is None:
        raise ConfigError(f"{records[0].name} ran outside of git; train from a clone and a commit")
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise ConfigError(
            f"{records[0].name} ran at {commit}, which is no commit of {root}; fetch it first"
        )
    folder = paper.folder.relative_to(root).as_posix()
    for name in ("train.py", config):
        path = f"{folder}/{name}"
        text = _git(root, "show", f"{commit}:{path}")
        if text is None:
            raise ConfigError(
                f"{records[0].name} ran {path} before it was committed ({commit[:7]} has no such "
                "file); commit it and train again"
            )
    for record in records:
        _check_values(record, text or "", f"{config} at {commit[:7]}")


def is_dirty(record: RunRecord) -> bool:
    """Whether the run's code was not exactly its commit.

    Changes of documents, tests, claims and recorded results alone do not count: they are not run.
    """
    first = record.values["code"].get("commit")
    for number, part in enumerate(record.parts):
        code = part.get("code", {})
        if code.get("commit") != first:
            return True
        if code.get("dirty"):
            name = f"uncommitted-{number}.patch" if number else "uncommitted.patch"
            files = changed_files(record.directory / name)
            if not files or not all(_NO_CODE.fullmatch(file) for file in files):
                return True
    return False


def changed_files(patch: Path) -> list[str]:
    """The files that a patch of git changes, before and after; none if there is no patch."""
    if not patch.is_file():
        return []
    text = patch.read_text(encoding="utf-8", errors="replace")
    names = [name for found in _CHANGED_FILE.finditer(text) for name in found.groups()]
    return list(dict.fromkeys(names))


def _check_values(record: RunRecord, text: str, place: str) -> None:
    """Refuse a run whose values are not those of the committed file."""
    for key, value in leaves(parse_config(text, place).content):
        found, origin = record.settings.get(key, (value, None))
        is_reference = isinstance(value, str) and "${" in value
        if origin is None or is_users(origin) or is_reference or origin.source != "USER":
            continue
        if found != value:
            raise ConfigError(
                f"{record.name} ran with {key}={found}, but {place} says {value}: it was another "
                "file, or changed before it was committed"
            )


def _git(root: Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None
