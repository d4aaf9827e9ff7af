"""What a run directory says: ``run.json``, ``config.yaml`` and ``metrics.jsonl``, read and not written.

A run that says ``running`` but whose lock nobody holds was killed; it is shown as that.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from common.config.files import ConfigFile, read_config, show_path
from common.config.origins import Origin, Source
from common.config.overrides import COMMAND_LINE
from common.config.tree import ABSENT, leaves
from common.utils.errors import ConfigError, DataError
from common.utils.paths import get_outputs_dir
from common.utils.text import did_you_mean

RUN_FILE = "run.json"
LOCK_FILE = "owner.lock"
KILLED = "killed"
STATES = ("running", "finished", "interrupted", "failed", KILLED)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run's record.

    Attributes:
        directory: Of the run.
        values: What ``run.json`` holds.
    """

    directory: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the record of a run.

        Raises:
            DataError: if there is none, or it is damaged.
        """
        directory = directory.expanduser().absolute()
        path = directory / RUN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{show_path(directory)} is no run: it has no {RUN_FILE}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {show_path(path)}: {error}") from None
        try:
            if isinstance(values["state"], str) and datetime.fromisoformat(values["started"]):
                return cls(directory, values)
        except (KeyError, TypeError, ValueError):
            pass
        raise DataError(f"{show_path(path)} holds no record of a run")

    @property
    def name(self) -> str:
        """The directory's name: the time it began and what was overridden."""
        return self.directory.name

    @property
    def experiment(self) -> str:
        """The paper's or project's name."""
        return self.directory.parent.name

    @cached_property
    def state(self) -> str:
        """``running``, ``finished``, ``interrupted``, ``failed`` or ``killed``."""
        state = str(self.values["state"])
        return KILLED if state == "running" and not is_locked(self.directory) else state

    @property
    def started(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.values["started"]).astimezone()

    @property
    def is_dry_run(self) -> bool:
        """Whether it did one step only."""
        return "--dry-run" in self.values.get("command", [])  # a long name may have lost its end

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics; empty if the run did not get so far."""
        found = self.values.get("metrics")
        return dict(found) if isinstance(found, dict) else {}

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The beginning and every resume: command, code, versions, hardware of each."""
        resumed = [part for part in self.values.get("resumed", []) if isinstance(part, dict)]
        return [dict(self.values), *resumed]

    @cached_property
    def config(self) -> ConfigFile:
        """The resolved configuration, with the comments that say who decided each value.

        Raises:
            ConfigError: if it is missing or damaged.
        """
        return read_config(self.directory / "config.yaml")

    @cached_property
    def settings(self) -> dict[str, tuple[Any, Origin]]:
        """Every value of the configuration and its source, by key."""
        comments = self.config.comments
        return {
            key: (value, Origin.parse(comments.get(key, ""), self.config.place(key)))
            for key, value in leaves(self.config.content)
        }

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; a line that a kill tore is left out."""
        path = self.directory / "metrics.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    @property
    def updates(self) -> int | None:
        """Updates done, as far as they were logged."""
        steps = [record["step"] for record in self.log if isinstance(record.get("step"), int)]
        return max(steps, default=None)

    @property
    def training_hours(self) -> float | None:
        """Hours in the training loop over all resumes, as far as they were logged."""
        seconds = [record["time/seconds"] for record in self.log if "time/seconds" in record]
        return max(seconds) / 3600.0 if seconds else None

    @property
    def has_checkpoint(self) -> bool:
        """Whether something can be resumed or evaluated."""
        has_weights = (self.directory / "model.safetensors").is_file()
        return has_weights or any(self.directory.glob("checkpoints/*.pt"))

    @property
    def size(self) -> int:
        """Bytes on the disk; a file with several names counts once."""
        found = {}
        for path in self.directory.rglob("*"):
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[status.st_dev, status.st_ino] = status.st_size
        return sum(found.values())


def is_users(origin: Origin) -> bool:
    """Whether a value was typed on the command line."""
    return origin.source is Source.USER and origin.text.endswith(COMMAND_LINE)


def differences(records: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """The keys whose values are not the same in all runs; a key that is missing is ``ABSENT``."""
    keys = dict.fromkeys(key for record in records for key in record.settings)
    found = {}
    for key in keys:
        values = [record.settings.get(key, (ABSENT, None))[0] for record in records]
        if any(value != values[0] for value in values[1:]):
            found[key] = values
    return found


def run_directories(outputs: Path | None = None) -> list[Path]:
    """All directories that hold a run's record, the newest first."""
    root = outputs or get_outputs_dir()
    found = [path.parent for path in root.glob(f"*/*/{RUN_FILE}")]
    return sorted(found, key=lambda path: (path.name, path.parent.name), reverse=True)


def find_record(run: str, outputs: Path | None = None) -> RunRecord:
    """A run by its path, its name, or the beginning of its name if no other begins so.

    Raises:
        ConfigError: if there is none, or several.
    """
    path = Path(run).expanduser()
    if (path / RUN_FILE).is_file():
        return RunRecord.read(path)
    known = {f"{path.parent.name}/{path.name}": path for path in run_directories(outputs)}
    exact = [path for name, path in known.items() if run in (name, path.name)]
    begun = [p for name, p in known.items() if name.startswith(run) or p.name.startswith(run)]
    found = exact or begun
    if len(found) == 1:
        return RunRecord.read(found[0])
    if not found:
        hint = did_you_mean(run, [path.name for path in known.values()])
        raise ConfigError(
            f"there is no run '{run}' in {show_path(outputs or get_outputs_dir())}; {hint}"
        )
    some = ", ".join(f"{path.parent.name}/{path.name}" for path in found[:3])
    raise ConfigError(f"'{run}' means {len(found)} runs: {some}; type more of the name")


def is_locked(directory: Path) -> bool:
    """Whether a process owns the run."""
    with owned(directory) as is_ours:
        return not is_ours


@contextmanager
def owned(directory: Path) -> Iterator[bool]:
    """Own a run for a moment, so that nobody resumes it; gives ``False`` if another process does."""
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False  # not ours to look into
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)
