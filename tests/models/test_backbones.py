"""timm's networks as maps: the values are timm's own, and what cannot work is refused."""

import copy

import pytest
import timm
import torch
from torch import Tensor

from common.models.backbones import TimmBackbone, is_timm_name
from common.utils.errors import ConfigError

# A ResNet; a last convolution wider than the last stage; a norm in the head; channels last.
NETWORKS = ["test_resnet", "test_efficientnet", "test_convnext", "test_mambaout"]
# Convolutions and hidden layers behind the pooling, tokens, a norm behind the pooling.
REST = ["mobilenetv3_small_050", "ghostnet_050", "vgg11", "test_vit", "test_vit_relpos",
        "levit_128s", "eva02_tiny_patch14_224"]  # fmt: skip


def _images(size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def _of(backbone: TimmBackbone, name: str, **options) -> torch.nn.Module:
    """timm's whole network with the weights of a backbone, where it has them."""
    model = timm.create_model(name, **options).eval()
    model.load_state_dict(backbone.net.state_dict(), strict=False)
    return model


def _to_chw(maps: Tensor, channels: int) -> Tensor:
    return maps if maps.shape[1] == channels else maps.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_what_timm_calls_the_unpooled_features(name: str) -> None:
    backbone = TimmBackbone(name).eval()
    expected = _of(backbone, name).forward_features(_images())
    maps = backbone(_images())
    assert maps.shape == (2, backbone.num_features, 2, 2)
    assert torch.equal(maps, _to_chw(expected, backbone.num_features))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_maps_of_two_stages_have_their_strides_and_the_last_is_that_of_forward(
    name: str,
) -> None:
    backbone = TimmBackbone(name, features=(3, 4)).eval()
    seen: list[Tensor] = []
    stage = backbone.net.get_submodule(backbone.net.feature_info[-2]["module"])
    stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    third, fourth = backbone.feature_maps(_images())
    assert third.shape == (2, backbone.channels[3], 4, 4)
    assert fourth.shape == (2, backbone.channels[4], 2, 2)
    assert (backbone.reduction[3], backbone.reduction[4]) == (16, 32)
    assert torch.equal(fourth, backbone(_images()))
    assert torch.equal(third, _to_chw(seen[0], backbone.channels[3]))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_ends_at_the_deepest_of_its_features(name: str) -> None:
    whole = TimmBackbone(name, features=(2, 3, 4)).eval()
    cut = TimmBackbone(name, features=(2, 3)).eval()
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in whole.parameters())
    cut.net.load_state_dict({k: whole.net.state_dict()[k] for k in cut.net.state_dict()})
    for one, other in zip(cut.feature_maps(_images()), whole.feature_maps(_images()), strict=False):
        assert torch.equal(one, other)
    assert cut(_images()).shape == (2, cut.num_features, 4, 4)
    assert list(cut.channels) == [1, 2, 3]


@pytest.mark.parametrize("name", NETWORKS + REST)
def test_every_parameter_has_a_gradient(name: str) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(name)
        size = 160 if name.startswith("test_") else 224
        maps = backbone(torch.zeros(2, 3, size, size))
        maps.sum().backward()
    assert maps.shape[:2] == (2, backbone.num_features)
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_patch_tokens_lie_where_they_are_in_the_image() -> None:
    backbone = TimmBackbone("test_vit", img_size=(48, 80)).eval()
    images = torch.randn(1, 3, 48, 80)
    tokens = _of(backbone, "test_vit", img_size=(48, 80)).forward_features(images)
    maps = backbone(images)
    assert maps.shape == (1, 64, 3, 5)
    assert torch.equal(maps[0, :, 1, 2], tokens[0, 1 + 1 * 5 + 2])
    assert torch.equal(maps[0, :, 2, 4], tokens[0, -1])


def test_a_network_for_one_size_names_what_it_received() -> None:
    with pytest.raises(ConfigError, match=r"160 x 160 and received 64 x 64.*img_size=\(64, 64\)"):
        TimmBackbone("test_vit")(_images())


def test_a_classifier_can_be_kept() -> None:
    backbone = TimmBackbone("test_resnet", remove_fc=False, num_classes=7, in_channels=1).eval()
    reference = _of(backbone, "test_resnet", num_classes=7, in_chans=1)
    assert torch.equal(backbone(_images(channels=1)), reference(_images(channels=1)))


def test_mean_and_std_are_those_of_the_weights_and_their_average_for_grey_images() -> None:
    name = "test_efficientnet"
    expected = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        colour, grey = TimmBackbone(name), TimmBackbone(name, in_channels=1)
    assert (colour.mean, colour.std) == (expected.mean, expected.std)
    assert grey.mean == pytest.approx((sum(expected.mean) / 3,))
    assert grey.std == pytest.approx((sum(expected.std) / 3,))


def test_the_last_block_drops_paths_at_the_rate_given() -> None:
    backbone = TimmBackbone("test_convnext", drop_path=0.3)
    rates = [m.drop_prob for m in backbone.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="no stochastic depth"):
        TimmBackbone("vgg11", drop_path=0.3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnt18", {}, "did you mean 'resnet18'"),
        ("resnet18.a1_in2k", {}, "did you mean 'resnet18.a"),
        ("hf-hub:timm/resnet18", {}, "only timm's own names"),
        ("local-dir:x", {}, "only timm's own names"),
        ("test_resnet", {"in_channels": 2}, "in_channels is 2; expected 1 or 3"),
        ("test_resnet", {"drop_path": 1.0}, r"drop_path is 1\.0; expected 0 to below 1"),
        ("test_resnet", {"num_classes": 5}, "num_classes is 5 with remove_fc=True"),
        ("test_resnet", {"remove_fc": False}, "num_classes is None"),
        ("test_resnet", {"remove_fc": False, "num_classes": 2, "features": (4,)}, "remove_fc=True"),
        ("test_resnet", {"features": (4, 3)}, "ascending stages"),
        ("test_resnet", {"features": (3, 5)}, r"has 1 \(stride 4\).*4 \(stride 32\)"),
        ("test_vit", {"features": (3, 4)}, r"which has 3 \(stride 16\)"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, options: dict, words: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=words) as caught:
        TimmBackbone(name, **options)
    assert "\n" not in str(caught.value)


def test_what_gives_no_map_is_named() -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=r"gives list .* no feature map"):
        TimmBackbone("efficientvim_m1")(torch.zeros(1, 3, 224, 224))
    with pytest.raises(ConfigError, match="built without features"):
        TimmBackbone("test_resnet").feature_maps(_images())


def test_names_with_a_tag_of_weights_that_exist_are_names() -> None:
    assert is_timm_name("resnet18")
    assert is_timm_name("resnet18.a1_in1k")
    assert not is_timm_name("resnet18.none")
    assert not is_timm_name("hf-hub:timm/resnet18")


def test_wanted_weights_that_are_not_there_are_never_forgotten() -> None:
    backbone = TimmBackbone("test_resnet", pretrained=True, features=(3, 4))
    with pytest.raises(ConfigError, match="awaits its published weights: call"):
        backbone(_images())
    with pytest.raises(ConfigError, match="awaits its published weights"):
        copy.deepcopy(backbone).feature_maps(_images())
