"""An image as a tile of a picture: its pixels in matplotlib's order, no more of them than are seen."""

from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from common.utils.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Image: TypeAlias = Union["Tensor", "NDArray[np.uint8]"]

_SIDE = 320  # pixels of a tile in the picture
_SMALL = 64


def tile_pixels(image: Image, name: str) -> "NDArray[np.uint8]":
    """``(H, W, 3)`` or ``(H, W)``, no larger than a tile needs.

    Args:
        image: uint8 ``(C, H, W)`` with C 1 or 3.
        name: What an error calls it.

    Raises:
        DataError: if it is another kind of image.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in (1, 3) or not array.size:
        raise DataError(
            f"{name} has shape {array.shape} and type {array.dtype}; expected uint8 (C, H, W) "
            "with C 1 or 3"
        )
    array = np.moveaxis(array, 0, -1)
    step = max(1, max(array.shape[:2]) // _SIDE)
    array = array[::step, ::step]
    return array[..., 0] if array.shape[-1] == 1 else array


def resampling(image: "NDArray[np.uint8]") -> str:
    """Small images keep their square pixels."""
    return "nearest" if max(image.shape[:2]) <= _SMALL else "antialiased"
