"""Real processes for tests: started in a session of their own, signalled, killed, and looked after.

Every process here leads a session, so that its workers and its workers' children can be signalled
together and found again: ``members`` of a session that has ended must be empty.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from common.utils.paths import get_project_root

_POLL_SECONDS = 0.02


class Session:
    """A command that leads a session; it ends with the ``with`` block, whatever happens in it.

    Args:
        command: Program and arguments.
        environment: Variables beside this process's own; the project is on ``PYTHONPATH``.
        directory: Where it runs; the project by default.

    Attributes:
        pid: The process, its process group and its session.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the session)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would fill up and block)
        paths = [str(get_project_root()), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            cwd=directory or get_project_root(),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                **(environment or {}),
            },
            start_new_session=True,
        )
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        """Standard output so far."""
        return _read(self._output.fileno())

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return _read(self._errors.fileno())

    def is_running(self) -> bool:
        """Whether the leader has not ended."""
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group, as a scheduler or a terminal does."""
        os.killpg(self.pid, number)

    def kill(self) -> int:
        """SIGKILL to everything of the session; returns the leader's code."""
        for process in members(self.pid):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return self._process.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code: negative is the signal that ended it.

        Raises:
            TimeoutError: with the end of its standard error.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout} s: {self.errors[-2000:]}") from None

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Return as soon as ``condition()`` holds.

        Raises:
            TimeoutError: if it does not in time.
            ChildProcessError: if the process ended before.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.is_running() and not condition():
                raise ChildProcessError(f"ended with {self.wait()}: {self.errors[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came in {timeout} s: {self.errors[-2000:]}")
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._output.close()
        self._errors.close()


def members(session: int) -> list[psutil.Process]:
    """The processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue  # it ended while we looked
    return found


def orphans(session: int, timeout: float = 10.0) -> list[psutil.Process]:
    """What is left of a session whose leader has ended; a worker has ``timeout`` s to notice."""
    deadline = time.monotonic() + timeout
    while (left := members(session)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def _read(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode(errors="replace")
