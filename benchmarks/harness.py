"""Side-by-side measurement: variants take turns, and are compared within each turn.

A machine drifts: its clock, its caches, its neighbours. So no variant is measured to the end before
the next one begins. They run A B C, B C A, C A B, ..., after a round that warms up; a ratio is the
median over rounds of ratios *within* a round. (pyperf and pytest-benchmark repeat one variant after
the other, ``torch.utils.benchmark`` times one statement; none of them interleaves.)
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from common.utils import setup_logger
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root
from common.utils.provenance import code_version, hardware, versions

Measure = Callable[[], Mapping[str, float]]
Samples = dict[str, dict[str, list[float]]]

_PEERS = (
    *("lightning", "transformers", "accelerate", "pytorch-ignite", "safetensors"),
    "pytorch-metric-learning",
)


def interleave(variants: Mapping[str, Measure], repeats: int, warm_up: int = 1) -> Samples:
    """Measure every variant once a round; the round's order is rotated by one each time.

    Args:
        variants: By name; each returns its quantities by key.
        repeats: Rounds that count.
        warm_up: Rounds before, which do not.

    Returns:
        ``{variant: {quantity: [one value a round]}}``.
    """
    names = list(variants)
    samples: Samples = {name: {} for name in names}
    for number in range(warm_up + repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            for key, value in variants[name]().items():
                if number >= warm_up:
                    samples[name].setdefault(key, []).append(float(f"{value:.5g}"))
        if sys.stderr.isatty():
            print(f"\rround {number + 1}/{warm_up + repeats}", end="", file=sys.stderr)
    return samples


def fresh_processes(suite: str, variants: Iterable[str], quick: bool) -> dict[str, Measure]:
    """Measures that take each sample in a process of its own.

    Libraries change what they are imported beside (a hook on every optimizer, a setting of the
    allocator), so that two of them in one process are not what either is alone.

    Args:
        suite: A module under ``benchmarks`` whose ``command_line`` has a ``sample``.
        variants: What to hand to that.
        quick: Passed on.
    """

    def measure(variant: str) -> dict[str, float]:
        arguments = ["-m", f"benchmarks.{suite}", "--sample", variant, *["--quick"] * quick]
        done = run_python(arguments)
        return json.loads(done.stdout.splitlines()[-1])

    return {variant: partial(measure, variant) for variant in variants}


def run_python(arguments: Sequence[str], expected: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python on one thread in the project's root, with compiled modules.

    Raises:
        RuntimeError: with the last line of its errors, if it does not exit with ``expected``.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(get_project_root()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=get_project_root(),
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != expected:
        what = f"python {' '.join(arguments)} exited with {done.returncode}, expected {expected}"
        raise RuntimeError(f"{what}: {done.stderr.strip().splitlines()[-1:]}")
    return done


@dataclass(frozen=True)
class Column:
    """A quantity of a table.

    Attributes:
        key: Its name in the samples.
        title: Heading, with the unit.
        digits: Decimals shown.
        against: The quantity of the row's baseline it is compared with; by default none.
        as_difference: Show ``+n`` over the baseline instead of a ratio.
    """

    key: str
    title: str
    digits: int = 0
    against: str | None = None
    as_difference: bool = False


@dataclass
class Result:
    """What a suite measured, and what made it.

    Attributes:
        suite: The module's name under ``benchmarks``.
        columns: What is shown.
        samples: Every measured value, see ``interleave``.
        baselines: Which row each row is compared with.
        notes: Sentences below the table.
        command: How to measure again.
        commit: The code, 40 hex digits; ``+`` at the end says that it was changed.
        date: UTC.
    """

    suite: str
    columns: list[Column]
    samples: Samples
    baselines: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    command: str = ""
    commit: str = ""
    date: str = ""
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of ``write``."""
        values = json.loads(path.read_text())
        return cls(**{**values, "columns": [Column(**column) for column in values["columns"]]})

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    def median(self, row: str, key: str) -> float:
        """The median of a quantity."""
        return statistics.median(self.samples[row][key])

    def ratio(self, row: str, key: str, against: str | None = None) -> float | None:
        """The median over rounds of a quantity over its baseline's in the same round.

        Args:
            row: The variant.
            key: The quantity.
            against: The baseline's quantity, ``key`` by default.

        Returns:
            ``None`` if the row has no baseline, or one of them was not measured.
        """
        pairs = self._pairs(row, key, against or key)
        return statistics.median(own / other for own, other in pairs) if pairs else None

    def markdown(self) -> str:
        """The table, the notes, and a line that says what made it."""
        head = " | ".join(["", *(column.title for column in self.columns)])
        lines = [f"|{head} |", "|---|" + "---:|" * len(self.columns)]
        for row in self.samples:
            cells = " | ".join([row, *(self._cell(row, column) for column in self.columns)])
            lines.append(f"| {cells} |")
        rounds = max((len(v) for row in self.samples.values() for v in row.values()), default=0)
        machine = f"{self.hardware.get('processor')}, {self.hardware.get('threads')} thread"
        names = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        made_by = (
            f"`{self.command}` at `{self.commit[:9]}{self.commit[40:]}`, {self.date[:10]}, "
            f"{machine}; {names}. Medians of {rounds} interleaved rounds; half the interquartile "
            f"range is {self._spread():.0%} of the median or less."
        )
        return "\n\n".join(["\n".join(lines), *self.notes, made_by])

    def _pairs(self, row: str, key: str, against: str) -> list[tuple[float, float]]:
        baseline = self.samples.get(self.baselines.get(row, ""), {})
        own, other = self.samples[row].get(key, []), baseline.get(against, [])
        return list(zip(own, other, strict=True)) if own and other else []

    def _cell(self, row: str, column: Column) -> str:
        if column.key not in self.samples[row]:
            return "-"
        text = f"{self.median(row, column.key):,.{column.digits}f}"
        if column.against is None or (self.baselines.get(row), column.key) == (row, column.against):
            return text
        if column.as_difference:
            pairs = self._pairs(row, column.key, column.against)
            more = statistics.median(own - other for own, other in pairs) if pairs else 0.0
            return f"{text} ({more:+,.{column.digits}f})" if pairs else text
        ratio = self.ratio(row, column.key, column.against)
        return text if ratio is None else f"{text} ({ratio:.2f}x)"

    def _spread(self) -> float:
        """The largest half of an interquartile range, relative to its median."""
        halves = [0.0]
        for values in (values for row in self.samples.values() for values in row.values()):
            if len(values) >= 4 and (middle := statistics.median(values)):
                low, _, high = statistics.quantiles(values, n=4)
                halves.append((high - low) / 2 / middle)
        return max(halves)


@dataclass(frozen=True)
class Timing:
    """Seconds something took.

    Attributes:
        cpu: Of this process with all its threads.
        wall: On the clock.
    """

    cpu: float
    wall: float


def timed(action: Callable[[], object]) -> Timing:
    """Run ``action`` and say what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


def installed(peers: Mapping[str, str]) -> list[str]:
    """Those of ``peers`` (row name -> module) that can be imported; the others get a line."""
    missing = [name for name, module in peers.items() if find_spec(module) is None]
    for name in missing:
        print(f"skipped: {name} is not installed", file=sys.stderr)
    return [name for name in peers if name not in missing]


def command_line(
    suite: Callable[[int, bool], Result],
    repeats: int,
    sample: Callable[[str, bool], Mapping[str, float]] | None = None,
    large: Callable[[int, bool], Result] | None = None,
) -> None:
    """The command of a suite: measure on one thread, print the table, write the JSON.

    Args:
        suite: Called with the number of rounds and whether to be quick (ours and raw only).
        repeats: Rounds by default.
        sample: Measures one variant once, for ``fresh_processes``.
        large: What ``--large`` measures instead, of which there may be none.
    """
    parser = argparse.ArgumentParser(description=(sys.modules[suite.__module__].__doc__ or ""))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="ours and raw only, small: a try")
    if large is not None:
        parser.add_argument("--large", action="store_true", help="more of everything: minutes")
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    options = parser.parse_args()
    setup_logger()  # its lines go to whatever standard error is at the time
    one_thread()
    if sample is not None and options.sample is not None:
        print(json.dumps(dict(sample(options.sample, options.quick))))
        return
    if large is not None and options.large:
        suite = large
    result = with_provenance(suite(options.repeats, options.quick), sys.argv[1:])
    if options.json is not None:
        result.write(options.json)
    print(result.markdown())


def one_thread() -> None:
    """Compute on one thread, here and in child processes."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def with_provenance(result: Result, arguments: Sequence[str] = ()) -> Result:
    """Fill in command, commit, hardware, versions and date."""
    code, difference = code_version()
    found = {key: versions()[key] for key in ("python", "torch")}
    for name in _PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    result.command = " ".join(["python -m", f"benchmarks.{result.suite}", *arguments])
    result.commit = (code["commit"] or "unknown") + ("+" if difference else "")
    result.date = datetime.now(UTC).isoformat(timespec="seconds")
    result.hardware, result.versions = hardware(), found
    return result
