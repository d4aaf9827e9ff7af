"""Images with labels, of which some may be damaged: ``on_bad="fail"`` or ``"skip"``.

Skipping while reading would make the order of the data depend on what was met on the way. So the
images are looked over once, beforehand: ``scan_images`` names the bad ones, the data set has the
good ones only, and which sample stands at which position is a fixed fact again. A manifest keeps
the result, so that a resumed run has the same positions without another look.
"""

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.images import MAX_PIXELS, decode_image, identity_of, name_of
from common.data.labels import check_labels
from common.data.loaders import read_with_workers
from common.utils.errors import ConfigError, DataError
from common.utils.files import atomic_write_text

_FORMAT = 1


class Sources(Protocol):
    """A sequence of images in any form ``decode_image`` takes; it need not be a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DecodedImages(Dataset[Tensor]):
    """The images themselves, ``uint8 (3, H, W)`` or ``(1, H, W)``.

    Args:
        sources: Paths, bytes, PIL images, or what ``datasets`` stores.
        mode: ``RGB`` or ``L``.
        max_pixels: The largest width times height.
    """

    def __init__(self, sources: Sources, mode: str = "RGB", max_pixels: int = MAX_PIXELS) -> None:
        self.sources, self.mode, self.max_pixels = sources, mode, max_pixels

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Tensor:
        """Decode one.

        Raises:
            DataError: naming index and file.
        """
        try:
            source = self.sources[index]  # may decode by itself, as columns of ``datasets`` do
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"image {index} cannot be read: {error}") from None
        try:
            return decode_image(source, self.mode, max_pixels=self.max_pixels)
        except DataError as error:
            raise DataError(f"image {index}: {error}") from None


class ImageDataset(Dataset[dict[str, Any]]):
    """Samples ``{"image": Tensor, "label": int}``.

    Args:
        images: What to decode.
        labels: The class of each image, bad ones included.
        num_classes: Labels are 0 to ``num_classes - 1``.
        transform: Applied to every decoded image; its result is the sample's image.
        on_bad: ``fail``: reading a bad image raises. ``skip``: bad images and their labels are left
            out, whatever is bad is found first.
        manifest: With ``skip``: where the result of the look is kept.
        workers: Processes that take the look.

    Attributes:
        indices: For each position of this data set the index in ``images``.
        skipped: Why each of the others is not in it, by index in ``images``.

    Raises:
        ConfigError: for another ``on_bad``, or a manifest that would not be used.
        DataError: if there are not as many labels as images, a label is no class, or there is no
            good image.
    """

    def __init__(
        self,
        images: DecodedImages,
        labels: Sequence[int],
        num_classes: int,
        *,
        transform: Any = None,
        on_bad: str = "fail",
        manifest: Path | None = None,
        workers: int = 0,
    ) -> None:
        if on_bad not in ("fail", "skip"):
            raise ConfigError(f"on_bad is '{on_bad}', expected fail or skip")
        if manifest is not None and on_bad == "fail":
            raise ConfigError("a manifest lists bad images to skip; use on_bad='skip'")
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images and {len(labels)} labels do not belong together")
        if not len(images):
            raise DataError("there are no images; expected at least one")
        check_labels(labels, num_classes, "labels")
        self.images, self.labels, self.transform = images, labels, transform
        self.skipped = _skipped(images, manifest, workers) if on_bad == "skip" else {}
        if len(self.skipped) == len(images):
            raise DataError(f"none of the {len(images):,} images can be read; {_first(self)}")
        good = (index for index in range(len(images)) if index not in self.skipped)
        self.indices = np.fromiter(good, np.int64, len(images) - len(self.skipped))
        if self.skipped:
            from loguru import logger

            logger.warning(
                f"skipped {len(self.skipped):,} of {len(images):,} images; {_first(self)}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        index = int(self.indices[position])
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return {"image": image, "label": int(self.labels[index])}


def scan_images(images: DecodedImages, workers: int = 0) -> dict[int, str]:
    """Decode every image once.

    Args:
        images: What to look at.
        workers: Processes that look.

    Returns:
        Why each bad one is bad, by index, in order.
    """
    own = torch.Generator()  # a loader draws from the global one, which is the training's
    loader = DataLoader(_Verdicts(images), batch_size=None, num_workers=workers, generator=own)
    verdicts: Iterator[str] = read_with_workers(loader)
    return {index: verdict for index, verdict in enumerate(verdicts) if verdict}


class _Verdicts(Dataset[str]):
    """What is wrong with each image; empty for good ones."""

    def __init__(self, images: DecodedImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> str:
        try:
            self._images[index]
        except DataError as error:
            return str(error)
        return ""


def _skipped(images: DecodedImages, manifest: Path | None, workers: int) -> dict[int, str]:
    """The bad images: from the manifest if it is about these very images, else from a look."""
    if manifest is None:
        return scan_images(images, workers)
    identity = _identity(images)
    if manifest.exists():
        try:
            kept = json.loads(manifest.read_text(encoding="utf-8"))
            if kept["format"] == _FORMAT and kept["images"] == identity:
                return {int(index): str(why) for index, why in kept["skipped"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{manifest} is no manifest of images ({error!r}); delete it to look again"
            ) from None
    skipped = scan_images(images, workers)
    content = {"format": _FORMAT, "images": identity, "count": len(images), "skipped": skipped}
    atomic_write_text(manifest, json.dumps(content, indent=2) + "\n")
    return skipped


def _identity(images: DecodedImages) -> str:
    """A hash that changes when an image is replaced, or the list is another one."""
    digest = sha256(f"{images.mode} {images.max_pixels}".encode())
    for index in range(len(images)):
        source = images.sources[index]
        part = identity_of(source)
        if part is None:
            raise ConfigError(
                f"image {index}, {name_of(source)}, is decoded already, and a manifest cannot "
                "tell whether it changed; give bytes or paths, or no manifest"
            )
        digest.update(f"{part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _first(data: ImageDataset) -> str:
    return f"the first: {next(iter(data.skipped.values()))}"
