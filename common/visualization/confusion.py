"""A confusion matrix that is readable with 2 classes and with 200."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.utils.errors import DataError
from common.visualization.labels import add_title, drawable_classes, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

_WITH_COUNTS = 25  # classes up to which every cell says its count
_WITH_LINES = 60


def plot_confusion_matrix(
    counts: "ArrayLike",
    class_names: Sequence[str],
    out: Path | str | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw how often each true class (row) was taken for each class (column).

    Colours are shares of the row; with few classes the counts stand in the cells. The row of a
    class without images is grey.

    Args:
        counts: ``(K, K)``, true class by row.
        class_names: K names.
        out: Where to write the picture.
        title: Above it.

    Raises:
        DataError: if counts and names do not agree.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    matrix = np.asarray(counts)
    number = len(class_names)
    if matrix.shape != (number, number) or number < 1:
        raise DataError(f"counts have shape {matrix.shape} for {number} class names")
    totals = matrix.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(totals > 0, matrix / totals, np.nan)
    cell = (
        0.62 if number <= 6 else 0.46 if number <= _WITH_COUNTS else 0.17 if number <= 90 else 0.1
    )
    size = 10.0 if number <= 10 else 8.0 if number <= _WITH_COUNTS else cell * 50
    labels = drawable_classes(class_names)
    room = 0.085 * size / 10 * max(map(len, labels)) + 0.4
    with house_style():
        side = max(cell * number, 2.2)
        figure = new_figure(side + room + 1.1, side + room)
        axis = figure.subplots()
        # A square root shows the rare confusions beside the diagonal when cells have no numbers.
        _draw(figure, axis, shares, number)
        if number <= _WITH_COUNTS:
            _write_counts(axis, matrix, shares, 0.8 * min(size, 9.0))
        families = font_families(class_names)
        ticks: dict[str, Any] = {"fontsize": size, "fontfamily": families}
        slant = 90 if max(map(len, labels)) > 2 else 0
        axis.set_xticks(range(number), labels, rotation=slant, **ticks)
        axis.set_yticks(range(number), labels, **ticks)
        axis.tick_params(length=0, pad=2)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        if title:
            add_title(figure, title)
        save_figure(figure, out)
    return figure


def _draw(figure: "Figure", axis: "Axes", shares: "NDArray[np.float64]", number: int) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm

    colours = colormaps["Blues"].with_extremes(bad="#d9d9d9")
    norm = PowerNorm(1.0 if number <= _WITH_COUNTS else 0.5, vmin=0.0, vmax=1.0)
    drawn = axis.imshow(shares, cmap=colours, norm=norm, interpolation="nearest")
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if number <= _WITH_LINES:
        edges = np.arange(number + 1) - 0.5
        axis.hlines(edges, -0.5, number - 0.5, color="white", linewidth=1.0)
        axis.vlines(edges, -0.5, number - 0.5, color="white", linewidth=1.0)
    shrink = 0.8 if number <= _WITH_COUNTS else 0.3
    bar = figure.colorbar(drawn, ax=axis, fraction=0.04, pad=0.02, shrink=shrink, aspect=25)
    bar.set_label("share of the true class")
    bar.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0])
    bar.outline.set_visible(False)


def _write_counts(
    axis: "Axes", matrix: "NDArray[np.int64]", shares: "NDArray[np.float64]", size: float
) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            text = f"{count:,.0f}" if count < 10_000 else f"{count / 1000:.0f}k"
            colour = "white" if shares[row, column] > 0.55 else "#222222"
            weight = "bold" if row == column else "normal"
            axis.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color=colour,
                fontweight=weight,
            )
