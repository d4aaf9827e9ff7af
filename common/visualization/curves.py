"""Training curves: one run or several, linear or log, with a rolling mean."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from common.utils.errors import DataError
from common.utils.text import did_you_mean
from common.visualization.style import house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records: TypeAlias = Sequence[Mapping[str, Any]]
History: TypeAlias = Records | Path | str

_AXES = ("step", "epoch")
_BOUNDS = ("_min", "_max")  # of what many things have, beside its mean
_DETAILS = ("time/", "grad_norm/", "weight_norm/", "update_ratio/")


def plot_training_curves(
    histories: History | Mapping[str, History],
    out: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    log: bool = False,
    smooth: int | None = None,
) -> "Figure":
    """Draw metrics over steps, one panel per quantity.

    ``train/loss`` and ``validation/loss`` share the panel ``loss``. Several runs share the panels
    and are told apart by colour, training and validation by a dashed and a solid line. A quantity that
    many things have, such as GeM's p of every channel, is recorded as its mean ``gem_p`` with
    ``gem_p_min`` and ``gem_p_max``: these two are a band about the mean and no panels of their own.

    Args:
        histories: Records (as in ``history.json``), or a file or run directory that holds them;
            or several of these by label.
        out: Where to write the picture (``.png``, ``.svg``, ``.pdf``).
        metrics: Panels or full keys to draw, e.g. ``["loss", "validation/accuracy"]``; by default
            all but times and norms per layer.
        log: A logarithmic axis of values.
        smooth: Draw a rolling mean over so many steps, with the raw line faint behind it.

    Returns:
        The figure, for more drawing or for a notebook to show.

    Raises:
        DataError: if a history is missing or empty, or has no such metric.
    """
    runs = histories if isinstance(histories, Mapping) else {"": histories}
    records = {label: read_history(history) for label, history in runs.items()}
    chosen = panels(records, metrics)
    if metrics is None:
        chosen = {title: keys for title, keys in chosen.items() if not _is_bound(title, chosen)}
    columns = min(3, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    with house_style():
        figure = new_figure(4.6 * columns, 3.2 * rows)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, (title, keys) in zip(axes, chosen.items(), strict=False):
            for index, (label, history) in enumerate(records.items()):
                for key in keys:
                    _draw(axis, history, key, label, f"C{index}", len(records) > 1, smooth)
            axis.set_title(title)
            axis.set_xlabel("step")
            if log:
                axis.set_yscale("log")
            if len(axis.get_lines()) > 1 or axis.collections:
                axis.legend()
        for axis in axes[len(chosen) :]:
            axis.set_visible(False)
        save_figure(figure, out)
    return figure


def read_history(history: History) -> Records:
    """Records from records, ``history.json``, ``metrics.jsonl`` or a run directory.

    Raises:
        DataError: if there is nothing to read.
    """
    if not isinstance(history, str | Path):
        if not history:
            raise DataError("the history has no records; has the run validated yet?")
        return history
    path = Path(history)
    if path.is_dir():
        found = [path / name for name in ("metrics.jsonl", "history.json")]
        path = next((file for file in found if file.is_file()), path)
    if not path.is_file():
        raise DataError(f"{path} is no run directory, history.json or metrics.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".jsonl":
        return read_history([record for line in lines if (record := _record(line))])
    return read_history(json.loads("\n".join(lines)))


def rolling_mean(steps: Sequence[float], values: Sequence[float], window: float) -> list[float]:
    """The mean of the values within ``window`` steps before each one, itself included.

    A window in steps, and not in values, smooths a curve with few points less than one with many.
    Values that are not finite are left out of the means.
    """
    means = []
    start = 0
    for end, step in enumerate(steps):
        while steps[start] <= step - window:
            start += 1
        finite = [value for value in values[start : end + 1] if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def panels(
    records: Mapping[str, Records], metrics: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Keys by panel; the panel of ``validation/loss`` is ``loss``.

    Args:
        records: By run.
        metrics: Panels or full keys; by default all but times and norms per layer, losses first.

    Raises:
        DataError: if no run has one of the metrics.
    """
    keys = {key for history in records.values() for record in history for key in record}
    keys -= set(_AXES)
    found: dict[str, list[str]] = {}
    shown = (key for key in keys if not key.startswith(_DETAILS))
    for key in sorted(shown, key=lambda key: (not key.endswith("loss"), key)):
        found.setdefault(key.rsplit("/", 1)[-1], []).append(key)
    if metrics is None:
        return found
    chosen: dict[str, list[str]] = {}
    for metric in metrics:
        if metric in found:
            chosen[metric] = found[metric]
        elif metric in keys:
            chosen[metric] = [metric]
        else:
            raise DataError(f"no run has '{metric}': {did_you_mean(metric, keys | found.keys())}")
    return chosen


def _record(line: str) -> dict[str, Any]:
    """One line of ``metrics.jsonl``; empty for the torn last line a kill can leave."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _draw(
    axis: Any,
    history: Records,
    key: str,
    label: str,
    colour: str,
    several_runs: bool,
    smooth: int | None,
) -> None:
    points = [(r["step"], r[key]) for r in history if "step" in r and _is_number(r.get(key))]
    if not points:
        return
    steps, values = [p[0] for p in points], [p[1] for p in points]
    part = key.split("/", 1)[0] if "/" in key else ""
    name = " ".join(filter(None, [label, part]))
    style: dict[str, Any] = {"linestyle": "--" if part == "train" else "-"}
    if several_runs:
        style["color"] = colour
    if len(points) == 1:
        style["marker"] = "o"
    if smooth and len(points) > 1:
        (raw,) = axis.plot(steps, values, alpha=0.25, linewidth=1.0, **style)
        style["color"] = raw.get_color()
        values = rolling_mean(steps, values, smooth)
    (line,) = axis.plot(steps, values, label=name or None, **style)
    band = [(r["step"], *(r.get(key + bound) for bound in _BOUNDS)) for r in history if "step" in r]
    band = [row for row in band if _is_number(row[1]) and _is_number(row[2])]
    if band:
        edges = zip(*band, strict=True)
        what = ", ".join(filter(None, [name, "lowest to highest"]))
        axis.fill_between(*edges, color=line.get_color(), alpha=0.2, linewidth=0.0, label=what)


def _is_bound(title: str, titles: Collection[str]) -> bool:
    """Whether a panel is the lower or upper edge of another's band."""
    means = [title.removesuffix(bound) for bound in _BOUNDS if title.endswith(bound)]
    return any({mean, *(mean + bound for bound in _BOUNDS)} <= set(titles) for mean in means)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
