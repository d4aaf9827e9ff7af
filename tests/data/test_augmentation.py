"""Crops and flips of whole batches: what they may give, how often, and that a resume repeats them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF

from common.data import TensorLoader
from common.data.augmentation import CropFlipConfig, crop_flip, random_crop, random_flip


def test_a_crop_is_one_of_the_windows_of_the_padded_image_and_all_occur() -> None:
    """The 25 windows that torchvision's ``crop`` cuts from the image padded by 2."""
    torch.manual_seed(0)
    image = torch.randint(1, 256, (3, 6, 5), dtype=torch.uint8)
    padded = F.pad(image, (2, 2, 2, 2))
    windows = {
        TF.crop(padded, top, left, 6, 5).numpy().tobytes() for top in range(5) for left in range(5)
    }
    crops = random_crop(image.expand(1000, -1, -1, -1), padding=2)
    assert crops.shape == (1000, 3, 6, 5)
    assert crops.dtype == torch.uint8
    assert {crop.numpy().tobytes() for crop in crops} == windows


def test_every_place_is_equally_probable() -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 5, 5)
    image[..., 2, 2] = 1.0
    share = random_crop(image.expand(50_000, -1, -1, -1), padding=2).mean(dim=(0, 1))
    torch.testing.assert_close(share, torch.full((5, 5), 1 / 25), rtol=0, atol=0.004)


def test_half_of_the_images_are_mirrored_and_the_others_are_left_alone() -> None:
    torch.manual_seed(0)
    images = torch.arange(1, 7).view(1, 1, 2, 3).expand(10_000, -1, -1, -1)
    flipped = random_flip(images)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 0.48 < mirrored.double().mean() < 0.52


def test_labels_stay_with_their_images() -> None:
    torch.manual_seed(0)
    labels = torch.arange(1, 51)
    images = labels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    transform = crop_flip(CropFlipConfig(padding=2, flip=True))
    assert transform is not None
    batch = transform({"image": images, "label": labels})
    assert torch.equal(batch["label"], labels)
    assert torch.equal(batch["image"].amax(dim=(1, 2, 3)), labels)


def test_a_loader_that_starts_in_the_middle_draws_the_same() -> None:
    data = {"image": torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)}
    transform = crop_flip(CropFlipConfig(padding=4, flip=True))
    loader = TensorLoader(data, 8, seed=3, shuffle=True, transform=transform)
    whole = [batch["image"] for batch in loader.batches(epoch=2)]
    rest = [batch["image"] for batch in loader.batches(epoch=2, start=3)]
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    other = next(iter(loader.batches(epoch=3)))["image"]
    assert not torch.equal(whole[0], other)


@pytest.mark.parametrize("values", [{}, {"padding": 0, "flip": False}])
def test_without_anything_to_do_there_is_no_transform(values: dict) -> None:
    assert crop_flip(CropFlipConfig(**values)) is None
