"""Any image a person or a data set may bring, as one kind of tensor: ``uint8 (3, H, W)``.

image = decode_image("photo.jpg")                          # a path, bytes, a PIL image, or
image = decode_image({"bytes": data, "path": "photo.jpg"})  # what ``datasets`` stores

Bytes are untrusted: only the formats below are tried (Pillow's others start programs or are rare),
the size is checked before a pixel is decoded, and what is damaged is refused, never half decoded.
``common.data.preprocessing`` makes of it what a network takes.
"""

import os
import stat
import warnings
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from common.data.jpeg import Jpeg, open_jpeg
from common.data.preprocessing_config import DECODERS, MODES
from common.utils.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of 24 bits
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000")
_ORIENTATION = 0x0112  # EXIF; its values from 2 to 8 mean these transpositions:
_UPRIGHT = (
    *("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
    *("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"),
)


def decode_image(
    source: Any,
    mode: str = "RGB",
    *,
    background: int = 255,
    max_pixels: int = MAX_PIXELS,
    decoder: str = "turbo",
) -> UInt8[Tensor, "C H W"]:
    """Decode one image.

    - It stands upright: the camera's EXIF orientation is applied.
    - What is transparent shows ``background``, a grey level; 255 is white.
    - CMYK becomes RGB without a colour profile; palettes and black and white are expanded.
    - 16 bits are rounded to 8. Floating point and wider integers have no agreed range: refused.
    - Of an animation the first frame is taken; a PIL image is taken as it stands.

    Args:
        source: A path, the bytes of a file, a PIL image, or ``{"bytes": ..., "path": ...}`` as the
            ``Image`` feature of ``datasets`` gives it (either may be ``None``).
        mode: ``RGB``, or ``L`` for one channel of luma (ITU-R 601-2).
        background: 0 to 255.
        max_pixels: The largest width times height. Pillow's own limit, ``MAX_PIXELS`` unless
            ``PIL.Image.MAX_IMAGE_PIXELS`` says otherwise, holds as well.
        decoder: ``turbo`` reads JPEG files by libjpeg-turbo itself, faster and more strictly, and
            all others as ``pillow`` does. What both read has the same pixels.

    Returns:
        ``(3, H, W)``, or ``(1, H, W)`` for ``L``.

    Raises:
        DataError: if it is no image, damaged, cut short or too large; it names the file.
        ValueError: for another ``mode`` or ``decoder``.
    """
    for what, value, known in (("mode", mode, MODES), ("decoder", decoder, DECODERS)):
        if value not in known:
            raise ValueError(f"{what} is {value!r}, expected one of {', '.join(known)}")
    name = name_of(source)
    if decoder == "turbo" and (content := read_bytes(source)) is not None:
        jpeg = as_jpeg(content, name, max_pixels)
        if jpeg is not None and (read := jpeg.decode(mode)) is not None:
            return torch.from_numpy(read).permute(2, 0, 1).contiguous()
        source = {"bytes": content, "path": name}
    try:
        image = _open(source, name)
        if image.width * image.height > max_pixels:
            raise DataError(
                f"{name} has {image.width} x {image.height} pixels; the limit is {max_pixels:,}"
            )
        pixels = _pixels(image, mode, background)
    except MemoryError:
        raise
    except DataError as error:
        raise error if str(error).startswith(name) else DataError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise anything, struct.error and IndexError included
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} is no image that can be read: {reason[:200]}") from error
    channels_last = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return torch.from_numpy(channels_last).permute(2, 0, 1).contiguous()


def as_jpeg(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Jpeg | None:
    """The fast way, if this is a JPEG file like most; else ``decode_image`` has to judge."""
    from PIL import Image

    return open_jpeg(content, name, min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels))


def name_of(source: Any) -> str:
    """What to call an image in a message: its path, or its size."""
    if isinstance(source, Mapping):
        return str(source.get("path") or name_of(source.get("bytes")))
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"an image of {len(source):,} bytes"
    return str(getattr(source, "filename", "") or f"an object of type {type(source).__name__}")


def read_bytes(source: Any) -> bytes | None:
    """The encoded image; ``None`` for what is not encoded, such as a PIL image.

    Raises:
        DataError: if the file cannot be read.
    """
    if isinstance(source, Mapping):
        content = source.get("bytes")
        return read_bytes(source.get("path") if content is None else content)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not isinstance(source, str | Path):
        return None
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO: no wait
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{source} is no regular file")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {str(source)!r}: {reason}") from None


def identity_of(source: Any) -> str | None:
    """Text that changes when an encoded image is replaced: a file's size and time, or a checksum.

    Returns:
        ``None`` for what is not encoded, such as a PIL image: nobody can tell.
    """
    if isinstance(source, Mapping) and source.get("bytes") is None:
        source = source.get("path")
    if isinstance(source, str | Path):
        try:
            status = os.stat(source)
        except (OSError, ValueError):
            return f"{source}\0missing"
        return f"{source}\0{status.st_size}\0{status.st_mtime_ns}"
    content = read_bytes(source)
    return None if content is None else f"{len(content)}\0{zlib.crc32(content)}"


def _open(source: Any, name: str) -> "Image":
    """The image with its header read, and no pixel yet."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    content = read_bytes(source)
    if content is None:
        raise DataError(
            f"{name} is no image; expected a path, bytes, a PIL image, or a dict with bytes or path"
        )
    if not content:
        raise DataError(f"{name} is empty; expected an image")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(BytesIO(content), formats=_FORMATS)
        except Image.UnidentifiedImageError:
            known = ", ".join(_FORMATS)
            start = content[:8]
            raise DataError(f"{name} is no {known}; it begins with {start!r}") from None


def _pixels(image: "Image", mode: str, background: int) -> NDArray[np.uint8]:
    """The finished pixels, ``(H, W, 3)`` or ``(H, W)``."""
    from PIL import Image

    image.load()  # a TIFF is turned upright here
    orientation = image.getexif().get(_ORIENTATION, 1)
    if image.mode == "F":
        raise DataError("floating point has no agreed range")
    if image.mode.startswith("I"):
        image = Image.fromarray(_rounded(np.asarray(image)))
    if 2 <= orientation <= 8:
        image = image.transpose(Image.Transpose[_UPRIGHT[orientation - 2]])
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (background, background, background, 255))
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    if image.mode not in ("RGB", "L", "RGBA"):
        image = image.convert("RGB")  # of CMYK, for one, there is no direct way to L
    return np.array(image if image.mode == mode else image.convert(mode))


def _rounded(values: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits as 8: 65,535 becomes 255."""
    if values.min() < 0 or values.max() > 65_535:
        raise DataError("integers beyond 16 bits have no agreed range")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
