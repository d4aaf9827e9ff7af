"""Checkpoint files: one zip of tensors and plain values, all or nothing, verified when read.

A checkpoint is what ``torch.load(weights_only=True)`` can read: nested dicts and lists of tensors,
numbers, strings and ``None``. It is written under a temporary name, fsynced and renamed, so a
crash leaves either the old file or the new one. PyTorch stores a CRC-32 for every record but does
not check it; ``load_checkpoint`` does.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from common.utils.errors import CheckpointError
from common.utils.files import atomic_write, explained_write, fsync_dir

FORMAT_VERSION = 1
_MARGIN = 1 << 20  # bytes of zip directory and plain values beside the tensors
_verified: set[tuple[int, ...]] = set()


def save_checkpoint(state: Mapping[str, Any], path: Path | str) -> int:
    """Write ``state`` to ``path`` and return the file's size in bytes.

    Args:
        state: Nested dicts, lists and tuples of tensors, numbers, strings and ``None``.
        path: The final name; missing directories are created, an old file is replaced.

    Raises:
        TypeError: if ``state`` holds anything else (it could not be read back safely).
        CheckpointError: if the disk is full or the file cannot be written; the old file stays.
    """
    path = Path(path)
    needed = _check_plain(state, "state") + _MARGIN
    free = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free >= needed:
            with atomic_write(path) as file:
                torch.save({"format": FORMAT_VERSION, **state}, file)
            return path.stat().st_size
        reason = "not enough space"
    except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
        reason = str(error).splitlines()[0]
    raise CheckpointError(
        f"cannot write {path}: {reason} (about {needed:,} bytes needed, {free:,} free); "
        "the previous checkpoint is kept"
    )


def load_checkpoint(
    path: Path | str, map_location: str | torch.device = "cpu", mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint after checking every byte of it.

    Args:
        path: A file written by ``save_checkpoint``, or any weights file that is safe to read.
        map_location: Where tensors go.
        mmap: Leave tensors in the file until they are used; right for what is copied on at once.

    Raises:
        CheckpointError: if the file is missing, truncated, damaged, of another format version, or
            holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    size = path.stat().st_size
    _verify(path)
    try:
        state = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except Exception as error:  # the unpickler of damaged bytes raises whatever it meets
        raise CheckpointError(
            f"{path} ({size:,} bytes) cannot be read safely: {_reason(error)}"
        ) from None
    if isinstance(state, dict) and state.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {state['format']}, this version reads {FORMAT_VERSION}"
        )
    return state


def _reason(error: Exception) -> str:
    """One line. What PyTorch says of a refused global reads like advice to run it."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it refers to {found[1]}, and only tensors and plain values are read"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def latest_checkpoint(directory: Path) -> Path | None:
    """The readable checkpoint with the most steps in a directory, or ``None``.

    Files that do not verify are skipped with a warning and never deleted.
    """
    candidates = []
    for path in directory.glob("*.pt"):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            candidates.append((state["state"]["step"], path.name == "last.pt", path))
        except Exception as error:  # see load_checkpoint
            logger.warning(f"skipping {path}: {_reason(error)}")
    for *_, path in sorted(candidates, reverse=True):
        try:
            load_checkpoint(path, mmap=True)
            return path
        except CheckpointError as error:
            logger.warning(f"skipping a checkpoint: {error}")
    return None


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a checkpoint a second name (``last.pt``, ``best.pt``) without writing it again."""
    temporary = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with explained_write(target), open(source, "rb") as reader, atomic_write(target) as writer:
            shutil.copyfileobj(reader, writer)
        return
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # replacing a link by a link to the same file does nothing
    fsync_dir(target.parent)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str = "weights") -> None:
    """Copy ``weights`` into ``module`` if every key, shape and kind fits; otherwise change nothing.

    Floating-point kinds may differ; a warning says if the module's own cannot hold the numbers.

    Raises:
        CheckpointError: listing the first ten differences and their count.
    """
    check_weights(module, weights, source)
    module.load_state_dict(dict(weights))


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise the ``CheckpointError`` of ``load_weights`` if ``weights`` do not fit ``module``."""
    expected = module.state_dict()
    problems = [f"missing {key}" for key in expected if key not in weights]
    problems += [f"unexpected {key}" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        ours, theirs = expected[key], weights[key]
        if not isinstance(theirs, Tensor) or ours.shape != theirs.shape:
            shape = tuple(getattr(theirs, "shape", ()))
            problems.append(f"{key} has shape {shape}, expected {tuple(ours.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point():
            problems.append(f"{key} has dtype {theirs.dtype}, expected {ours.dtype}")
    if problems:
        shown = "; ".join(problems[:10]) + ("; ..." if len(problems) > 10 else "")
        raise CheckpointError(f"{source} does not fit: {len(problems)} differences: {shown}")
    rounded = [key for key in expected if _is_lossy(weights[key].dtype, expected[key].dtype)]
    if rounded:
        given, kept = weights[rounded[0]].dtype, expected[rounded[0]].dtype
        logger.warning(
            f"{source}: {len(rounded)} tensors are rounded to the model's kind, such as "
            f"{rounded[0]} from {given} to {kept}; convert the model first to keep them"
        )


def _is_lossy(given: torch.dtype, kept: torch.dtype) -> bool:
    """Whether floating-point numbers lose digits or range; fp16 and bf16 into fp32 lose nothing."""
    if given == kept or not (given.is_floating_point and kept.is_floating_point):
        return False
    ours, theirs = torch.finfo(kept), torch.finfo(given)
    return theirs.eps < ours.eps or theirs.max > ours.max or theirs.tiny < ours.tiny


def _verify(path: Path) -> None:
    """Compare every record with its CRC-32, unless this process found the same file good before."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _verified:
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # damaged headers raise whatever the reader meets
        raise CheckpointError(
            f"{path} ({status.st_size:,} bytes) is truncated or no checkpoint: {error}"
        ) from None
    if damaged is not None:
        raise CheckpointError(
            f"{path} ({status.st_size:,} bytes) is damaged: bad CRC-32 in {damaged}"
        )
    _verified.add(identity)


def _check_plain(value: Any, where: str) -> int:
    """The bytes of all tensors below ``value``; raises ``TypeError`` for what is not plain."""
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, Mapping):
        return sum(_check_plain(item, f"{where}.{key}") for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(_check_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return 0
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and numbers")
