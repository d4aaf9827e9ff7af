"""Weights under timm's names load into our Vision Transformer, and ours into timm's."""

import pytest
import timm
import torch
from torch import Tensor, nn

from common.models import VisionTransformer
from common.models.vit_timm import load_timm_weights, timm_weights
from common.utils.errors import CheckpointError

SIZES = {"d_model": 192, "num_heads": 3, "num_layers": 2, "d_ff": 768}


def reference() -> nn.Module:
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=16, patch_size=4, depth=2, num_classes=7
    )
    for parameter in model.parameters():  # its biases and class token start at 0
        nn.init.normal_(parameter, std=0.1)
    return model.double().eval()


def ours(**options: int) -> VisionTransformer:
    return VisionTransformer(16, 4, num_classes=7, **{**SIZES, **options}).double().eval()


def test_logits_equal_timms_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs, model = reference(), ours()
    load_timm_weights(model, theirs.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), theirs(images), rtol=0, atol=1e-10)


def test_timm_reads_our_weights_and_nothing_is_lost_on_the_way_back() -> None:
    torch.manual_seed(0)
    model, theirs, copy = ours(), reference(), ours()
    nn.init.normal_(model.head.weight)
    theirs.load_state_dict(timm_weights(model))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model(images), rtol=0, atol=1e-10)
    load_timm_weights(copy, theirs.state_dict())
    assert all(torch.equal(value, copy.state_dict()[k]) for k, value in model.state_dict().items())


def _without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded() -> None:
    weights = reference().state_dict()
    model = ours()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"no 'blocks\.1\.attn\.qkv\.bias'"):
        load_timm_weights(model, _without(weights, "blocks.1.attn.qkv.bias"))
    with pytest.raises(CheckpointError, match=r"'dist_token' \(1 such\)"):
        load_timm_weights(model, {**weights, "dist_token": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"'pos_embed' has the shape \(1, 17, 192\), expected"
    ):
        load_timm_weights(
            VisionTransformer(32, 4, num_classes=7, **SIZES), _without(weights, "none")
        )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
