"""Clauses of the contract that run the paper: smoke, evaluate, seed, resume, overfit, facts.

The smoke run is the command itself, in a process of its own; the others are forked, which saves the
import of torch. None of them reaches the network.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.testing.contract_subject import Subject
from common.testing.equality import differences, metric_records
from common.testing.trials import Trial, TrialServer
from common.utils.errors import FaultError
from common.utils.threads import in_background

SECONDS = 60.0
GIGABYTES = 2.0
FALL = 0.9  # the last training loss is at most this part of the first
AGREEMENT = 1e-6
_AVERAGED = 5  # the end of an overfit run, without the noise of a single step
_PATIENCE = 300.0  # seconds of a busy machine, far more than any of this may take
_POLL_SECONDS = 0.02
_PROGRAMS = "common.testing.contract_programs"
# What a run imports on its way and every forked one then has: together two seconds.
_IMPORTED = (
    "hydra._internal.config_loader_impl",
    "hydra.core.override_parser.overrides_parser",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pytest",
    "torch.utils.tensorboard",
)


def contract_server(root: Path) -> TrialServer:
    """A server for any number of papers of one repository."""
    return TrialServer([_PROGRAMS, *_IMPORTED], root, offline=True)


@dataclass(frozen=True)
class Smoke:
    """How the smoke command went."""

    code: int
    said: str
    cpu_seconds: float
    gigabytes: float


class PaperRuns:
    """The runs of one paper, each made when a clause first needs it.

    Args:
        subject: Whose.
        server: Where processes are forked.
        home: A folder for what they write.
    """

    def __init__(self, subject: Subject, server: TrialServer, home: Path) -> None:
        self.subject = subject
        self._server = server
        self._home = home
        self._started: tuple[subprocess.Popen[bytes], Any, Future[float]] | None = None

    def begin(self) -> None:
        """Start the smoke command; other runs go on beside it."""
        if self._started is not None:
            return
        python = [sys.executable, "-m"]
        command = [*python, "common.testing.offline", *python, f"{self.subject.module}.train"]
        said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
        process = subprocess.Popen(
            [*command, *self.subject.card.smoke],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=self.subject.root,
            env={**os.environ, **self._environment("smoke")},
        )
        self._started = process, said, in_background("memory", _peak_gigabytes, process.pid)

    def close(self) -> None:
        """End what still runs."""
        if self._started is not None and self._started[0].returncode is None:
            self._started[0].kill()
            self._started[0].wait()

    @cached_property
    def smoke(self) -> Smoke:
        """The smoke command, run to its end."""
        self.begin()
        assert self._started is not None
        process, file, memory = self._started
        deadline = time.monotonic() + _PATIENCE
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(_POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        with file:
            file.seek(0)
            said = file.read().decode(errors="replace")
        seconds = usage.ru_utime + usage.ru_stime
        return Smoke(process.returncode, said, seconds, memory.result())

    @cached_property
    def whole(self) -> Path:
        """The directory of the smoke run.

        Raises:
            FaultError: if it did not finish.
        """
        if self.smoke.code != 0:
            raise FaultError("needs a smoke run that finishes; see the clause smoke")
        return self._directory("smoke")

    @cached_property
    def stopped(self) -> tuple[Path, list[dict[str, Any]]]:
        """The same run, ended by a SIGTERM halfway, and the records it had written by then."""
        trial = self._script("stopped", "train", self.subject.card.smoke, stop_halfway=True)
        code = trial.wait(_PATIENCE)
        if code != 143:
            raise FaultError(
                f"SIGTERM halfway: exit code {code}, expected 143: {_end(trial.errors)}"
            )
        run = self._directory("stopped")
        return run, metric_records(run)

    def finish(self, words: Sequence[str], kind: str, name: str = "train") -> str:
        """Run a script of the paper to its end; returns what it said."""
        trial = self._script(kind, name, words)
        code = trial.wait(_PATIENCE)
        if code != 0:
            command = " ".join(["python", "-m", f"{self.subject.module}.{name}", *words])
            raise FaultError(f"'{command}' ended with {code}: {_end(trial.errors)}")
        return trial.errors

    def ask(self, program: str, **arguments: Any) -> Any:
        """What a program of ``contract_programs`` finds out."""
        self._home.mkdir(parents=True, exist_ok=True)
        out = self._home / f"{program}.json"
        out.unlink(missing_ok=True)
        environment = self._environment("smoke")
        trial = self._server.start(f"{_PROGRAMS}:{program}", environment, **arguments, out=str(out))
        if trial.wait(_PATIENCE) != 0 or not out.exists():
            raise FaultError(_end(trial.errors))
        return json.loads(out.read_text())

    def overfitted(self) -> list[float]:
        """Training losses of a run on one batch."""
        overfit = self.subject.card.overfit
        if overfit is None:
            raise FaultError("paper.yaml has no overfit; see the clause files")
        words = ["trainer.overfit_batches=1", *overfit.overrides]
        if not any(word.startswith("trainer.log_every=") for word in words):
            words.append("trainer.log_every=1")
        self.finish(words, "overfit")
        return training_losses(self._directory("overfit"))

    def _script(
        self, kind: str, name: str, words: Sequence[str], stop_halfway: bool = False
    ) -> Trial:
        return self._server.start(
            f"{_PROGRAMS}:script",
            self._environment(kind),
            module=f"{self.subject.module}.{name}",
            words=list(words),
            stop_halfway=stop_halfway,
        )

    def _environment(self, kind: str) -> dict[str, str]:
        return {
            "ASSETS_DIR": str(self._home / kind),
            "CUDA_VISIBLE_DEVICES": "",
            "GIT_DIR": os.devnull,  # what is uncommitted here is no part of the record
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.subject.root),
        }

    def _directory(self, kind: str) -> Path:
        found = sorted((self._home / kind / "outputs" / self.subject.name).glob("*/run.json"))
        if len(found) != 1:
            raise FaultError(f"the {kind} run left {len(found)} records, expected one")
        return found[0].parent


def _peak_gigabytes(pid: int) -> float:
    """The most memory a process has held, asked for until it ends.

    What ``wait4`` reports begins with the memory of the process that started it, which in a long test
    run is more than the command's own.
    """
    peak = 0.0
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return peak
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        if found is None:  # it has ended, and nobody has waited for it yet
            return peak
        peak = float(found[1]) / 1e6
        time.sleep(_POLL_SECONDS)


def training_losses(run: Path) -> list[float]:
    """``train/loss`` of every record that has it."""
    return [float(r["train/loss"]) for r in metric_records(run) if "train/loss" in r]


def smoke(runs: PaperRuns) -> Iterator[str]:
    """The smoke command ends well, offline, in time and memory, and the loss falls."""
    done = runs.smoke
    if done.code != 0:
        yield f"exit code {done.code}: {_end(done.said)}"
        return
    if done.cpu_seconds > SECONDS:
        yield f"took {done.cpu_seconds:.0f} s of CPU, expected at most {SECONDS:.0f}"
    if done.gigabytes > GIGABYTES:
        yield f"took {done.gigabytes:.2f} GB of memory, expected at most {GIGABYTES:.0f}"
    losses = training_losses(runs.whole)
    if len(losses) < 2:
        yield f"metrics.jsonl has {len(losses)} records of train/loss; set trainer.log_every lower"
    elif not losses[-1] <= losses[0] - (1 - FALL) * abs(losses[0]):
        yield f"train/loss went from {losses[0]:.4g} to {losses[-1]:.4g}, expected a fall of a tenth"


def evaluate(runs: PaperRuns) -> Iterator[str]:
    """``evaluate`` finds what the end of the training found."""
    run = runs.whole
    trained = json.loads((run / "run.json").read_text()).get("metrics") or {}
    runs.finish(["--run", str(run)], "smoke", "evaluate")
    found = json.loads((run / "evaluation.json").read_text())["metrics"]
    if not trained:
        yield "run.json has no metrics"
    for name, value in trained.items():
        if name not in found:
            yield f"{name} is in run.json and not in evaluation.json"
        elif not _agree(value, found[name]):
            yield f"{name} is {found[name]!r}, and was {value!r} at the end of the training"


def _agree(one: float, other: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=AGREEMENT, abs_tol=AGREEMENT)


def seed(runs: PaperRuns) -> Iterator[str]:
    """A second process with the same seed writes the same records, to the last bit."""
    records = runs.stopped[1]  # while the smoke command still runs
    expected = metric_records(runs.whole)[: len(records)]
    if not records:
        yield "half of a smoke run writes no record; set trainer.log_every lower"
    yield from differences(expected, records, "metrics.jsonl")[:3]


def resume(runs: PaperRuns) -> Iterator[str]:
    """A run that was stopped by SIGTERM and resumed is the run that was not."""
    run = runs.stopped[0]
    runs.finish(["--resume", str(run)], "stopped")
    found = runs.ask("compare", one=str(runs.whole), other=str(run))
    yield from found[:3]
    if len(found) > 3:
        yield f"and {len(found) - 3} more differences"


def overfit(runs: PaperRuns) -> Iterator[str]:
    """One batch is learnt by heart: the loss falls to a small part of the first."""
    losses = runs.overfitted()
    ratio = runs.subject.card.overfit.ratio if runs.subject.card.overfit else 0.0
    end = losses[-_AVERAGED:]
    last = sum(end) / len(end)
    if not last <= ratio * losses[0]:
        yield f"train/loss went from {losses[0]:.4g} to {last:.4g}, expected {ratio} of it or less"


def facts(runs: PaperRuns) -> Iterator[str]:
    """At least one test is marked as a fact of the paper, and says where in it."""
    path = runs.subject.tests
    shown = runs.subject.shown(path)
    if not path.is_file():
        yield f"{shown} is missing"
        return
    report = runs.ask("facts", path=str(path))
    if report["code"] not in (0, 5):  # 5: nothing was found
        yield f"{shown} cannot be collected; run: python -m pytest -n 0 --collect-only {shown}"
    elif not report["tests"]:
        yield f"{shown} has no test marked @pytest.mark.fact('eq. 3')"
    for test, places in report["tests"].items():
        if not all(isinstance(place, str) and place.strip() for place in places):
            yield f"{shown}: the fact of {test} does not say where in the paper"


RUNNING: dict[str, Callable[[PaperRuns], Iterator[str]]] = {
    clause.__name__: clause for clause in (facts, overfit, seed, smoke, evaluate, resume)
}


def _end(said: str) -> str:
    """The last line, which says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    with suppress(StopIteration):
        return next(line for line in reversed(lines) if line.startswith("error: "))
    return lines[-1][-300:] if lines else "(it said nothing)"
