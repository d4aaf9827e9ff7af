"""Photos of products that carry a handwritten number: 100 products, 8 photos of each, with titles.

What product matching meets, small: many classes with few images each, photos that differ in place,
light and background, and titles that say much, little or nothing. The digits are those of
``embedded/digits``; none is used twice, so no two photos share handwriting.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.embedded import digits
from common.utils.seeding import mix_seed

PRODUCTS = 100
PHOTOS = 8  # of each product
TEST_PRODUCTS = 25
SIDE = 32

_DIGIT = 14  # pixels of a digit's side in a photo
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_SAYS_ALL, _SAYS_HALF = 0.5, 0.8  # cumulative shares of titles


def make(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Splits with different products.

    Args:
        seed: Of which handwriting, place, light and title a photo has, and of the split.

    Returns:
        For ``train`` (75 products) and ``test`` (25) the columns ``image``, uint8 ``(N, 32, 32)``,
        ``label``, int64 ``(N,)``, the product's number 0 to 99, and ``title``, strings.
    """
    generator = np.random.default_rng(mix_seed(seed, 1))
    waiting = _handwriting(generator)
    order = generator.permutation(PRODUCTS)
    members = {"train": np.sort(order[TEST_PRODUCTS:]), "test": np.sort(order[:TEST_PRODUCTS])}
    splits = {}
    for split, products in members.items():
        labels = np.repeat(products, PHOTOS).astype(np.int64)
        labels = generator.permutation(labels)
        images = [_photo(waiting[n // 10].pop(), waiting[n % 10].pop(), generator) for n in labels]
        titles = [_title(int(n), generator) for n in labels]
        splits[split] = {"image": np.stack(images), "label": labels, "title": titles}
    return splits


def in_words(number: int) -> str:
    """A number from 0 to 99 in English."""
    if number < len(_SMALL):
        return _SMALL[number]
    tens = _TENS[number // 10 - 2]
    return tens if number % 10 == 0 else f"{tens}-{_SMALL[number % 10]}"


def _handwriting(generator: np.random.Generator) -> list[list[NDArray[np.uint8]]]:
    """The images of each digit, in random order."""
    splits = digits.make().values()
    images = np.concatenate([split["image"] for split in splits])
    labels = np.concatenate([split["label"] for split in splits])
    return [list(generator.permutation(images[labels == digit])) for digit in range(10)]


def _photo(
    tens: NDArray[np.uint8], units: NDArray[np.uint8], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Two digits side by side, moved a little, on an uneven background under some light."""
    corners = generator.uniform(0.0, 80.0, size=(3, 3))
    picture = _enlarged(corners, SIDE)
    ink = generator.uniform(120.0, 175.0)
    top = generator.integers(1, SIDE - _DIGIT)
    for column, digit in ((1, tens), (SIDE // 2, units)):
        left = column + int(generator.integers(0, 3))
        y = int(np.clip(top + generator.integers(-2, 3), 0, SIDE - _DIGIT))
        picture[y : y + _DIGIT, left : left + _DIGIT] += _enlarged(digit / 255.0, _DIGIT) * ink
    picture += generator.normal(0.0, 8.0, size=picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _enlarged(values: NDArray[Any], side: int) -> NDArray[np.float64]:
    """A square array, linearly interpolated to another side length."""
    places = np.linspace(0, len(values) - 1, side)
    low = np.minimum(places.astype(int), len(values) - 2)
    share = places - low
    rows = values[low] * (1 - share)[:, None] + values[low + 1] * share[:, None]
    result: NDArray[np.float64] = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return result


def _title(number: int, generator: np.random.Generator) -> str:
    draw = generator.random()
    if draw < _SAYS_ALL:
        return f"{generator.choice(['number', 'lot', 'item'])} {in_words(number)}"
    if draw < _SAYS_HALF:
        return f"item with a {_SMALL[int(generator.choice([number // 10, number % 10]))]}"
    return str(generator.choice(["new item", "item as pictured", "see the photo"]))
