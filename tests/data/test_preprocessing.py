"""One recipe: the pixels of torchvision's own transforms, whatever the file, decoder or process."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from common.data import Preprocessing, PreprocessingConfig, decode_image, random_resized_crop
from common.data.jpeg import open_jpeg
from common.utils.errors import ConfigError, DataError
from tests.data.photos import bad_files, encoded, photo, rotated_exif, sealed_half

DECODERS = ("turbo", "pillow")
WIDE = photo(150, 230)


def recipe(size: tuple[int, int] = (32, 32), mode: str = "RGB", **options: Any) -> Preprocessing:
    return Preprocessing(PreprocessingConfig(image_size=list(size), mode=mode, **options))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.float() - other.float()).abs().mean().item()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(150, 230), (230, 150), (40, 40), (9, 13)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(
    interpolation: str, shape: tuple[int, int]
):
    content = encoded(photo(*shape), "PNG")
    mode = v2.InterpolationMode(interpolation)
    expected = v2.Compose([v2.Resize(64, mode, antialias=True), v2.CenterCrop(56)])(
        decode_image(content)
    )
    ours = recipe((56, 56), interpolation=interpolation)(content)
    assert torch.equal(ours, expected)


def test_a_random_crop_is_torchvisions_with_the_same_draws():
    image = decode_image(encoded(WIDE, "PNG"))
    ribbon = image[:, :10]  # nothing of a usual shape fits well: the centre is taken, too
    for picture in (image, ribbon, ribbon.transpose(1, 2)):
        transform = v2.RandomResizedCrop((24, 20), scale=(0.5, 1.0), antialias=True)
        for seed in range(20):
            torch.manual_seed(seed)
            expected = transform(picture)
            torch.manual_seed(seed)
            assert torch.equal(random_resized_crop(picture, (24, 20), (0.5, 1.0)), expected)


def test_a_random_crop_of_a_file_is_that_of_its_decoded_image():
    content = encoded(WIDE)
    preprocessing = recipe((100, 100))
    torch.manual_seed(1)
    from_file = preprocessing.random_crop(content)
    torch.manual_seed(1)
    assert torch.equal(from_file, random_resized_crop(decode_image(content), (100, 100)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (64, 64), (33, 47), (1, 1)])
def test_at_full_size_both_decoders_give_the_same_pixels(shape: tuple[int, int], mode: str):
    pixels = photo(*shape)
    grey = Image.fromarray(pixels).convert("L")
    for content in (
        *(encoded(pixels), encoded(pixels, subsampling=0), encoded(pixels, subsampling=1)),
        *(encoded(pixels, progressive=True), encoded(grey), encoded(pixels, keep_rgb=True)),
    ):
        one, other = (decode_image(content, mode, decoder=decoder) for decoder in DECODERS)
        assert torch.equal(one, other)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_at_every_scale(orientation: int):
    content = encoded(WIDE, exif=rotated_exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    jpeg = open_jpeg(content, "photo", 10**6)
    assert jpeg is not None
    assert (jpeg.width, jpeg.height) == upright.size
    np.testing.assert_array_equal(jpeg.decode("RGB"), np.asarray(upright))
    for denominator in (2, 4, 8):
        pixels = jpeg.decode("RGB", denominator)
        assert pixels is not None
        assert pixels.shape[:2] == tuple(-(-side // denominator) for side in upright.size[::-1])
        small = np.asarray(upright.resize(pixels.shape[1::-1], Image.Resampling.BOX))
        assert np.abs(pixels.astype(int) - small).mean() < 6  # turned otherwise: 40
    one, other = (recipe(decoder=decoder)(content) for decoder in DECODERS)
    assert difference(one, other) < 1


def test_scaled_decoding_is_close_to_full_decoding():
    content = encoded(photo(1200, 1600))
    turbo, full = recipe((64, 64)), recipe((64, 64), decoder="pillow")
    assert difference(turbo(content), full(content)) < 0.6
    for seed in range(10):
        torch.manual_seed(seed)
        one = turbo.random_crop(content)
        torch.manual_seed(seed)
        assert difference(one, full.random_crop(content)) < 2.5


def test_no_more_is_decoded_than_needed(monkeypatch: pytest.MonkeyPatch):
    from common.data.jpeg import Jpeg

    scales: list[int] = []
    decode = Jpeg.decode
    monkeypatch.setattr(
        Jpeg,
        "decode",
        lambda self, mode, scale=1: scales.append(scale) or decode(self, mode, scale),
    )
    content = encoded(photo(1200, 1600))
    for size in (512, 300, 200, 100, 40):
        recipe((size, size))(content)
    assert scales == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 7), (31, 900), (200, 200)])
def test_every_shape_becomes_the_size_and_only_cutting_is_left(
    shape: tuple[int, int], decoder: str, resize: str
):
    preprocessing = recipe((32, 48), resize=resize, decoder=decoder)
    content = encoded(photo(*shape))
    stored = preprocessing.stored(content)
    finished = preprocessing.finish(stored)
    assert finished.shape == (3, 32, 48)
    assert finished.dtype is torch.uint8
    assert stored.nbytes <= 16 * 4 / 3 * 32 * 48 * 3
    assert torch.equal(finished, preprocessing(content))
    kept = stored.clone()
    finished.zero_()
    assert torch.equal(stored, kept), "what finish returns has memory of its own"


def test_what_was_stored_for_a_smaller_size_is_refused():
    stored = recipe((16, 16)).stored(encoded(WIDE))
    with pytest.raises(ValueError, match="were not stored for 32 x 32"):
        recipe((32, 32)).finish(stored)


def test_padding_keeps_the_shape_and_shows_the_background():
    image = np.zeros((10, 20, 3), np.uint8)
    padded = recipe((30, 20), resize="pad", background=7)(encoded(image, "PNG"))
    assert (padded[:, 10:20] == 0).all()
    assert (padded[:, :10] == 7).all()
    assert (padded[:, 20:] == 7).all()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_weird_modes_are_what_pillow_makes_of_them(mode: str, decoder: str):
    picture = Image.fromarray(WIDE)
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    rgba = picture.copy()
    rgba.putalpha(128)
    frames = [picture, picture.rotate(90, expand=True).resize(picture.size)]
    files = {
        "CMYK": encoded(picture.convert("CMYK")),
        "16 bits": encoded(Image.fromarray(deep), "PNG"),
        "palette": encoded(picture.convert("P"), "PNG"),
        "alpha": encoded(rgba, "PNG"),
        "black and white": encoded(picture.convert("1"), "PNG"),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "TIFF": encoded(picture, "TIFF"),
        "WebP": encoded(picture, "WEBP"),
    }
    for kind, content in files.items():
        whole = decode_image(content, mode, decoder="pillow")
        size = (whole.shape[1], whole.shape[2])
        preprocessing = recipe(size, mode, resize="stretch", decoder=decoder)
        assert torch.equal(preprocessing(content), whole), kind
        assert preprocessing.random_crop(content).shape == whole.shape
    ramp = recipe((64, 64), "L", resize="stretch", decoder=decoder)(files["16 bits"])
    assert (ramp.min(), ramp.max()) == (0, 255)
    assert ramp.unique().numel() == 256, "scaled, not clipped"


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", bad_files())
def test_a_bad_file_is_named(kind: str, decoder: str, tmp_path: Path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(bad_files()[kind])
    preprocessing = recipe(decoder=decoder)
    for use in (preprocessing, preprocessing.stored, preprocessing.random_crop):
        with pytest.raises(DataError, match=r"bad.jpg"):
            use(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError, match=path.name):
            recipe()(path)


def test_half_a_photo_is_found_even_if_an_end_was_put_to_it():
    preprocessing = recipe()
    for use in (preprocessing, preprocessing.random_crop, decode_image):
        with pytest.raises(DataError, match=r"no image that can be read: .*premature end"):
            use({"bytes": sealed_half(), "path": "half.jpg"})


def test_bytes_between_segments_harm_nothing():
    content = encoded(WIDE)
    odd = content[:-2] + b"\0\0\0" + content[-2:]
    assert torch.equal(decode_image(odd), decode_image(content))
    assert torch.equal(recipe()(odd + b"trailing"), recipe()(content))


def test_a_description_is_plain_and_makes_the_same_recipe():
    first = recipe((24, 32), resize="pad", mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.0])
    description = json.loads(json.dumps(first.describe()))
    second = Preprocessing.from_description(description)
    assert second.describe() == first.describe()
    content = encoded(WIDE)
    assert torch.equal(first(content), second(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": "squash"}, "squash"),
        ({"image_size": [32]}, "expected .height, width."),
        ({"image_size": None}, "image_size is not resolved"),
        ({"image_size": [0, 3]}, "> ?=? ?1"),
        ({"mode": None}, "mode is not resolved"),
        ({"crop_share": 1.5}, "crop_share"),
        ({"mean": [0.5]}, "mean has 1 values"),
        ({"dekoder": "turbo"}, "dekoder"),
        ({"background": 300}, "background"),
    ],
)
def test_a_wrong_description_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_description(recipe().describe() | change)


def test_an_incomplete_description_is_refused():
    description = recipe().describe()
    del description["decoder"]
    with pytest.raises(ConfigError, match="lacks decoder"):
        Preprocessing.from_description(description)


def test_the_same_file_is_the_same_in_another_process_with_more_threads(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo(700, 900)))
    preprocessing = recipe((64, 64))
    code = (
        "import json, sys, torch; torch.set_num_threads(2)\n"
        "from common.data import Preprocessing\n"
        "recipe = Preprocessing.from_description(json.loads(sys.argv[1]))\n"
        "torch.manual_seed(3)\n"
        "pixels = [recipe(sys.argv[2]), recipe.random_crop(sys.argv[2])]\n"
        "sys.stdout.write(torch.stack(pixels).numpy().tobytes().hex())"
    )
    arguments = [json.dumps(preprocessing.describe()), str(path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=True, text=True
    )
    torch.manual_seed(3)
    expected = torch.stack([preprocessing(path), preprocessing.random_crop(path)])
    assert done.stdout == expected.numpy().tobytes().hex()


def test_the_section_is_read_without_pytorch():
    code = "import sys; import common.data.preprocessing_config as c; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
