"""Random changes of one image: what they give, for whom, and that workers and resumes repeat them."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from common.config.validate import build
from common.data import AugmentationConfig, SampleLoader, ShuffledBatches, build_augmentation
from common.data.randomness import seed_generators
from common.utils.errors import ConfigError, DataError

EVERYTHING = {
    "horizontal_flip": 0.5,
    "vertical_flip": 0.5,
    "rotation": 20.0,
    "color_jitter": [0.4, 0.4, 0.4, 0.1],
    "random_erasing": 0.5,
    "transforms": [{"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 3}],
}


def image(channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "values",
    [
        *({key: value} for key, value in EVERYTHING.items()),
        {"rand_augment": True},
        {"rand_augment": True, "rand_augment_magnitude": 30, "rand_augment_ops": 4},
        {"trivial_augment": True},
        EVERYTHING | {"trivial_augment": True},
    ],
)
def test_an_image_of_either_kind_stays_one_and_is_not_changed_in_place(
    values: dict, channels: int
) -> None:
    augment = build_augmentation(AugmentationConfig(**values), channels)
    given = image(channels)
    seen = set()
    for seed in range(40):
        seed_generators(seed)
        changed = augment(given)
        assert changed.shape == given.shape
        assert changed.dtype == torch.uint8
        seen.add(changed.numpy().tobytes())
    assert len(seen) > 1
    assert torch.equal(given, image(channels))


def test_flips_are_torchvisions() -> None:
    augment = build_augmentation(AugmentationConfig(horizontal_flip=1.0, vertical_flip=1.0))
    assert torch.equal(augment(image()), TF.vertical_flip(TF.horizontal_flip(image())))


def test_transforms_of_the_person_come_last_and_are_torchvisions() -> None:
    section = {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 1.0}
    augment = build_augmentation(AugmentationConfig(horizontal_flip=1.0, transforms=[section]))
    assert torch.equal(augment(image()), TF.invert(TF.horizontal_flip(image())))
    assert isinstance(augment.transforms[-1], v2.RandomInvert)


def test_grey_images_keep_their_brightness_changes_and_a_word_is_said(logged: list[str]) -> None:
    build_augmentation(AugmentationConfig(color_jitter=[0.4, 0.0, 0.4, 0.0]), channels=1)
    assert any("no saturation" in line for line in logged)
    assert build_augmentation(AugmentationConfig(color_jitter=[0, 0, 0.4, 0.1]), 1) is None


class Images:
    def __init__(self) -> None:
        self.augment = build_augmentation(AugmentationConfig(**EVERYTHING, trivial_augment=True))

    def __getitem__(self, index: int) -> dict:
        return {"image": self.augment(image()), "label": index}


def test_workers_and_a_start_in_the_middle_change_nothing() -> None:
    def read(workers: int, start: int = 0) -> list[torch.Tensor]:
        loader = SampleLoader(Images(), ShuffledBatches(12, 4, 1), num_workers=workers, seed=5)
        return [batch["image"] for batch in loader.batches(epoch=2, start=start)]

    whole = read(0)
    assert all(torch.equal(a, b) for a, b in zip(whole, read(2), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], read(0, start=1), strict=True))
    assert len({row.numpy().tobytes() for batch in whole for row in batch}) > 8


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop_scale": [0.5]}, "smallest and the largest"),
        ({"crop_ratio": [2.0, 1.0]}, "smallest and the largest"),
        ({"color_jitter": [0.1, 0.1]}, "four numbers"),
        ({"color_jitter": [0.1, 0.1, 0.1, 0.6]}, "four numbers"),
        ({"rand_augment": True, "trivial_augment": True}, "take one"),
        ({"horizontal_flip": 1.5}, "horizontal_flip"),
        ({"rand_augment_magnitude": 31}, "rand_augment_magnitude"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(AugmentationConfig, values)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"_target_": "os.system", "command": "true"}, "torchvision.transforms.v2"),
        ({"_target_": "torch.nn.Linear"}, "torchvision.transforms.v2"),
        ({"kernel_size": 3}, "torchvision.transforms.v2"),
        ({"_target_": "torchvision.transforms.v2.GausianBlur"}, "did you mean 'GaussianBlur'"),
        ({"_target_": "torchvision.transforms.v2.GaussianBlur", "size": 3}, "size"),
        ({"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 2}, "[Kk]ernel"),
        ({"_target_": "torchvision.transforms.v2.GaussianBlur"}, "kernel_size"),
    ],
)
def test_transforms_from_elsewhere_or_with_wrong_arguments_are_refused(
    section: dict, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_augmentation(AugmentationConfig(transforms=[section]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"_target_": "torchvision.transforms.v2.Grayscale"}, r"shape \(1, 12, 10\)"),
        ({"_target_": "torchvision.transforms.v2.ToPILImage"}, "expected a uint8 image"),
    ],
)
def test_a_transform_that_gives_no_image_is_named(section: dict, words: str) -> None:
    augment = build_augmentation(AugmentationConfig(transforms=[section]))
    with pytest.raises(DataError, match=words):
        augment(image())


def test_nothing_is_done_by_default() -> None:
    assert build_augmentation(AugmentationConfig()) is None
