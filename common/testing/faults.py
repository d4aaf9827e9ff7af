"""Faults at an exact moment, without a hook in the code they hit.

A test's child process enters one of these and then trains as always. Calls are counted in every
thread, so it does not matter which of them writes the checkpoint.

    with killed_at("rename", 2, below=run / "checkpoints"):
        trainer.fit(...)                 # SIGKILL just before the second checkpoint gets its name
    with killed_while_writing(100_000):  # SIGKILL by the kernel, at that byte of a file
    with file_size_limit(100_000):       # a disk that is full after so many bytes of a file
    with small_disk(path, megabytes=2):  # a real one, where root may mount
"""

import os
import resource
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POINTS = ("fsync", "rename", "link", "fsync directory")


@contextmanager
def killed_at(point: str, number: int, below: Path, send: int = signal.SIGKILL) -> Iterator[None]:
    """This process kills itself just before a call that makes a file durable.

    Args:
        point: ``fsync`` of a file, ``rename`` or ``link`` to a name, or ``fsync directory``.
        number: Which of the calls, from 1.
        below: Only calls for this directory and what it holds are counted.
        send: Another signal than SIGKILL.
    """
    root = below.resolve()
    lock = threading.Lock()
    left = number

    def count(kind: str, path: Path) -> None:
        nonlocal left
        if kind != point or not (path == root or root in path.parents):
            return
        with lock:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), send)

    def syncing(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            count("fsync directory" if is_directory else "fsync", _path_of(descriptor))
            call(descriptor)

        return sync

    def naming(kind: str, call: Callable[..., None]) -> Callable[..., None]:
        def name(source: Any, target: Any, **options: Any) -> None:
            count(kind, Path(os.path.realpath(os.path.dirname(target)), os.path.basename(target)))
            call(source, target, **options)

        return name

    patched: dict[str, Callable[..., None]] = {
        "fsync": syncing(os.fsync),
        "fdatasync": syncing(os.fdatasync),
        "replace": naming("rename", os.replace),
        "rename": naming("rename", os.rename),
        "link": naming("link", os.link),
    }
    before = {name: getattr(os, name) for name in patched}
    for name, call in patched.items():
        setattr(os, name, call)
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes: a write fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def killed_while_writing(size: int) -> Iterator[None]:
    """The kernel ends this process when one of its files would grow beyond ``size`` bytes."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        with file_size_limit(size):
            yield
    finally:
        signal.signal(signal.SIGXFSZ, before)


@contextmanager
def small_disk(path: Path, megabytes: int, *, read_only: bool = False) -> Iterator[Path]:
    """A file system of its own at ``path``, which is created.

    Raises:
        PermissionError: where this user may not mount.
    """
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m" + (",ro" if read_only else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if shutil.which("mount") is None:
        raise PermissionError("there is no mount command here")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise PermissionError(done.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, capture_output=True)


def _path_of(descriptor: int) -> Path:
    """The file behind a descriptor (Linux)."""
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
