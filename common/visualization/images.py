"""Many small images in one picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from common.utils.errors import DataError
from common.visualization.style import house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

_TILE_INCHES = 0.6
_LABEL_INCHES = 0.2


def plot_image_grid(
    images: "Tensor",
    out: Path | str | None = None,
    *,
    columns: int = 8,
    labels: Sequence[str] | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw images row by row; one channel is drawn in grey.

    Args:
        images: ``(N, C, H, W)`` with C 1 or 3; uint8, or floats from 0 to 1 (rounding may leave
            them by 0.001).
        out: Where to write the picture.
        columns: Images in a row.
        labels: A text above each image.
        title: Above all of them.

    Raises:
        DataError: if shape, values or the number of labels are not these.
    """
    pixels = _checked(images)
    if labels is not None and len(labels) != len(pixels):
        raise DataError(f"there are {len(labels)} labels for {len(pixels)} images")
    columns = max(1, min(columns, len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    missing = rows * columns - len(pixels)
    height, width = pixels.shape[-2:]
    gap = max(1, width // 14)
    tiles = np.pad(pixels, ((0, 0), (0, 0), (gap, gap), (gap, gap)), constant_values=1.0)
    tiles = np.concatenate([tiles, np.ones((missing, *tiles.shape[1:]), tiles.dtype)])
    with house_style():
        row_inches = _TILE_INCHES * height / width + (_LABEL_INCHES if labels is not None else 0.0)
        head = 0.3 if title else 0.0
        figure = new_figure(_TILE_INCHES * columns + 0.1, row_inches * rows + head + 0.1)
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
        for row, axis in enumerate(axes):
            strip = rearrange(tiles[row * columns : (row + 1) * columns], "n c h w -> h (n w) c")
            grey = strip.shape[-1] == 1
            axis.imshow(
                strip[..., 0] if grey else strip,
                cmap="gray" if grey else None,
                vmin=0.0,
                vmax=1.0,
                interpolation="nearest",
            )
            axis.axis("off")
            shown = labels[row * columns : (row + 1) * columns] if labels is not None else ()
            for column, label in enumerate(shown):
                middle = (column + 0.5) * tiles.shape[-1]
                text = label.replace("$", r"\$")
                axis.text(middle, 0, text, ha="center", va="bottom", fontsize=6)
        figure.set_layout_engine("constrained", h_pad=0.0, w_pad=0.02, hspace=0.0, wspace=0.0)
        if title:
            figure.suptitle(title.replace("$", r"\$"), fontsize=9)
        save_figure(figure, out)
    return figure


def _checked(images: "Tensor") -> "NDArray[np.float32]":
    """Floats from 0 to 1."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise DataError(
            f"images have shape {tuple(images.shape)}, expected (N, C, H, W) with N >= 1 and "
            "C 1 or 3"
        )
    if not images.dtype.is_floating_point:
        return images.detach().cpu().numpy().astype(np.float32) / np.float32(255.0)
    pixels = images.detach().cpu().float().numpy()
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1.0 + 1e-3):
        raise DataError(
            f"images have values from {low:.3g} to {high:.3g}, expected uint8 or floats from 0 to "
            "1; rescale them"
        )
    return pixels.clip(0.0, 1.0)
