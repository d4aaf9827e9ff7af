"""Folders of images for tests: unlike each other, or learned at a glance by their colour."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Soft shapes, unlike those of every other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_photos(raw: Path, counts: Mapping[str, int], start: int = 0) -> Path:
    """``raw/<class>/<number>.png``, all different."""
    seed = start
    for name, count in counts.items():
        (raw / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo(seed).save(raw / name / f"{number:04d}.png")
            seed += 1
    return raw


def write_coloured(
    data_dir: Path,
    classes: Mapping[str, int],
    size: tuple[int, int] | None = (12, 12),
    mode: str = "RGB",
    ending: str = "png",
) -> Path:
    """``data_dir/raw/<class>/<number>.<ending>``: each class has a colour, each image its own noise.

    Args:
        data_dir: Where; made if needed.
        classes: How many images of each class.
        size: ``(width, height)``; ``None``: another for each image.
        mode: ``RGB`` or ``L``.
        ending: Of the files.
    """
    generator = np.random.default_rng(len(classes))
    for number, (name, count) in enumerate(classes.items()):
        folder = data_dir / "raw" / name
        folder.mkdir(parents=True)
        for index in range(count):
            width, height = size or (int(v) for v in generator.integers(20, 90, 2))
            noise = generator.integers(0, 90, (height, width, 3))
            colour = np.array([40 * number % 160, 70 * number % 160, 110 * number % 160])
            image = Image.fromarray((noise + colour).astype(np.uint8)).convert(mode)
            image.save(folder / f"{index}.{ending}")
    return data_dir
