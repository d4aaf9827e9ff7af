"""Folds: labels whole or spread evenly, whatever the order of rows; a frozen file is held to."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.data import Folds, frozen_folds, make_folds, read_folds
from common.utils.errors import ConfigError, DataError


def _items(count: int = 400, seed: int = 0) -> tuple[list[str], list[str]]:
    """Names, and labels of very different sizes."""
    random = np.random.default_rng(seed)
    labels = [f"product {value}" for value in (60 * random.random(count) ** 2).astype(int)]
    return [f"images/{index}.jpg" for index in range(count)], labels


def _by_name(folds: Folds) -> dict[str, int]:
    return dict(zip(folds.names, folds.assigned.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_a_label_is_in_one_fold_and_folds_are_even(seed: int) -> None:
    names, labels = _items(seed=seed)
    folds = make_folds(names, labels, count=5, seed=seed)
    assert len(set(zip(labels, folds.assigned.tolist(), strict=True))) == len(set(labels))
    assert max(folds.sizes) - min(folds.sizes) <= 2  # lone labels and small ones fill what is left
    assert sum(folds.sizes) == 400


def test_fewer_items_than_even_groups_allow_still_fill_every_fold() -> None:
    labels = ["large"] * 90 + ["a", "b", "c", "c"]
    folds = make_folds([str(i) for i in range(94)], labels, count=4)
    assert sorted(folds.sizes) == [1, 1, 2, 90]
    assert folds.alone == 2


@pytest.mark.parametrize("seed", range(3))
def test_every_fold_has_its_share_of_every_label(seed: int) -> None:
    names, labels = _items(seed=seed)
    folds = make_folds(names, labels, count=4, seed=seed, kind="stratified")
    held = Counter(zip(labels, folds.assigned.tolist(), strict=True))
    for label, size in Counter(labels).items():
        assert all(abs(held[label, fold] - size / 4) < 1 for fold in range(4))
    assert max(folds.sizes) - min(folds.sizes) <= 2


@pytest.mark.parametrize("kind", ["group", "stratified"])
def test_folds_depend_on_names_labels_and_seed_and_not_on_the_order_of_rows(kind: str) -> None:
    names, labels = _items()
    order = np.random.default_rng(1).permutation(len(names))
    folds = make_folds(names, labels, seed=3, kind=kind)
    again = make_folds([names[i] for i in order], [labels[i] for i in order], seed=3, kind=kind)
    assert _by_name(again) == _by_name(folds)
    assert again.items_sha256 == folds.items_sha256
    assert _by_name(make_folds(names, labels, seed=4, kind=kind)) != _by_name(folds)


def test_folds_are_those_of_every_machine() -> None:
    """What was dealt once is dealt for ever: these were written down."""
    names = [f"{letter}.png" for letter in "abcdefghij"]
    grouped = make_folds(names, [0, 0, 0, 1, 1, 2, 2, 3, 4, 5], count=3)
    spread = make_folds(names, ["x"] * 6 + ["y"] * 4, count=3, kind="stratified")
    assert grouped.assigned.tolist() == [0, 0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert spread.assigned.tolist() == [2, 1, 1, 2, 0, 0, 0, 1, 0, 2]


def test_a_number_and_its_text_are_one_label() -> None:
    names = list("abcdef")
    numbers = make_folds(names, [1, 1, 2, 2, 3, 3], count=2)
    texts = make_folds(names, ["1", "1", "2", "2", "3", "3"], count=2)
    assert _by_name(numbers) == _by_name(texts)


def test_a_split_is_every_row_once() -> None:
    folds = make_folds(*_items())
    held = [folds.split(fold)[1] for fold in range(5)]
    assert sorted(np.concatenate(held).tolist()) == list(range(400))
    train, validation = folds.split(2)
    assert sorted([*train, *validation]) == list(range(400))
    assert not {folds.labels[i] for i in train} & {folds.labels[i] for i in validation}
    with pytest.raises(ConfigError, match="fold is 5; expected 0 to 4"):
        folds.split(5)


def test_frozen_folds_are_read_again_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    names, labels = _items()
    names[7] = "images/\udcff\n.jpg"  # bytes that are no UTF-8, and a line end
    first = frozen_folds(path, names, labels, seed=1)
    written = path.read_bytes()
    again = frozen_folds(path, names[::-1], labels[::-1], seed=1)
    assert again.names == first.names[::-1]
    assert _by_name(again) == _by_name(first) == _by_name(read_folds(path))
    assert path.read_bytes() == written


def test_folds_of_other_data_are_refused_with_counts(tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    names, labels = _items()
    frozen_folds(path, names, labels)
    with pytest.raises(DataError, match=r"2 items are new \(the first: new/0\)"):
        frozen_folds(path, [*names, "new/0", "new/1"], [*labels, "a", "b"])
    with pytest.raises(DataError, match=r"3 items are missing \(the first: images/397.jpg\)"):
        frozen_folds(path, names[:-3], labels[:-3])
    with pytest.raises(DataError, match="1 items are labelled otherwise"):
        frozen_folds(path, names, ["another", *labels[1:]])
    with pytest.raises(DataError, match="count 5, not 4; seed 0, not 1"):
        frozen_folds(path, names, labels, count=4, seed=1)


@pytest.mark.parametrize("damage", ["moved", "cut", "format", "list"])
def test_an_edited_or_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "folds.json"
    frozen_folds(path, *_items(40), count=2)
    content = json.loads(path.read_text())
    if damage == "moved":
        content["items"]["images/0.jpg"][1] ^= 1
    content["format"] = 2 if damage == "format" else 1
    text = json.dumps([] if damage == "list" else content)
    path.write_text(text[:-20] if damage == "cut" else text)
    with pytest.raises(DataError, match="holds no folds that can be used"):
        frozen_folds(path, *_items(40), count=2)


@pytest.mark.parametrize(
    ("labels", "options", "error", "said"),
    [
        (
            ["a"] * 4,
            {},
            DataError,
            "1 different labels cannot fill 5 group folds; expected 5 labels",
        ),
        (list("abcd"), {"kind": "stratified"}, DataError, "expected 5 items or more"),
        (list("abcd"), {"count": 1}, ConfigError, "1 folds were asked for; expected 2"),
        (list("abcd"), {"kind": "groups"}, ConfigError, "did you mean 'group'"),
        (list("abc"), {}, DataError, "4 names for 3 labels"),
        ([1, 2, 3, float("nan")], {}, DataError, "the label of 3 is nan; expected text"),
    ],
)
def test_what_cannot_be_dealt_is_named(
    labels: list[str], options: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make_folds([str(i) for i in range(4)], labels, **options)


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(DataError, match="the name a comes 2 times"):
        make_folds(["a", "b", "a"], [1, 2, 3], count=2)


def test_labels_with_one_item_do_not_all_go_to_the_first_fold() -> None:
    names = [str(index) for index in range(90)]
    assert make_folds(names, names, count=3, kind="stratified").sizes == [30, 30, 30]
