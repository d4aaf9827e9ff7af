"""Run directories: ``assets/outputs/<experiment>/<date>_<overrides>/``, one owner, never overwritten.

A run leaves ``config.yaml`` (resolved, with provenance), ``run.json`` (what made it and how it
ended), ``metrics.jsonl``, ``history.json``, ``plots/``, ``tensorboard/``, ``checkpoints/`` and
``logs/train.log``. ``python -m common.utils.runs list | show | compare | clean`` browses them.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loguru import logger

from common.utils.errors import FaultError, InputError, InterruptedRun
from common.utils.files import atomic_write_text
from common.utils.logging import setup_logger
from common.utils.paths import get_outputs_dir, validate_name
from common.utils.provenance import code_version, hardware, versions

_LONGEST_SLUG = 80
_held_locks: set[int] = set()


def _let_go_after_fork() -> None:
    """A forked loader worker that outlives its killed parent must not keep the run locked."""
    while _held_locks:
        os.close(_held_locks.pop())


os.register_at_fork(after_in_child=_let_go_after_fork)


class Run:
    """An owned run directory; use it as a context manager.

    Entering takes the ownership lock, starts the log file and writes ``run.json``; leaving records
    how the run ended (``finished``, ``interrupted`` or ``failed``) and its wall time.

    Args:
        directory: The run's directory; it must exist.
        seed: The seed, for the record.
        is_owner: ``False`` for further processes of the same run: they neither lock nor write.
        checkpoints: The folder of its checkpoints.

    Attributes:
        resume_from: The checkpoint to go on from, if the run is resumed.
        part_of: The directory that ``--resume`` goes on with, where it is not the run's own: that of
            the session which this run is a part of.
    """

    def __init__(
        self,
        directory: Path,
        seed: int | None = None,
        is_owner: bool = True,
        checkpoints: str = "checkpoints",
    ) -> None:
        self.directory = directory
        self.checkpoints = directory / checkpoints
        self.plots = directory / "plots"
        self._seed = seed
        self._is_owner = is_owner
        self.resume_from: Path | None = None
        self.part_of: Path | None = None
        self._lock: int | None = None
        self._started = 0.0
        self._record: dict[str, Any] = {}
        self._held: dict[str, str] | None = None
        self._is_created = False

    @classmethod
    def create(
        cls,
        experiment: str,
        overrides: Sequence[str] = (),
        seed: int | None = None,
        outputs: Path | None = None,
    ) -> Self:
        """Make a new directory, named by date and overrides, for a run of ``experiment``.

        Args:
            experiment: The name of the paper's or project's folder.
            overrides: What differs from the configuration file; it becomes part of the name.
            seed: The seed, for the record.
            outputs: Where runs are kept; ``assets/outputs`` by default.

        Raises:
            FaultError: if the place cannot be written.
        """
        root = (outputs or get_outputs_dir()) / validate_name(experiment, "experiment")
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        advice = "set ASSETS_DIR to a place that can be written"
        return cls.claim(root / "_".join(filter(None, [stamp, slug(overrides)])), seed, advice)

    @classmethod
    def claim(
        cls,
        wanted: Path,
        seed: int | None = None,
        advice: str = "choose a place that can be written",
        checkpoints: str = "checkpoints",
    ) -> Self:
        """Make the directory ``wanted``, or ``wanted-2`` and so on: none is used twice.

        Args:
            wanted: The directory.
            seed: The seed, for the record.
            advice: What to do where it cannot be written.
            checkpoints: The folder of its checkpoints.

        Raises:
            FaultError: if the place cannot be written.
        """
        try:
            wanted.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(1, 1000):
                suffix = "" if attempt == 1 else f"-{attempt}"
                directory = wanted.with_name(wanted.name + suffix)
                try:
                    directory.mkdir()
                except FileExistsError:
                    continue
                run = cls(directory, seed, checkpoints=checkpoints)
                run._is_created = True
                return run
        except OSError as error:
            raise FaultError(
                f"cannot create a run directory in {wanted.parent}: {error.strerror}; {advice}"
            ) from None
        raise FaultError(f"{wanted.parent} already holds a thousand runs named {wanted.name}")

    @property
    def log_file(self) -> Path:
        """The run's log, ``logs/train.log``."""
        return self.directory / "logs" / "train.log"

    def write_config(self, text: str) -> None:
        """Write the resolved configuration to ``config.yaml``."""
        self._write("config.yaml", text)

    def record(self, **values: Any) -> None:
        """Add values to ``run.json``."""
        self._record.update(values)
        self._write("run.json", json.dumps(self._record, indent=2) + "\n")

    def confirm(self) -> None:
        """A resumed run goes on: from here on its record is written.

        Until then nothing of the earlier record is touched, so that a resume that is refused
        leaves the run as it was.
        """
        held, self._held = self._held, None
        for name, text in (held or {}).items():
            atomic_write_text(self.directory / name, text)

    def resume_command(self) -> str:
        """What to type to go on with this run, with as many processes as now."""
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        launcher = f"torchrun --standalone --nproc-per-node {count}" if count > 1 else "python"
        script = Path(sys.argv[0])
        if spec is not None:
            program = f"-m {spec.name}"
        elif script.suffix == ".py":
            program = shlex.quote(sys.argv[0])
        else:  # an installed command, such as ml-train
            program = shlex.quote(script.name)
            launcher = f"{launcher} --no-python" if count > 1 else ""
        whole = self.part_of or self.directory
        return f"{launcher} {program} --resume {shlex.quote(str(whole))}".lstrip()

    def __enter__(self) -> Self:
        if not self._is_owner:
            setup_logger(level="WARNING")
            return self
        self._take_ownership()
        self._started = time.monotonic()
        try:
            self._open_record()
        except BaseException:
            self._release()
            raise
        return self

    def _open_record(self) -> None:
        setup_logger(self.log_file)
        path = self.directory / "run.json"
        if path.exists():  # resumed: keep the history of how it went before
            self._record = json.loads(path.read_text())
        now = versions()
        last = [self._record, *self._record.get("resumed", [])][-1]
        for name, before in last.get("versions", {}).items():
            if now.get(name) != before:
                logger.warning(
                    f"resumed under {name} {now.get(name, '(missing)')}, was {before}: "
                    "the numbers may no longer be the uninterrupted run's to the last bit"
                )
        code, difference = code_version()
        part = {
            "started": _now(),
            "command": sys.argv,
            "code": code,
            "versions": now,
            "hardware": hardware(),
        }
        resumed: list[Any] = self._record.get("resumed", [])
        if self._record:
            self._held = {}
            resumed = [*resumed, part]
        patch = f"uncommitted-{len(resumed)}.patch" if resumed else "uncommitted.patch"
        if difference:
            self._write(patch, difference)
        first = {"seed": self._seed, **part, "resumed": []} | self._record
        self.record(**first | {"resumed": resumed, "state": "running", "pid": os.getpid()})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_owner:
            return
        if isinstance(error, InputError) and self._was_refused():
            setup_logger()
            self._release()
            return
        if error is None:
            self.confirm()
        interrupted = isinstance(error, InterruptedRun | KeyboardInterrupt)
        state = "finished" if error is None else "interrupted" if interrupted else "failed"
        seconds = self._record.get("wall_seconds", 0.0) + time.monotonic() - self._started
        try:
            self.record(
                state=state,
                ended=_now(),
                wall_seconds=round(seconds, 2),
                error=None if error is None else f"{type(error).__name__}: {error}",
            )
        except FaultError as fault:
            if error is None:
                raise
            logger.error(str(fault))  # what ended the run is what its caller must hear
        finally:
            setup_logger()  # let go of the log file
            self._release()

    def _write(self, name: str, text: str) -> None:
        if self._held is None:
            atomic_write_text(self.directory / name, text)
        else:
            self._held[name] = text

    def _was_refused(self) -> bool:
        """Whether nothing came of this run because of its input; a new one's directory goes."""
        if self._held is not None:
            return True
        is_new = self._is_created and not self._record["resumed"]
        if not is_new or (self.directory / "metrics.jsonl").exists():
            return False
        shutil.rmtree(self.directory, ignore_errors=True)
        return True

    def _take_ownership(self) -> None:
        path = self.directory / "owner.lock"
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            _held_locks.add(self._lock)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            owner = path.read_text().strip() or "unknown"
            raise FaultError(
                f"{self.directory} is in use by process {owner}; wait for it or end it first"
            ) from None
        except OSError as error:
            self._release()
            raise FaultError(f"cannot write in {self.directory}: {error.strerror}") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _release(self) -> None:
        if self._lock is not None and self._lock in _held_locks:
            _held_locks.remove(self._lock)
            os.close(self._lock)
        self._lock = None


def slug(overrides: Sequence[str]) -> str:
    """A short, safe part of a directory name made of overrides: ``lr=1e-3_seed=2``."""
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        parts.append(f"{key.rsplit('.', 1)[-1]}={value}" if value else key)
    safe = re.sub(r"[^A-Za-z0-9=._+-]+", "-", "_".join(parts))
    return safe[:_LONGEST_SLUG].strip("-.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":  # the commands stand on higher floors, which this one may not import
    import_module("common.records.browse").main()
