"""Near duplicates: copies are found whatever was done to them, and other images are not."""

import io
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from common.data.perceptual_hash import alike_groups, joined, near_pairs, perceptual_hash

RNG = np.random.default_rng(0)


def photo(width: int = 160, height: int = 120) -> Image.Image:
    """Soft shapes in many colours, as unlike any other as photos are."""
    coarse = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def groups_of(images: list[Image.Image]) -> list[int]:
    pairs = [perceptual_hash(np.asarray(i.convert("RGB")).transpose(2, 0, 1)) for i in images]
    codes = np.array([code for code, _ in pairs], np.uint64)
    return alike_groups(codes, np.stack([thumbnail for _, thumbnail in pairs])).tolist()


def copies(image: Image.Image) -> Iterator[Image.Image]:
    yield ImageEnhance.Brightness(image).enhance(0.7)
    yield ImageEnhance.Contrast(image).enhance(0.7)
    yield image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    yield image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    yield Image.open(file)


def test_copies_are_found_and_different_images_are_not():
    originals = [photo() for _ in range(20)]
    images = originals + [copy for image in originals for copy in copies(image)]
    expected = list(range(20)) + [number for number in range(20) for _ in range(5)]
    assert groups_of(images) == expected


def test_blank_and_plain_images_are_like_no_other():
    grey = Image.new("RGB", (50, 50), (250, 250, 250))
    noise = np.full((50, 50, 3), 250, np.uint8) + RNG.integers(0, 3, (50, 50, 3), dtype=np.uint8)
    plain = [Image.new("RGB", (50, 50), (level, 0, 0)) for level in (0, 1, 2)]
    assert groups_of([grey, Image.fromarray(noise), *plain]) == [0, 1, 2, 3, 4]


def test_one_shape_in_two_colours_is_two_images():
    shape = np.zeros((60, 60), np.uint8)
    shape[10:40, 20:50] = 200
    nothing = np.zeros_like(shape)
    red, green = (
        Image.fromarray(np.stack(planes, -1))
        for planes in ((shape, nothing, nothing), (nothing, shape, nothing))
    )
    assert groups_of([red, green]) == [0, 1]


def test_a_grey_image_has_the_hash_of_its_three_equal_channels():
    grey = np.asarray(photo().convert("L"))
    one, three = perceptual_hash(grey[None]), perceptual_hash(np.stack([grey] * 3))
    assert one[0] == three[0]
    assert (one[1] == three[1]).all()


@pytest.mark.parametrize("distance", [0, 1, 6, 16])
def test_near_pairs_are_those_of_every_comparison(distance: int):
    centres = RNG.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in RNG.integers(0, 63, 5)) for _ in range(400)]
    hashes = centres[RNG.integers(0, 40, 400)] ^ np.array(flips, np.uint64)
    differing = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = {(i, j) for i, j in np.argwhere(differing <= distance).tolist() if i < j}
    found = [
        (min(pair), max(pair))
        for piece in near_pairs(hashes, distance)
        for pair in zip(*(side.tolist() for side in piece), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_joined_groups_are_the_connected_components():
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = RNG.integers(0, 500, (2, 300))
    ours = joined(np.arange(500), first, second)
    _, theirs = connected_components(coo_array((np.ones(300), (first, second)), shape=(500, 500)))
    lowest = {int(theirs[index]): index for index in reversed(range(500))}
    assert ours.tolist() == [lowest[int(component)] for component in theirs]


def test_thousands_of_copies_of_one_picture_are_joined_in_seconds():
    original = np.asarray(photo()).transpose(2, 0, 1)
    code, thumbnail = perceptual_hash(original)
    codes = np.full(5000, code, np.uint64)
    thumbnails = np.repeat(thumbnail[None], 5000, 0)
    thumbnails[:, 0, 0, 0] = np.arange(5000) % 7
    start = time.perf_counter()
    assert not alike_groups(codes, thumbnails).any()
    assert time.perf_counter() - start < 20
