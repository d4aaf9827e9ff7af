"""Images decoded and resized once, for every epoch: in memory, or in one mapped file.

    cache = ImageCache(paths, preprocessing, kind="disk", directory=folder, workers=2)
    preprocessing.finish(cache[17])        # bit for bit preprocessing(paths[17])
    preprocessing.random_crop(cache[17])   # a training image, 10 times as fast as from the file

A file's name is a hash of the recipe, the libraries, and name, size and time of every image file.
So a change of any of them makes another file, and many runs and processes share one. A file that
is damaged is made anew; an image that is damaged within it is decoded from its source.
"""

import shutil
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.image_dataset import Sources
from common.data.images import identity_of, name_of
from common.data.loaders import read_with_workers
from common.data.pixel_file import DamagedFile, Pixels, collect, load, write
from common.data.preprocessing import Preprocessing
from common.data.store import locked
from common.utils.errors import ConfigError, DataError, FaultError
from common.utils.files import TEMPORARY_PREFIX

_KINDS = ("memory", "disk")
_LIBRARIES = ("torch", "pillow", "simplejpeg")  # whose next version may round otherwise
_SAMPLE = 32  # images from which the size of all is estimated
_RESERVE = 1.1  # times the estimate


class ImageCache(Dataset[Tensor]):
    """What ``preprocessing.stored`` gives for every source, without decoding it again.

    Everything is decoded when the cache is made, or found in the directory. Made before worker
    processes are, it is shared with them.

    Args:
        sources: Paths, bytes, or what ``datasets`` stores.
        preprocessing: The recipe.
        kind: ``memory``, or ``disk`` for a file that outlives the process and may be larger than
            memory.
        directory: Of the files of ``disk``; made if it is missing.
        workers: Processes that decode.
        on_bad: ``fail``: a bad image raises. ``skip``: it is listed in ``skipped``, and reading it
            raises.

    Attributes:
        path: The file of ``disk``, else ``None``.
        skipped: Why each bad image is bad, by index.

    Raises:
        ConfigError: for another ``kind`` or ``on_bad``, a directory too much or too little, or
            images that were decoded already (on disk).
        DataError: for a bad image, naming index and file.
        FaultError: if there is not enough memory or disk.
    """

    def __init__(
        self,
        sources: Sources,
        preprocessing: Preprocessing,
        kind: str = "memory",
        directory: Path | None = None,
        *,
        workers: int = 0,
        on_bad: str = "fail",
    ) -> None:
        for what, value, known in (("kind", kind, _KINDS), ("on_bad", on_bad, ("fail", "skip"))):
            if value not in known:
                raise ConfigError(f"{what} is '{value}', expected {' or '.join(known)}")
        if (kind == "disk") != (directory is not None):
            raise ConfigError(
                f"a cache of the kind '{kind}' {'needs a' if kind == 'disk' else 'takes no'} "
                "directory"
            )
        if not len(sources):
            raise DataError("there are no images to put into a cache; expected at least one")
        self.sources, self.preprocessing = sources, preprocessing
        self.path: Path | None = None
        self._workers, self._on_bad = workers, on_bad
        if directory is None:
            self._key = ""
            _check_room(sources, preprocessing, None)
            self._pixels = collect(self._decoded(), preprocessing.channels, self._key)
        else:
            self._key = cache_key(sources, preprocessing)
            self.path = Path(directory) / f"{self._key[:32]}.pixels"
            self._pixels = self._from_disk(self.path)
        if self.skipped and on_bad == "fail":  # the file of a run that skips them
            raise DataError(next(iter(self.skipped.values())))

    @property
    def skipped(self) -> dict[int, str]:
        return self._pixels.skipped

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        """One image, uint8 ``(C, h, w)``; a view of the cache, not to be written to.

        Raises:
            DataError: if it is one of ``skipped``.
            IndexError: if there is no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        if index in self.skipped:
            raise DataError(self.skipped[index])
        image = self._pixels.read(index)
        if image is None:
            from loguru import logger

            logger.warning(
                f"image {index} has changed in {self.path or 'memory'}; it is decoded again"
            )
            image = _decode(self.sources, self.preprocessing, index)
        return image

    def __getstate__(self) -> dict[str, Any]:
        """A process that is not forked maps the file itself."""
        return self.__dict__ | ({"_pixels": None} if self.path is not None else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.path is not None:
            self._pixels = self._from_disk(self.path)

    def _from_disk(self, path: Path) -> Pixels:
        """Map the file, after making it if it is missing or damaged."""
        if (pixels := self._mapped(path)) is not None:
            return pixels
        with locked(path):
            pixels = self._mapped(path)  # another process may have made it meanwhile
            if pixels is None:
                from loguru import logger

                for left in path.parent.glob(f"{TEMPORARY_PREFIX}{path.name}-*"):
                    left.unlink()  # of a process that was killed
                need = _check_room(self.sources, self.preprocessing, path.parent)
                logger.info(
                    f"decoding {len(self.sources):,} images into {path}, about {need:,} bytes"
                )
                write(path, self._decoded(), self.preprocessing.channels, self._key)
                pixels = load(path, self._key)
        return pixels

    def _mapped(self, path: Path) -> Pixels | None:
        try:
            return load(path, self._key)
        except FileNotFoundError:
            return None
        except DamagedFile as damage:
            from loguru import logger

            logger.warning(f"{path} is damaged, {damage}; it is made anew")
        except OSError as error:
            raise FaultError(f"cannot read {path}: {error.strerror}") from None
        return None

    def _decoded(self) -> Iterator[Tensor | str]:
        """All images in order, or why there is none."""
        own = Generator()  # a loader draws from the global one, which is the training's
        data = _Decoded(self.sources, self.preprocessing)
        loader = DataLoader(data, batch_size=None, num_workers=self._workers, generator=own)
        for image in read_with_workers(loader):
            if isinstance(image, str) and self._on_bad == "fail":
                raise DataError(image)
            yield image


class _Decoded(Dataset["Tensor | str"]):
    """Each image as it is stored, or what is wrong with it."""

    def __init__(self, sources: Sources, preprocessing: Preprocessing) -> None:
        self._sources, self._preprocessing = sources, preprocessing

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return _decode(self._sources, self._preprocessing, index)
        except DataError as error:
            return str(error)


def cache_key(sources: Sources, preprocessing: Preprocessing) -> str:
    """A hash of all that decides about the pixels, and of nothing else.

    Raises:
        ConfigError: if a source is decoded already, so that nobody can tell whether it changed.
    """
    recipe = {k: v for k, v in preprocessing.describe().items() if k not in ("mean", "std")}
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    digest = sha256(f"{sorted(recipe.items())} {libraries}\n".encode())
    for index in range(len(sources)):
        part = identity_of(sources[index])
        if part is None:
            raise ConfigError(
                f"image {index}, {name_of(sources[index])}, is decoded already, and a cache on "
                "disk cannot tell whether it changed; give bytes or paths, or kind='memory'"
            )
        digest.update(f"{part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode(sources: Sources, preprocessing: Preprocessing, index: int) -> Tensor:
    try:
        source = sources[index]  # may decode by itself, as columns of ``datasets`` do
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"image {index} cannot be read: {error}") from None
    try:
        return preprocessing.stored(source)
    except DataError as error:
        raise DataError(f"image {index}: {error}") from None


def _check_room(sources: Sources, preprocessing: Preprocessing, directory: Path | None) -> int:
    """Bytes that all images will take, from a few of them.

    Raises:
        FaultError: if there is not as much.
    """
    images = _Decoded(sources, preprocessing)
    step = max(1, len(sources) // _SAMPLE)
    sample = [images[index] for index in range(0, len(sources), step)]
    sizes = [image.nbytes for image in sample if isinstance(image, Tensor)]
    need = round(_RESERVE * len(sources) * sum(sizes) / max(1, len(sizes)))
    if directory is None:
        import psutil

        free, where = psutil.virtual_memory().available, "memory"
        advice = "use kind='disk', a smaller image_size, or no cache"
    else:
        free, where = shutil.disk_usage(directory).free, str(directory)
        advice = "make room, choose another directory or a smaller image_size, or use no cache"
    if need > free:
        raise FaultError(
            f"a cache of {len(sources):,} images needs about {need:,} bytes; {where} has {free:,} "
            f"free; {advice}"
        )
    return need
