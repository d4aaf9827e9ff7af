"""One look at every image: whether it decodes, its size and kind, and what tells copies apart.

Every image is decoded to its last pixel: a header, or Pillow's ``verify``, also passes a JPEG of
which half is missing.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from common.data.images import decode_image, read_bytes
from common.data.loaders import read_with_workers
from common.data.perceptual_hash import THUMBNAIL, perceptual_hash
from common.utils.errors import DataError

_CHUNK = 16  # images a worker looks at before it reports
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I")
_ORIENTATION = 0x0112  # EXIF


class Look(NamedTuple):
    """What is known of one good image; ``(width, height)`` as it stands upright."""

    width: int
    height: int
    mode: str
    format: str
    is_turned: bool
    is_animated: bool
    digest: bytes
    code: int
    thumbnail: bytes


@dataclass
class ImageFacts:
    """What is known of the good ones among some images, by position among the good ones.

    Attributes:
        good: ``(G,)``: positions of the good images among all.
        bad: Why each of the others is bad, by position.
        looks: What was seen.
    """

    good: NDArray[np.int64]
    bad: dict[int, str]
    looks: list[Look]

    @property
    def codes(self) -> NDArray[np.uint64]:
        """Perceptual hashes, ``(G,)``."""
        return np.fromiter((look.code for look in self.looks), np.uint64, len(self.looks))

    @property
    def thumbnails(self) -> NDArray[np.uint8]:
        """``(G, 3, 16, 16)``."""
        pixels = np.frombuffer(b"".join(look.thumbnail for look in self.looks), np.uint8)
        return pixels.reshape(-1, 3, THUMBNAIL, THUMBNAIL)


def look_at(paths: Sequence[Path], workers: int = 0, progress: bool = False) -> ImageFacts:
    """Decode images.

    Args:
        paths: The files.
        workers: Processes that decode; 0 is this one.
        progress: Show a bar on a terminal.
    """
    loader = DataLoader(
        _Chunks(paths),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator(),  # a loader draws from the global one, which is others'
    )
    bad: dict[int, str] = {}
    good: list[int] = []
    looks: list[Look] = []
    for number, found in enumerate(_shown(read_with_workers(loader), len(loader), progress)):
        for index, look in enumerate(found, number * _CHUNK):
            if isinstance(look, str):
                bad[index] = look
            else:
                good.append(index)
                looks.append(look)
    return ImageFacts(np.array(good, np.int64), bad, looks)


def _shown(chunks: Iterator[Any], count: int, progress: bool) -> Iterator[Any]:
    if not progress:
        return chunks
    from tqdm import tqdm

    return iter(tqdm(chunks, "decoding", count, unit_scale=_CHUNK, unit=" images", disable=None))


def _as_it_is(chunk: Any) -> Any:
    return chunk


class _Chunks(Dataset[list[Look | str]]):
    """A look, or the reason why there is none, for each image of a chunk."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return -(-len(self._paths) // _CHUNK)

    def __getitem__(self, chunk: int) -> list[Look | str]:
        return [_look(path) for path in self._paths[chunk * _CHUNK : (chunk + 1) * _CHUNK]]


def _look(path: Path) -> Look | str:
    from PIL import Image

    try:
        content = read_bytes(path)
        assert content is not None
        if not content:
            return "empty file"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what damaged metadata says
            pixels = decode_image({"bytes": content, "path": "it"}).numpy()
            header = Image.open(io.BytesIO(content))
            # Asked for its EXIF data a PNG without any would be decoded once more.
            has_exif = header.format == "TIFF" or "exif" in header.info
            turned = has_exif and 2 <= header.getexif().get(_ORIENTATION, 1) <= 8
            animated = bool(getattr(header, "is_animated", False))
    except DataError as error:
        return _reason(str(error), path)
    if header.mode in _GREY:
        pixels = pixels[:1]
    code, thumbnail = perceptual_hash(pixels)
    return Look(
        *(pixels.shape[2], pixels.shape[1], header.mode, str(header.format), turned, animated),
        *(blake2b(content, digest_size=16).digest(), code, thumbnail.tobytes()),
    )


def _reason(message: str, path: Path) -> str:
    """What is wrong, without the path, which every list names in its own way."""
    if message.startswith(f"cannot read {str(path)!r}: "):
        return "cannot be read: " + message.removeprefix(f"cannot read {str(path)!r}: ")
    for name in (str(path), "it"):
        message = message.removeprefix(f"{name}: ").removeprefix(f"{name} ")
    return message
