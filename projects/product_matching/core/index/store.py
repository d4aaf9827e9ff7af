"""The folder of a vector index: appended bytes, whole new files, one writer, and no half states.

A writer appends behind what the manifest names, or writes new files, makes them durable, and
replaces the manifest. Killed before that, it leaves bytes that count for nothing; the next writer,
or the next who opens the index, clears them away. Committed bytes never change, so that whoever has
mapped them goes on reading what was true when the index was opened.
"""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from loguru import logger
from numpy.typing import NDArray

from common.utils.errors import FaultError
from common.utils.files import TEMPORARY_PREFIX, atomic_write, explained_write, fsync_dir
from projects.product_matching.core.index.manifest import (
    SUFFIXES,
    Column,
    Manifest,
    read_manifest,
)

_LOCK = ".lock"
_OURS = re.compile(
    rf"(?:{'|'.join(f'{name}-[0-9]+[.]{suffix}' for name, suffix in SUFFIXES.items())}"
    r"|keys-[0-9]+[.]u64|segment-[0-9]+[.](?:ivf|hnsw))"
)
_BLOCK = 1 << 22  # bytes read at once when a file is checked


class Counted:
    """A file that is written from start to end; knows the size and the CRC-32 of what it got."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.crc = 0

    def write(self, data: Any) -> int:
        """Write all of ``data``, contiguous bytes or an array."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self._file.write(view)
        self.size += view.nbytes
        self.crc = zlib.crc32(view, self.crc)
        return view.nbytes


@contextmanager
def new_file(path: Path) -> Iterator[Counted]:
    """A file that is whole and durable under its name, or not there.

    Raises:
        FaultError: if it cannot be written.
    """
    with explained_write(path), atomic_write(path) as file:
        yield Counted(file)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one who writes in a folder; wait for whoever does it now.

    Raises:
        FaultError: if the folder cannot be written.
    """
    lock = FileLock(directory / _LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"another process is writing {directory}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise FaultError(
            f"cannot write in {directory}: {error.strerror}; the index can be searched, not changed"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Be the only writer of an index; what it, or one before, leaves half done is cleared away.

    Raises:
        FaultError: if the folder cannot be written.
    """
    with locked(directory):
        clear_leftovers(directory, read_manifest(directory))
        try:
            yield
        except BaseException:
            # The manifest says what is true, also if its own writing failed. If clearing fails as
            # well, the next writer does it: what matters is the first error.
            with suppress(OSError, FaultError):
                clear_leftovers(directory, read_manifest(directory))
            raise


def clear_if_idle(directory: Path) -> None:
    """Clear away what a killed writer left, unless somebody writes now or nobody can."""
    lock = FileLock(directory / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return
    try:
        clear_leftovers(directory, read_manifest(directory))
    except OSError as error:
        logger.info(f"{directory} holds what a killed writer left: {error}")
    finally:
        lock.release()


def clear_leftovers(directory: Path, manifest: Manifest) -> None:
    """Remove what the manifest does not name; hold the lock. Files of other people stay.

    Raises:
        OSError: if the folder cannot be written.
    """
    sizes = manifest.files()
    for entry in os.scandir(directory):
        if not entry.is_file(follow_symlinks=False):
            continue
        if entry.name.startswith(TEMPORARY_PREFIX) or (
            _OURS.fullmatch(entry.name) and entry.name not in sizes
        ):
            os.unlink(entry.path)
        elif entry.stat().st_size > sizes.get(entry.name, entry.stat().st_size):
            os.truncate(entry.path, sizes[entry.name])


def append(path: Path, column: Column, parts: Sequence[Any]) -> Column:
    """Put bytes behind the committed ones of a file, durably; they count once a manifest says so.

    Args:
        path: Of the column; made if nothing was appended yet.
        column: What is committed.
        parts: Contiguous bytes or arrays.

    Raises:
        FaultError: if they cannot be written.
    """
    is_new = not path.exists()
    with explained_write(path):
        with open(path, "xb" if is_new else "r+b") as file:
            file.seek(column.size)
            counted = Counted(file)
            counted.crc = column.crc
            for part in parts:
                counted.write(part)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_dir(path.parent)
    return Column(column.size + counted.size, counted.crc)


def mapped(path: Path, size: int, dtype: str) -> NDArray[Any]:
    """The committed bytes of a file as an array that is read from disk when it is looked at.

    Raises:
        FileNotFoundError: if there is no such file.
        FaultError: if it is shorter than it was.
    """
    if size == 0:
        return np.empty(0, dtype)
    check_size(path, size)
    # Private pages that nobody writes to: no memory, and a writable array, which PyTorch wants.
    found = np.memmap(path, dtype, mode="c", shape=(size // np.dtype(dtype).itemsize,))
    return found.view(np.ndarray)


def check_size(path: Path, size: int) -> None:
    """Whether a file holds all its committed bytes.

    Raises:
        FileNotFoundError: if there is no such file.
        FaultError: if it is shorter than it was.
    """
    there = path.stat().st_size
    if there < size:
        raise FaultError(
            f"{path} has {there:,} bytes, its index says {size:,}; restore the folder from a copy, "
            "or build it anew"
        )


def check_sum(path: Path, size: int, crc: int) -> None:
    """Read the committed bytes of a file and compare their CRC-32.

    Raises:
        FaultError: if they are not what was written.
    """
    found, left = 0, size
    if size:
        with open(path, "rb") as file:
            while left and (block := file.read(min(left, _BLOCK))):
                found = zlib.crc32(block, found)
                left -= len(block)
    if left or found != crc:
        raise FaultError(
            f"{path} is not what was written (CRC-32 {found:08x}, expected {crc:08x}); restore the "
            "folder from a copy, or build it anew"
        )
