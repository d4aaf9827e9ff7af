"""The F-score of matching over its threshold: where it was chosen, and what that costs on other data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from common.utils.errors import DataError
from common.visualization.labels import add_title, drawable, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

_BINS = 1000  # columns of a picture that a curve of a million thresholds is drawn in
_WIDTH, _HEIGHT = 6.6, 3.3  # inches of the figure and of its axes
_SIDES = 0.7, 0.25
_BELOW, _ABOVE = 0.6, 0.35
_COLOURS = 6  # of the palette, without its grey
_NAME = 30  # letters of a curve's name


class Curve(Protocol):
    """What is drawn of ``common.metrics.ThresholdCurve``."""

    @property
    def thresholds(self) -> "Tensor | Sequence[float]": ...
    @property
    def scores(self) -> "Tensor | Sequence[float]": ...
    @property
    def exact_above(self) -> float: ...
    @property
    def beta(self) -> float: ...


class _Steps(NamedTuple):
    """A curve as rising thresholds; the score of t is that of the next of them, 0 above the last."""

    x: "NDArray[np.float64]"
    y: "NDArray[np.float64]"

    def at(self, threshold: float) -> float:
        place = int(np.searchsorted(self.x, threshold, side="left"))
        return float(self.y[place]) if place < len(self.y) else 0.0


def plot_threshold_curve(
    curves: Curve | Mapping[str, Curve],
    chosen: float,
    out: Path | str | None = None,
    title: str | None = None,
    *,
    precision: "ArrayLike | None" = None,
    recall: "ArrayLike | None" = None,
    unit: str = "cosine similarity",
    mark: str = "chosen",
) -> "Figure":
    """Draw the mean F over every threshold, with the chosen one marked on each curve.

    Of several curves the first is the one the threshold was chosen on; each of the others shows its
    oracle as well, the best it could have had. Where candidates were not fetched the ground is grey.

    Args:
        curves: From ``common.metrics.sweep_thresholds``; several by their names.
        chosen: The threshold.
        out: Where to write the picture.
        title: Above it.
        precision: ``(T,)``, at the thresholds of the first curve.
        recall: Likewise.
        unit: What a threshold is: a cosine, or minus a squared distance.
        mark: What the threshold is called at its line.

    Raises:
        DataError: if there is no curve, one is empty, not finite or does not fall in its thresholds,
            lengths disagree, or the chosen threshold is not finite.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    named = dict(curves) if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise DataError("there is no curve to draw; expected at least one")
    if not np.isfinite(chosen):
        raise DataError(f"the chosen threshold is {chosen}; expected a finite number")
    beta = next(iter(named.values())).beta
    if any(curve.beta != beta for curve in named.values()):
        betas = ", ".join(f"{curve.beta:g}" for curve in named.values())
        raise DataError(f"the curves have beta {betas}; expected one for all")
    steps = {name: _steps(curve.thresholds, curve.scores, name) for name, curve in named.items()}
    first = next(iter(named.values()))
    further = {
        what: _steps(first.thresholds, values, what)
        for what, values in (("precision", precision), ("recall", recall))
        if values is not None
    }
    low = min([chosen, *(float(curve.x[0]) for curve in steps.values())])
    high = max([chosen, *(float(curve.x[-1]) for curve in steps.values())])
    room = 0.03 * (high - low) or 0.05
    exact_above = max(curve.exact_above for curve in named.values())
    with house_style():
        figure = new_figure(_WIDTH, _HEIGHT + 2.0)
        figure.set_layout_engine("none")  # a legend below is none it gets right
        axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axis.set_xlim(low - room, high + room)
        axis.set_ylim(-0.02, 1.02)
        _draw_curves(axis, steps, chosen, f"F{beta:g}", high + 2 * room)
        for number, (what, curve) in enumerate(further.items()):
            axis.plot(
                *_thinned(curve),
                color="#555555",
                linestyle=(":", "-.")[number],
                drawstyle="steps-pre",
                label=f"mean {what}",
            )
        if exact_above > low:
            _shade(axis, low - room, min(exact_above, high + room), exact_above)
        _mark_chosen(axis, chosen, (chosen - low + room) / (high - low + 2 * room), mark)
        axis.set_xlabel(drawable([f"threshold ({unit})"])[0], fontfamily=font_families([unit]))
        axis.set_ylabel("mean over queries" if further else f"mean F{beta:g} of the queries")
        legend = axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -_BELOW / _HEIGHT),
            borderaxespad=0.0,
            prop={"family": font_families(named), "size": 8},
        )
        _place(figure, axis, legend, title)
        save_figure(figure, out)
    return figure


def _place(figure: "Figure", axis: "Axes", legend: "Legend", title: str | None) -> None:
    """Curves of a fixed size, the legend below and the title above, in a figure that fits them."""
    # A tenth more: letters are larger at some resolutions.
    below = _BELOW + 1.1 * legend.get_window_extent().height / figure.dpi
    height = below + _HEIGHT + _ABOVE
    if title:
        text = add_title(figure, title)
        height += 0.2 * (1 + text.get_text().count("\n"))
        text.set_y(1.0 - 0.1 / height)
    figure.set_figheight(height)
    left, right = _SIDES
    width = _WIDTH - left - right
    axis.set_position((left / _WIDTH, below / height, width / _WIDTH, _HEIGHT / height))


def _steps(thresholds: "ArrayLike", values: "ArrayLike", name: str) -> _Steps:
    x, y = (np.asarray(array, dtype=np.float64) for array in (thresholds, values))
    of_name = f" of '{name}'" if name else ""
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise DataError(
            f"thresholds{of_name} have shape {x.shape} and their values {y.shape}; expected (T,) "
            "for both, T at least 1"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (np.diff(x) < 0).all()):
        raise DataError(f"thresholds{of_name} must fall, and they and their values be finite")
    return _Steps(x[::-1], y[::-1])


def _draw_curves(
    axis: "Axes", steps: Mapping[str, _Steps], chosen: float, score: str, end: float
) -> None:
    names = drawable(list(steps), _NAME)
    for number, (name, curve) in enumerate(zip(names, steps.values(), strict=True)):
        colour, value = f"C{number % _COLOURS}", curve.at(chosen)
        label = f"{name}: " if name else ""
        x, y = _thinned(curve)
        axis.plot(
            # Nothing is found above the highest score.
            np.append(x, end),
            np.append(y, 0.0),
            color=colour,
            drawstyle="steps-pre",
            label=f"{label}{score} {value:.3f} at {chosen:.4g}",
        )
        axis.plot(chosen, value, "o", color=colour, markeredgecolor="white", markersize=8, zorder=5)
        if number:
            # The largest of equally good thresholds, as where one is chosen.
            place = len(curve.y) - 1 - int(np.argmax(curve.y[::-1]))
            best, value = curve.x[place], curve.y[place]
            axis.plot(
                best,
                value,
                "D",
                color=colour,
                fillstyle="none",
                linestyle="none",
                markersize=8,
                zorder=6,
                label=f"{label}{score} {value:.3f} at {best:.4g}, its best (oracle)",
            )


def _thinned(curve: _Steps) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """First, last, lowest and highest point of each column of the picture: the same to the eye."""
    x, y = curve
    if len(x) <= 4 * _BINS:
        return x, y
    column = ((x - x[0]) / (x[-1] - x[0]) * _BINS).astype(np.int64)
    order = np.lexsort((y, column))
    by_place, by_value = (
        np.flatnonzero(np.diff(column, prepend=-1)),
        np.flatnonzero(np.diff(column[order], prepend=-1)),
    )
    ends = np.append(by_value[1:], len(x)) - 1
    kept = np.unique(
        np.concatenate([by_place, by_place[1:] - 1, [len(x) - 1], order[by_value], order[ends]])
    )
    return x[kept], y[kept]


def _shade(axis: "Axes", left: float, right: float, exact_above: float) -> None:
    axis.axvspan(
        left,
        right,
        facecolor="#ececec",
        edgecolor="#c4c4c4",
        hatch="///",
        linewidth=0.0,
        zorder=0,
        label=f"not exact below {exact_above:.4g}: some candidates were not fetched",
    )


def _mark_chosen(axis: "Axes", chosen: float, share: float, mark: str) -> None:
    """A line through all curves, named above the frame where no curve runs."""
    axis.axvline(chosen, color="#222222", linewidth=1.0, linestyle="--", zorder=3)
    side = "left" if share < 0.2 else "right" if share > 0.8 else "center"
    axis.annotate(
        f"{drawable([mark])[0]}: {chosen:.4g}",
        (chosen, 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=9,
        annotation_clip=False,
    )
