"""``results.json``: what was measured here, one row for a configuration and its seeds.

A row names what made it (command, commit, hardware, versions, data) beside what came of it. It is
read as strictly as a configuration, because tables, statuses and the index are made of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

from common.config.files import show_path
from common.utils.errors import ConfigError
from common.utils.files import atomic_write_text
from common.utils.text import did_you_mean

RESULTS_FILE = "results.json"
FULL = "full"
REDUCED = "reduced: "
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Measurement:
    """A metric over the seeds of a row.

    Attributes:
        mean: Of the values.
        std: Their sample standard deviation (over n - 1); ``None`` for a single seed.
        values: One for each seed, in the order of the row's seeds.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The measurement that values make."""
        spread = stdev(values) if len(values) > 1 else None
        mean = fmean(values) if len(values) > 1 else values[0]
        return cls(mean, spread, tuple(values))


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        name: What was trained on what.
        config: The configuration file, relative to the paper's folder.
        command: What to type, for the first seed.
        scale: ``full``, or ``reduced: `` and how.
        metrics: By key, the headline first if there is one.
        seeds: One for each run.
        parameters: Of the model.
        updates: Of each run.
        hours: Of training, the mean over the runs.
        commit: Of the code, 40 hex digits.
        dirty: Whether the code was not exactly that commit: changes were not committed, or the
            run went on at another one.
        runs: The names of the run directories; they are not cleaned away.
        hardware: The machine in words.
        versions: Of Python and the packages that change numbers.
        date: When the last run ended, ``YYYY-MM-DD`` in UTC; empty if nobody knows.
        data: The data set's ``name`` and, from the store, its ``revision``.
        note: What else a reader must know.
    """

    name: str
    config: str
    command: str
    scale: str
    metrics: Mapping[str, Measurement]
    seeds: tuple[int, ...]
    parameters: int | None
    updates: int | None
    hours: float | None
    commit: str
    dirty: bool
    runs: tuple[str, ...]
    hardware: str
    versions: Mapping[str, str]
    date: str
    data: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def is_full(self) -> bool:
        """Whether the row may be held against a claim."""
        return self.scale == FULL

    def value(self, metric: str) -> float | None:
        """Its number for a metric (``parameters`` counts as one), or ``None``."""
        if metric == "parameters":
            return self.parameters
        return self.metrics[metric].mean if metric in self.metrics else None

    def is_again(self, other: "Row") -> bool:
        """Whether ``other`` is the same experiment: it is replaced, not joined."""
        return (self.config, sorted(self.seeds), self.commit, self.command) == (
            other.config,
            sorted(other.seeds),
            other.commit,
            other.command,
        )


def read_results(folder: Path) -> list[Row]:
    """The rows of a paper's folder; none if it has no ``results.json``.

    Raises:
        ConfigError: if the file is not a list of rows, in one line that names file, row and key.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        return []
    shown = show_path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown} is no JSON: {error}") from None
    if not isinstance(content, list):
        raise ConfigError(f"{shown} holds no list of rows; record runs with tools/record_result.py")
    return [_row(values, f"{shown}: row {number}") for number, values in enumerate(content, 1)]


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write all rows of a paper, all or nothing."""
    text = json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False)
    atomic_write_text(folder / RESULTS_FILE, text + "\n")


def add_row(folder: Path, row: Row) -> Row | None:
    """Add a row to a paper's results, in place of the same one.

    Returns:
        The earlier row that it replaced, if there was one.
    """
    rows = read_results(folder)
    index = next((i for i, known in enumerate(rows) if row.is_again(known)), len(rows))
    earlier = rows[index] if index < len(rows) else None
    rows[index : index + 1] = [row]
    write_results(folder, rows)
    return earlier


def check_scale(scale: str, place: str) -> str:
    """Return ``scale`` if it is one.

    Raises:
        ConfigError: naming ``place``.
    """
    if scale != FULL and not (scale.startswith(REDUCED) and scale[len(REDUCED) :].strip()):
        raise ConfigError(f"{place} is '{scale}', expected '{FULL}' or '{REDUCED}...'")
    return scale


def _row(values: Any, place: str) -> Row:
    if not isinstance(values, dict):
        raise ConfigError(f"{place} holds no keys and values")
    names = [f.name for f in fields(Row)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{place}: unknown key '{name}'; {did_you_mean(name, names)}")
    for name, (fits, expected) in _KINDS.items():
        if name not in values:
            raise ConfigError(f"{place}: {name} is missing; expected {expected}")
        if not fits(values[name]):
            raise ConfigError(f"{place}: {name} is {values[name]!r:.60}, expected {expected}")
    check_scale(values["scale"], f"{place}: scale")
    metrics = {
        name: _measurement(metric, len(values["seeds"]), f"{place}: metrics.{name}")
        for name, metric in values["metrics"].items()
    }
    lists = {name: tuple(values[name]) for name in ("seeds", "runs")}
    return Row(**{**values, **lists, "metrics": metrics})


def _measurement(values: Any, count: int, place: str) -> Measurement:
    known = isinstance(values, dict) and set(values) == {"mean", "std", "values"}
    if not known or not _is_list(values["values"], _is_number) or len(values["values"]) != count:
        raise ConfigError(f"{place} is no mean, std and {count} values; record the runs again")
    measurement = Measurement.of(values["values"])
    expected, found = (measurement.mean, measurement.std), (values["mean"], values["std"])
    for number, written in zip(expected, found, strict=True):
        same = written is None if number is None else _is_number(written)
        if not same or (number is not None and abs(number - written) > 1e-9 * max(1, abs(number))):
            raise ConfigError(f"{place} says mean, std {found}, but its values give {expected}")
    return measurement


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def _is_list(value: Any, fits: Any) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_KINDS: dict[str, tuple[Any, str]] = {
    "name": (lambda v: isinstance(v, str) and v.strip(), "text"),
    "config": (_is_text, "a file"),
    "command": (_is_text, "text"),
    "scale": (_is_text, "text"),
    "metrics": (lambda v: isinstance(v, dict) and v, "metrics"),
    "seeds": (lambda v: _is_list(v, lambda s: type(s) is int) and v, "whole numbers"),
    "parameters": (lambda v: v is None or type(v) is int, "a whole number or null"),
    "updates": (lambda v: v is None or type(v) is int, "a whole number or null"),
    "hours": (lambda v: v is None or _is_number(v), "a number or null"),
    "commit": (lambda v: _is_text(v) and _COMMIT.fullmatch(v), "40 hex digits"),
    "dirty": (lambda v: isinstance(v, bool), "true or false"),
    "runs": (lambda v: _is_list(v, _is_text), "names of run directories"),
    "hardware": (_is_text, "text"),
    "versions": (_is_texts, "texts by name"),
    "date": (_is_text, "text"),
    "data": (_is_texts, "texts by name"),
    "note": (_is_text, "text"),
}
