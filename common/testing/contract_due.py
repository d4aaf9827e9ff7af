"""Whose contract is due after a change: that of a paper that changed, and all if what they share did."""

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.testing.contract_subject import Subject, imports_of
from common.utils.errors import InputError

SHARED = ("common/", "pyproject.toml", "tests/conftest.py")


def changed_files(reference: str, root: Path) -> list[str]:
    """What differs from a commit, in the working tree too, relative to the root.

    Raises:
        InputError: if git knows no such commit.
    """
    if reference.startswith("-"):
        raise InputError(f"{reference} is no commit")
    tracked = ["diff", "--name-only", "--no-renames", "-z", reference, "--"]
    untracked = ["ls-files", "--others", "--exclude-standard", "-z"]
    names: set[str] = set()
    for words in (tracked, untracked):
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[:1]
            raise InputError(f"git cannot compare with {reference!r}: {''.join(reason)}")
        names.update(name for name in done.stdout.split("\0") if name)
    return sorted(names)


def due(subjects: Sequence[Subject], changed: Iterable[str]) -> list[Subject]:
    """The subjects whose own files, tests, foundations or shared code are among ``changed``."""
    changed = list(changed)
    if any(name.startswith(SHARED) for name in changed):
        return list(subjects)
    by_module = {subject.module: subject for subject in subjects}
    return [s for s in subjects if _touches(_foundations(s, by_module), changed)]


def _touches(subjects: Iterable[Subject], changed: Sequence[str]) -> bool:
    own = [(f"{s.family}/{s.name}/", s.shown(s.tests)) for s in subjects]
    return any(
        name.startswith(folder) or name == tests for name in changed for folder, tests in own
    )


def _foundations(subject: Subject, by_module: dict[str, Subject]) -> list[Subject]:
    """It and all papers it imports, directly or not."""
    found, waiting = [subject], [subject]
    while waiting:
        for path in waiting.pop().sources():
            for _, _, name in imports_of(path):
                other = by_module.get(".".join(name.split(".")[:2]))
                if other is not None and other not in found:
                    found.append(other)
                    waiting.append(other)
    return found
