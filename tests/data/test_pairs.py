"""Pairs of texts: never misaligned, padded as the plain loop would."""

import datasets
import numpy as np
import pytest
import torch

from common.data import hf_utils
from common.data.orders import BucketedBatches
from common.data.pairs import (
    PairLoader,
    TokenLists,
    load_pairs,
    pad_batch,
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
