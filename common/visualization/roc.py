"""ROC and precision-recall curves, one class against the rest."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.utils.errors import DataError
from common.visualization.labels import add_title, drawable_classes, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

_SINGLE = 10  # classes up to which each has a curve of its own
_GRID = 501  # points of a mean curve
_NAME = 30  # letters of a name in the legend


class _Curve(NamedTuple):
    x: "NDArray[np.float64]"
    y: "NDArray[np.float64]"
    area: float


_OneVsRest = Callable[["NDArray[np.bool_]", "NDArray[np.float64]"], _Curve]


def plot_roc_curves(
    probabilities: "ArrayLike",
    labels: "ArrayLike",
    class_names: Sequence[str],
    out: Path | str | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw true-positive over false-positive rate.

    Up to ten classes have a curve each; more are drawn faintly behind their mean (macro) and the
    curve of all decisions together (micro). Classes that all or no images are of have no curve.

    Args:
        probabilities: ``(N, K)``.
        labels: ``(N,)`` true classes.
        class_names: K names.
        out: Where to write the picture.
        title: Above it.

    Raises:
        DataError: if the shapes do not agree, or no class has a curve.
        InputError: if no picture can be written there.
    """
    p, y = _checked(probabilities, labels, class_names, out)
    with house_style():
        figure, axis = _figure(class_names)
        axis.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1.0, linestyle=":", zorder=1)
        _draw_curves(axis, p, y, class_names, _roc, _mean_roc, "area", "-")
        axis.set_xlabel("false-positive rate")
        axis.set_ylabel("true-positive rate (recall)")
        _finish(figure, axis, class_names, title, out)
    return figure


def plot_precision_recall_curves(
    probabilities: "ArrayLike",
    labels: "ArrayLike",
    class_names: Sequence[str],
    out: Path | str | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw precision over recall; arguments, errors and choice of curves as for ROC curves."""
    p, y = _checked(probabilities, labels, class_names, out)
    with house_style():
        figure, axis = _figure(class_names)
        _draw_curves(axis, p, y, class_names, _precision_recall, _mean_pr, "AP", "steps-pre")
        axis.set_xlabel("recall")
        axis.set_ylabel("precision")
        _finish(figure, axis, class_names, title, out)
    return figure


def _checked(
    probabilities: "ArrayLike",
    labels: "ArrayLike",
    class_names: Sequence[str],
    out: Path | str | None,
) -> tuple["NDArray[np.float64]", "NDArray[np.int64]"]:
    check_picture_path(out)
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or p.shape[1] != len(class_names):
        raise DataError(
            f"probabilities have shape {p.shape} for {y.shape} labels and {len(class_names)} names"
        )
    if len(np.unique(y)) < 2:
        raise DataError("all images are of one class (or there are none): no curve can be drawn")
    return p, y


def _figure(class_names: Sequence[str]) -> "tuple[Figure, Axes]":
    """A square for the curves and room for the legend beside it."""
    names = drawable_classes(class_names, _NAME) if len(class_names) <= _SINGLE else ["macro mean"]
    figure = new_figure(4.2 + 1.2 + 0.062 * max(map(len, names)), 4.2)
    return figure, figure.subplots()


def _draw_curves(
    axis: "Axes",
    p: "NDArray[np.float64]",
    y: "NDArray[np.int64]",
    class_names: Sequence[str],
    one_vs_rest: _OneVsRest,
    mean: Callable[[list[_Curve]], _Curve],
    area_name: str,
    style: str,
) -> None:
    number = p.shape[1]
    curves = {k: one_vs_rest(y == k, p[:, k]) for k in range(number) if (y == k).any()}
    labels = drawable_classes(class_names, _NAME)
    drawstyle = "default" if style == "-" else style
    if number <= _SINGLE:
        for k, curve in curves.items():
            # The palette has seven colours; the next three classes are dashed.
            dash = "-" if k < 7 else "--"
            axis.plot(
                curve.x,
                curve.y,
                dash,
                color=f"C{k % 7}",
                drawstyle=drawstyle,
                label=f"{area_name} {curve.area:.3f}  {labels[k]}",
            )
        return
    for curve in curves.values():
        axis.plot(curve.x, curve.y, color="#999999", alpha=0.25, linewidth=0.6, drawstyle=drawstyle)
    one_hot = y[:, None] == np.arange(number)
    for name, colour, curve in (
        ("macro mean", "C0", mean(list(curves.values()))),
        ("micro mean", "C1", one_vs_rest(one_hot.ravel(), p.ravel())),
    ):
        axis.plot(
            curve.x,
            curve.y,
            color=colour,
            linewidth=2.2,
            drawstyle=drawstyle,
            label=f"{area_name} {curve.area:.3f}  {name}",
        )
    axis.plot([], [], color="#999999", linewidth=0.8, label=f"each of {len(curves)} classes")


def _finish(
    figure: "Figure",
    axis: "Axes",
    class_names: Sequence[str],
    title: str | None,
    out: Path | str | None,
) -> None:
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.02)
    axis.set_box_aspect(1.0)
    families = font_families(class_names)
    axis.legend(
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        borderaxespad=0.0,
        prop={"family": families, "size": 8},
    )
    if title:
        add_title(figure, title)
    save_figure(figure, out)


def _roc(of_class: "NDArray[np.bool_]", scores: "NDArray[np.float64]") -> _Curve:
    from sklearn.metrics import auc, roc_curve

    false, true, _ = roc_curve(of_class, scores)
    return _Curve(false, true, float(auc(false, true)))


def _precision_recall(of_class: "NDArray[np.bool_]", scores: "NDArray[np.float64]") -> _Curve:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(of_class, scores)
    # From recall 0 upwards; the first threshold that reaches a recall does so most precisely, and
    # a step has the precision of its right end (average precision is the area below such steps).
    reached, first = np.unique(recall[-2::-1], return_index=True)
    best = precision[-2::-1][first]
    found = reached > 0
    x, y = np.append(0.0, reached[found]), np.append(best[found][:1], best[found])
    return _Curve(x, y, float(np.sum(np.diff(x) * y[1:])))


def _mean_roc(curves: list[_Curve]) -> _Curve:
    grid = np.linspace(0.0, 1.0, _GRID)
    mean = np.mean([np.interp(grid, curve.x, curve.y) for curve in curves], axis=0)
    mean[0] = 0.0
    return _Curve(grid, mean, float(np.mean([curve.area for curve in curves])))


def _mean_pr(curves: list[_Curve]) -> _Curve:
    grid = np.linspace(0.0, 1.0, _GRID)
    places = (np.searchsorted(c.x, grid - 1e-12) for c in curves)
    mean = np.mean([curve.y[place] for curve, place in zip(curves, places, strict=True)], axis=0)
    return _Curve(grid, mean, float(np.mean([curve.area for curve in curves])))
