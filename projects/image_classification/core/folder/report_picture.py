"""The report as a picture: classes and their sets, sizes, kinds, and images that want a look."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from common.visualization.labels import drawable_classes, font_families
from common.visualization.style import house_style, new_figure
from projects.image_classification.core.folder.image_facts import ImageFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLASSES = 40  # bars; with more classes their sizes are drawn in order instead
_LABEL = 24  # letters of a class name beside its bar


def draw_report(report: Mapping[str, Any], facts: ImageFacts) -> bytes:
    """Draw a report.

    Args:
        report: What ``data_report.make_report`` gave.
        facts: What the look at the images showed.

    Returns:
        A PNG file.
    """
    from matplotlib import rcParams

    classes = report["classes"]
    few = len(classes) <= _MOST_CLASSES
    height = max(5.0, 1.6 + 0.24 * len(classes)) if few else 5.0
    with house_style():
        rcParams["axes.axisbelow"] = True
        # Before any text is made; house_style takes it back.
        rcParams["font.family"] = font_families(classes)
        figure = new_figure(11.0, height)
        left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1.0], squeeze=False)[0]
        (_bars if few else _curve)(left.subplots(), classes)
        sizes, kinds = right.subplots(2, 1, height_ratios=[1.6, 1.0])
        _sizes(sizes, facts)
        _kinds(kinds, report)
        images = report["images"]
        problems = [
            f"{count:,} {one if count == 1 else more}"
            for count, one, more in (
                (images["bad"], "bad", "bad"),
                (images["in_copies"], "copy of another", "copies of others"),
                (len(report["label_conflicts"]), "label conflict", "label conflicts"),
                (len(report["empty_classes"]), "empty class", "empty classes"),
            )
            if count
        ]
        title = f"{images['good']:,} images in {len(classes):,} classes"
        figure.suptitle(" · ".join([title, *problems]), fontsize=12, weight="bold")
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _bars(axes: "Axes", classes: Mapping[str, Mapping[str, int]]) -> None:
    """A bar for each class, of what is trained and validated on, and what is tested on."""
    places = np.arange(len(classes))
    test = np.array([counts["test"] for counts in classes.values()])
    rest = np.array([counts["fold_0_train"] + counts["fold_0_val"] for counts in classes.values()])
    axes.barh(places, rest, label="train and validation", color="#0072B2", height=0.75)
    axes.barh(places, test, left=rest, label="test", color="#E69F00", height=0.75)
    for place, total in zip(places, rest + test, strict=True):
        axes.annotate(
            f"{total:,}",
            (total, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(places, drawable_classes(list(classes), _LABEL))
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("images")
    axes.set_title("Classes")
    axes.figure.legend(loc="outside lower center", ncols=2)


def _curve(axes: "Axes", classes: Mapping[str, Mapping[str, int]]) -> None:
    """The sizes of many classes, in order."""
    ranked = sorted(classes.items(), key=lambda item: -item[1]["images"])
    total = np.array([counts["images"] for _, counts in ranked])
    test = np.array([counts["test"] for _, counts in ranked])
    places = np.arange(1, len(ranked) + 1)
    axes.fill_between(places, total, step="mid", color="#0072B2", alpha=0.25, linewidth=0)
    axes.step(places, total, where="mid", color="#0072B2", label="all images")
    axes.step(places, test, where="mid", color="#E69F00", label="test")
    if total.max() > 20 * max(1, total.min()):
        axes.set_yscale("symlog", linthresh=1)
    else:
        axes.set_ylim(bottom=0)
    labels = dict(zip(classes, drawable_classes(list(classes), _LABEL), strict=True))
    first, last = labels[ranked[0][0]], labels[ranked[-1][0]]
    axes.set_xlabel(f"class, from {first} ({total[0]:,}) to {last} ({total[-1]:,})")
    axes.set_ylabel("images")
    axes.set_title("Classes, the largest first")
    axes.legend()


def _sizes(axes: "Axes", facts: ImageFacts) -> None:
    """Widths and heights, as areas in proportion to how many images have them."""
    shapes = np.array([(look.width, look.height) for look in facts.looks])
    pairs, counts = np.unique(shapes, axis=0, return_counts=True)
    area = np.clip(300.0 * counts / counts.max(), 6.0, None)
    axes.scatter(pairs[:, 0], pairs[:, 1], s=area, alpha=0.5, color="#009E73", linewidths=0)
    low, high = shapes.min() * 0.8, shapes.max() * 1.25
    if high / low > 8:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.plot([low, high], [low, high], color="#555555", linewidth=0.8, linestyle=":")
    _plain_ticks(axes, low, high)
    axes.set_xlabel("width in pixels")
    axes.set_ylabel("height in pixels")
    noun = "size" if len(pairs) == 1 else "sizes"
    axes.set_title(f"{len(pairs):,} {noun}")


def _plain_ticks(axes: "Axes", low: float, high: float) -> None:
    """Numbers as people write them, on a logarithmic axis, too."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    is_log = axes.get_xscale() == "log"
    for axis in (axes.xaxis, axes.yaxis):
        steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        axis.set_major_locator(LogLocator(subs=steps) if is_log else MaxNLocator(5, integer=True))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(NullFormatter())


def _kinds(axes: "Axes", report: Mapping[str, Any]) -> None:
    """Formats and modes, as bars."""
    rows = [(name, count, "#56B4E9") for name, count in list(report["formats"].items())[:5]]
    rows += [(name, count, "#CC79A7") for name, count in list(report["modes"].items())[:5]]
    if report["images"]["bad"]:
        rows.append(("bad", report["images"]["bad"], "#D55E00"))
    places = np.arange(len(rows))
    counts = [count for _, count, _ in rows]
    axes.barh(places, counts, color=[colour for _, _, colour in rows], height=0.7)
    axes.set_yticks(places, [name for name, _, _ in rows], fontsize=8)
    for place, count in zip(places, counts, strict=True):
        axes.annotate(
            f"{count:,}",
            (count, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    axes.set_title("File formats and pixel modes")
