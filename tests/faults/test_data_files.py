"""Data that is not what it should be: named by file and index, never misaligned (row 23)."""

import io
import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.data import (
    DecodedImages,
    ImageDataset,
    SampleLoader,
    ShuffledBatches,
    check_labels,
    decode_image,
    find_duplicates,
    load_pairs,
    read_pairs,
    scan_images,
)
from common.utils.errors import ConfigError, DataError

pytestmark = pytest.mark.fault(23)

SIZE = 24


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


# ---- one image ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
def test_an_image_cut_short_anywhere_is_refused(tmp_path: Path, kind: str):
    content = encode(noise(), kind)
    path = tmp_path / "photo"
    for end in [len(content) * tenth // 10 for tenth in range(10)]:
        path.write_bytes(content[:end])
        with pytest.raises(DataError) as raised:
            decode_image(path)
        assert str(raised.value).startswith(str(path)), end
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"<!doctype html><p>404", "begins with b'<!doctyp'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no JPEG, PNG"),
        (os.urandom(3000).replace(b"BM", b"  "), "is no"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "is no"),
        (png(100, 100, b"\0" * 50), "image file is truncated"),
        (png(20_000, 20_000), "400,000,000|decompression bomb"),
        (png(10_000, 10_000), "decompression bomb|100,000,000"),
        (png(2**31 - 1, 2**31 - 1), "decompression bomb"),
    ],
    ids=["empty", "html", "eps", "random", "broken", "short", "bomb", "small bomb", "huge bomb"],
)
def test_what_is_no_good_image_is_refused_with_its_name(content: bytes, problem: str):
    source = {"bytes": content, "path": "photos/a.jpg"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=problem) as raised:
            decode_image(source)
    assert str(raised.value).startswith("photos/a.jpg")


def test_the_limit_on_pixels_is_checked_before_they_are_decoded():
    content = png(1000, 500)  # no pixels in it: decoding would say truncated
    with pytest.raises(DataError, match="1000 x 500 pixels; the limit is 499,999"):
        decode_image(content, max_pixels=499_999)
    with pytest.raises(DataError, match="truncated"):
        decode_image(content, max_pixels=500_000)


@pytest.mark.parametrize("kind", ["F", "I"])
def test_numbers_without_an_agreed_range_are_refused(kind: str):
    dtype = np.float32 if kind == "F" else np.int32
    image = Image.fromarray(np.full((3, 3), 70_000, dtype=dtype))
    with pytest.raises(DataError, match="no agreed range"):
        decode_image(encode(image, "TIFF"))


def test_a_path_that_is_no_file_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none.jpg", "a\0b"):
        with pytest.raises(DataError, match=r"cannot read|no regular file"):
            decode_image(path)


# ---- many images -------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> tuple[list[Path], list[int]]:
    """Twenty photos, each of the grey level 10 times its label, of which 3 and 11 are bad."""
    paths, labels = [], []
    for index in range(20):
        path = tmp_path / f"{index:02}.png"
        label = index % 5
        path.write_bytes(encode(Image.new("L", (4, 4), 10 * label)))
        paths.append(path)
        labels.append(label)
    paths[3].write_bytes(paths[3].read_bytes()[:50])
    paths[11].write_bytes(b"not an image")
    return paths, labels


def test_a_bad_image_stops_a_run_that_does_not_skip(photos: Any):
    paths, labels = photos
    data = ImageDataset(DecodedImages(paths), labels, num_classes=5)
    assert len(data) == 20
    with pytest.raises(DataError, match=rf"^image 3: {paths[3]}"):
        data[3]
    loader = SampleLoader(data, ShuffledBatches(20, 20, shuffle=False))
    with pytest.raises(DataError, match=r"11\.png|03\.png"):
        list(loader.batches(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_image_takes_its_label_with_it(photos: Any, workers: int):
    paths, labels = photos
    data = ImageDataset(DecodedImages(paths), labels, 5, on_bad="skip", workers=workers)
    assert list(data.skipped) == [3, 11]
    assert "03.png" in data.skipped[3]
    assert (len(data), data.indices.tolist()) == (18, [i for i in range(20) if i not in (3, 11)])
    seen = []
    for batch in SampleLoader(data, ShuffledBatches(len(data), 5, seed=1)).batches(0):
        assert (batch["image"][:, 0, 0, 0] == 10 * batch["label"]).all()
        seen += batch["label"].tolist()
    assert sorted(seen) == sorted(label for i, label in enumerate(labels) if i not in (3, 11))


def test_looking_for_bad_images_draws_nothing_from_the_training(photos: Any):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert len(scan_images(DecodedImages(photos[0]))) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_a_manifest_saves_the_look_until_an_image_changes(photos: Any, tmp_path: Path):
    paths, labels = photos
    manifest = tmp_path / "manifest.json"

    class Counting(DecodedImages):
        read = 0

        def __getitem__(self, index: int) -> Any:
            Counting.read += 1
            return super().__getitem__(index)

    def skipped() -> list[int]:
        data = ImageDataset(Counting(paths), labels, 5, on_bad="skip", manifest=manifest)
        return list(data.skipped)

    assert skipped() == [3, 11]
    assert Counting.read == 20
    assert skipped() == [3, 11]
    assert Counting.read == 20
    assert json.loads(manifest.read_text())["count"] == 20
    paths[3].write_bytes(paths[4].read_bytes())
    assert skipped() == [11]
    assert Counting.read == 40
    manifest.write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json is no manifest"):
        skipped()


def test_an_image_that_went_bad_after_the_look_is_not_skipped_silently(photos: Any):
    paths, labels = photos
    data = ImageDataset(DecodedImages(paths), labels, 5, on_bad="skip")
    paths[4].write_bytes(b"")
    with pytest.raises(DataError, match=r"image 4: .*04\.png is empty"):
        data[3]


def test_what_makes_no_data_set_is_refused(photos: Any, tmp_path: Path):
    paths, labels = photos
    with pytest.raises(DataError, match="20 images and 19 labels"):
        ImageDataset(DecodedImages(paths), labels[1:], 5)
    with pytest.raises(DataError, match="label 4 is 4, expected 0 to 3"):
        ImageDataset(DecodedImages(paths), labels, 4)
    with pytest.raises(DataError, match="there are no images"):
        ImageDataset(DecodedImages([]), [], 4)
    with pytest.raises(DataError, match="none of the 1 images can be read; the first: image 0"):
        ImageDataset(DecodedImages([b"x"]), [0], 4, on_bad="skip")
    with pytest.raises(ConfigError, match="on_bad is 'ignore'"):
        ImageDataset(DecodedImages(paths), labels, 5, on_bad="ignore")
    with pytest.raises(ConfigError, match=r"image 0.* is decoded already"):
        ImageDataset(DecodedImages([noise()]), [0], 1, on_bad="skip", manifest=tmp_path / "m.json")


# ---- labels, texts, splits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([0, 1, 3, 7], r"train: label 2 is 3, expected 0 to 2; 2 of 4 are out of range"),
        (torch.tensor([0, -100]), "label 1 is -100"),
        ([0, None, 1], "label 1 is None, expected an integer"),
        ([0, 1.5], r"label 1 is 1\.5, expected an integer"),
        (np.array([[0], [1]]), r"shape \(2, 1\)"),
        (["0", "1"], "label 0 is '0'"),
        ([[0], [1, 2]], r"label 0 is \[0\]"),
        (np.array([0, 2**40]), "label 1 is 1099511627776"),
    ],
)
def test_a_label_out_of_range_is_named(labels: Any, problem: str):
    check_labels([0, 2, 1], 3, "train")
    with pytest.raises(DataError, match=problem):
        check_labels(labels, 3, "train")


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        (b"", b"", "there are no pairs"),
        (b"", b"a\n", "0 sources and 1 targets"),
        (b"a\nb\n", b"x\ny\nz\n", r"a\.en ends after line 2, .*b\.de after line 3: its line 3 has"),
        (b"a\nb\nc\n", b"x\n", r"b\.de ends after line 1, .*a\.en after line 3: its line 2 has"),
        (b"a\nb\xe9\n", b"x\ny\n", r"a\.en, line 2: the byte b'\\xe9' is no UTF-8"),
        ("a\n".encode("utf-16"), b"x\n", r"a\.en, line 1"),
    ],
)
def test_pairs_that_do_not_fit_are_named(tmp_path: Path, source: bytes, target: bytes, problem):
    (tmp_path / "a.en").write_bytes(source)
    (tmp_path / "b.de").write_bytes(target)
    with pytest.raises(DataError, match=problem):
        read_pairs(tmp_path / "a.en", tmp_path / "b.de")


def test_byte_order_marks_and_carriage_returns_are_no_part_of_a_text(tmp_path: Path):
    (tmp_path / "a.en").write_bytes(b"\xef\xbb\xbfone\r\ntwo\x0b\xe2\x80\xa8half\r\nthree")
    (tmp_path / "b.de").write_bytes(b"1\n2\n3\n")
    pairs = read_pairs(tmp_path / "a.en", tmp_path / "b.de")
    assert pairs == (["one", "two\x0b\u2028half", "three"], ["1", "2", "3"])


def test_a_missing_column_names_the_nearest():
    with pytest.raises(DataError, match=r"embedded/dates, split 'train' has no column 'sorce'"):
        load_pairs("embedded/dates", "sorce", "target")


def test_examples_that_are_in_two_splits_are_counted(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encode(noise(1)))
    splits = {
        "train": [("a", "b"), ("c", "d"), "ab", tmp_path / "a.png", torch.tensor([1, 2]), "c"],
        "validation": [("a", "bc"), ("ab", "c"), torch.tensor([1.0, 2.0]), 1],
        "test": [encode(noise(1)), ("c", "d"), ["c", "d"], True, {"x": 1, "y": 2}, torch.tensor([1, 2])],
    }  # fmt: skip
    assert find_duplicates(splits) == {"train, test": [(3, 0), (1, 1), (1, 2), (4, 5)]}
    with pytest.raises(TypeError, match="object has no bytes"):
        find_duplicates({"train": [object()]})


def test_the_embedded_data_shares_nothing_between_its_splits():
    from common.data import load_splits

    pairs = {
        split: list(zip(columns["source"], columns["target"], strict=True))
        for split, columns in load_splits("embedded/dates").items()
    }
    assert find_duplicates(pairs) == {}
