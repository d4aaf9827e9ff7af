"""Decoding: every kind of image becomes what Pillow's own operations, or a closed form, say."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.data import decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.dtype is torch.uint8
    assert tensor.is_contiguous()
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000"])
def test_a_lossless_format_gives_the_pixels_back(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(Image.fromarray(PIXELS), kind, **options))
    np.testing.assert_array_equal(channels_last(decoded), PIXELS)


def test_every_form_of_a_source_gives_the_same(tmp_path: Path):
    content = encode(Image.fromarray(PIXELS))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (
        *(content, bytearray(content), path, str(path)),
        *({"bytes": content, "path": None}, {"bytes": None, "path": str(path)}),
        {"bytes": content, "path": "no/such/file.png"},
        *(Image.fromarray(PIXELS), Image.open(path)),
    ):
        np.testing.assert_array_equal(channels_last(decode_image(source)), PIXELS)


def test_rows_of_a_stored_data_set_decode(tmp_path: Path):
    import datasets

    rows = datasets.Dataset.from_dict({"image": [Image.fromarray(PIXELS)]}).cast_column(
        "image", datasets.Image()
    )
    raw = rows.cast_column("image", datasets.Image(decode=False))
    for source in (rows["image"][0], raw["image"][0]):
        np.testing.assert_array_equal(channels_last(decode_image(source)), PIXELS)


def test_grey_becomes_three_equal_channels_and_colour_one_of_luma():
    grey = np.arange(35, dtype=np.uint8).reshape(7, 5)
    assert (decode_image(Image.fromarray(grey)).numpy() == grey).all()
    luma = PIXELS.astype(float) @ [0.299, 0.587, 0.114]  # ITU-R 601-2
    decoded = decode_image(Image.fromarray(PIXELS), "L").numpy()
    assert decoded.shape == (1, 7, 5)
    assert np.abs(decoded[0] - luma).max() <= 1


def test_transparency_shows_the_background():
    for mode in ("RGBA", "LA"):
        image = Image.fromarray(PIXELS).convert(mode)
        alpha = np.linspace(0, 255, 35).astype(np.uint8).reshape(7, 5)
        image.putalpha(Image.fromarray(alpha))
        colours = np.asarray(image.convert("RGBA"))[..., :3].astype(float)
        share = alpha[..., None] / 255
        for background in (255, 0):
            expected = colours * share + background * (1 - share)
            decoded = channels_last(decode_image(encode(image), background=background))
            assert np.abs(decoded - expected).max() <= 1


def test_a_palette_with_a_transparent_colour_is_expanded():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert channels_last(decode_image(encode(image, kind))).tolist() == [
            [[255, 0, 0], [0, 0, 255]]
        ]
        content = encode(image, kind, transparency=1)
        assert channels_last(decode_image(content)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_sixteen_bits_are_rounded_to_eight():
    values = np.linspace(0, 65535, 71 * 71).astype(np.uint16).reshape(71, 71)
    expected = np.rint(values / 257)
    for kind in ("PNG", "TIFF", "PPM"):
        decoded = decode_image(encode(Image.fromarray(values), kind), "L")
        np.testing.assert_array_equal(decoded[0].numpy(), expected)
    big_endian = Image.frombytes("I;16B", (71, 71), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode_image(big_endian, "L")[0].numpy(), expected)


def test_cmyk_is_converted_as_pillow_does():
    image = Image.fromarray(PIXELS).convert("CMYK")
    content = encode(image, "JPEG", quality=100)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(channels_last(decode_image(content)), expected)
    assert decode_image(content, "L").shape == (1, 7, 5)


def test_black_and_white_uses_the_whole_range():
    image = Image.fromarray(np.array([[False, True]]))
    assert decode_image(encode(image), "L").flatten().tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(PIXELS), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(channels_last(decode_image(content)), expected)
    assert expected.shape == ((5, 7, 3) if orientation >= 5 else (7, 5, 3))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("#ff0000", "#0000ff")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert channels_last(decode_image(content)).reshape(-1, 3).tolist() == [[255, 0, 0]] * 12


def test_one_pixel():
    assert decode_image(encode(Image.new("RGB", (1, 1), "#010203"))).flatten().tolist() == [1, 2, 3]


def test_another_mode_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="mode is 'BGR'"):
        decode_image(b"", "BGR")
