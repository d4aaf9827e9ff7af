"""Photos for tests: soft shapes, every one unlike every other."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_photos(raw: Path, counts: Mapping[str, int], start: int = 0) -> Path:
    """``raw/<class>/<number>.png``, all different."""
    seed = start
    for name, count in counts.items():
        (raw / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo(seed).save(raw / name / f"{number:04d}.png")
            seed += 1
    return raw
