"""TensorBoard over the logs of runs: served on this machine only, and cleared away.

with TensorBoardServer(Path("runs"), port=6006) as server:
    server.wait()                       # http://127.0.0.1:6006/ until Ctrl-C
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from common.records.run_record import owned
from common.utils.errors import ConfigError, FaultError

HOST = "127.0.0.1"
LOGS = "tensorboard"  # the folder of a run that holds them
_EVENTS = "events.out.tfevents."
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_LARGEST_PORT = 65_535


class TensorBoardServer:
    """A TensorBoard of one's own, which ends with the ``with`` block.

    Args:
        directory: A run, or a folder of runs.
        port: Where it listens; 0 takes a free one.

    Attributes:
        url: Where a browser finds it.

    Raises:
        ConfigError: if there are no logs, or another program listens there.
        FaultError: if TensorBoard does not start.
    """

    def __init__(self, directory: Path, port: int = 6006) -> None:
        self.directory = directory
        self.port = free_port(port)
        self.url = f"http://{HOST}:{self.port}/"
        if not directory.is_dir():
            raise ConfigError(f"no folder at {directory}; give a run, or the folder of runs: runs")
        if not event_files(directory):
            raise ConfigError(
                f"{directory} holds no TensorBoard logs; ml-train writes them into runs/<run>/"
                f"{LOGS} when training.loggers names tensorboard"
            )

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()  # a pipe would fill up and block
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(self.directory)]
        self._process = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C reaches this process; it ends the whole group
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def wait(self) -> None:
        """Serve until TensorBoard ends by itself, which it does only by a fault.

        Raises:
            FaultError: with what it said last.
        """
        self._process.wait()
        raise FaultError(f"TensorBoard ended with code {self._process.returncode}: {self._said()}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise FaultError(f"TensorBoard did not start: {self._said()}")
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(HOST, self.port, timeout=5.0)
                connection.request("GET", "/data/environment")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise FaultError(
            f"TensorBoard did not answer on {self.url} within {_START_SECONDS:.0f} s: {self._said()}"
        )

    def _said(self) -> str:
        """The last line of its standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        self._errors.close()


@dataclass
class Cleaning:
    """The TensorBoard logs of a run.

    Attributes:
        run: The run's directory.
        files: Its event files, by path.
        size: Their bytes.
        kept: What lies among them and is no event file: it stays.
    """

    run: Path
    files: list[Path] = field(default_factory=list)
    size: int = 0
    kept: list[Path] = field(default_factory=list)


def free_port(port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        ConfigError: if another program listens there, or there is no such port.
    """
    if not 0 <= port <= _LARGEST_PORT:
        raise ConfigError(f"--port is {port}, expected 0 (any free one) to {_LARGEST_PORT}")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise ConfigError(f"port {port} is the system's; give one above 1023") from None
        except OSError:
            raise ConfigError(
                f"port {port} is taken by another program, perhaps an earlier TensorBoard; give "
                "another one, or --port 0 for any that is free"
            ) from None
        return int(probe.getsockname()[1])


def event_files(directory: Path) -> list[Path]:
    """TensorBoard's files at any depth; links to folders are not followed."""
    found = []
    for folder, _, names in os.walk(directory):
        found += [Path(folder, name) for name in names if name.startswith(_EVENTS)]
    return sorted(found)


def logs_to_clean(place: Path) -> list[Cleaning]:
    """What there is to remove in a run, or in each run of a folder.

    Raises:
        ConfigError: if it is neither.
    """
    if not place.is_dir():
        raise ConfigError(f"no folder at {place}; give a run, or the folder of runs: runs")
    runs = [place] if _is_run(place) else sorted(path for path in place.iterdir() if _is_run(path))
    if not runs:
        raise ConfigError(
            f"{place} is neither a run (it has no run.json with config.yaml) nor a folder of runs; "
            "nothing was removed"
        )
    found = []
    for run in runs:
        cleaning = Cleaning(run)
        logs = run / LOGS
        if logs.is_symlink():
            cleaning.kept.append(logs)
        for folder, folders, names in os.walk(logs) if not logs.is_symlink() else ():
            cleaning.kept += [p for name in folders if (p := Path(folder, name)).is_symlink()]
            for path in (Path(folder, name) for name in sorted(names)):
                if path.name.startswith(_EVENTS) and not path.is_symlink():
                    cleaning.files.append(path)
                    cleaning.size += path.stat().st_size
                else:
                    cleaning.kept.append(path)
        found.append(cleaning)
    return found


def clean_logs(cleaning: Cleaning) -> None:
    """Remove a run's event files, and the folders that are empty then.

    Raises:
        FaultError: if a process is training in the run, or the disk refuses.
    """
    with owned(cleaning.run) as is_ours:
        if not is_ours:
            raise FaultError(f"{cleaning.run} is in use by a process; its logs stay")
        try:
            for path in cleaning.files:
                path.unlink(missing_ok=True)
            for folder, _, _ in os.walk(cleaning.run / LOGS, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)  # only if it is empty
        except OSError as error:
            raise FaultError(f"cannot remove {error.filename}: {error.strerror}") from None


def _is_run(path: Path) -> bool:
    files = (path / "run.json", path / "config.yaml")
    return not path.is_symlink() and path.is_dir() and all(file.is_file() for file in files)
