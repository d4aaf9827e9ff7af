"""Which images look alike: a 63-bit hash of the coarse structure, then a look at a thumbnail.

    groups = alike_groups(hashes, thumbnails, distance=6)     # images that look alike: one number

The hash is that of the discrete cosine transform (C. Zauner, Implementation and Benchmarking of
Perceptual Image Hash Functions, 2010): the image in 32 x 32 grey pixels, and for each of its lowest
frequencies whether it is above their median. Brightness, contrast, size and compression hardly
move it; crops and mirror images are other images. Small pictures of one kind (28 x 28 shirts) often
share a hash, so that a pair counts only if their colour thumbnails are correlated, too.

All of it is integer arithmetic: every machine finds the same bits in the same pixels.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = 16  # pixels, each way
DISTANCE = 6  # bits; above it small pictures of one kind begin to form chains of hundreds
MAX_DISTANCE = 16  # of 63 bits; unrelated images differ in 20 to 44
_SIDE = 32  # pixels that are transformed, each way
_KEPT = 8  # frequencies, each way
_BITS = _KEPT * _KEPT - 1  # without the mean
_SCALE = 1 << 16  # of the cosines: 32 * 32 * 255,000 * 2^32 fits into 63 bits
_LUMA = np.array([299, 587, 114], np.int64)  # ITU-R 601-2, in thousandths
_FLAT = 2.0  # grey levels of standard deviation below which there is nothing to compare
_CHUNK = 1 << 15  # thumbnails compared at once

Indices = NDArray[np.int64]


def _cosines() -> NDArray[np.int64]:
    frequency, position = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None]
    wave = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
    return np.rint(wave * _SCALE).astype(np.int64)


_COSINES = _cosines()


def perceptual_hash(pixels: NDArray[np.uint8]) -> tuple[int, NDArray[np.uint8]]:
    """The hash of an image, and the thumbnail that goes with it.

    Args:
        pixels: ``(3, H, W)``, or ``(1, H, W)`` for grey.

    Returns:
        63 bits, and ``(3, 16, 16)``.
    """
    from PIL import Image

    planes = [Image.fromarray(plane) for plane in pixels]
    box = Image.Resampling.BOX
    small = np.stack([np.asarray(plane.resize((_SIDE, _SIDE), box)) for plane in planes])
    size = (THUMBNAIL, THUMBNAIL)
    thumbnail = np.stack([np.asarray(plane.resize(size, box)) for plane in planes])
    weights = _LUMA if len(planes) == 3 else _LUMA.sum(keepdims=True)
    grey = np.tensordot(weights, small.astype(np.int64), 1)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[1:]
    bits = waves > np.partition(waves, _BITS // 2)[_BITS // 2]
    code = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return code, np.ascontiguousarray(np.broadcast_to(thumbnail, (3, *size)))


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> Iterator[tuple[Indices, Indices]]:
    """All pairs of hashes that differ in at most ``distance`` bits, each pair once, in pieces.

    The bits are dealt to ``distance + 1`` bands: two such hashes agree in at least one band, so
    that only hashes with an equal band are compared (pigeonholes, as in Norouzi et al., Fast Exact
    Search in Hamming Space with Multi-Index Hashing, 2014).

    Args:
        hashes: ``(N,)``.
        distance: 0 or more.

    Yields:
        The first and the second index of some pairs.
    """
    bands = [
        np.uint64(sum(1 << bit for bit in range(band, 64, distance + 1)))
        for band in range(distance + 1)
    ]
    for number, band in enumerate(bands):
        keys = hashes & band
        order = np.argsort(keys, kind="stable")
        keys, codes = keys[order], hashes[order]
        starts = np.arange(len(order))
        step = 1
        while True:  # every hash with the one ``step`` places further on in the same pigeonhole
            starts = starts[: np.searchsorted(starts, len(order) - step)]
            starts = starts[keys[starts] == keys[starts + step]]
            if not len(starts):
                break
            differing = codes[starts] ^ codes[starts + step]
            is_near = np.bitwise_count(differing) <= distance
            for earlier in bands[:number]:  # found there already
                is_near &= (differing & earlier) != 0
            if is_near.any():
                found = starts[is_near]
                yield order[found], order[found + step]
            step += 1


def alike_groups(
    hashes: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    distance: int = DISTANCE,
    correlation: float = 0.99,
) -> Indices:
    """Number the images so that those that look alike, also by way of others, share a number.

    Images without structure (blank pages, plain colours) are like no other.

    Args:
        hashes: ``(N,)``.
        thumbnails: ``(N, 3, 16, 16)``.
        distance: Bits in which the hashes may differ.
        correlation: The least correlation of two thumbnails.

    Returns:
        ``(N,)``: for each image the lowest index of its group.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    size = flat.shape[1]
    sums = flat.sum(1, dtype=np.int64)
    spreads = size * np.einsum("nd,nd->n", flat, flat, dtype=np.int64) - sums * sums
    structured = np.flatnonzero(spreads >= (_FLAT * size) ** 2)
    groups = np.arange(len(hashes))
    for first, second in near_pairs(hashes[structured], distance):
        for start in range(0, len(first), _CHUNK):
            a = structured[first[start : start + _CHUNK]]
            b = structured[second[start : start + _CHUNK]]
            apart = groups[a] != groups[b]  # of a thousand alike most are joined by others soon
            a, b = a[apart], b[apart]
            dots = np.einsum("nd,nd->n", flat[a], flat[b], dtype=np.int64)
            together = size * dots - sums[a] * sums[b]
            likeness = together / np.sqrt(spreads[a].astype(float) * spreads[b])
            is_alike = likeness >= correlation
            if is_alike.any():
                groups = joined(groups, a[is_alike], b[is_alike])
    return groups


def joined(groups: Indices, first: Indices, second: Indices) -> Indices:
    """Groups after each ``first[i]`` was put together with ``second[i]``.

    Args:
        groups: ``(N,)``: for each item the lowest index of its group.
        first: Items.
        second: Items.

    Returns:
        ``(N,)`` in the same form.
    """
    groups = groups.copy()
    while True:
        one, other = groups[first], groups[second]
        apart = one != other
        if not apart.any():
            return groups
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        np.minimum.at(groups, high, low)  # now groups form chains downwards
        while not np.array_equal(shorter := groups[groups], groups):
            groups = shorter
