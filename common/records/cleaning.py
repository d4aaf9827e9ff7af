"""Which runs may go, and their deletion.

Never a run that a process owns, never one that a ``results.json`` names, and none of a paper whose
``paper.yaml`` cannot be read.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from common.records.ages import parse_since
from common.records.paper import Paper, readable_papers
from common.records.results import read_results
from common.records.run_record import KILLED, RunRecord, is_locked, owned, run_directories
from common.utils.errors import DataError

_ENDED_EARLY = ("failed", "interrupted", KILLED)


@dataclass(frozen=True)
class Cleaning:
    """A run that may go, and why."""

    record: RunRecord
    reason: str


def candidates(older_than: str | None = None, keep_best: bool = False) -> list[Cleaning]:
    """The runs that may be deleted: dry runs, and those that ended early without a checkpoint.

    Args:
        older_than: An age or a date; every run that began before it may go, too.
        keep_best: Of those keep each paper's best run by its headline metric.

    Raises:
        ConfigError: if ``older_than`` is no age, or a ``results.json`` cannot be read: then nobody
            knows which runs are named in it.
    """
    before = parse_since(older_than) if older_than else None
    known, broken = readable_papers()
    named = {
        (paper.name, run)
        for paper in known
        for row in read_results(paper.folder)
        for run in row.runs
    }
    records = _readable()
    best = _best(records, known) if keep_best else set()
    found = []
    for record in records:
        reason = _reason(record, before, best)
        is_named = record.experiment in broken or (record.experiment, record.name) in named
        if reason and not is_named and not is_locked(record.directory):
            found.append(Cleaning(record, reason))
    return found


def delete(cleaning: Cleaning) -> bool:
    """Delete a run, owning it meanwhile; returns ``False`` if another process owns it by now."""
    directory = cleaning.record.directory
    with owned(directory) as is_ours:
        if is_ours:
            shutil.rmtree(directory)
        return is_ours


def _reason(record: RunRecord, before: datetime | None, best: set[RunRecord]) -> str:
    if record.is_dry_run:
        return "a dry run"
    if record.state in _ENDED_EARLY and not record.has_checkpoint:
        return f"{record.state}, no checkpoint"
    if before is not None and record.started < before and record not in best:
        return f"began {record.started:%Y-%m-%d}"
    return ""


def _readable() -> list[RunRecord]:
    """Every run whose record can be read; one that cannot is nobody's to judge."""
    records = []
    for directory in run_directories():
        try:
            records.append(RunRecord.read(directory))
        except DataError:
            continue
    return records


def _best(records: Sequence[RunRecord], known: Sequence[Paper]) -> set[RunRecord]:
    """Each paper's best run by its headline metric."""
    best = set()
    for paper in known:
        metric, sign = paper.headline.metric, 1 if paper.headline.higher_is_better else -1
        own = [r for r in records if r.experiment == paper.name and metric in r.metrics]
        if own:
            best.add(max(own, key=lambda record: sign * record.metrics[metric]))
    return best
