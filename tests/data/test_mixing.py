"""Mixup and cutmix: what they mix, how much of it, and that labels follow the pixels exactly."""

import pytest
import torch

from common.data import AugmentationConfig, Mixing, TensorLoader
from common.data.mixing import cutmix, mixup
from common.utils.errors import ConfigError


def batch(size: int = 8, side: int = 16) -> dict[str, torch.Tensor]:
    """Every image is one colour, 20 times its class."""
    labels = torch.arange(size) % 5
    images = (labels * 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, side, side)
    return {"image": images.clone(), "label": labels}


def values(**given: float) -> AugmentationConfig:
    return AugmentationConfig(**given)


def test_mixup_is_the_sum_of_the_paper_to_half_a_grey_level() -> None:
    images = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8)
    others = images.flip(0)
    expected = 0.3 * images.double() + 0.7 * others.double()
    assert (mixup(images, others, 0.3).double() - expected).abs().max() <= 0.5 + 1e-3
    torch.testing.assert_close(mixup(images.float(), others.float(), 0.3), expected.float())
    assert torch.equal(mixup(images, others, 1.0), images)


def test_labels_of_mixup_follow_the_pixels() -> None:
    mix = Mixing(values(mixup_alpha=1.0), 5)
    for seed in range(20):
        torch.manual_seed(seed)
        mixed = mix(batch())
        assert mixed["image"].dtype == torch.uint8
        colour = mixed["label"] @ (torch.arange(5.0) * 20)
        assert (mixed["image"].float().mean((1, 2, 3)) - colour).abs().max() <= 0.5 + 1e-3
        torch.testing.assert_close(mixed["label"].sum(1), torch.ones(8))


def test_labels_of_cutmix_are_the_exact_share_of_pixels() -> None:
    mix = Mixing(values(cutmix_alpha=1.0), 5)
    shares = set()
    for seed in range(60):
        torch.manual_seed(seed)
        mixed = mix(batch(side=17))
        for image, label in zip(mixed["image"], mixed["label"], strict=True):
            found = torch.stack([(image[0] == 20 * c).float().mean() for c in range(5)])
            torch.testing.assert_close(label, found, rtol=0, atol=1e-6)
        shares.add(round(mixed["label"][0].max().item(), 4))
    assert len(shares) > 20


@pytest.mark.parametrize(
    ("share", "centre", "kept"),
    [
        (1.0, (0.5, 0.5), 1.0),
        (0.0, (0.5, 0.5), 0.0),
        (0.75, (0.5, 0.5), 0.75),
        (0.75, (0.0, 0.0), 1 - 1 / 16),  # a quarter of the rectangle lies in the image
        (0.75, (0.5, 1.0), 1 - 1 / 8),
    ],
)
def test_what_is_cut_off_at_the_edge_does_not_count(
    share: float, centre: tuple, kept: float
) -> None:
    images, others = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    mixed, found = cutmix(images, others, share, centre)
    assert found == pytest.approx(kept)
    assert 1 - mixed.mean().item() == pytest.approx(kept)
    assert not images.any()


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_a_batch_of_one_image_comes_back_as_it_was(alphas: dict) -> None:
    torch.manual_seed(0)
    mixed = Mixing(values(**alphas), 5)(batch(1))
    assert torch.equal(mixed["image"], batch(1)["image"])
    assert torch.equal(mixed["label"], torch.tensor([[1.0, 0, 0, 0, 0]]))


def test_the_share_of_mixed_batches_is_the_probability_and_both_kinds_take_half() -> None:
    torch.manual_seed(0)
    mix = Mixing(values(mixup_alpha=1.0, cutmix_alpha=1.0, mix_probability=0.4), 5)
    plain = cut = mixed = 0
    for _ in range(1000):
        found = mix(batch(4, side=4))
        colours = found["image"] % 20 == 0
        if torch.equal(found["image"], batch(4, side=4)["image"]):
            plain += 1
        elif colours.all():
            cut += 1
        else:
            mixed += 1
    # Some permutations and shares change nothing: these are counted as plain.
    assert 0.6 <= plain / 1000 < 0.72
    assert 0.1 < cut / 1000 <= 0.22
    assert 0.1 < mixed / 1000 <= 0.22


@pytest.mark.parametrize("alpha", [0.1, 1.0, 8.0])
def test_shares_are_drawn_from_beta(alpha: float) -> None:
    torch.manual_seed(0)
    mix = Mixing(values(mixup_alpha=alpha), 2)
    pair = {"image": torch.zeros(2, 1, 1, 1), "label": torch.tensor([0, 1])}
    shares = torch.stack([mix(pair)["label"][0] for _ in range(4000)])[:, 0]
    shares = shares[shares < 1.0]  # half of the permutations leave an image alone
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(variance, rel=0.15)


def test_soft_labels_can_be_mixed_again() -> None:
    torch.manual_seed(0)
    mix = Mixing(values(mixup_alpha=1.0), 5)
    twice = mix(mix(batch()))
    torch.testing.assert_close(twice["label"].sum(1), torch.ones(8))


def test_a_loader_that_starts_in_the_middle_mixes_the_same() -> None:
    data = batch(24)
    mix = Mixing(values(mixup_alpha=0.2, cutmix_alpha=1.0, mix_probability=0.8), 5)
    loader = TensorLoader(data, 8, seed=3, shuffle=True, transform=mix)
    whole = list(loader.batches(epoch=2))
    rest = list(loader.batches(epoch=2, start=1))
    for one, other in zip(whole[1:], rest, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("config", "classes", "words"),
    [(values(), 5, "are 0; set one"), (values(mixup_alpha=1.0), 1, "two classes")],
)
def test_what_cannot_mix_is_refused(config: AugmentationConfig, classes: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Mixing(config, classes)
