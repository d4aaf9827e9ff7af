"""Image files for tests: photo-like content, and every kind of damage."""

import io
from typing import Any

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some texture, uint8 ``(height, width, 3)``."""
    random = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128.0)
    for cells, strength in ((4, 50.0), (16, 25.0), (64, 12.0)):
        noise = random.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[:, :, channel])
            total[:, :, channel] += strength * np.asarray(
                layer.resize((width, height), Image.Resampling.BICUBIC)
            )
    return np.clip(total + random.normal(0, 2, (height, width, 1)), 0, 255).astype(np.uint8)


def encoded(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    """An array or a PIL image as a file."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def rotated_exif(orientation: int) -> Image.Exif:
    """Metadata of a camera that was held so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def bad_files() -> dict[str, bytes]:
    """What is no readable image, by kind."""
    whole = encoded(photo(120, 160))
    progressive = encoded(photo(120, 160), progressive=True)
    png = encoded(photo(40, 50), "PNG")
    bomb = bytearray(whole)
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # height and width: 65,500 each
    return {
        "empty": b"",
        "no image": b"<html>not found</html>",
        "JPEG header only": whole[:100],
        "half a JPEG": whole[: len(whole) // 2],
        "half a progressive JPEG": progressive[: len(progressive) // 2],
        "JPEG without its end": whole[:-2],
        "half a PNG": png[: len(png) // 2],
        "bomb": bytes(bomb),
    }


def sealed_half() -> bytes:
    """Half a JPEG file with an end put to it: Pillow fills up with grey and says nothing."""
    whole = encoded(photo(120, 160))
    return whole[: len(whole) // 2] + b"\xff\xd9"
