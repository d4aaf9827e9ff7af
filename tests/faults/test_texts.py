"""Texts that are empty, misaligned, cut at the wrong place or not text at all (row 23)."""

from pathlib import Path

import datasets
import pytest

from common.data import hf_utils
from common.data.orders import BucketedBatches, ShuffledBatches
from common.data.pairs import PairLoader, check_pairs, load_pairs, read_lines, read_pairs
from common.utils.errors import DataError


@pytest.mark.fault(23)
def test_sides_of_unequal_length_make_no_loader():
    with pytest.raises(DataError, match="60 sources and 59 targets"):
        PairLoader([[1]] * 60, [[1]] * 59, ShuffledBatches(60, 4), pad_id=0)


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (["a", "b"], ["c"], "split 'train': 2 sources and 1 targets"),
        ([], [], "split 'train': there are no pairs"),
        (["a", None], ["c", "d"], "split 'train': source 1 is missing"),
        (["a", "b"], ["c", 4.5], "split 'train': target 1 is a float"),
        (["a", "b\ud800"], ["c", "d"], r"split 'train': source 1 is no valid Unicode"),
    ],
)
def test_what_makes_no_pairs_is_named(source: list, target: list, words: str):
    with pytest.raises(DataError, match=words):
        check_pairs(source, target, "x, split 'train'")


@pytest.mark.fault(23)
def test_lines_end_at_line_feeds_alone(tmp_path: Path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\x85\r\n\nfour\n".encode())
    assert read_lines(path) == ["one", "two\u2028still two\x85", "", "four"]
    path.write_bytes(b"no line feed at the end")
    assert read_lines(path) == ["no line feed at the end"]


@pytest.mark.fault(23)
def test_files_of_pairs(tmp_path: Path):
    source, target = tmp_path / "en", tmp_path / "de"
    source.write_text("a\nb\n")
    target.write_text("c\nd\n")
    assert read_pairs(source, target) == (["a", "b"], ["c", "d"])
    target.write_text("c\n")
    with pytest.raises(DataError, match=r"de ends after line 1, .*: its line 2 has no partner"):
        read_pairs(source, target)
    for side in (source, target):
        side.write_text("")
    with pytest.raises(DataError, match="there are no pairs"):
        read_pairs(source, target)
    source.write_bytes(b"fine\nalso\nnot \xe9 fine\n")
    with pytest.raises(DataError, match=r"en, line 3: the byte b'\\xe9' is no UTF-8"):
        read_pairs(source, target)
    with pytest.raises(DataError, match=r"cannot read .*missing"):
        read_lines(tmp_path / "missing")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch):
    """The store answers with what the test puts in."""
    found = datasets.DatasetDict()
    monkeypatch.setattr(hf_utils, "download_dataset", lambda name, config=None: found)
    return found


@pytest.mark.fault(23)
def test_a_missing_column_and_a_missing_text_are_named(stored: datasets.DatasetDict):
    stored["test"] = datasets.Dataset.from_dict({"en": ["a", None], "de": ["c", "d"]})
    with pytest.raises(DataError, match="x, split 'test' has no column 'fr'; valid: de, en"):
        load_pairs("x", "en", "fr")
    with pytest.raises(DataError, match="x, split 'test': source 1 is missing"):
        load_pairs("x", "en", "de")
    stored["test"] = datasets.Dataset.from_dict({"en": [], "de": []})
    with pytest.raises(DataError, match="x, split 'test': there are no pairs"):
        load_pairs("x", "en", "de")


@pytest.mark.fault(23)
def test_carriage_returns_and_a_mark_shift_no_line_of_one_side_against_the_other(tmp_path: Path):
    plain, windows = tmp_path / "en", tmp_path / "de"
    plain.write_bytes("a\nb\u2028b\n\nd\n".encode())
    windows.write_bytes("\ufeffA\r\nB\r\n\r\nD".encode())
    assert read_pairs(plain, windows) == (["a", "b\u2028b", "", "d"], ["A", "B", "", "D"])


@pytest.mark.fault(23)
def test_an_empty_sample_is_named_by_its_index():
    with pytest.raises(DataError, match=r"sample 2 has the lengths \[3, 0\]"):
        BucketedBatches([(1, 1), (2, 2), (3, 0)], 10)
    with pytest.raises(DataError, match="the data set has no samples"):
        BucketedBatches([], 10)
