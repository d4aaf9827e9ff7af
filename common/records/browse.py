"""Look through the runs in ``assets/outputs``.

python -m common.utils.runs list --experiment attention_is_all_you_need --since 7d
python -m common.utils.runs show RUN
python -m common.utils.runs compare RUN RUN --out curves.png
python -m common.utils.runs clean --older-than 30d --keep-best

A RUN is a path, a name, or the beginning of a name. Nothing here needs PyTorch.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from common.config.files import show_path
from common.config.origins import Source
from common.config.tree import ABSENT
from common.records.ages import parse_since
from common.records.cleaning import Cleaning, candidates, delete
from common.records.paper import Paper, paper_folders, readable_papers
from common.records.run_record import (
    KILLED,
    STATES,
    RunRecord,
    differences,
    find_record,
    run_directories,
)
from common.records.tables import duration
from common.utils.errors import ConfigError, DataError, exit_on_error
from common.utils.paths import get_outputs_dir
from common.visualization.style import check_picture_path
from common.visualization.tables import text_table

_NOTHING = "-"


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    arguments = _parse(words)
    with exit_on_error():
        sys.stdout.write(arguments.do(arguments) + "\n")


def list_runs(
    experiment: str | None = None, state: str | None = None, since: datetime | None = None
) -> str:
    """A table of runs, the newest first; runs whose record cannot be read are named below it."""
    found, unreadable = readable_papers()
    known = {paper.name: paper for paper in found}
    rows, broken = [], []
    for directory in run_directories():
        if experiment is not None and directory.parent.name != experiment:
            continue
        try:
            record = RunRecord.read(directory)
        except DataError as error:
            broken.append(str(error))
            continue
        if (state is None or record.state == state) and _is_since(record, since):
            rows.append(_row(record, known.get(record.experiment)))
    if not rows and not broken:
        return f"no such runs in {show_path(get_outputs_dir())}"
    broken += [str(error) for name, error in unreadable.items() if experiment in (None, name)]
    headers = ["run", "experiment", "state", "result", "time", "size"]
    return "\n".join([text_table(rows, headers), *broken])


def show_run(record: RunRecord) -> str:
    """Everything about one run: what made it, how it ended, what it reached, how to go on."""
    values = record.values
    facts = {
        "directory": show_path(record.directory),
        "state": record.state,
        "error": values.get("error"),
        "command": shlex.join(map(str, values.get("command", []))),
        "resumed": f"{len(record.parts) - 1} times" if len(record.parts) > 1 else None,
        "code": _code(record),
        "seed": values.get("seed"),
        "started": values.get("started"),
        "ended": values.get("ended"),
        "updates": record.updates,
        "training": duration(record.training_hours),
        "hardware": values.get("hardware", {}).get("processor"),
        "accelerators": ", ".join(values.get("hardware", {}).get("accelerators", [])),
        "versions": ", ".join(f"{k} {v}" for k, v in values.get("versions", {}).items()),
        "size": _bytes(record.size),
    }
    parts = [
        text_table([[k, v] for k, v in facts.items() if v not in (None, "")], ["", record.name])
    ]
    if record.metrics:
        parts.append(text_table([[k, v] for k, v in record.metrics.items()], ["metric", "value"]))
    set_values = [
        [key, str(value), str(origin)]
        for key, (value, origin) in record.settings.items()
        if origin.source is not Source.DEFAULT
    ]
    parts.append(text_table(set_values, ["key", "value", "from"], "What differs from the defaults"))
    parts.append(_next(record))
    return "\n\n".join(filter(None, parts))


def compare_runs(records: Sequence[RunRecord], out: Path | None = None) -> str:
    """Configurations key by key, metrics side by side, and the curves in one picture.

    Args:
        records: Two or more runs.
        out: The picture's file; by default one in ``assets/outputs``.
    """
    from common.visualization.curves import plot_training_curves

    check_picture_path(out)
    labels = short_labels(records)
    changed = [[key, *map(_value, values)] for key, values in differences(records).items()]
    metrics = dict.fromkeys(key for record in records for key in record.metrics)
    reached = [[key, *(_number(r.metrics.get(key)) for r in records)] for key in metrics]
    parts = [
        text_table(
            [[label, r.experiment, r.name] for label, r in zip(labels, records, strict=True)],
            ["run", "experiment", "name"],
        ),
        (
            text_table(changed, ["key", *labels], "Configurations")
            if changed
            else "the configurations are the same"
        ),
    ]
    if reached:
        parts.append(text_table(reached, ["metric", *labels], "Metrics"))
    curves = {label: r.log for label, r in zip(labels, records, strict=True) if r.log}
    if curves:
        out = out or _picture_name(records)
        plot_training_curves(curves, out)
        parts.append(f"curves: {show_path(out)}")
    return "\n\n".join(parts)


def short_labels(records: Sequence[RunRecord]) -> list[str]:
    """A label for each run that tells it from the others: what was overridden, or a letter."""
    slugs = [record.name.partition("_")[2].partition("_")[2] for record in records]
    if len(set(slugs)) == len(slugs) and all(0 < len(slug) <= 24 for slug in slugs):
        return slugs
    changed = differences(records)
    if len(changed) == 1:
        ((key, values),) = changed.items()
        labels = [f"{key.rpartition('.')[2]}={_value(value)}" for value in values]
        if len(set(labels)) == len(labels) and all(len(label) <= 24 for label in labels):
            return labels
    return [
        chr(ord("A") + index) if index < 26 else f"run {index + 1}" for index in range(len(slugs))
    ]


def _row(record: RunRecord, paper: Paper | None) -> list[Any]:
    metric = paper.headline.metric if paper is not None else ""
    if metric not in record.metrics:
        metric = next(iter(record.metrics), "")
    result = f"{metric} {_number(record.metrics[metric])}" if metric else _NOTHING
    seconds = record.values.get("wall_seconds")
    time = duration(seconds / 3600.0) if seconds is not None else duration(record.training_hours)
    return [record.name, record.experiment, record.state, result, time, _bytes(record.size)]


def _is_since(record: RunRecord, since: datetime | None) -> bool:
    return since is None or record.started >= since


def _next(record: RunRecord) -> str:
    homes = [folder.parent.name for folder in paper_folders() if folder.name == record.experiment]
    module = f"{next(iter(homes), 'papers')}.{record.experiment}"
    if record.state == "running":
        return f"it is running as process {record.values.get('pid')}"
    if record.state == "finished":
        return f"measure it again: python -m {module}.evaluate --run {shlex.quote(record.name)}"
    if any(record.directory.glob("checkpoints/*.pt")):
        return f"go on with it: python -m {module}.train --resume {shlex.quote(record.name)}"
    return "it has no checkpoint to go on from"


def _code(record: RunRecord) -> str:
    code = record.values.get("code", {})
    return f"{code.get('commit') or 'no commit'}{' with changes' if code.get('dirty') else ''}"


def _picture_name(records: Sequence[RunRecord]) -> Path:
    stamps = "_".join("_".join(record.name.split("_")[:2]) for record in records[:3])
    return get_outputs_dir() / f"compare_{stamps}.png"


def _number(value: Any) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _value(value: Any) -> str:
    return _NOTHING if value is ABSENT else str(value)


def _bytes(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _list(arguments: argparse.Namespace) -> str:
    since = parse_since(arguments.since) if arguments.since else None
    return list_runs(arguments.experiment, arguments.state, since)


def _show(arguments: argparse.Namespace) -> str:
    return show_run(find_record(arguments.run))


def _compare(arguments: argparse.Namespace) -> str:
    if len(arguments.runs) < 2:
        raise ConfigError(f"compare got {len(arguments.runs)} run, expected two or more")
    return compare_runs([find_record(run) for run in arguments.runs], arguments.out)


def _clean(arguments: argparse.Namespace) -> str:
    found = candidates(arguments.older_than, arguments.keep_best)
    for name, error in readable_papers()[1].items():
        sys.stderr.write(f"warning: {error}; the runs of {name} are kept\n")
    shown = [[c.record.name, c.record.experiment, c.reason, _bytes(c.record.size)] for c in found]
    if not found:
        return "there is nothing to clean"
    table = text_table(shown, ["run", "experiment", "why", "size"])
    if not arguments.yes:
        return f"{table}\n\nnothing is deleted yet; to delete these {len(found)}, add --yes"
    return f"{table}\n\n{_deleted(found)}"


def _deleted(found: Sequence[Cleaning]) -> str:
    kept = [candidate.record.name for candidate in found if not delete(candidate)]
    told = f"deleted {len(found) - len(kept)} runs"
    return f"{told}; in use by now, and kept: {', '.join(kept)}" if kept else told


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m common.utils.runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="list | show | compare | clean")
    one = commands.add_parser("list", help="runs, the newest first")
    one.add_argument("--experiment", help="of one paper or project")
    one.add_argument("--state", choices=STATES, help=f"{KILLED}: it says running, but is not")
    one.add_argument("--since", help="a date such as 2026-11-01, or an age such as 12h, 7d, 2w")
    one.set_defaults(do=_list)
    one = commands.add_parser("show", help="all about a run")
    one.add_argument("run")
    one.set_defaults(do=_show)
    one = commands.add_parser("compare", help="configurations, metrics and curves of several runs")
    one.add_argument("runs", nargs="+", metavar="run")
    one.add_argument("--out", type=Path, help="the picture of the curves")
    one.set_defaults(do=_compare)
    one = commands.add_parser("clean", help="dry runs, and runs that ended with nothing")
    one.add_argument("--older-than", metavar="AGE", help="every run that began so long ago: 30d")
    one.add_argument("--keep-best", action="store_true", help="of those, not each paper's best")
    one.add_argument("--yes", action="store_true", help="delete; without it they are only shown")
    one.set_defaults(do=_clean)
    return parser.parse_args(words)
