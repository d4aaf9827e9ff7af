"""Batches of images: the values of ``torch.stack``, in the images' own layout."""

import torch

from common.data import collate_images


def test_channels_stay_last_if_all_images_have_them_last():
    images = [torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8).permute(2, 0, 1) for _ in "abc"]
    batch = collate_images([{"image": i, "label": n, "name": "x"} for n, i in enumerate(images)])
    assert torch.equal(batch["image"], torch.stack(images))
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert batch["label"].tolist() == [0, 1, 2]
    assert batch["name"] == ["x"] * 3


def test_other_images_are_stacked_as_usual():
    images = [torch.rand(3, 5, 7), torch.rand(5, 7, 3).permute(2, 0, 1)]
    batch = collate_images(images)
    assert torch.equal(batch, torch.stack(images))
    assert batch.is_contiguous()
