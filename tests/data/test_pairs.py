"""Pairs of texts: never misaligned, padded as the plain loop would."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from common.data import hf_utils
from common.data.orders import BucketedBatches, ShuffledBatches
from common.data.pairs import (
    PairLoader,
    TokenLists,
    check_pairs,
    load_pairs,
    pad_batch,
    read_lines,
    read_pairs,
)
from common.utils.errors import DataError

GENERATOR = np.random.default_rng(0)
SOURCE = [GENERATOR.integers(3, 90, n).tolist() for n in GENERATOR.integers(1, 20, 60)]
TARGET = [GENERATOR.integers(3, 90, n).tolist() for n in GENERATOR.integers(1, 20, 60)]


def test_token_lists_give_back_what_they_hold():
    lists = TokenLists([[5, 6], [], [7], [8, 9, 10]])
    assert [lists[i] for i in range(len(lists))] == [[5, 6], [], [7], [8, 9, 10]]
    assert lists.lengths.tolist() == [2, 0, 1, 3]


def test_padding_by_hand():
    assert pad_batch([[5, 6], [7], [8, 9, 10]], pad_id=0).tolist() == [
        [5, 6, 0],
        [7, 0, 0],
        [8, 9, 10],
    ]
    assert pad_batch([[], [4]], pad_id=1).tolist() == [[1], [4]]


@pytest.mark.parametrize("world_size", [1, 3])
def test_batches_hold_the_pairs_their_indices_name(world_size: int):
    lengths = [(len(s), len(t)) for s, t in zip(SOURCE, TARGET, strict=True)]
    loader = PairLoader(SOURCE, TARGET, BucketedBatches(lengths, 64, seed=1), pad_id=0)
    for rank in range(world_size):
        batches = list(loader.batches(2, start=3, rank=rank, world_size=world_size))
        assert len(batches) == loader.num_batches(2) - 3
        for number, batch in enumerate(batches, start=3):
            rows = loader.indices(2, number)[rank::world_size]
            if not rows:
                assert batch is None
                continue
            for side, lists in (("source", SOURCE), ("target", TARGET)):
                expected = [torch.tensor(lists[row]) for row in rows]
                padded = torch.nn.utils.rnn.pad_sequence(expected, batch_first=True)
                assert torch.equal(batch[side], padded)
                assert batch[side].dtype == torch.int64


def test_sides_of_unequal_length_make_no_loader():
    with pytest.raises(DataError, match="60 sources and 59 targets"):
        PairLoader(SOURCE, TARGET[:-1], ShuffledBatches(60, 4), pad_id=0)


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


def test_lines_end_at_line_feeds_alone(tmp_path: Path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffone\r\ntwo\u2028still two\x85\r\n\nfour\n".encode())
    assert read_lines(path) == ["one", "two\u2028still two\x85", "", "four"]
    path.write_bytes(b"no line feed at the end")
    assert read_lines(path) == ["no line feed at the end"]


def test_files_of_pairs(tmp_path: Path):
    source, target = tmp_path / "en", tmp_path / "de"
    source.write_text("a\nb\n")
    target.write_text("c\nd\n")
    assert read_pairs(source, target) == (["a", "b"], ["c", "d"])
    target.write_text("c\n")
    with pytest.raises(
        DataError, match=r"de ends after line 1, .*en after line 2: its line 2 has no partner"
    ):
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


def test_embedded_pairs():
    splits = load_pairs("embedded/reverse", "source", "target")
    assert [len(splits[s][0]) for s in ("train", "validation", "test")] == [10_000, 500, 500]
    assert all(s[::-1] == t for s, t in zip(*splits["test"], strict=True))


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch):
    """The store answers with what the test puts in."""
    found = datasets.DatasetDict()
    monkeypatch.setattr(hf_utils, "download_dataset", lambda name, config=None: found)
    return found


def test_stored_pairs_also_from_a_nested_column(stored: datasets.DatasetDict):
    stored["test"] = datasets.Dataset.from_dict({"en": ["a", "b"], "de": ["c", "d"]})
    assert load_pairs("multi30k", "en", "de") == {"test": (["a", "b"], ["c", "d"])}
    rows = [{"en": "a", "de": "c"}, {"en": "b", "de": "d"}]
    stored["test"] = datasets.Dataset.from_dict({"translation": rows})
    pairs = load_pairs("wmt14", "translation.en", "translation.de", "de-en")
    assert pairs == {"test": (["a", "b"], ["c", "d"])}


def test_a_missing_column_and_a_missing_text_are_named(stored: datasets.DatasetDict):
    stored["test"] = datasets.Dataset.from_dict({"en": ["a", None], "de": ["c", "d"]})
    with pytest.raises(DataError, match="x, split 'test' has no column 'fr'; valid: de, en"):
        load_pairs("x", "en", "fr")
    with pytest.raises(DataError, match="x, split 'test': source 1 is missing"):
        load_pairs("x", "en", "de")
    stored["test"] = datasets.Dataset.from_dict({"en": [], "de": []})
    with pytest.raises(DataError, match="x, split 'test': there are no pairs"):
        load_pairs("x", "en", "de")


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("embedded/date", None, "no data set 'embedded/date'; did you mean 'embedded/dates'"),
        ("embedded/dates", "de", "embedded/dates has no configurations"),
    ],
)
def test_an_embedded_data_set_that_does_not_exist(name: str, config: str | None, words: str):
    with pytest.raises(DataError, match=words):
        load_pairs(name, "source", "target", config)
