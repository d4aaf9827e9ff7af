"""Many real processes for the price of one import of torch.

A server process imports what trials need and then forks a child per trial: its own session, its own
signals, its own exit code. A training that is killed costs a tenth of a second this way, not three.
The server itself computes nothing, so the children start with one thread and no accelerator.

    with TrialServer(["tests.faults.programs"]) as server:
        trial = server.start("tests.faults.programs:train", directory=str(path), kill_at=3)
        assert trial.wait() == -signal.SIGKILL
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.testing.processes import members, orphans
from common.utils.errors import exit_on_error
from common.utils.paths import get_project_root

_POLL_SECONDS = 0.01


class Trial:
    """A child of the server, running one function.

    Attributes:
        pid: The process, its process group and its session.
    """

    def __init__(self, server: "TrialServer", pid: int, log: Path) -> None:
        self._server = server
        self._log = log
        self._code: int | None = None
        self.pid = pid

    @property
    def errors(self) -> str:
        """What it wrote to standard output and standard error so far."""
        return self._log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group."""
        os.killpg(self.pid, number)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        if self._code is None:
            self._code = self._server.ask(wait=self.pid)["code"]
        return self._code is None

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code: negative is the signal that ended it.

        Raises:
            TimeoutError: after ``timeout`` seconds; everything of the trial is then killed.
        """
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                for process in members(self.pid):
                    process.kill()
                raise TimeoutError(f"still running after {timeout} s: {self.errors[-2000:]}")
            time.sleep(_POLL_SECONDS)
        assert self._code is not None
        return self._code

    def orphans(self) -> list[Any]:
        """Processes it left behind."""
        return orphans(self.pid)


class TrialServer:
    """Forks trials; ends with its ``with`` block.

    Args:
        modules: What is imported before the first fork.
        root: The repository whose code runs; this one by default.
        offline: Whether the trials have no network (see ``common.testing.offline``).
    """

    def __init__(
        self, modules: Sequence[str], root: Path | None = None, *, offline: bool = False
    ) -> None:
        root = root or get_project_root()
        self._logs = tempfile.TemporaryDirectory(prefix="trials-")
        self._count = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = str(root)
        python = [sys.executable, "-m"]
        before = [*python, "common.testing.offline"] if offline else []
        self._process = subprocess.Popen(
            [*before, *python, "common.testing.trials", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env=environment,
            text=True,
        )

    def start(
        self, target: str, environment: Mapping[str, str] | None = None, **arguments: Any
    ) -> Trial:
        """Run ``module:function`` with ``arguments`` (plain values) in a new process.

        A ``RepriseError`` ends it as it ends a command line: one line, and the error's exit code.
        """
        self._count += 1
        log = Path(self._logs.name) / f"{self._count}.log"
        request = {"target": target, "arguments": arguments, "log": str(log)}
        # What is uncommitted in the working tree is no part of a trial's record.
        surrounding = {**os.environ, "GIT_DIR": os.devnull, **(environment or {})}
        answer = self.ask(**request, environment=surrounding)
        return Trial(self, answer["pid"], log)

    def run(self, target: str, *, expect: int = 0, timeout: float = 60.0, **arguments: Any) -> str:
        """Run to the end; returns what was written.

        Raises:
            ChildProcessError: if the exit code is another than ``expect``.
        """
        trial = self.start(target, **arguments)
        code = trial.wait(timeout)
        if code != expect:
            raise ChildProcessError(f"{target} ended with {code}: {trial.errors[-4000:]}")
        return trial.errors

    def ask(self, **request: Any) -> dict[str, Any]:
        """One question to the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._logs.cleanup()


def _serve(modules: Sequence[str]) -> None:
    import torch

    for module in modules:
        import_module(module)
    # The first optimizer imports a second's worth of torch.
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            answer = {"pid": _fork(request)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _fork(request: dict[str, Any]) -> int:
    sys.stdout.flush()
    ready, done = os.pipe()
    pid = os.fork()
    if pid:
        os.close(done)
        os.read(ready, 1)  # the child has its session, to be signalled as a group, and its log
        os.close(ready)
        return pid
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.close(done)
    os.close(ready)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, standard)
    os.environ.clear()
    os.environ.update(request["environment"])
    module, _, function = request["target"].partition(":")
    sys.argv = [request["target"]]
    os._exit(_call(module, function, request["arguments"]))


def _call(module: str, function: str, arguments: dict[str, Any]) -> int:
    """Run to the end as a script would, except that torch is not taken apart (one second)."""
    code = 0
    try:
        with exit_on_error():
            getattr(import_module(module), function)(**arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve(sys.argv[1:])
