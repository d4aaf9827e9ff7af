"""Checkpoints of a run: which are kept, and that the loop waits only for a copy of its state.

``last.pt``, ``best.pt`` and the newest ``step-N.pt`` files are names of files that are written
once, by a thread. How bytes reach the disk is ``common.utils.checkpoint``'s business.
"""

import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from loguru import logger

from common.training.snapshot import Snapshot
from common.utils.checkpoint import link_checkpoint, save_checkpoint
from common.utils.errors import CheckpointError
from common.utils.files import TEMPORARY_PREFIX, explained_write
from common.utils.threads import in_background


class Checkpointer:
    """Copies each state, writes it in the background and gives it its names.

    One checkpoint is in flight at a time. What goes wrong while writing is raised by the next
    ``save`` or by ``wait``.

    Args:
        directory: The run's ``checkpoints/``.
        keep: How many ``step-N.pt`` files stay beside ``last.pt`` and ``best.pt``.
        pinned: Copy through page-locked memory (the state is on a CUDA device).

    Attributes:
        last: The path of ``last.pt``.
    """

    def __init__(self, directory: Path, keep: int = 0, pinned: bool = False) -> None:
        self.last = directory / "last.pt"
        self._directory = directory
        self._keep = keep
        self._snapshot = Snapshot(pinned)
        self._pending: Future[None] | None = None

    def prepare(self, size: int) -> None:
        """Make sure, before the first step, that checkpoints of ``size`` bytes can be written.

        Raises:
            CheckpointError: if the directory cannot be written, or could not hold a checkpoint and
                its successor.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for abandoned in self._directory.glob(f"{TEMPORARY_PREFIX}*"):
                abandoned.unlink()  # left by a killed process; this one owns the directory
            with tempfile.TemporaryFile(dir=self._directory):
                free = shutil.disk_usage(self._directory).free
        except OSError as error:
            raise CheckpointError(f"cannot write {self._directory}: {error.strerror}") from None
        held = sum(path.stat().st_size for path in self._directory.glob("last.pt"))
        if free < max(2 * size - held, size):
            raise CheckpointError(
                f"{self._directory} has too little room for two checkpoints, an old and a new one "
                f"(about {2 * size - held:,} bytes needed, {free:,} free)"
            )
        if free < (3 + self._keep) * size:
            logger.warning(
                f"{self._directory} has {free:,} bytes free; last.pt, best.pt, {self._keep} kept "
                f"and one being written take up to {(3 + self._keep) * size:,}"
            )
        self._snapshot.reserve(size)

    def save(
        self, state: Mapping[str, Any], step: int, best: bool = False, *, is_extra: bool = False
    ) -> Path:
        """Copy ``state`` of step ``step`` and start to write it; ``best`` also makes it ``best.pt``.

        Args:
            state: Tensors and plain values.
            step: Of the state.
            best: Whether it is the best so far.
            is_extra: Only as ``last.pt``, because the run was stopped here. As a ``step-N.pt`` it
                would take the place of one that the uninterrupted run keeps, and may average.

        Returns:
            The path of ``last.pt``, which is this checkpoint from the next ``wait`` on.

        Raises:
            CheckpointError: if the checkpoint before could not be written.
        """
        self.wait()
        copy = self._snapshot.take(state)
        self._pending = in_background("checkpoint", self._write, copy, step, best, is_extra)
        return self.last

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            CheckpointError: if it could not be written; the previous checkpoint is still there.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def name(self, path: Path, best: bool) -> None:
        """Give the checkpoint a run goes on from its names: a kill may have come between them."""
        if path.parent == self._directory:
            self._link(path, best)

    def _write(self, state: Mapping[str, Any], step: int, best: bool, is_extra: bool) -> None:
        if is_extra:
            save_checkpoint(state, self.last)
            return
        newest = self._directory / f"step-{step}.pt"
        save_checkpoint(state, newest)
        self._link(newest, best)
        steps = step_checkpoints(self._directory)
        with explained_write(self._directory):
            for stale in steps[: max(len(steps) - self._keep, 0)]:
                stale.unlink()

    def _link(self, path: Path, best: bool) -> None:
        names = [self.last] + [self._directory / "best.pt"] * best
        for name in names:
            if not (name.exists() and name.samefile(path)):
                link_checkpoint(path, name)


def step_checkpoints(directory: Path) -> list[Path]:
    """The ``step-N.pt`` files of a directory, oldest first."""
    found = (path for path in directory.glob("step-*.pt") if path.stem[5:].isdigit())
    return sorted(found, key=lambda path: int(path.stem[5:]))
