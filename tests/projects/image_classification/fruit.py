"""Small images of three classes, told apart by their colour."""

import numpy as np
from PIL import Image

CLASSES = ("blå bær", "citron", "kirsch")  # in the order of the outputs
_COLOURS = ((60, 70, 190), (210, 200, 40), (190, 40, 60))


def draw_fruit(
    label: int, seed: int, size: tuple[int, int] = (12, 10), tint: float = 0.0
) -> Image.Image:
    """A noisy image of a class; ``tint`` is how far its colour may be off."""
    draw = np.random.default_rng((label, seed))
    colour = draw.normal(_COLOURS[label], tint)
    noise = draw.normal(0, 50, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))
