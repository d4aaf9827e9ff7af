"""The Vision Transformer equals timm's with its weights."""

import pytest
import timm
import torch
from torch import Tensor, nn

from common.models import VisionTransformer
from common.models.vit_timm import load_timm_weights
from common.utils.errors import ConfigError, DataError


def small(**options: int) -> VisionTransformer:
    sizes = {"d_model": 24, "num_heads": 3, "num_layers": 2, "d_ff": 48, **options}
    return VisionTransformer(32, 8, num_classes=5, **sizes).eval()


def test_equals_timm_with_its_weights() -> None:
    torch.manual_seed(0)
    reference = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=32,
        patch_size=8,
        depth=3,
        num_classes=7,
    )
    reference = reference.double().eval()
    for parameter in reference.parameters():  # its biases and class token start at 0
        nn.init.normal_(parameter, std=0.1)
    sizes = {"d_model": 192, "num_heads": 3, "num_layers": 3, "d_ff": 768}
    ours = VisionTransformer(32, 8, num_classes=7, **sizes).double().eval()
    load_timm_weights(ours, reference.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        features, expected = ours.features(images), reference.forward_features(images)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(ours(images), reference(images), rtol=0, atol=1e-10)


def test_the_default_is_vit_base_with_86_million_parameters() -> None:
    with torch.device("meta"):
        model = VisionTransformer()
        reference = timm.create_model("vit_base_patch16_224", pretrained=False)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in reference.parameters()) == 86_567_656


def test_every_class_is_equally_probable_at_first() -> None:
    assert not small()(torch.randn(2, 3, 32, 32)).any()


def test_attention_maps_of_every_layer_are_collected() -> None:
    maps: list[Tensor] = []
    small().features(torch.randn(2, 3, 32, 32), maps)
    assert [tuple(weights.shape) for weights in maps] == [(2, 3, 17, 17)] * 2
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 3, 17))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="image_size is 30 and patch_size is 8"):
        VisionTransformer(30, 8)
    with pytest.raises(DataError, match=r"images are \(24, 32\)"):
        small()(torch.randn(1, 3, 24, 32))
