"""A heat map blended over an image: what Grad-CAM and attention look like on the pixels they judge."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OPACITY = 0.55


def overlaid(image: "NDArray[np.uint8]", heat: "NDArray[np.float32]") -> "NDArray[np.uint8]":
    """The image under its map; where there is no evidence it stays visible.

    Args:
        image: ``(C, H, W)`` with C 1 or 3.
        heat: ``(H, W)`` from 0 to 1.

    Returns:
        ``(3, H, W)``.
    """
    from matplotlib import colormaps

    colours = np.moveaxis(colormaps["inferno"](heat)[..., :3], -1, 0) * 255.0
    opacity = _OPACITY * np.sqrt(heat)
    blended = (1 - opacity) * np.broadcast_to(image, colours.shape) + opacity * colours
    return blended.round().astype(np.uint8)
