"""How files enter the store: one process at a time, beside their place, all at once.

Work happens in a temporary folder next to the target and is renamed into place, so that nobody
sees half a data set. The lock belongs to the process: when it dies, the next one proceeds and
clears away what was left.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from loguru import logger

from common.utils.errors import DataError, FaultError
from common.utils.files import TEMPORARY_PREFIX, fsync_dir


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Be the only one who writes at ``target``; wait for whoever does it now.

    Raises:
        FaultError: if the place cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"another process is writing {target}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise FaultError(
            f"cannot write in {target.parent}: {error.strerror}; set ASSETS_DIR to a place that "
            "can be written"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``, removed at the end; hold the lock.

    Raises:
        DataError: if a link lies at ``target``: nothing is written through links.
        FaultError: if writing fails, with the path and the reason.
    """
    if target.is_symlink():
        raise DataError(f"{target} is a link; remove it or choose another place")
    folder = target.with_name(f"{TEMPORARY_PREFIX}{target.name}")
    try:
        remove(folder)  # what a killed process left
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno is None:
            raise
        free = shutil.disk_usage(target.parent).free
        raise FaultError(
            f"cannot write {error.filename or target}: {error.strerror} ({free:,} bytes free)"
        ) from None


def publish(staged: Path, target: Path) -> None:
    """Make the folder ``staged`` appear as ``target``; what was there before is removed."""
    _settle(staged)
    old = staged.with_name(f"{staged.name}.old")
    if target.exists():
        os.rename(target, old)
    os.rename(staged, target)
    fsync_dir(target.parent)
    remove(old)


def add(staged: Path, target: Path) -> None:
    """Make one file or folder appear as ``target``, in place of what an unfinished run left."""
    _settle(staged)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(target)
    os.rename(staged, target)
    fsync_dir(target.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Bring a file, or all files below a folder, onto the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
