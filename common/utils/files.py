"""Files that are either whole or not there: write aside, fsync, rename, fsync the directory."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.utils.errors import FaultError

TEMPORARY_PREFIX = ".tmp-"


def fsync_dir(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_beside(path: Path) -> Path:
    """A name beside ``path`` that no other writer has, in this process or another."""
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file that appears under its name only when it is complete and durable.

    A link at ``path`` is replaced, never followed. After an error the old file is untouched and
    nothing new is left behind.

    Args:
        path: The final name; its directory must exist.
        mode: ``"wb"`` or ``"w"`` (UTF-8).
    """
    temporary = temporary_beside(path)
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all or nothing.

    Raises:
        FaultError: if the disk is full or the place cannot be written.
    """
    with explained_write(path), atomic_write(path, "w") as file:
        file.write(text)


@contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed write into one line.

    Raises:
        FaultError: naming ``path`` and how much room is left beside it.
    """
    try:
        yield
    except OSError as error:
        try:
            free = f"{shutil.disk_usage(path.parent).free:,}"
        except OSError:
            free = "unknown"
        raise FaultError(f"cannot write {path}: {error.strerror} ({free} bytes free)") from None


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
