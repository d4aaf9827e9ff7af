"""Curves as plain SVG elements, for a page that loads nothing.

A panel holds one quantity of all runs; its points lie beside it as data, so that a few lines of
script can say what is under the pointer.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from common.visualization.curves import Records, panels

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_WIDTH, _HEIGHT = 460.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 12.0, 28.0, 34.0
_MOST_POINTS = 1500  # of a curve; a browser shows no more

Point = tuple[float, float]
Series = tuple[str, str, bool, list[Point]]  # label, colour, dashed, points


def charts(records: Mapping[str, Records]) -> tuple[list[Element], list[dict[str, Any]]]:
    """A panel for each quantity, and what the script needs to know of each.

    Args:
        records: The log of each run by its label.
    """
    elements, data = [], []
    for title, keys in panels(records).items():
        series = [
            _series(history, key, label, COLOURS[index % len(COLOURS)], len(records) > 1)
            for index, (label, history) in enumerate(records.items())
            for key in keys
        ]
        series = [one for one in series if one[3]]
        if series:
            element, described = _panel(title, series)
            elements.append(element)
            data.append(described)
    return elements, data


def _series(history: Records, key: str, label: str, colour: str, several: bool) -> Series:
    part = key.split("/", 1)[0] if "/" in key else ""
    points = [
        (float(record["step"]), float(record[key]))
        for record in history
        if type(record.get("step")) is int and type(record.get(key)) in (int, float)
    ]
    if len(points) > _MOST_POINTS:
        stride = -(-len(points) // _MOST_POINTS)
        points = [*points[:-1:stride], points[-1]]
    is_dashed = part == "train"
    if not several:
        colour = COLOURS[0 if is_dashed else 1]
    return " ".join(filter(None, [label, part or key])), colour, is_dashed, points


def _panel(title: str, series: Sequence[Series]) -> tuple[Element, dict[str, Any]]:
    points = [point for *_, found in series for point in found if isfinite(point[1])]
    low_x, high_x = _limits([x for x, _ in points])
    low_y, high_y = _limits([y for _, y in points])
    room = 0.04 * (high_y - low_y)
    low_y, high_y = low_y - room, high_y + room

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)
        up = (y - low_y) / (high_y - low_y) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 2), round(_HEIGHT - _BOTTOM - up, 2)

    svg = Element(
        "svg", {"viewBox": f"0 0 {_WIDTH:g} {_HEIGHT:g}", "class": "panel", "role": "img"}
    )
    svg.set("aria-label", f"{title} over steps")
    _text(svg, _LEFT, 16, title, "title")
    for value in _ticks(low_y, high_y):
        _, y = place(low_x, value)
        _line(svg, (_LEFT, y), (_WIDTH - _RIGHT, y))
        _text(svg, _LEFT - 6, y + 4, f"{value:.4g}", "y")
    for value in _ticks(low_x, high_x):
        x, _ = place(value, low_y)
        _text(svg, x, _HEIGHT - _BOTTOM + 16, f"{value:g}", "x")
    _text(svg, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "step", "x")
    for _, colour, is_dashed, found in series:
        for stretch in _stretches(found):
            places = [place(*point) for point in stretch]
            if len(places) == 1:
                (x, y), *_ = places
                SubElement(svg, "circle", {"cx": f"{x}", "cy": f"{y}", "r": "3", "fill": colour})
                continue
            drawn = " ".join(f"{x},{y}" for x, y in places)
            curve = SubElement(
                svg, "polyline", {"points": drawn, "stroke": colour, "class": "curve"}
            )
            if is_dashed:
                curve.set("stroke-dasharray", "5 3")
    described = {
        "title": title,
        "x": [low_x, high_x],
        "frame": [_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM],
        "series": [
            {"label": label, "points": [[x, y if isfinite(y) else None] for x, y in found]}
            for label, _, _, found in series
        ],
    }
    return svg, described


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A range with room in it, also for a single value or none."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        room = abs(low) * 0.05 or 0.5
        return low - room, high + room
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * (high - low)
    values = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low - slack <= v <= high + slack]


def _stretches(points: Sequence[Point]) -> list[list[Point]]:
    """The points between gaps: a value that is no number interrupts its curve."""
    found: list[list[Point]] = [[]]
    for point in points:
        if isfinite(point[1]):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _line(svg: Element, start: Point, end: Point) -> None:
    places = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(svg, "line", {name: f"{value:g}" for name, value in places.items()})


def _text(svg: Element, x: float, y: float, text: str, kind: str) -> None:
    SubElement(svg, "text", {"x": f"{x:g}", "y": f"{y:g}", "class": kind}).text = text
