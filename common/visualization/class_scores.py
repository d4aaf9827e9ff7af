"""A bar per class: how well it is found, and of how many images that was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.utils.errors import DataError
from common.visualization.labels import add_title, drawable_classes, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 60


def plot_class_scores(
    scores: Sequence[float | None],
    support: Sequence[int],
    class_names: Sequence[str],
    out: Path | str | None = None,
    title: str | None = None,
    *,
    score_name: str = "F1",
    mean: float | None = None,
) -> "Figure":
    """Draw the classes from worst to best; of more than 60, the 60 worst.

    Args:
        scores: K numbers from 0 to 1; ``None`` for a class without images.
        support: Images of each class.
        class_names: K names.
        out: Where to write the picture.
        title: Above it.
        score_name: What the numbers are.
        mean: A line at their mean.

    Raises:
        DataError: if the numbers of scores and names do not agree.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    if not len(scores) == len(support) == len(class_names) >= 1:
        raise DataError(
            f"there are {len(scores)} scores and {len(support)} supports for {len(class_names)} "
            "class names"
        )
    # Classes without images come last: nothing is known of them.
    order = sorted(
        range(len(scores)),
        key=lambda k: (scores[k] is None, scores[k] if scores[k] is not None else 0.0, k),
    )
    shown = order[:_SHOWN]
    labels = drawable_classes(class_names)
    with house_style():
        figure = new_figure(5.0 + 0.062 * max(map(len, labels)), 0.22 * len(shown) + 1.1)
        axis = figure.subplots()
        for place, k in enumerate(shown):
            score = scores[k]
            axis.barh(place, score or 0.0, height=0.75, color="C0")
            _write(axis, place, "-" if score is None else f"{score:.3f}", f"{support[k]:,}")
        _write(axis, -1.05, score_name, "images")
        below = score_name
        if len(order) > _SHOWN:
            below += f", the {_SHOWN} lowest of {len(scores)} classes"
        if mean is not None:
            axis.axvline(mean, color="C1", linewidth=1.4)
            below += f" (line: mean of the classes, {mean:.3f})"
        axis.set_xlabel(below)
        axis.set_yticks(
            range(len(shown)),
            [labels[k] for k in shown],
            fontsize=8,
            fontfamily=font_families(class_names),
        )
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0.0, 1.0)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.set_axisbelow(True)
        if title:
            add_title(figure, title)
        save_figure(figure, out)
    return figure


def _write(axis: "Axes", place: float, score: str, support: str) -> None:
    """Two columns of numbers beside the bars."""
    for points, text in ((36, score), (74, support)):
        axis.annotate(
            text,
            (1.0, place),
            (points, 0),
            xycoords="data",
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color="#333333",
            annotation_clip=False,
        )
