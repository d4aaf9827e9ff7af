"""From maps to embeddings: poolings and necks are their formulas; a backbone for small images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.backbones import TimmBackbone
from common.models.embedding import ConvBackbone, EmbeddingNetwork
from common.utils.errors import ConfigError


def _images(size: int = 28, channels: int = 1, count: int = 4) -> Tensor:
    return torch.randn(
        count, channels, size, size, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip


def _network(**options) -> EmbeddingNetwork:
    torch.manual_seed(0)
    return EmbeddingNetwork(ConvBackbone(1, (4, 6)), **options)


def test_average_and_linear_layer() -> None:
    network = _network(embedding_dim=5, pooling="avg").eval()
    maps = network.backbone(_images())
    expected = maps.mean((2, 3)) @ network.neck.weight.T + network.neck.bias
    torch.testing.assert_close(network(_images()), expected)
    assert network.embedding_dim == 5


def test_generalized_mean_without_a_neck() -> None:
    network = _network(neck="none").eval()
    maps = network.backbone(_images())
    expected = maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    torch.testing.assert_close(network(_images()), expected, rtol=1e-4, atol=1e-5)
    assert network.embedding_dim == 6


@pytest.mark.fact("ArcFace, option E")
def test_option_e_normalises_before_and_after_the_linear_layer() -> None:
    network = _network(embedding_dim=5, pooling="avg", neck="bn_fc_bn").train()
    pooled = network.backbone(_images()).mean((2, 3))

    def normed(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    expected = normed(normed(pooled) @ network.neck[2].weight.T)
    torch.testing.assert_close(network(_images()), expected, rtol=1e-3, atol=1e-4)


def test_dropout_stands_before_the_linear_layer_and_only_in_training() -> None:
    network = _network(embedding_dim=5, neck="bn_fc_bn", dropout=0.5)
    seen: list[Tensor] = []
    network.neck[2].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.train()(_images(count=64))
    network.eval()(_images(count=64))
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6
    assert not (seen[1] == 0).any()


@pytest.mark.parametrize("neck", ["linear", "bn_fc_bn", "none"])
@pytest.mark.parametrize("pooling", ["gem", "avg"])
def test_every_parameter_learns_also_in_half_precision(pooling: str, neck: str) -> None:
    dim = None if neck == "none" else 5
    network = _network(embedding_dim=dim, pooling=pooling, neck=neck)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = network(_images())
    (embeddings.float() * torch.randn(4, network.embedding_dim)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_it_stands_on_timms_networks(name: str) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(name, img_size=64, in_channels=1)
        network = EmbeddingNetwork(backbone, 7, neck="bn_fc_bn")
        assert network(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "gme"}, "pooling is 'gme'; did you mean 'gem'"),
        ({"neck": "linaer"}, "neck is 'linaer'; did you mean 'linear'"),
        ({"neck": "none", "embedding_dim": 5}, "backbone of 6 channels; expected 6"),
        ({"embedding_dim": 0}, "embedding_dim is 0 .* expected at least 1"),
        ({"dropout": 0.5}, "dropout is 0.5 with neck=linear"),
        ({"dropout": 1.0, "neck": "bn_fc_bn"}, "expected 0 to below 1"),
    ],
)
def test_options_without_a_meaning_are_named(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _network(**options)


def test_a_backbone_that_gives_no_map_is_named() -> None:
    with pytest.raises(ConfigError, match="Identity has no num_features"):
        EmbeddingNetwork(nn.Identity())
    logits = TimmBackbone("test_resnet", remove_fc=False, num_classes=9)
    with pytest.raises(ConfigError, match=r"TimmBackbone gives \(4, 9\); expected a map"):
        EmbeddingNetwork(logits)(_images(64, 3))


# ---- the small backbone ----------------------------------------------------------------------


def test_each_block_is_convolution_normalisation_relu_and_pooling() -> None:
    torch.manual_seed(0)
    backbone = ConvBackbone(1, (4, 6)).train()
    x = _images()
    for block in backbone.blocks:
        x = F.conv2d(x, block[0].weight, padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (
            x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        x = F.max_pool2d(x.relu(), 2)
    torch.testing.assert_close(backbone(_images()), x, rtol=1e-4, atol=1e-5)
    assert backbone.num_features == 6


@pytest.mark.parametrize(("size", "expected"), [(28, [14, 7, 4]), (35, [18, 9, 5]), (1, [1, 1, 1])])
def test_stages_halve_the_image_and_never_lose_it(size: int, expected: list[int]) -> None:
    backbone = ConvBackbone(3, (2, 3, 4), features=(1, 2, 3)).eval()
    maps = backbone.feature_maps(_images(size, 3))
    assert [m.shape[2] for m in maps] == expected
    assert [m.shape[1] for m in maps] == list(backbone.channels.values()) == [2, 3, 4]
    assert list(backbone.reduction.values()) == [2, 4, 8]
    assert torch.equal(maps[-1], backbone(_images(size, 3)))


def test_blocks_and_stages_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        ConvBackbone(1, ())
    with pytest.raises(ConfigError, match=r"features are \(0, 2\).*stages from 1 to 2"):
        ConvBackbone(1, (2, 3), features=(0, 2))
