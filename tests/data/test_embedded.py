"""Embedded data sets: always the same, splits apart, every text with one meaning."""

import datetime
import hashlib
import re
import sys
from time import process_time

import numpy as np
import pytest
from babel import Locale

from common.data.embedded import EMBEDDED, dates, digit_products, digits, load_embedded, sequences
from common.utils.errors import DataError


@pytest.fixture(scope="module")
def written_dates() -> dict[str, dict[str, list[str]]]:
    return load_embedded("embedded/dates")


def test_dates_have_their_sizes_and_columns(written_dates: dict):
    assert {split: len(columns["source"]) for split, columns in written_dates.items()} == {
        "train": 20_000,
        "validation": 1_000,
        "test": 1_000,
    }
    for columns in written_dates.values():
        assert {len(values) for values in columns.values()} == {len(columns["source"])}
        assert len(set(columns["locale"])) == 20


def test_no_date_is_in_two_splits(written_dates: dict):
    targets = [target for columns in written_dates.values() for target in columns["target"]]
    assert len(set(targets)) == len(targets)


def test_a_date_is_what_its_text_says(written_dates: dict):
    """The day and the year stand in the text as digits; no other number does, but the month."""
    for columns in written_dates.values():
        for source, target in zip(columns["source"], columns["target"], strict=True):
            date = datetime.date.fromisoformat(target)
            numbers = sorted(map(int, re.findall(r"\d+", source)))
            assert numbers in (
                [date.day, date.year],
                sorted([date.day, date.month, date.year]),
            ), source


def test_known_dates_in_known_languages():
    date = datetime.date(2019, 5, 3)
    assert dates.written(date, Locale.parse("de_DE"), "full") == "Freitag, 3. Mai 2019"
    assert dates.written(date, Locale.parse("en_US"), "long") == "May 3, 2019"
    assert dates.written(date, Locale.parse("ja_JP"), "long") == "2019年5月3日"


def test_no_text_has_two_meanings():
    """Over every day of a leap year, in every locale and format."""
    meaning: dict[str, datetime.date] = {}
    first = datetime.date(2004, 1, 1)
    for name, styles in dates.FORMATS.items():
        locale = Locale.parse(name)
        for style in styles:
            for day in range(366):
                date = first + datetime.timedelta(days=day)
                text = dates.written(date, locale, style)
                assert meaning.setdefault(text, date) == date, (name, style, text)


def test_making_dates_takes_under_three_seconds():
    start = process_time()
    dates.make()
    assert process_time() - start < 3


def digest(columns: dict) -> str:
    values = [np.asarray(values).tobytes() for _, values in sorted(columns.items())]
    return hashlib.sha256(b"".join(values)).hexdigest()


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_data_set_is_always_the_same_and_its_splits_differ(name: str):
    first, again = load_embedded(name), load_embedded(name)
    assert list(first) in (["train", "validation", "test"], ["train", "test"])
    assert [digest(c) for c in first.values()] == [digest(c) for c in again.values()]
    assert len({digest(columns) for columns in first.values()}) == len(first)


@pytest.mark.parametrize(
    "make", [dates.make, lambda seed: sequences.make("copy", seed), digits.make]
)
def test_another_seed_gives_another_data_set(make):
    assert digest(make(seed=0)["test"]) != digest(make(seed=1)["test"])


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    theirs = {
        (image.astype(int).tobytes(), label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    ours = set()
    splits = load_embedded("embedded/digits")
    for columns in splits.values():
        assert columns["image"].dtype == np.uint8
        assert columns["image"].shape[1:] == (8, 8)
        for image, label in zip(columns["image"], columns["label"], strict=True):
            ours.add((np.round(image / (255 / 16)).astype(int).tobytes(), label))
    assert ours == theirs
    assert sum(len(columns["label"]) for columns in splits.values()) == 1797


def test_digits_are_read_without_importing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # an import of it would fail
    assert len(digits.make()["train"]["label"]) > 1000


def test_digits_that_are_not_there_are_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"no datasets/data/digits\.csv\.gz.*uv pip install"):
        digits.make()


def test_every_split_of_digits_has_its_share_of_each():
    splits = load_embedded("embedded/digits")
    for digit in range(10):
        counts = {split: int((c["label"] == digit).sum()) for split, c in splits.items()}
        for split, share in digits.SHARES.items():
            assert abs(counts[split] - share * sum(counts.values())) <= 1
    assert not (np.diff(splits["train"]["label"]) >= 0).all(), "labels must not come sorted"


@pytest.mark.parametrize(
    ("kind", "of"),
    [("copy", str), ("reverse", lambda s: s[::-1]), ("sort", lambda s: "".join(sorted(s)))],
)
def test_sequences_are_what_they_say_and_occur_once(kind, of):
    splits = load_embedded(f"embedded/{kind}")
    sources = [source for columns in splits.values() for source in columns["source"]]
    targets = [target for columns in splits.values() for target in columns["target"]]
    assert targets == [of(source) for source in sources]
    assert len(set(sources)) == len(sources) == 11_000
    assert {len(source) for source in sources} == set(range(4, 13))


def test_products_carry_their_number_and_no_two_splits_share_one() -> None:
    splits = digit_products.make()
    numbers = {split: set(columns["label"].tolist()) for split, columns in splits.items()}
    assert numbers["train"] | numbers["test"] == set(range(100))
    assert {split: len(found) for split, found in numbers.items()} == {"train": 75, "test": 25}
    for columns in splits.values():
        assert columns["image"].shape == (len(columns["label"]), 32, 32)
        assert set(np.unique(columns["label"], return_counts=True)[1]) == {8}


def test_titles_say_the_number_one_of_its_digits_or_nothing() -> None:
    says = {"all": 0, "half": 0, "nothing": 0}
    for columns in digit_products.make().values():
        for number, title in zip(columns["label"].tolist(), columns["title"], strict=True):
            last = title.split()[-1]
            if last == digit_products.in_words(number):
                says["all"] += 1
            elif title.startswith("item with a"):
                assert last in map(digit_products.in_words, divmod(number, 10))
                says["half"] += 1
            else:
                assert title in ("new item", "item as pictured", "see the photo")
                says["nothing"] += 1
    assert says["all"] > 350
    assert says["half"] > 180
    assert says["nothing"] > 120


def test_raw_pixels_hardly_match_products() -> None:
    columns = digit_products.make()["train"]
    flat = columns["image"].reshape(len(columns["label"]), -1).astype(float)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    scores = flat @ flat.T
    np.fill_diagonal(scores, -2.0)
    raw = (columns["label"][scores.argmax(1)] == columns["label"]).mean()
    assert 0.02 < raw < 0.2, "chance is 0.012; matching must be learned"
