"""Kill a real training again and again, resume it, and compare it with one that was left alone.

    python -m common.testing.torture papers.attention_is_all_you_need.train --kills 50 --seed 0

The command runs in a process group of its own. ``kill -9`` comes at a moment drawn uniformly from
the time in which the run works: in steps, saves, evaluations and the report at the end. A run that
ends before all kills are spent is compared, and another begins. Exit code 0 means: every run is, to
the last bit, the uninterrupted one. Overrides are those of the training.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.testing.equality import run_differences
from common.testing.processes import Session, orphans
from common.utils.errors import FaultError, exit_on_error
from common.utils.paths import get_outputs_dir, validate_name

_LOG_EVERY = "trainer.log_every"
_PATIENCE = 3  # kills without a new checkpoint before a run is given twice the time
_START_SECONDS = 600.0


@dataclass
class Report:
    """What the kills did.

    Attributes:
        kills: How many the training survived.
        early: How many of them before the last step; the others hit evaluations and reports.
        lost: Per kill, the steps between where it was and where it went on.
        runs: How many runs were killed and brought to their end.
        differences: Where they differ from the uninterrupted run.
    """

    kills: int = 0
    early: int = 0
    lost: list[int] = field(default_factory=list)
    runs: int = 0
    differences: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a person, one fact a line."""
        lost = self.lost or [0]
        verdict = "yes" if not self.differences else "NO"
        lines = [
            f"kills survived: {self.kills} ({self.early} before the last step), in "
            f"{self.runs} run{'s' if self.runs != 1 else ''}",
            f"work lost per kill: median {statistics.median(lost):g} steps, worst {max(lost)}",
            f"equal to the uninterrupted run: {verdict}",
        ]
        return "\n".join([*lines, *(f"  {line}" for line in self.differences[:20])]) + "\n"


class Torture:
    """A training command and how it is killed.

    Args:
        module: What ``python -m`` runs; its package's last folder names the experiment.
        overrides: Of the training.
        seed: Of the moments.
    """

    def __init__(self, module: str, overrides: Sequence[str], seed: int) -> None:
        self._command = [sys.executable, "-m", module]
        logs = any(word.lstrip("+").startswith(f"{_LOG_EVERY}=") for word in overrides)
        self._overrides = [*overrides, *([] if logs else [f"{_LOG_EVERY}=1"])]
        self._home = get_outputs_dir() / validate_name(module.split(".")[-2], "experiment")
        self._moments = random.Random(seed)
        self._report = Report()
        self._horizon = 0.0
        self._last = 0

    def run(self, kills: int) -> Report:
        """Spend ``kills`` kills; see ``Report``.

        Raises:
            FaultError: if the training itself fails.
        """
        try:
            whole = self._uninterrupted(kills)
            _say(f"uninterrupted: {whole}")
            while self._report.kills < kills and not self._report.differences:
                run = self._tortured(kills)
                self._report.runs += 1
                self._report.differences = run_differences(whole, run)
                verdict = "equal" if not self._report.differences else "DIFFERENT"
                _say(f"killed and resumed: {run}: {verdict}")
        except (ChildProcessError, TimeoutError) as error:
            raise FaultError(f"the training {error}") from None
        return self._report

    def _uninterrupted(self, kills: int) -> Path:
        with Session([*self._command, *self._overrides]) as session:
            run = self._directory(session)
            _until_saved(session, run)
            began = time.monotonic()
            _finish(session)
        self._last = newest_step(run)
        # Twice the mean, since the draw is uniform from 0.
        self._horizon = 2 * (time.monotonic() - began) / kills
        return run

    def _tortured(self, kills: int) -> Path:
        """One run from its begin to its end, killed until no kill is left."""
        run, saved, idle, kept = None, -1, 0, -1
        while True:
            words = self._overrides if run is None else ["--resume", str(run)]
            with Session([*self._command, *words]) as session:
                run = run or self._directory(session)
                if self._report.kills == kills or kept == self._last:
                    _finish(session)
                    return run
                _until_saved(session, run)
                if not _outlives(session, self._moments.uniform(0.0, self._horizon)):
                    _finish(session)
                    return run
                session.kill()
            if left := orphans(session.pid):
                raise FaultError(f"{len(left)} processes outlived the kill of {session.pid}")
            reached, kept = last_step(run), newest_step(run)
            self._report.kills += 1
            self._report.early += reached < self._last
            self._report.lost.append(max(reached - kept, 0))
            _say(f"kill {self._report.kills}: at step {reached}, goes on from step {kept}")
            idle = 0 if kept > saved else idle + 1
            saved = max(saved, kept)
            if idle == _PATIENCE:
                self._horizon, idle = 2 * self._horizon, 0

    def _directory(self, session: Session) -> Path:
        """The run directory whose record names the session's leader."""
        found: list[Path] = []

        def owned() -> bool:
            found[:] = [p.parent for p in self._home.glob("*/run.json") if _pid(p) == session.pid]
            return bool(found)

        session.wait_until(owned, _START_SECONDS)
        return found[0]


def last_step(run: Path) -> int:
    """The step of the last whole line of ``metrics.jsonl``; 0 if there is none."""
    step = 0
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue  # cut short by the kill
    return step


def newest_step(run: Path) -> int:
    """The step of the checkpoint a resume would begin with; -1 if there is none."""
    from common.utils.checkpoint import latest_checkpoint, load_checkpoint

    newest = latest_checkpoint(run / "checkpoints")
    return -1 if newest is None else int(load_checkpoint(newest)["state"]["step"])


def _until_saved(session: Session, run: Path) -> None:
    """Wait until the process works: its first checkpoint is there, or it has gone on from one."""
    metrics, last = run / "metrics.jsonl", run / "checkpoints" / "last.pt"
    there = last.exists()
    before = _stamp(metrics)
    session.wait_until(
        lambda: (_stamp(metrics) != before if there else last.exists()) or not session.is_running(),
        _START_SECONDS,
    )


def _outlives(session: Session, seconds: float) -> bool:
    """Whether the process still runs after so long a time."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0 and session.is_running():
        time.sleep(min(left, 0.05))
    return session.is_running()


def _finish(session: Session) -> None:
    code = session.wait(timeout=24 * 3600.0)
    if code != 0:
        end = " | ".join(session.errors.strip().splitlines()[-5:])
        raise FaultError(f"the training ended with {code}: {end}")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file is replaced or grows."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size


def _pid(record: Path) -> int | None:
    try:
        pid: int | None = json.loads(record.read_text()).get("pid")
    except (OSError, ValueError):
        return None
    return pid


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(words: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m common.testing.torture",
        description="Kill a training, resume it, and compare it with one that was left alone.",
    )
    parser.add_argument("module", help="what python -m runs, e.g. papers.x.train")
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("overrides", nargs="*", help="of the training, e.g. trainer.max_steps=60")
    arguments = parser.parse_intermixed_args(words)
    if arguments.kills < 1 or "." not in arguments.module:
        parser.error("expected a module such as papers.x.train, and at least one kill")
    with exit_on_error():
        torture = Torture(arguments.module, arguments.overrides, arguments.seed)
        report = torture.run(arguments.kills)
    sys.stdout.write(report.text())
    return 1 if report.differences else 0


if __name__ == "__main__":
    raise SystemExit(main())
