"""Heat maps laid over the images they belong to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.utils.errors import DataError
from common.visualization.image_sheet import plot_image_sheet
from common.visualization.overlay import overlaid

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_SMALL = 128  # pixels up to which an image is enlarged


def plot_grad_cam(
    images: "Tensor",
    maps: "Tensor",
    captions: Sequence[Sequence[str]],
    out: Path | str | None = None,
    title: str | None = None,
    *,
    columns: int = 8,
) -> "Figure":
    """Draw each image, and beside it the image under its heat map.

    Args:
        images: uint8 ``(N, C, H, W)`` with C 1 or 3, before normalisation.
        maps: ``(N, H, W)`` from 0 to 1, as ``common.models.grad_cam`` gives them.
        captions: Lines under each image.
        out: Where to write the picture.
        title: Above all.
        columns: Pictures in a row, two for each image.

    Raises:
        DataError: if images, maps and captions do not agree.
        InputError: if no picture can be written there.
    """
    if images.ndim != 4 or tuple(maps.shape) != (len(images), *images.shape[-2:]):
        raise DataError(
            f"maps have shape {tuple(maps.shape)} for images {tuple(images.shape)}; expected "
            "(N, H, W) and (N, C, H, W)"
        )
    if len(captions) != len(images):
        raise DataError(f"there are {len(captions)} captions for {len(images)} images")
    # A map has no square pixels: small images are enlarged so that it stays smooth over them.
    scale = max(1, _SMALL // max(images.shape[-2:]))
    pixels = images.detach().cpu().numpy().repeat(scale, axis=2).repeat(scale, axis=3)
    heat = _enlarged(maps, scale).numpy().clip(0.0, 1.0)
    shown, texts = [], []
    for image, values, caption in zip(pixels, heat, captions, strict=True):
        shown += [image, overlaid(image, values)]
        texts += [tuple(caption), ("Grad-CAM",)]
    columns = max(2, columns - columns % 2)
    return plot_image_sheet(shown, texts, out, title, columns=columns)


def _enlarged(maps: "Tensor", scale: int) -> "Tensor":
    from torch.nn.functional import interpolate

    maps = maps.detach().cpu().float()
    if scale == 1:
        return maps
    return interpolate(maps[:, None], scale_factor=scale, mode="bilinear")[:, 0]
