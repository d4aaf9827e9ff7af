"""Make one row of ``results.json`` from finished runs of one configuration with different seeds.

What cannot be repeated is refused: an unfinished run, code that is no commit of this repository, a
configuration that is not in the paper's folder at that commit, runs that differ in more than the seed.
"""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from common.config.files import show_path
from common.config.tree import ABSENT
from common.data.card import list_store
from common.records.commands import changed_keys, config_file, typed_command
from common.records.paper import Paper, find_paper
from common.records.repository import check_code, is_dirty
from common.records.results import FULL, Measurement, Row, check_scale
from common.records.run_record import RunRecord, differences
from common.utils.errors import ConfigError, DataError
from common.utils.paths import get_project_root

_FOLLOWS = ("DATA", "DERIVED")  # values that the data or other values decide: no choice of a run


def make_row(
    directories: Sequence[Path],
    *,
    name: str | None = None,
    scale: str | None = None,
    note: str = "",
    allow_dirty: bool = False,
    root: Path | None = None,
) -> tuple[Paper, Row]:
    """The row that runs make, and the paper it belongs to.

    Args:
        directories: Finished runs of one configuration, one for each seed.
        name: What was trained on what; the configuration's name and the data's by default.
        scale: ``full`` or ``reduced: ...``. Full is a configuration in which nothing but the seed
            is overridden; without ``scale``, one that a claim is about is full, and others must
            say what they are.
        note: What else a reader must know.
        allow_dirty: Record runs of code that is not exactly a commit, and say so in the row.
        root: The project.

    Raises:
        DataError: if a run is not finished or has no metrics.
        ConfigError: if the runs do not belong together, or cannot be repeated from a commit.
    """
    root = root or get_project_root()
    records = [RunRecord.read(directory) for directory in directories]
    for record in records:
        _check_finished(record)
    paper = find_paper(_same(records, "experiment", [r.experiment for r in records]), root)
    records.sort(key=lambda record: int(record.values["seed"]))
    _check_together(records)
    config = _same(records, "config", [config_file(record, paper) for record in records])
    commit = _same(records, "commit", [record.values["code"].get("commit") for record in records])
    check_code(commit, paper, config, records, root)
    dirty = any(is_dirty(record) for record in records)
    if dirty and not allow_dirty:
        which = next(record for record in records if is_dirty(record))
        raise ConfigError(
            f"{which.name} ran with changes that are in no commit, or went on at another one "
            "(see uncommitted*.patch and run.json); commit and train again, or --allow-dirty"
        )
    data = _data(records[0])
    row = Row(
        name=name or f"{Path(config).stem}, {data.get('name', paper.name)}",
        config=config,
        command=typed_command(records[0], paper, config),
        scale=_scale(scale, paper, config, records),
        metrics=_metrics(records),
        seeds=tuple(int(record.values["seed"]) for record in records),
        parameters=_same(records, "parameters", [r.values.get("parameters") for r in records]),
        updates=records[0].updates,
        hours=_hours(records),
        commit=commit,
        dirty=dirty,
        runs=tuple(record.name for record in records),
        hardware="; ".join(dict.fromkeys(_hardware(record) for record in records)),
        versions=dict(records[0].values["versions"]),
        date=max(str(record.values["ended"]) for record in records)[:10],
        data=data,
        note=note,
    )
    return paper, row


def _check_finished(record: RunRecord) -> None:
    shown = show_path(record.directory)
    if record.state != "finished":
        raise DataError(f"{shown} is {record.state}; only a finished run makes a result")
    if record.is_dry_run:
        raise DataError(f"{shown} is a dry run; only a whole run makes a result")
    if not record.metrics:
        raise DataError(f"{shown} has no metrics in run.json; its training ended without a test")
    for key, value in record.metrics.items():
        if type(value) not in (int, float) or not isfinite(value):
            raise DataError(f"{shown}: {key} is {value}, expected a finite number")
    for key in ("seed", "code", "versions", "hardware", "ended", "command"):
        if not record.values.get(key) and record.values.get(key) != 0:
            raise DataError(f"{shown}: run.json says nothing of {key}; train again")


def _check_together(records: Sequence[RunRecord]) -> None:
    """Refuse runs that differ in anything but the seed and what follows from it."""
    for key, values in differences(records).items():
        origins = [record.settings[key][1] for record in records if key in record.settings]
        if key != "seed" and not all(str(origin.source) in _FOLLOWS for origin in origins):
            raise ConfigError(f"the runs differ in {key}: {_shown(values)}; record them apart")
    seeds = [record.values["seed"] for record in records]
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"the runs have the seeds {_shown(seeds)}; give one run for each seed")
    _same(records, "metrics", [sorted(record.metrics) for record in records])
    for record in records[1:]:
        _same(
            [records[0], record], "versions", [r.values["versions"] for r in (records[0], record)]
        )


def _same(records: Sequence[RunRecord], what: str, values: Sequence[Any]) -> Any:
    for record, value in zip(records, values, strict=True):
        if value != values[0]:
            raise ConfigError(
                f"the runs differ in {what}: {values[0]} ({records[0].name}) and "
                f"{value} ({record.name}); record them apart"
            )
    return values[0]


def _scale(scale: str | None, paper: Paper, config: str, records: Sequence[RunRecord]) -> str:
    if scale is not None and check_scale(scale, "--scale") != FULL:
        return scale
    changed = [key for record in records for key in changed_keys(record) if key != "seed"]
    if changed:
        raise ConfigError(
            f"the run overrides {', '.join(dict.fromkeys(changed))}; say what it is: --scale "
            f"'reduced: ...' (full is {config} as it is, with any seed)"
        )
    if scale == FULL:
        return FULL
    if config not in [claim.config for claim in paper.claims if not claim.is_count]:
        raise ConfigError(
            f"no claim of the paper is about training {config}; say what the run is: "
            "--scale 'reduced: ...', or --scale full"
        )
    return FULL


def _metrics(records: Sequence[RunRecord]) -> dict[str, Measurement]:
    return {
        key: Measurement.of([record.metrics[key] for record in records])
        for key in records[0].metrics
    }


def _hours(records: Sequence[RunRecord]) -> float | None:
    hours = [h for record in records if (h := record.training_hours) is not None]
    return round(fmean(hours), 5) if hours else None


def _hardware(record: RunRecord) -> str:
    """The machine in words."""
    machine = record.values["hardware"]
    threads = f"{machine.get('threads')} thread{'s' if machine.get('threads') != 1 else ''}"
    processor = f"{machine.get('processor')}, {machine.get('cores')} cores, {threads}"
    device = str(record.settings.get("trainer.device", ("auto", None))[0])
    accelerators = machine.get("accelerators") or []
    if not accelerators or device == "cpu":
        return processor
    kinds = dict.fromkeys(accelerators)
    return ", ".join(f"{accelerators.count(kind)} x {kind}" for kind in kinds) + f" ({processor})"


def _data(record: RunRecord) -> dict[str, str]:
    """The data set and, if the store still holds what was read, the commit it is of."""
    name = record.settings.get("data.name", (None, None))[0]
    if not isinstance(name, str):
        return {}
    wanted = record.settings.get("data.config", (None, None))[0]
    for _, card in list_store("datasets"):
        is_it = card.name == name and (wanted is None or card.config == wanted)
        if is_it and card.created <= str(record.values["ended"]):
            return {"name": name, "revision": card.revision}
    return {"name": name}


def _shown(values: Sequence[Any]) -> str:
    return ", ".join("-" if value is ABSENT else str(value) for value in values)
