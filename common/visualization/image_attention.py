"""Where a network looks: its attention at each position of a feature map, laid over the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.utils.errors import DataError
from common.visualization.image_sheet import plot_image_sheet
from common.visualization.overlay import overlaid
from common.visualization.tiles import Image, tile_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

_SMALL = 128  # pixels up to which an image is enlarged


def plot_image_attention(
    images: Sequence[Image],
    maps: "Sequence[Tensor]",
    captions: Sequence[Sequence[str]],
    out: Path | str | None = None,
    title: str | None = None,
    *,
    columns: int = 8,
) -> "Figure":
    """Draw each image, and beside it the image under its attention.

    The colours of a map run from its lowest value to its highest, which stand under it: attention that
    has no upper limit (softplus) is seen, and one that is nearly even is known by its numbers.

    Args:
        images: N of any sizes, uint8 ``(C, H, W)`` with C 1 or 3.
        maps: N of any sizes, ``(h, w)``; as ``DOLG.attention`` or a tensor ``(N, h, w)`` has them.
        captions: Lines under each image.
        out: Where to write the picture.
        title: Above all.
        columns: Pictures in a row, two for each image.

    Raises:
        DataError: if there is no image, the numbers disagree, or a map is of another shape or not
            finite.
        InputError: if no picture can be written there.
    """
    if not len(images) == len(maps) == len(captions) >= 1:
        raise DataError(
            f"there are {len(images)} images, {len(maps)} attention maps and {len(captions)} "
            "captions; expected as many of each, at least one"
        )
    shown: list[Image] = []
    texts: list[Sequence[str]] = []
    for place, (image, attention, caption) in enumerate(zip(images, maps, captions, strict=True)):
        pixels = np.atleast_3d(tile_pixels(image, f"image {place}"))
        # A map has no square pixels: a small image is enlarged so that it stays smooth over it.
        scale = max(1, _SMALL // max(pixels.shape[:2]))
        pixels = np.moveaxis(pixels.repeat(scale, axis=0).repeat(scale, axis=1), -1, 0)
        heat, low, high = _heat(attention, pixels.shape[-2:], place)
        values = f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g} everywhere"
        shown += [pixels, overlaid(pixels, heat)]
        texts += [tuple(caption), ("attention", values)]
    return plot_image_sheet(shown, texts, out, title, columns=max(2, columns - columns % 2))


def _heat(
    attention: "Tensor", size: tuple[int, ...], place: int
) -> tuple["NDArray[np.float32]", float, float]:
    """The map at the image's size from 0 to 1, and the values these stand for."""
    from torch.nn.functional import interpolate

    values = attention.detach().cpu().float()
    if values.ndim != 2 or not values.numel() or not values.isfinite().all():
        raise DataError(
            f"attention map {place} has shape {tuple(values.shape)}; expected (h, w), all finite"
        )
    low, high = float(values.min()), float(values.max())
    even = (values - low) / (high - low) if high > low else values.new_zeros(values.shape)
    large = interpolate(even[None, None], size, mode="bilinear", align_corners=False)
    return large[0, 0].numpy().clip(0.0, 1.0), low, high
