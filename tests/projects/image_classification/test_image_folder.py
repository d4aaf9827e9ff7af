"""What counts as an image of a class, and what does not."""

import os
from pathlib import Path

import pytest

from common.utils.errors import DataError
from projects.image_classification.core.folder.image_folder import ImageFolder, find_images


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root: Path) -> ImageFolder:
    return find_images(root / "raw")


def test_images_at_any_depth_belong_to_the_first_folder(tmp_path: Path):
    make(tmp_path, "raw/b/2.PNG", "raw/a/deep/er/1.jpg", "raw/a x/3.webp")
    folder = found(tmp_path)
    assert folder.names == ["raw/a x/3.webp", "raw/a/deep/er/1.jpg", "raw/b/2.PNG"]
    assert folder.classes == ["a x", "a", "b"]


def test_hidden_files_are_invisible_and_others_are_listed(tmp_path: Path):
    make(tmp_path, "raw/a/1.jpg", "raw/a/notes.txt", "raw/a/x.heic", "raw/stray.png", "raw/r.csv")
    make(tmp_path, "raw/a/.DS_Store", "raw/a/._1.jpg", "raw/a/Thumbs.db", "raw/.git/x.jpg")
    make(tmp_path, "raw/__MACOSX/a/1.jpg")
    (tmp_path / "raw/empty").mkdir()
    folder = found(tmp_path)
    assert folder.names == ["raw/a/1.jpg"]
    assert folder.ignored == ["raw/a/notes.txt", "raw/a/x.heic", "raw/r.csv"]
    assert folder.stray == ["raw/stray.png"]
    assert folder.empty_classes == ["empty"]


def test_links_back_do_not_multiply_images(tmp_path: Path):
    make(tmp_path, "raw/a/1.jpg", "raw/b/2.jpg")
    os.symlink("..", tmp_path / "raw/a/up")
    os.symlink("../b", tmp_path / "raw/a/other")
    os.symlink("../..", tmp_path / "raw/b/above")
    os.symlink("self", tmp_path / "raw/b/self")
    folder = found(tmp_path)
    assert folder.names == ["raw/a/1.jpg", "raw/b/2.jpg"]
    assert list(folder.links) == ["raw/a/other", "raw/a/up", "raw/b/above", "raw/b/self"]


def test_a_class_may_be_a_link_to_where_its_photos_lie_but_only_one(tmp_path: Path):
    make(tmp_path, "photos/1.jpg", "raw/b/2.jpg")
    os.symlink(tmp_path / "photos", tmp_path / "raw/a")
    os.symlink(tmp_path / "photos", tmp_path / "raw/c")
    os.symlink("..", tmp_path / "photos/loop")
    folder = found(tmp_path)
    assert folder.names == ["raw/a/1.jpg", "raw/b/2.jpg"]
    assert set(folder.links) == {"raw/a/loop", "raw/c"}


def test_links_to_files_are_images_and_broken_ones_are_not_forgotten(tmp_path: Path):
    make(tmp_path, "elsewhere.jpg", "raw/b/2.jpg")
    (tmp_path / "raw/a").mkdir()
    os.symlink(tmp_path / "elsewhere.jpg", tmp_path / "raw/a/1.jpg")
    os.symlink("/gone.jpg", tmp_path / "raw/a/2.jpg")
    os.symlink("/gone", tmp_path / "raw/c")
    folder = found(tmp_path)
    assert folder.names == ["raw/a/1.jpg", "raw/a/2.jpg", "raw/b/2.jpg"]
    assert folder.links == {"raw/c": "leads nowhere"}


def test_the_raw_folder_itself_may_be_a_link(tmp_path: Path):
    make(tmp_path / "disk", "flowers/a/1.jpg")
    os.symlink(tmp_path / "disk/flowers", tmp_path / "raw")
    assert found(tmp_path).names == ["raw/a/1.jpg"]


def test_the_same_text_in_two_unicode_forms_is_refused_and_case_is_warned_of(tmp_path: Path):
    make(tmp_path, "raw/Cat/1.jpg", "raw/cat/2.jpg", "raw/dog/3.jpg")
    assert "'Cat' and 'cat' differ only in case" in found(tmp_path).warnings[0]
    make(tmp_path, "raw/caf\u00e9/1.jpg", "raw/cafe\u0301/2.jpg")
    with pytest.raises(DataError, match="same text in two Unicode forms"):
        found(tmp_path)


def test_a_class_name_that_is_no_text_is_refused(tmp_path: Path):
    make(tmp_path, "raw/a/1.jpg", "raw/b\nc/1.jpg")
    with pytest.raises(DataError, match="rename it"):
        found(tmp_path)


def test_folders_with_nothing_to_split_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        found(tmp_path)
    make(tmp_path, "raw/1.jpg", "raw/2.txt")
    with pytest.raises(DataError, match="1 images outside of class folders"):
        found(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        find_images(tmp_path / "raw/1.jpg")


def test_the_folder_above_is_recognised(tmp_path: Path):
    make(tmp_path, "pets/raw/a/1.jpg", "pets/splits/split.json")
    for wrong in (tmp_path / "pets", tmp_path):
        with pytest.raises(DataError, match=r"did you mean .*pets/raw"):
            find_images(wrong)
