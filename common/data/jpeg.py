"""JPEG files by libjpeg-turbo: strictly, and at the scale that is needed.

Most photos are JPEG files, and most of their pixels are thrown away: a photo of 12 megapixels
becomes 224 x 224. The format stores blocks of 8 x 8 frequencies, from which an image of a half, a
quarter or an eighth of the size comes directly (the low frequencies are a good lowpass).

At full size the pixels are Pillow's, bit for bit: both call libjpeg-turbo. What the library only
warns of and Pillow does not tell, such as a data segment that ends too early, is refused here.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from common.utils.errors import DataError

DENOMINATORS = (8, 4, 2)  # the scales with fast inverse transforms: 1/8, 1/4, 1/2
_START = b"\xff\xd8\xff"
_COLOURS = ("YCbCr", "RGB", "Gray")
_ORIENTATION = 0x0112
_APP1, _SCAN = 0xE1, 0xDA  # markers: EXIF or XMP; the pixels begin
# Warnings after which pixels are missing or wrong; others, such as bytes between two segments, are
# told by harmless files of real cameras, too.
_DAMAGE = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")


@dataclass(frozen=True)
class Jpeg:
    """A file whose header was read.

    Attributes:
        content: The file.
        name: What to call it in a message.
        height: Of the upright image.
        width: Of the same.
        orientation: EXIF, 1 to 8.
        grey: One channel is stored.
    """

    content: bytes
    name: str
    height: int
    width: int
    orientation: int
    grey: bool

    def decode(self, mode: str, denominator: int = 1) -> NDArray[np.uint8] | None:
        """The upright pixels.

        Args:
            mode: ``RGB`` or ``L``.
            denominator: 1, 2, 4 or 8: sides are divided by it, rounded up.

        Returns:
            ``(h, w, 3)`` or ``(h, w, 1)``; ``None`` if another decoder has to judge.

        Raises:
            DataError: if the file is damaged or cut short; it names the file.
        """
        import simplejpeg

        sides = (self.height, self.width) if self.orientation < 5 else (self.width, self.height)
        least = [-(-side // denominator) for side in sides]
        space = "GRAY" if self.grey and mode == "L" else "RGB"
        try:
            pixels = simplejpeg.decode_jpeg(
                self.content, space, min_height=least[0], min_width=least[1]
            )
        except ValueError as error:
            if any(word in str(error).lower() for word in _DAMAGE):
                raise DataError(f"{self.name} is no image that can be read: {error}") from None
            return None
        if list(pixels.shape[:2]) != least:
            return None
        if mode == "L" and not self.grey:
            from PIL import Image

            pixels = np.array(Image.fromarray(pixels).convert("L"))[:, :, None]
        return _upright(pixels, self.orientation)


def open_jpeg(content: bytes, name: str, max_pixels: int) -> Jpeg | None:
    """Read the header of a JPEG file.

    Args:
        content: The whole file.
        name: What to call it in a message.
        max_pixels: The largest width times height.

    Returns:
        ``None`` if this is not for here: another format, CMYK, too large, a strange header.
    """
    if not content.startswith(_START):
        return None
    import simplejpeg

    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colour not in _COLOURS or not 0 < height * width <= max_pixels:
        return None
    orientation = _orientation(content) if _has_metadata(content) else 1
    if orientation is None:
        return None
    if orientation >= 5:
        height, width = width, height
    return Jpeg(content, name, height, width, orientation, colour == "Gray")


def _has_metadata(content: bytes) -> bool:
    """Whether an APP1 segment stands before the pixels: only then is the camera's turn known."""
    position, end = 2, len(content) - 4
    while position < end:
        if content[position] != 0xFF:
            return True  # not as expected; whoever reads the metadata may understand
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker in (_APP1, _SCAN):
            return marker == _APP1
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False


def _orientation(content: bytes) -> int | None:
    """As Pillow has it, from EXIF or XMP; 1 for what means nothing, ``None`` if it fails."""
    from PIL import Image

    try:
        orientation = Image.open(BytesIO(content), formats=("JPEG",)).getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises anything, and will say what when it judges the image
        return None
    if not isinstance(orientation, int):
        return None
    return orientation if 1 <= orientation <= 8 else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned and mirrored as EXIF says of what is stored."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
