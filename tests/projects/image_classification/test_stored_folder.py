"""Data sets of the store become folders of image files: all of it, once, under safe names."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from common.testing.hub import LoopbackHub
from common.utils.errors import DataError
from projects.image_classification.core.folder.image_folder import find_images
from projects.image_classification.core.folder.split_files import read_split
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.folder.stored_folder import safe_class_names, unpack_dataset
from tests.data.photos import encoded
from tests.projects.image_classification.photos import photo

pytest_plugins = ["common.testing.fixtures"]

NAMES = ["T-shirt/top", "Bag", "собаки"]


def published(hub: LoopbackHub, **splits: list[tuple[bytes, int]]) -> None:
    """A repository with an image column and class labels, as people publish them."""
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    files = {}
    for split, rows in splits.items():
        columns = {
            "image": [{"bytes": content, "path": None} for content, _ in rows],
            "label": [label for _, label in rows],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        buffer = io.BytesIO()
        table.to_parquet(buffer)
        files[f"data/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    hub.push("datasets/someone/clothes", files)


def rows(start: int, count: int) -> list[tuple[bytes, int]]:
    kinds = ("PNG", "JPEG")
    return [(encoded(photo(start + n), kinds[n % 2]), n % 3) for n in range(count)]


def test_encoded_images_are_kept_byte_for_byte_and_the_own_test_set_is_kept(
    loopback_hub: LoopbackHub, tmp_path: Path
):
    train, validation, test = rows(0, 30), rows(100, 6), rows(200, 9)
    test[8] = train[2]  # a copy of a test image in the training split, of the same class
    published(loopback_hub, train=train, validation=validation, test=test)
    raw = unpack_dataset("someone/clothes", tmp_path / "clothes")
    assert sorted(path.name for path in raw.iterdir()) == ["Bag", "T-shirt_top", "собаки"]
    assert (raw / "Bag" / "train_000001.jpg").read_bytes() == train[1][0]
    assert (raw / "T-shirt_top" / "validation_000000.png").read_bytes() == validation[0][0]
    assert len(find_images(raw).names) == 45
    split = split_dataset(raw, SplitOptions(folds=3))
    assert [Path(name).stem for name in split.test] == [
        f"test_{n:06d}" for n in (1, 4, 7, 0, 3, 6, 2, 5, 8)
    ]
    copy = "raw/собаки/train_000002.png"
    assert split.report["in_no_set"] == [copy]
    assert all(copy not in train + held for train, held in split.folds)
    classes = json.loads((tmp_path / "clothes" / "splits" / "classes.json").read_text())
    assert classes["original_names"] == {"T-shirt_top": "T-shirt/top"}
    without = split_dataset(raw, SplitOptions(folds=3, keep_test=False))
    assert len(without.test) == 4 or len(without.test) == 5
    assert not without.report["in_no_set"]


def test_a_second_call_asks_nobody_and_another_data_set_is_refused(
    loopback_hub: LoopbackHub, tmp_path: Path
):
    published(loopback_hub, train=rows(0, 6))
    raw = unpack_dataset("someone/clothes", tmp_path / "clothes")
    before = sorted(raw.rglob("*"))
    requests = len(loopback_hub.downloads())
    assert unpack_dataset("someone/clothes", tmp_path / "clothes") == raw
    assert sorted(raw.rglob("*")) == before
    assert len(loopback_hub.downloads()) == requests
    with pytest.raises(DataError, match="does not come from embedded/digits"):
        unpack_dataset("embedded/digits", tmp_path / "clothes")


def test_a_damaged_image_is_unpacked_and_found_by_the_split(
    loopback_hub: LoopbackHub, tmp_path: Path
):
    data = rows(0, 30)
    data[4] = (data[5][0][:200], 1)
    published(loopback_hub, train=data)
    raw = unpack_dataset("someone/clothes", tmp_path / "clothes")
    assert list(split_dataset(raw, SplitOptions(folds=2)).report["bad"]) == [
        "raw/Bag/train_000004.jpg"
    ]


def test_rows_without_a_label_are_left_out(loopback_hub: LoopbackHub, tmp_path: Path):
    published(
        loopback_hub,
        train=rows(0, 12),
        test=[(encoded(photo(n + 50), "PNG"), -1) for n in range(3)],
    )
    raw = unpack_dataset("someone/clothes", tmp_path / "clothes")
    assert len(find_images(raw).names) == 12
    assert not (tmp_path / "clothes" / "own_test.txt").exists()


def test_nothing_is_left_when_unpacking_stops(
    loopback_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    published(loopback_hub, train=rows(0, 12))
    written = []

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 7:
            raise OSError(28, "No space left on device", str(path))
        with open(path, "wb") as file:
            return file.write(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="No space left on device"):
        unpack_dataset("someone/clothes", tmp_path / "clothes")
    assert not list((tmp_path / "clothes").glob("[!.]*"))
    assert not list((tmp_path / "clothes").glob(".tmp-*"))


def test_embedded_images_become_png_files_with_their_pixels(tmp_path: Path):
    from common.data.embedded import load_embedded

    raw = unpack_dataset("embedded/digits", tmp_path / "digits")
    test = load_embedded("embedded/digits")["test"]
    path = raw / str(test["label"][3]) / "test_000003.png"
    assert list(Image.open(path).get_flattened_data()) == test["image"][3].ravel().tolist()
    split_dataset(raw, SplitOptions(folds=2))
    assert len(read_split(tmp_path / "digits").test) == len(test["label"])


def test_class_names_become_file_names_that_stay_apart():
    names = ["a/b", "a:b", "A_B", "..", "-x", "x" * 300, "猫", " ok ", "", "nul\0"]
    safe = safe_class_names(names)
    assert safe[:2] == ["a_b", "a_b_2"]
    assert safe[6:8] == ["猫", "ok"]
    assert len({name.casefold() for name in safe}) == len(names)
    for name in safe:
        assert name
        assert name == name.strip(" .")
        assert not name.startswith(("-", "."))
        assert len(name.encode()) <= 200
        assert not set(name) & set('/\\:*?"<>|\0')
