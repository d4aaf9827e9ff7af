"""The reliability diagram: accuracy over confidence, above how often each confidence occurs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.utils.errors import DataError
from common.visualization.labels import add_title
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bins(Protocol):
    """What is drawn of ``common.metrics.ReliabilityBins``."""

    @property
    def edges(self) -> Sequence[float]: ...
    @property
    def counts(self) -> Sequence[int]: ...
    @property
    def confidence(self) -> Sequence[float | None]: ...
    @property
    def accuracy(self) -> Sequence[float | None]: ...
    @property
    def ece(self) -> float: ...


def plot_reliability(
    bins: Bins | Mapping[str, Bins],
    out: Path | str | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw one diagram, or several beside each other (before and after temperature scaling).

    A blue bar is the accuracy of a bin: light where it is above the bin's mean confidence; what it
    lacks to that confidence is red. On the diagonal a confidence can be taken at its word.

    Args:
        bins: From ``common.metrics.reliability_bins``; several by their title.
        out: Where to write the picture.
        title: Above all.

    Raises:
        DataError: if there is nothing to draw.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    panels = dict(bins) if isinstance(bins, Mapping) else {"": bins}
    if not panels or not all(sum(panel.counts) for panel in panels.values()):
        raise DataError("there are no predictions to draw a reliability diagram of")
    with house_style():
        figure = new_figure(3.9 * len(panels), 4.7)
        axes = figure.subplots(
            2, len(panels), squeeze=False, sharex=True, sharey="row", height_ratios=[3.2, 1]
        )
        for (name, panel), (above, below) in zip(panels.items(), axes.T, strict=True):
            _draw(above, below, panel)
            if name:
                above.set_title(name)
        axes[0, 0].set_ylabel("accuracy")
        axes[1, 0].set_ylabel("share of images")
        if title:
            add_title(figure, title)
        save_figure(figure, out)
    return figure


def _draw(above: "Axes", below: "Axes", panel: Bins) -> None:
    edges, counts = np.asarray(panel.edges), np.asarray(panel.counts)
    width = np.diff(edges)
    full = counts > 0
    accuracy = np.array([value if value is not None else 0.0 for value in panel.accuracy])
    confidence = np.array([value if value is not None else 0.0 for value in panel.confidence])
    bar: dict[str, Any] = {
        "width": width[full],
        "align": "edge",
        "edgecolor": "white",
        "linewidth": 0.8,
    }
    left, accuracy, confidence = edges[:-1][full], accuracy[full], confidence[full]
    low = np.minimum(accuracy, confidence)
    above.bar(left, low, color="C0", label="accuracy", **bar)
    above.bar(left, accuracy - low, bottom=low, color="C5", label="above confidence", **bar)
    short = above.bar(left, confidence - low, bottom=low, color="C1", alpha=0.4, **bar)
    short.set_label("missing to confidence")
    above.plot([0, 1], [0, 1], color="#555555", linewidth=1.0, linestyle="--")
    above.set_axisbelow(True)
    above.set_ylim(0.0, 1.0)
    above.set_xlim(0.0, 1.0)
    above.text(
        0.97,
        0.05,
        f"ECE {panel.ece:.4f}\n{len(counts)} bins",
        transform=above.transAxes,
        ha="right",
        va="bottom",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 3},
    )
    above.legend(loc="upper left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=8)
    below.bar(left, counts[full] / counts.sum(), color="#888888", **bar)
    below.set_xlabel("confidence")
    below.set_axisbelow(True)
