"""A sheet of images of any sizes with lines of text under each: samples, and the worst mistakes."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.utils.errors import DataError
from common.visualization.labels import drawable, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure
from common.visualization.tiles import Image, resampling, tile_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TILE = 1.45  # inches
_GAP = 0.12
_LINE = 0.145
_CHARACTERS = 23  # that fit under a tile
_TITLE_CHARACTERS = 11  # to the inch


def plot_image_sheet(
    images: Sequence[Image],
    captions: Sequence[Sequence[str]],
    out: Path | str | None = None,
    title: str | None = None,
    *,
    columns: int = 6,
    colours: Sequence[str] | None = None,
) -> "Figure":
    """Draw images row by row, each whole and in its own proportions.

    Args:
        images: uint8 ``(C, H, W)`` with C 1 or 3; sizes may differ.
        captions: Lines under each image; long ones lose their middle.
        out: Where to write the picture.
        title: Above all.
        columns: Images in a row.
        colours: Of each caption's first line.

    Raises:
        DataError: if there is no image, one is of another kind, or the captions do not fit.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    pixels = [tile_pixels(image, f"image {index}") for index, image in enumerate(images)]
    if not pixels or len(captions) != len(pixels):
        raise DataError(f"there are {len(captions)} captions for {len(pixels)} images")
    lines = max((len(caption) for caption in captions), default=0)
    columns = max(1, min(columns, len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    cell_height = _TILE + lines * _LINE + _GAP
    width = columns * (_TILE + _GAP) + _GAP
    heading = textwrap.wrap(
        drawable([" ".join((title or "").split())])[0], int(width * _TITLE_CHARACTERS), max_lines=3
    )
    head = _GAP + 0.2 * len(heading)
    height = head + rows * cell_height
    families = font_families([line for caption in captions for line in caption])
    with house_style():
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        for index, image in enumerate(pixels):
            row, column = divmod(index, columns)
            left = _GAP + column * (_TILE + _GAP)
            top = head + row * cell_height
            box = (left / width, 1 - (top + _TILE) / height, _TILE / width, _TILE / height)
            axis = figure.add_axes(box)
            axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=resampling(image))
            axis.axis("off")
            for number, line in enumerate(drawable(captions[index], _CHARACTERS)):
                first = number == 0 and colours is not None
                figure.text(
                    (left + _TILE / 2) / width,
                    1 - (top + _TILE + (number + 0.25) * _LINE) / height,
                    line,
                    ha="center",
                    va="top",
                    fontsize=7,
                    fontfamily=families,
                    color=colours[index] if first and colours is not None else "#222222",
                )
        fonts = font_families(heading)
        figure.text(
            0.5, 1 - 0.07 / height, "\n".join(heading), ha="center", va="top", fontfamily=fonts
        )
        save_figure(figure, out)
    return figure


def mistake_captions(
    true: str, predicted: str, confidence: float, of_true: float
) -> tuple[str, str, str]:
    """Three lines under a wrongly classified image.

    Args:
        true: Name of the true class.
        predicted: Name of the class that was predicted.
        confidence: Probability of the predicted class.
        of_true: Probability of the true class.
    """
    return (
        f"is {true}",
        f"taken for {predicted}",
        f"p {percent(confidence)}, true {percent(of_true)}",
    )


def percent(p: float) -> str:
    """A probability for people: never 0 or 100 unless it is."""
    if 0.0 < p < 0.001:
        return "<0.1 %"
    return f"{100 * p:.1f} %" if p < 0.9995 or p == 1.0 else ">99.9 %"
