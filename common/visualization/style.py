"""One look for all pictures, applied to a figure and not to the process."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.utils.errors import InputError
from common.utils.files import atomic_write, explained_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette (2008): told apart with any colour vision.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"]


PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")


@contextmanager
def house_style() -> Iterator[None]:
    """Legible and quiet: no top and right frame, a light grid, colours anyone can tell apart."""
    import matplotlib as mpl
    from cycler import cycler

    values: dict[Any, Any] = {
        "axes.prop_cycle": cycler(color=_COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.labelsize": 10,
        "font.size": 10,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "savefig.dpi": 150,
        "svg.hashsalt": "reprise",
    }
    with mpl.rc_context(values):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """A figure that belongs to no window: a notebook's backend is left alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_picture_path(out: Path | str | None) -> None:
    """Refuse a place that no picture can be written to, before the work that makes the picture.

    Raises:
        InputError: if the suffix is no picture's, a folder has the name, or a file is in the way.
    """
    if out is None:
        return
    path = Path(out)
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"{path} is no name of a picture; expected one with {', '.join(PICTURES)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the name of a picture in it")
    above = next((parent for parent in path.parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError(f"{path} cannot be written: {above} is a file, not a folder")


def save_figure(figure: "Figure", out: Path | str | None) -> None:
    """Write a figure if a place is named, all or nothing; missing directories are created.

    Raises:
        InputError: if no picture can be written there.
        FaultError: if the disk is full or the place cannot be written.
    """
    if out is None:
        return
    check_picture_path(out)
    path, drawn = Path(out), io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower())
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(drawn.getvalue())
