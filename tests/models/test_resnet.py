"""ResNet equals torchvision's with its weights, and builds the small ones for small images."""

import pytest
import torch
import torchvision
from torch import nn

from common.models import ResNet
from common.models.resnet import PaddedIdentity
from common.utils.errors import ConfigError


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision_with_its_weights(depth: int) -> None:
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh statistics and scales hide mistakes
            module.running_mean.normal_(std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
    ours = ResNet.of_depth(depth, num_classes=7)
    ours.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for training in (False, True):
        ours.train(training)
        reference.train(training)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), reference(images))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_has_torchvisions_parameters(depth: int) -> None:
    with torch.device("meta"):
        ours = ResNet.of_depth(depth)
        reference = getattr(torchvision.models, f"resnet{depth}")()
    shapes = {name: value.shape for name, value in reference.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


def test_the_cifar_stem_keeps_the_resolution_and_resnet_20_has_its_size() -> None:
    resnet20 = ResNet("basic", (3, 3, 3), num_classes=10, width=16, stem="cifar")
    assert resnet20.features(torch.randn(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    # Table 6 of the paper says 0.27M; the two projection shortcuts add 2,752.
    assert sum(p.numel() for p in resnet20.parameters()) == 269_722 + 2_752


def test_a_padded_shortcut_skips_pixels_and_appends_zeros() -> None:
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    out = PaddedIdentity(stride=2, extra=3)(x)
    assert out.shape == (1, 5, 2, 2)
    assert out[0, 0].tolist() == [[0.0, 2.0], [8.0, 10.0]]
    assert out[0, 1].tolist() == [[16.0, 18.0], [24.0, 26.0]]
    assert not out[:, 2:].any()


def test_padded_shortcuts_have_no_parameters() -> None:
    plain = ResNet("basic", (3, 3, 3), 10, width=16, stem="cifar", shortcut="padding")
    assert sum(p.numel() for p in plain.parameters()) == 269_722
    assert not any("downsample" in name for name in plain.state_dict())


def test_other_channels_and_classes() -> None:
    model = ResNet.of_depth(18, num_classes=5, in_channels=1)
    assert model.num_features == 512
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


def test_wrong_names_are_refused_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="depth is 20: expected one of 18, 34"):
        ResNet.of_depth(20)
    with pytest.raises(ConfigError, match="block is 'wide': expected one of basic, bottleneck"):
        ResNet("wide")
    with pytest.raises(ConfigError, match="stem is 'mnist': expected one of imagenet, cifar"):
        ResNet(stem="mnist")
    with pytest.raises(ConfigError, match="shortcut is 'none': expected one of projection, pad"):
        ResNet(shortcut="none")
