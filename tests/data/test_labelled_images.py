"""Image data sets that fit into memory: splits, statistics, names, refusals."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from common.config import RunContext
from common.data import LabelledImagesConfig, load_labelled_images
from common.data.labelled_images import normalized
from common.utils.errors import DataError


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> str:
    """40 + 10 colour images as the store gives them, without a validation split."""
    generator = np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog"])})

    def split(count: int) -> Dataset:
        images = list(generator.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8))
        columns = {"img": images, "label": [i % 2 for i in range(count)]}
        return Dataset.from_dict(columns, features=features)

    splits = DatasetDict(train=split(40), test=split(10))
    monkeypatch.setattr("common.data.hf_utils.download_dataset", lambda name, config: splits)
    return "pets"


def test_digits_come_whole_with_what_they_say_of_themselves() -> None:
    data = load_labelled_images(LabelledImagesConfig(), RunContext(), seed=0)
    batch = next(data.train.batches(0))
    assert batch["image"].shape == (128, 1, 8, 8)
    assert batch["image"].dtype == torch.uint8
    assert (data.info.num_classes, data.info.input_shape) == (10, (1, 8, 8))
    assert sum(data.info.sizes.values()) == 1797
    pixels = torch.cat([b["image"] for b in data.train.batches(0)]).double() / 255
    assert data.info.mean == pytest.approx([pixels.mean().item()])
    assert data.info.std == pytest.approx([pixels.std(correction=0).item()])


def test_stored_images_have_names_and_a_part_is_held_out(stored: str) -> None:
    config = LabelledImagesConfig(name=stored, image="img", mode="RGB", validation_share=0.25)
    data, other = (load_labelled_images(config, RunContext(), seed) for seed in (0, 1))
    assert data.info.class_names == ("cat", "dog")
    assert data.info.sizes == {"train": 30, "validation": 10, "test": 10}
    assert data.info.input_shape == (3, 6, 5)
    held_out = data.validation.tensors["image"]
    assert torch.equal(held_out, other.validation.tensors["image"])
    whole = load_labelled_images(
        LabelledImagesConfig(name=stored, image="img", mode="RGB", validation_share=0.0),
        RunContext(),
        seed=0,
    )
    assert whole.validation is None
    known = {image.numpy().tobytes() for image in whole.train.tensors["image"]}
    parts = [*data.train.tensors["image"], *held_out]
    assert {image.numpy().tobytes() for image in parts} == known
    assert len(parts) == len(known) == 40


def test_a_wrong_column_is_named(stored: str) -> None:
    config = LabelledImagesConfig(name=stored, image="imge", mode="RGB")
    with pytest.raises(DataError, match="no column 'imge'; did you mean 'img'"):
        load_labelled_images(config, RunContext(), seed=0)


def test_pixels_are_normalized_by_channel() -> None:
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8)
    scaled = images.double() / 255
    values = normalized(images, scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0))
    torch.testing.assert_close(values.mean((0, 2, 3)), torch.zeros(3).double())
    torch.testing.assert_close(values.std((0, 2, 3), correction=0), torch.ones(3).double())
    flat = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    assert normalized(flat, [1.0], [0.0]).eq(0).all()
