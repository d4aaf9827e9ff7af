"""The section ``preprocessing`` of a configuration; importing it loads no PyTorch."""

from dataclasses import dataclass

from common.config import option

MODES = ("RGB", "L")
DECODERS = ("turbo", "pillow")


@dataclass
class PreprocessingConfig:
    """How an image file becomes the pixels a network takes; a checkpoint and an export keep it."""

    image_size: list[int] | None = option(
        "height and width of the input; from the data", None, ge=1
    )
    resize: str = option(
        "crop: shorter side to size / crop_share, then the centre; stretch: both sides to size; "
        "pad: longer side to size, then background",
        "crop",
        choices=("crop", "stretch", "pad"),
    )
    crop_share: float = option("share of the resized image that is kept", 0.875, gt=0, le=1)
    interpolation: str = option("always antialiased", "bilinear", choices=("bilinear", "bicubic"))
    mode: str | None = option("RGB, or L for one channel; from the data", None, choices=MODES)
    decoder: str = option(
        "turbo: JPEG by libjpeg-turbo, at the scale that is needed; pillow: always all of it",
        "turbo",
        choices=DECODERS,
    )
    background: int = option("grey level of transparency and padding", 255, ge=0, le=255)
    mean: list[float] | None = option("of each channel, 0 to 1; from the data", None)
    std: list[float] | None = option("of each channel; from the data", None, ge=0)
