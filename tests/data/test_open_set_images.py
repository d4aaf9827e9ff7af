"""Open-set images: no class of training is tested, and which are is the same for every seed."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value

from common.config import RunContext
from common.data import OpenSetImagesConfig, load_open_set_images
from common.data.info import DataSplits
from common.utils.errors import ConfigError, DataError

ALPHABETS = ("Greek", "Latin", "Korean")


def load(seed: int = 0, **values) -> DataSplits:
    return load_open_set_images(OpenSetImagesConfig(**values), RunContext(), seed)


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> str:
    """5 drawings of each of 4 characters of 3 alphabets, dark on white, of two sizes."""
    generator = np.random.default_rng(0)
    rows: dict[str, list] = {"image": [], "character": [], "alphabet": []}
    for alphabet in ALPHABETS:
        for number in range(4):
            for drawing in range(5):
                side = 10 + 2 * (drawing == 4)
                rows["image"].append(generator.integers(200, 256, (side, side), dtype=np.uint8))
                rows["character"].append(f"{alphabet}/{number}")
                rows["alphabet"].append(alphabet)
    features = Features(
        {"image": Image(), "character": Value("string"), "alphabet": Value("string")}
    )
    splits = DatasetDict(train=Dataset.from_dict(rows, features=features))
    monkeypatch.setattr("common.data.hf_utils.download_dataset", lambda name, config: splits)
    return "drawings"


def test_the_splits_share_no_class_and_the_choice_does_not_depend_on_the_seed() -> None:
    one, two = load(seed=0), load(seed=1)
    assert one.info.num_classes == 64
    assert one.info.sizes == {"train": 64 * 8, "validation": 11 * 8, "test": 25 * 8}
    assert one.info.class_names == two.info.class_names
    labels = one.train.tensors["label"]
    assert torch.equal(labels.unique(), torch.arange(64))
    parts = [one.train, one.validation, one.test]
    seen = [{image.numpy().tobytes() for image in part.tensors["image"]} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 800
    assert not torch.equal(next(one.train.batches(0))["label"], next(two.train.batches(0))["label"])


def test_a_column_tells_the_test_classes_and_images_are_brought_to_one_size(drawings: str) -> None:
    values = {"name": drawings, "label": "character", "test_column": "alphabet"}
    data = load(**values, test_values=["Korean"], image_size=8, invert=True, validation_share=0.25)
    assert data.info.sizes == {"train": 30, "validation": 10, "test": 20}
    assert data.info.input_shape == (1, 8, 8)
    assert not any(name.startswith("Korean") for name in data.info.class_names)
    assert data.test.tensors["image"].max() < 56, "black and white are exchanged"
    assert torch.equal(data.test.tensors["label"].unique(), torch.arange(4))


def test_batches_have_so_many_images_of_each_class() -> None:
    data = load(batch_size=32, per_class=4)
    for batch in data.train.batches(0):
        assert batch["label"].unique(return_counts=True)[1].tolist() == [4] * 8


def test_what_does_not_fit_is_refused(drawings: str) -> None:
    whole = {"name": drawings, "label": "character"}
    values = {**whole, "image_size": 8}
    with pytest.raises(DataError, match=r"has the splits \['train'\]; test is missing: say with"):
        load(**values)
    wrong = {"test_column": "alphabet", "test_values": ["Koraen"]}
    with pytest.raises(
        DataError, match=r"no row has 'Koraen' in the column 'alphabet'; .*'Korean'"
    ):
        load(**values, **wrong)
    column = {"test_column": "alphabett", "test_values": ["Korean"]}
    with pytest.raises(DataError, match=r"there is no column 'alphabett'; .*'alphabet'"):
        load(**values, **column)
    everything = {"test_column": "alphabet", "test_values": list(ALPHABETS)}
    with pytest.raises(DataError, match=r"no image is left for train"):
        load(**values, **everything)
    sizes = {"test_column": "alphabet", "test_values": ["Korean"]}
    with pytest.raises(DataError, match=r"images have 2 sizes; set data.image_size"):
        load(**whole, **sizes)
    with pytest.raises(ConfigError, match=r"batch_size is 30, which is no multiple of data.per_cl"):
        load(batch_size=30, per_class=4)
    with pytest.raises(ConfigError, match=r"test_column and data.test_values go together"):
        load(test_column="alphabet")


def test_a_class_in_both_splits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((4, 2, 2), dtype=np.uint8)
    splits = {
        "train": {"image": image, "label": np.array([0, 0, 1, 1])},
        "test": {"image": image, "label": np.array([1, 1, 2, 2])},
    }
    monkeypatch.setattr("common.data.open_set_images.load_splits", lambda name, config: splits)
    with pytest.raises(DataError, match=r"1 classes are in both train and test \(first: 1\)"):
        load(validation_share=0.0)
