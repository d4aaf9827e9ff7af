"""ONE recipe from an image file to the pixels of a network: training, evaluation, inference, export.

    preprocessing = Preprocessing(PreprocessingConfig(image_size=[224, 224], mode="RGB"))
    preprocessing("photo.jpg")                 # uint8 (3, 224, 224): what is evaluated
    preprocessing.random_crop("photo.jpg")     # uint8 (3, 224, 224): what is trained on
    preprocessing.finish(cache[17])            # the first, from what ``ImageCache`` has stored

Nothing here depends on the process, on the number of workers or on a cache: the same file gives the
same bytes. Resizing is antialiased, in integers. Of a JPEG file no more is decoded than
the result needs, with the ``turbo`` decoder: at 1/2, 1/4 or 1/8 of the size, as long as that leaves
pixels enough along both sides.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config.validate import build
from common.data.images import MAX_PIXELS, as_jpeg, decode_image, name_of, read_bytes
from common.data.jpeg import DENOMINATORS, Jpeg
from common.data.preprocessing_config import PreprocessingConfig
from common.utils.errors import ConfigError

# How many times the pixels of the result a scaled image has at least, along both sides. Photos of
# 12 megapixels then differ from their full decode by 0.2 grey levels on average with 2 and by 1.2
# with 1, which is for images that are moved and cut at random anyway, and a fifth faster.
_EVALUATION, _TRAINING = 2, 1
_LONGEST = 16  # times as long as the network's input: more of a ribbon is not resized
_ATTEMPTS = 10  # at a random crop that fits

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels of the upright image."""


class Preprocessing:
    """The recipe, ready for use. Images are ``uint8 (C, H, W)``.

    What is returned may be laid out with the channels last (``Tensor.is_contiguous`` is then
    false), which is how decoders and resizing have it; ``torch.stack`` makes a batch of either, and
    ``collate_images`` one that keeps the layout.

    Args:
        config: With ``image_size`` and ``mode`` resolved. ``mean`` and ``std`` belong to the recipe
            but are applied once per batch, by ``common.models.Normalize``.

    Attributes:
        config: The same.
        size: Height and width of the result.
        channels: 3 or 1.

    Raises:
        ConfigError: if ``image_size`` or ``mode`` is open, or a value is wrong.
    """

    def __init__(self, config: PreprocessingConfig) -> None:
        config = build(PreprocessingConfig, dataclasses.asdict(config))
        if config.image_size is None or config.mode is None:
            missing = "image_size" if config.image_size is None else "mode"
            raise ConfigError(
                f"preprocessing.{missing} is not resolved; it comes from the data, or is given"
            )
        if len(config.image_size) != 2:
            raise ConfigError(
                f"preprocessing.image_size is {config.image_size}, expected [height, width]"
            )
        self.config = config
        self.size = (config.image_size[0], config.image_size[1])
        if (pixels := math.prod(side / config.crop_share for side in self.size)) > MAX_PIXELS:
            raise ConfigError(
                f"preprocessing.image_size is {config.image_size} with a crop_share of "
                f"{config.crop_share}: images would have {pixels:,.0f} pixels; the limit is "
                f"{MAX_PIXELS:,}"
            )
        self.mode = config.mode
        self.channels = 1 if config.mode == "L" else 3
        for name, values in (("mean", config.mean), ("std", config.std)):
            if values is not None and len(values) != self.channels:
                raise ConfigError(
                    f"preprocessing.{name} has {len(values)} values; mode {config.mode} has "
                    f"{self.channels} channels"
                )

    def __call__(self, source: Any) -> Tensor:
        """The image as it is evaluated.

        Args:
            source: A path, bytes, a PIL image, or what ``datasets`` stores.

        Returns:
            uint8 ``(C, H, W)``.

        Raises:
            DataError: if it is no image, damaged, cut short or too large; it names the file.
        """
        return self.finish(self.stored(source))

    def stored(self, source: Any) -> Tensor:
        """What a cache keeps: the image decoded and resized, so that ``finish`` only cuts.

        Of an image that is more than 16 times as long as the input, at the same other side, only
        the middle is kept.

        Returns:
            uint8 ``(C, h, w)``.

        Raises:
            DataError: as calling does.
        """
        picture = self._open(source)
        box, size = self._plan(picture.height, picture.width)
        return self._cut(picture, box, size, _EVALUATION)

    def finish(self, stored: Tensor) -> Tensor:
        """The rest of evaluation: the centre, or the padding.

        Args:
            stored: What ``stored`` has returned; it stays as it is.

        Returns:
            uint8 ``(C, H, W)``, in memory of its own.

        Raises:
            ValueError: if it was stored for a larger size.
        """
        height, width = self.size
        rows, columns = stored.shape[1:]
        if self.config.resize == "pad":
            pixels = stored.new_full((height, width, len(stored)), self.config.background)
            top, left = (height - rows) // 2, (width - columns) // 2
            pixels[top : top + rows, left : left + columns] = stored.permute(1, 2, 0)
            return pixels.permute(2, 0, 1)
        if rows < height or columns < width:
            raise ValueError(f"{rows} x {columns} pixels were not stored for {height} x {width}")
        top, left = round((rows - height) / 2), round((columns - width) / 2)
        centre = stored[:, top : top + height, left : left + width]
        return centre.permute(1, 2, 0).clone(memory_format=torch.contiguous_format).permute(2, 0, 1)

    def random_crop(
        self,
        source: Any,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> Tensor:
        """A part of random size and shape, resized to the input: the crop of Inception training.

        The part is chosen from the size in the file's header, and then no more is decoded than it
        needs. PyTorch's global generator decides, which ``SampleLoader`` seeds.

        Args:
            source: As in calling, or a tensor ``stored`` has returned.
            scale: Least and largest share of the image's area.
            ratio: Least and largest width over height.

        Returns:
            uint8 ``(C, H, W)``.

        Raises:
            DataError: as calling does.
        """
        if isinstance(source, Tensor):
            return random_resized_crop(
                source, self.size, scale, ratio, interpolation=self.config.interpolation
            )
        picture = self._open(source)
        box = random_box(picture.height, picture.width, scale, ratio)
        return self._cut(picture, box, self.size, _TRAINING)

    def describe(self) -> dict[str, Any]:
        """The whole recipe as plain values, for the metadata of an export or a model card."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of ``describe``.

        Raises:
            ConfigError: for a key that is missing or unknown, or a wrong value.
        """
        names = [field.name for field in dataclasses.fields(PreprocessingConfig)]
        if missing := [name for name in names if name not in description]:
            raise ConfigError(f"the preprocessing lacks {', '.join(missing)}; it is incomplete")
        return cls(build(PreprocessingConfig, dict(description)))

    def _open(self, source: Any) -> "_Picture":
        """The image with its size known: of a JPEG file no more than the header is read yet."""
        content = read_bytes(source) if self.config.decoder == "turbo" else None
        if content is not None:
            name = name_of(source)
            source = {"bytes": content, "path": name}
            if (jpeg := as_jpeg(content, name)) is not None:
                return _Picture(source, jpeg, None, jpeg.height, jpeg.width)
        pixels = self._whole(source)
        return _Picture(source, None, pixels, pixels.shape[1], pixels.shape[2])

    def _whole(self, source: Any) -> Tensor:
        """Decoded as ``decode_image`` does, whatever it is."""
        return decode_image(source, self.mode, background=self.config.background, decoder="pillow")

    def _plan(self, height: int, width: int) -> tuple[Box, tuple[int, int]]:
        """Which part of an image is resized for evaluation, and to what size."""
        whole = (0, 0, height, width)
        if self.config.resize == "stretch":
            return whole, self.size
        if self.config.resize == "pad":
            return whole, _fitted(height, width, *self.size)
        rows, columns = (round(side / self.config.crop_share) for side in self.size)
        if height * columns <= width * rows:  # wider than the input: the height decides
            kept = min(width, max(1, _LONGEST * columns * height // rows))
            box = (0, (width - kept) // 2, height, kept)
            return box, (rows, max(columns, rows * kept // height))
        kept = min(height, max(1, _LONGEST * rows * width // columns))
        box = ((height - kept) // 2, 0, kept, width)
        return box, (max(rows, columns * kept // width), columns)

    def _cut(self, picture: "_Picture", box: Box, size: tuple[int, int], margin: int) -> Tensor:
        """A part of an image at a size, from as few decoded pixels as that needs."""
        pixels, denominator = picture.pixels, 1
        if picture.jpeg is not None:
            denominator = next((d for d in DENOMINATORS if _enough(box, size, margin * d)), 1)
            read = picture.jpeg.decode(self.mode, denominator)
            if read is not None:
                pixels = torch.from_numpy(read).permute(2, 0, 1)
            else:  # Pillow judges; it knows no scale
                pixels, denominator = self._whole(picture.source), 1
        assert pixels is not None
        top, left, height, width = box
        bottom, right = -(-(top + height) // denominator), -(-(left + width) // denominator)
        part = pixels[:, top // denominator : bottom, left // denominator : right]
        return resized(part, size, self.config.interpolation)


@dataclass(frozen=True)
class _Picture:
    """An image of known upright size: a JPEG file of which the header was read, or pixels."""

    source: Any
    jpeg: Jpeg | None
    pixels: Tensor | None
    height: int
    width: int


def random_resized_crop(
    image: Tensor,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    interpolation: str = "bilinear",
) -> Tensor:
    """A random part of an image, resized.

    Szegedy et al. 2014 (1409.4842), section 6. It draws from PyTorch's global generator what
    torchvision's ``RandomResizedCrop`` draws, and gives the same pixels.

    Args:
        image: uint8 ``(C, h, w)``.
        size: Height and width of the result.
        scale: Least and largest share of the image's area.
        ratio: Least and largest width over height.
        interpolation: ``bilinear`` or ``bicubic``, antialiased.

    Returns:
        uint8 ``(C, *size)``.
    """
    top, left, height, width = random_box(image.shape[1], image.shape[2], scale, ratio)
    return resized(image[:, top : top + height, left : left + width], size, interpolation)


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """A part with a share of the area uniform in ``scale`` and a log ratio uniform in ``ratio``.

    After ten parts that do not fit it is the centre, as much as ``ratio`` allows.
    """
    lowest, highest = (math.log(bound) for bound in ratio)
    for _ in range(_ATTEMPTS):
        area = height * width * torch.empty(1).uniform_(*scale).item()
        aspect = torch.empty(1).uniform_(lowest, highest).exp_().item()
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(torch.randint(height - rows + 1, (1,)).item())
            left = int(torch.randint(width - columns + 1, (1,)).item())
            return top, left, rows, columns
    rows = min(height, max(1, round(width / ratio[0])))
    columns = min(width, max(1, round(height * ratio[1])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def resized(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """An image at another size, antialiased.

    Args:
        image: uint8 ``(C, h, w)``; with its channels last in memory it takes half the time.
        size: The new height and width.
        interpolation: ``bilinear`` or ``bicubic``.

    Returns:
        uint8 ``(C, *size)``; the image itself if it has the size.
    """
    if tuple(image.shape[1:]) == size:
        return image
    # The batch axis goes first while the channels are last, or its stride hides the layout.
    batch = image.permute(1, 2, 0).unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode=interpolation, antialias=True)[0]


def _fitted(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """The largest size of the same shape within ``rows`` and ``columns``."""
    if height * columns >= width * rows:
        return rows, max(1, round(width * rows / height))
    return max(1, round(height * columns / width)), columns


def _enough(box: Box, size: tuple[int, int], times: int) -> bool:
    """Whether a part has so many times the pixels of a size, along both sides."""
    return all(side >= times * wanted for side, wanted in zip(box[2:], size, strict=True))
