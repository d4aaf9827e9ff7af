"""Queries and what was found for them: a row of images each, right and wrong told apart.

    plot_neighbors([NeighborRow(query, images, scores, right)], "neighbors.png")

Right and wrong differ by the colour of the frame and by a sign before the score, so that the sheet is
read with any colour vision and in print. A query of which nothing is known has neutral frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.utils.errors import DataError
from common.visualization.labels import add_title, fitted, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure
from common.visualization.tiles import Image, resampling, tile_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_TILE = 1.2  # inches
_FRAME = 0.06  # between image and frame
_GAP = 0.16
_AFTER_QUERY = 0.3
_LINE = 0.15
_MARGIN = 0.12
_POINTS = 7.5  # of the letters
_COLUMNS = 10  # neighbours beside each other; more go on below
_HIGHEST = 150  # inches that one picture may be high
_NARROWEST = 5.2  # inches that the line of signs needs

_RIGHT, _WRONG, _QUERY, _NEUTRAL = "#009E73", "#D55E00", "#222222", "#999999"
_SIGNS = {True: ("✓", _RIGHT), False: ("✗", _WRONG), None: ("", _NEUTRAL)}


@dataclass(frozen=True)
class NeighborRow:
    """A query and its neighbours; images are uint8 ``(C, H, W)`` of any sizes, C 1 or 3.

    Attributes:
        query: The image that was searched for.
        neighbors: What was found, best first; it may be nothing.
        scores: One for each neighbour.
        right: Whether each neighbour is a match; ``None`` where nobody knows.
        name: Of the query: its label or title.
        names: Of each neighbour, or none.
    """

    query: Image
    neighbors: Sequence[Image]
    scores: Sequence[float]
    right: Sequence[bool] | None = None
    name: str = ""
    names: Sequence[str] = field(default=())


def plot_neighbors(
    rows: Sequence[NeighborRow], out: Path | str | None = None, title: str | None = None
) -> "Figure":
    """Draw a row for each query: its image, then its neighbours with their rank and score.

    Args:
        rows: From top to bottom; their numbers of neighbours may differ, beyond ten they go on below.
        out: Where to write the picture.
        title: Above all.

    Raises:
        DataError: if there is no row, a row's images, scores and names disagree, a score is not finite,
            an image is of another kind, or the rows are too many for one picture.
        InputError: if no picture can be written there.
    """
    check_picture_path(out)
    if not rows:
        raise DataError("there are no queries to draw; expected at least one row")
    for place, row in enumerate(rows):
        _check(row, place)
    columns = max(1, min(_COLUMNS, max(len(row.neighbors) for row in rows)))
    lines = 1 + any(row.name or any(row.names) for row in rows)
    line_height = _TILE + lines * _LINE + 2 * _FRAME + _GAP
    tops, height = [], 0.0
    for row in rows:
        tops.append(height)
        height += line_height * max(1, math.ceil(len(row.neighbors) / columns))
    if height > _HIGHEST:
        raise DataError(
            f"{len(rows)} queries make a picture {height:.0f} inches high; expected at most "
            f"{_HIGHEST}: draw fewer of them, or fewer neighbours"
        )
    width = 2 * _MARGIN + _TILE + _AFTER_QUERY + columns * (_TILE + _GAP) - _GAP
    judged = any(row.right is not None and len(row.right) for row in rows)
    width = max(width, _NARROWEST) if judged or title else width
    with house_style():
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        head = _write_head(figure, title, judged)
        height += head
        figure.set_figheight(height)
        axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for place, (row, top) in enumerate(zip(rows, tops, strict=True)):
            _draw_row(axis, row, place, head + top, columns, line_height)
        axis.set_xlim(0.0, width)
        axis.set_ylim(height, 0.0)
        axis.set_aspect("auto")
        axis.axis("off")
        save_figure(figure, out)
    return figure


def _check(row: NeighborRow, place: int) -> None:
    count = len(row.neighbors)
    if len(row.scores) != count:
        raise DataError(f"query {place} has {len(row.scores)} scores for {count} neighbours")
    if row.right is not None and len(row.right) != count:
        raise DataError(f"query {place} has {len(row.right)} verdicts for {count} neighbours")
    if len(row.names) not in (0, count):
        raise DataError(f"query {place} has {len(row.names)} names for {count} neighbours")
    for rank, score in enumerate(row.scores):
        if not math.isfinite(score):
            raise DataError(
                f"the score of neighbour {rank} of query {place} is {score}; expected a finite number"
            )


def _write_head(figure: "Figure", title: str | None, judged: bool) -> float:
    """Title and meaning of the signs; how many inches they take."""
    used, texts = _MARGIN, list[tuple["Text", float]]()
    if title:
        text = add_title(figure, title)
        text.set_verticalalignment("top")
        texts.append((text, used))
        used += 0.2 * (1 + text.get_text().count("\n")) + 0.06
    if judged:
        for x, right, meaning in ((0.48, True, "same label"), (0.52, False, "another label")):
            sign, colour = _SIGNS[right]
            style: dict[str, Any] = {"color": colour, "fontsize": 8, "va": "top"}
            text = figure.text(x, 0, f"{sign} {meaning}", ha="right" if right else "left", **style)
            texts.append((text, used))
        used += 0.17
    used += 0.1 if texts else 0.0
    whole = figure.get_figheight() - (0.2 * texts[0][0].get_text().count("\n") if title else 0.0)
    for text, top in texts:
        text.set_y(1 - top / (whole + used))
    return used


def _draw_row(
    axis: "Axes", row: NeighborRow, place: int, top: float, columns: int, line_height: float
) -> None:
    query = tile_pixels(row.query, f"the image of query {place}")
    _draw_tile(axis, query, _MARGIN, top, _QUERY, 2.2)
    _write(axis, _MARGIN, top, 0, "query", _QUERY, "bold")
    _write(axis, _MARGIN, top, 1, row.name, _QUERY)
    start = _MARGIN + _TILE + _AFTER_QUERY
    if not row.neighbors:
        middle = top + _FRAME + _TILE / 2
        axis.text(start, middle, "nothing\nfound", fontsize=8, va="center", color=_NEUTRAL)
    for rank, neighbor in enumerate(row.neighbors):
        line, column = divmod(rank, columns)
        left, above = start + column * (_TILE + _GAP), top + line * line_height
        sign, colour = _SIGNS[None if row.right is None else bool(row.right[rank])]
        pixels = tile_pixels(neighbor, f"the image of neighbour {rank} of query {place}")
        _draw_tile(axis, pixels, left, above, colour, 1.8)
        text = "  ".join(filter(None, (f"{rank + 1}.", sign, _number(float(row.scores[rank])))))
        _write(axis, left, above, 0, text, colour if sign else "#555555", "bold")
        _write(axis, left, above, 1, row.names[rank] if row.names else "", "#222222")


def _draw_tile(
    axis: "Axes", image: Any, left: float, top: float, colour: str, linewidth: float
) -> None:
    """An image, whole, in the middle of a square frame."""
    from matplotlib.patches import Rectangle

    side = _TILE - 2 * _FRAME
    scale = side / max(image.shape[:2])
    high, wide = (scale * pixels for pixels in image.shape[:2])
    x, y = left + (_TILE - wide) / 2, top + _FRAME + (_TILE - high) / 2
    axis.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(x, x + wide, y + high, y),
        aspect="auto",
        interpolation=resampling(image),
    )
    frame = Rectangle((left, top + _FRAME), _TILE, _TILE, fill=False, edgecolor=colour)
    frame.set_linewidth(linewidth)
    axis.add_patch(frame)


def _write(
    axis: "Axes",
    left: float,
    top: float,
    line: int,
    text: str,
    colour: str,
    weight: str = "normal",
) -> None:
    """A line under a tile, hardly wider than the tile."""
    if not text:
        return
    axis.text(
        left + _TILE / 2,
        top + _TILE + 2 * _FRAME + (line + 0.1) * _LINE,
        fitted(text, _TILE + _GAP / 4, _POINTS, weight),
        ha="center",
        va="top",
        fontsize=_POINTS,
        fontfamily=font_families([text]),
        fontweight=weight,
        color=colour,
    )


def _number(score: float) -> str:
    """Three decimals of a cosine; four digits of a large distance. There is no minus zero."""
    return f"{round(score, 3) + 0.0:.3f}" if abs(score) < 10 else f"{score:.4g}"
