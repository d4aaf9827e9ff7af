"""Items come from data sets, folders and CSV files; what is wrong with them is one line that says where."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.preprocessing import Preprocessing
from common.data.preprocessing_config import PreprocessingConfig
from common.utils.errors import ConfigError, DataError
from projects.product_matching.core.config import DataConfig
from projects.product_matching.core.items.items import read_items
from tests.projects.product_matching.sessions import EACH, LABELS, write_photos


def _png(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(path)


def _csv(folder: Path, text: str) -> DataConfig:
    for name in ("a", "b", "c"):
        _png(folder / f"{name}.png")
    (folder / "items.csv").write_text(text, encoding="utf-8")
    return DataConfig(csv=str(folder / "items.csv"))


def test_a_folder_a_csv_file_and_a_data_set_give_the_same_kind_of_items(tmp_path: Path) -> None:
    photos = write_photos(tmp_path)
    by_folder = read_items(DataConfig(folder=str(photos)))
    by_csv = read_items(DataConfig(csv="items.csv"), photos, titles=True)
    assert len(by_folder) == len(by_csv) == LABELS * EACH
    assert dict(zip(by_folder.names, by_folder.labels, strict=True)) == dict(
        zip(by_csv.names, by_csv.labels, strict=True)
    )
    assert by_csv.titles is not None
    assert all(by_csv.titles)
    digits = read_items(DataConfig(), titles=True)
    assert len(digits) == 800
    assert len(set(digits.names)) == 800
    recipe = Preprocessing(PreprocessingConfig([32, 32], mode="L", resize="stretch"))
    file = by_folder.sources[by_folder.names.index(by_csv.names[3])]
    assert (recipe(file) == recipe(by_csv.sources[3])).all()


def test_a_subset_keeps_every_column_in_step(tmp_path: Path) -> None:
    items = read_items(DataConfig(csv="items.csv"), write_photos(tmp_path), titles=True)
    part = items.subset([7, 2])
    assert part.names == (items.names[7], items.names[2])
    assert part.labels == (items.labels[7], items.labels[2])
    assert list(part.sources) == [items.sources[7], items.sources[2]]
    assert part.titles == (items.titles or ())[7:8] + (items.titles or ())[2:3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.png,x\nmissing.png,x\n", r"items\.csv:3: there is no file .*missing\.png"),
        ("image,label\na.png,x\na.png,x\n", r"items\.csv:3: a\.png is on line 2 already"),
        ("", r"items\.csv is empty; expected a first line with the columns image, label"),
        ("image,label\na.png,\n", r"items\.csv:2: the column 'label' is empty"),
        ("picture,label\na.png,x\n", r"items\.csv:1: there is no column 'image'"),
        ("image,label\n", "has no line below its header"),
        ("image,label\na.png,x\nb.png,x\n", "all 2 items have the label 'x'"),
        ("image,label\na.png,x\nb.png,y\n", "no two of the 2 items share a label"),
    ],
)
def test_a_csv_file_that_cannot_be_used_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_items(_csv(tmp_path, text))


def test_a_file_is_one_item_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("a.png")
    for other in ("./a.png", f"../{tmp_path.name}/a.png", str(tmp_path / "a.png"), "link.png"):
        message = rf"items\.csv:4: {re.escape(other)} is on line 2 already as a\.png"
        with pytest.raises(DataError, match=message):
            read_items(_csv(tmp_path, f"image,label\na.png,x\nb.png,x\n{other},y\nc.png,y\n"))


def test_a_link_within_a_folder_is_no_second_item(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/b.png", "y/c.png"):
        _png(tmp_path / name)
    assert len(read_items(DataConfig(folder=str(tmp_path)))) == 3
    (tmp_path / "y" / "d.png").symlink_to(tmp_path / "x" / "a.png")
    with pytest.raises(DataError, match=r"x/a\.png and y/d\.png in .* are one file"):
        read_items(DataConfig(folder=str(tmp_path)))


def test_a_label_with_one_item_is_allowed_and_counted(tmp_path: Path, logged: list[str]) -> None:
    config = _csv(tmp_path, "image,label\na.png,x\nb.png,x\nc.png,y\n")
    assert read_items(config).alone == 1
    assert any("1 of 2 labels has one item" in line for line in logged)
    config.min_per_label = 2
    with pytest.raises(DataError, match="all 2 items have the label 'x'"):
        read_items(config)


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        read_items(DataConfig(folder=str(tmp_path / "nothing")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.folder: no image in"):
        read_items(DataConfig(folder=str(tmp_path / "empty")))
    _png(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match=r"1 of 1 images .* lie in no sub-folder"):
        read_items(DataConfig(folder=str(tmp_path / "flat")))


def test_an_unknown_split_or_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=re.escape("no split 'tset'; did you mean 'test'?")):
        read_items(DataConfig(splits=["tset"]))
    with pytest.raises(DataError, match="no column 'lable'; did you mean 'label'"):
        read_items(DataConfig(label="lable"))


def test_two_sources_of_items_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.folder and data\.csv are both set"):
        DataConfig(folder="photos", csv="items.csv")
