"""What was found for query images: lines on standard output, and sheets of pictures.

shoes/1.jpg: 2 matches (cosine >= 0.612)
    1   0.873  match  shoes/7.jpg
    2   0.655  match  shoes/3.jpg
    3   0.411         hats/2.jpg
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor

from common.data.images import decode_image
from common.data.preprocessing import resized
from common.utils.errors import DataError
from common.utils.text import printable

_SHEET = 20  # lines of ten neighbours on a picture
_DRAWN = 100  # neighbours of a query
_SIDE = 320  # pixels of an image on it
_GREY = 224
_OWN_NAME = re.compile(r"neighbors(_\d+)?\.png")


@dataclass(frozen=True)
class QueryResult:
    """A query and its neighbours, best first.

    Attributes:
        query: The image.
        files: Its neighbours.
        scores: Of each.
        passes: Whether each is a match.
    """

    query: Path
    files: Sequence[Path]
    scores: Sequence[float]
    passes: Sequence[bool]


def show_results(results: Sequence[QueryResult], criterion: str) -> None:
    """Write each query and its neighbours, one a line.

    Args:
        results: One for each query.
        criterion: What passes, such as ``cosine >= 0.612``.
    """
    for result in results:
        count = sum(result.passes)
        noun = "match" if count == 1 else "matches"
        sys.stdout.write(f"{printable(str(result.query))}: {count} {noun} ({criterion})\n")
        rows = zip(result.files, result.scores, result.passes, strict=True)
        for rank, (file, score, passes) in enumerate(rows, start=1):
            word = "match" if passes else ""
            sys.stdout.write(f"{rank:>5}  {score:>7.4f}  {word:<5}  {printable(str(file))}\n")


def draw_results(results: Sequence[QueryResult], folder: Path, criterion: str) -> list[Path]:
    """Draw the first hundred neighbours of the queries, twenty lines of ten on a sheet.

    Args:
        results: One for each query.
        folder: Where ``neighbors.png``, ``neighbors_2.png``, ... go.
        criterion: What passes, for the title.

    Returns:
        The files.

    Raises:
        InputError: if they cannot be written there.
    """
    from common.visualization import NeighborRow, plot_neighbors

    written = list[Path]()
    longest = max((len(result.files) for result in results), default=0)
    queries = max(1, _SHEET // -(-min(max(longest, 1), _DRAWN) // 10))
    for start in range(0, len(results), queries):
        rows = [
            NeighborRow(
                query=_thumbnail(result.query),
                neighbors=[_thumbnail(file) for file in result.files[:_DRAWN]],
                scores=result.scores[:_DRAWN],
                name=_short(result.query),
                names=[
                    f"match: {_short(file)}" if passes else _short(file)
                    for file, passes in zip(result.files, result.passes, strict=True)
                ][:_DRAWN],
            )
            for result in results[start : start + queries]
        ]
        path = folder / f"neighbors{f'_{len(written) + 1}' if written else ''}.png"
        plot_neighbors(rows, path, f"Nearest images; a match has {criterion}")
        written.append(path)
    return written


def remove_sheets(folder: Path, kept: Iterable[Path]) -> None:
    """Remove the sheets of an earlier call, which had other queries; other files stay.

    Args:
        folder: Where ``draw_results`` wrote.
        kept: What it wrote now.
    """
    now = {path.name for path in kept}
    for path in folder.iterdir():
        if _OWN_NAME.fullmatch(path.name) and path.name not in now and path.is_file():
            path.unlink()


def _short(file: Path) -> str:
    """The name with that of its folder, which says more than the name alone."""
    return "/".join(file.parts[-2:])


def _thumbnail(file: Path) -> Tensor:
    """An image no larger than it is drawn; a grey square for one that is not there any more."""
    try:
        pixels = decode_image(file, "RGB")
    except DataError as error:
        logger.warning(f"{error}; the picture has a grey square in its place")
        return torch.full((3, _SIDE, _SIDE), _GREY, dtype=torch.uint8)
    longest = max(pixels.shape[1:])
    if longest <= _SIDE:
        return pixels
    height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[1:])
    return resized(pixels, (height, width))
