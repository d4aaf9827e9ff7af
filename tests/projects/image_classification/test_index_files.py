"""Index files: every name survives, and every wrong line is named."""

import os
from pathlib import Path

import pytest

from common.utils.errors import DataError
from projects.image_classification.core.index_files import (
    escape,
    find_files,
    read_index,
    unescape,
    write_index,
)

ORDINARY = ["raw/cat/a b.jpg", "raw/собаки/猫 é.png", "raw/c/#1 'x' \"y\" $z%20;,.jpg"]
ODD = [
    *("raw/a/new\nline.png", "raw/a/cr\r.png", "raw/a/tab\t.png", "raw/a/back\\slash\\n.png"),
    *("raw/a/end ", " raw/a/start.png", "raw/a/\x01\x7f\x85.png", "raw/a/\u2028\u2029\ufeff.png"),
    *("\ufeffraw/a/mark.png", os.fsdecode(b"raw/a/\xff\xfe.png"), "raw/a/\\x20.png"),
]


def test_ordinary_names_stand_as_they_are(tmp_path: Path):
    write_index(tmp_path / "i.txt", ORDINARY)
    assert (tmp_path / "i.txt").read_bytes() == ("\n".join(ORDINARY) + "\n").encode()


def test_every_name_survives_and_each_has_one_line(tmp_path: Path):
    write_index(tmp_path / "i.txt", ORDINARY + ODD)
    assert read_index(tmp_path / "i.txt") == ORDINARY + ODD
    text = (tmp_path / "i.txt").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(ORDINARY + ODD)  # also for readers that split at U+2028


def test_every_character_of_the_basic_plane_survives():
    for start in range(0, 0x10000, 97):
        name = "".join(chr(code) for code in range(start, min(start + 97, 0x10000)))
        assert unescape(escape(name)) == name


def test_lists_made_elsewhere_are_read(tmp_path: Path):
    content = "\ufeffraw/a/1.jpg\r\n\r\n  raw/a/2.jpg \r\n"
    (tmp_path / "i.txt").write_bytes(content.encode())
    assert read_index(tmp_path / "i.txt") == ["raw/a/1.jpg", "raw/a/2.jpg"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/photos/a.jpg", "absolute"),
        ("raw/../../secret.jpg", "no plain path"),
        ("raw//a.jpg", "no plain path"),
        ("raw/a/1.jpg", "stands in line 1"),
        ("raw\\a\\1.jpg", "separated by '/'"),
        ("raw/\\x00.jpg", "no plain path"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str):
    (tmp_path / "i.txt").write_text(f"raw/a/1.jpg\n{line}\n")
    with pytest.raises(DataError, match=r"i\.txt, line 2: ") as caught:
        read_index(tmp_path / "i.txt")
    assert said in str(caught.value)


def test_text_in_another_encoding_and_a_missing_file_are_refused(tmp_path: Path):
    (tmp_path / "i.txt").write_bytes("raw/é.jpg\n".encode("latin-1"))
    with pytest.raises(DataError, match="no UTF-8: byte 4 is 0xe9"):
        read_index(tmp_path / "i.txt")
    with pytest.raises(DataError, match="make it with ml-split"):
        read_index(tmp_path / "gone.txt")


def test_a_path_that_could_not_be_read_again_is_not_written(tmp_path: Path):
    with pytest.raises(DataError, match="absolute"):
        write_index(tmp_path / "i.txt", ["/a.jpg"])
    assert not (tmp_path / "i.txt").exists()


def test_a_moved_raw_folder_is_told_from_a_missing_file(tmp_path: Path):
    index = tmp_path / "splits" / "test.txt"
    index.parent.mkdir()
    names = [f"raw/a/{number}.jpg" for number in range(3)]
    write_index(index, names)
    with pytest.raises(DataError, match="was it moved") as caught:
        find_files(index, names)
    assert f"{index}, line 1:" in str(caught.value)
    assert "3 of the 3" in str(caught.value)
    assert str(tmp_path / "raw") in str(caught.value)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    for number in (0, 2):
        (tmp_path / "raw" / "a" / f"{number}.jpg").touch()
    with pytest.raises(DataError, match=r"line 2: .*1 of the 3 .*has changed"):
        find_files(index, names)
    (tmp_path / "raw" / "a" / "1.jpg").touch()
    assert find_files(index, names) == [tmp_path / name for name in names]
