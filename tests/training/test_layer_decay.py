"""Rates by depth: which layer a parameter is in, and how fast it learns."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from common.config import RunContext
from common.data.info import DatasetInfo
from common.training import ClassificationTask, OptimizerConfig, build_optimizer
from common.training.layer_decay import layer_depths, layered_groups
from common.utils.errors import ConfigError


def depths_of(model: nn.Module, head: str) -> dict[str, int]:
    """The depth of every module that has parameters of its own, by name."""
    depths = layer_depths(model, head)
    return {name.rpartition(".")[0]: depth for name, depth in depths.items()}


def test_the_blocks_of_a_resnet_are_its_layers() -> None:
    with torch.device("meta"):
        depths = depths_of(torchvision.models.resnet18(), "fc")
    assert depths["conv1"] == depths["bn1"] == 0
    assert depths["layer1.0.conv1"] == depths["layer1.0.bn2"] == 1
    assert depths["layer2.0.downsample.0"] == depths["layer2.0.conv2"] == 3
    assert depths["layer4.1.conv2"] == 8
    assert depths["fc"] == 9


def test_the_blocks_of_a_vision_transformer_are_its_layers() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
        depths = layer_depths(model, "heads.head")
    assert (
        depths["class_token"] == depths["conv_proj.weight"] == depths["encoder.pos_embedding"] == 0
    )
    assert depths["encoder.layers.encoder_layer_0.ln_1.weight"] == 1
    assert depths["encoder.layers.encoder_layer_11.mlp.0.weight"] == 12
    assert depths["encoder.ln.weight"] == 12
    assert depths["heads.head.weight"] == 13


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (torchvision.models.densenet121, "classifier"),
        (torchvision.models.convnext_tiny, "classifier.2"),
        (torchvision.models.mobilenet_v3_small, "classifier.3"),
        (torchvision.models.swin_t, "head"),
        (lambda: timm.create_model("efficientnet_b0"), "classifier"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "head"),
    ],
)
def test_depth_rises_with_the_order_of_parameters_and_the_head_is_last(
    make: Callable[[], nn.Module], head: str
) -> None:
    with torch.device("meta"):
        model = make()
    depths = layer_depths(model, head)
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert set(depths.values()) == set(range(max(depths.values()) + 1))
    assert 5 < max(depths.values()) < 80
    assert [n for n, d in depths.items() if d == max(depths.values())] == [
        n for n in depths if n.startswith(f"{head}.")
    ]


def test_timms_own_groups_are_taken() -> None:
    """Against timm's own function for layer-wise rates."""
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=3)
    expected = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7)
        for parameter in group["params"]
    }
    groups = layered_groups(model, 0.05, layer_decay=0.7, head="head")
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == expected.keys()
    shift = found[id(model.pos_embed)][0] / expected[id(model.pos_embed)][0]
    for name, parameter in model.named_parameters():
        ours, theirs = found[id(parameter)], expected[id(parameter)]
        assert ours[1] == theirs[1], name
        if not name.startswith(("norm.", "head.")):  # for timm these two are one layer
            assert ours[0] / theirs[0] == pytest.approx(shift), name
    assert found[id(model.head.weight)][0] == 1.0
    assert found[id(model.norm.weight)][0] == pytest.approx(0.7)


def test_rates_are_shares_of_the_peak_and_the_full_one_is_reported() -> None:
    info = DatasetInfo(num_classes=4, input_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    task = ClassificationTask(
        lambda given: torchvision.models.resnet18(num_classes=4),
        layer_decay=0.5,
        head="fc",
        head_lr_multiplier=10.0,
    )
    task.configure(info, RunContext())
    optimizer = build_optimizer(OptimizerConfig("sgd", lr=0.8, weight_decay=0.1), task)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates.keys() == {id(p) for p in task.model.parameters()}
    assert rates[id(task.model.fc.weight)] == pytest.approx(8.0)
    assert rates[id(task.model.layer4[1].conv1.weight)] == pytest.approx(0.4)
    assert rates[id(task.model.conv1.weight)] == pytest.approx(0.8 * 0.5**9)
    assert not any("lr_scale" in group for group in optimizer.param_groups)
    decays = {g["weight_decay"] for g in optimizer.param_groups for p in g["params"] if p.ndim < 2}
    assert decays == {0.0}
    alone = ClassificationTask(
        lambda given: torchvision.models.resnet18(num_classes=4), head="fc", head_lr_multiplier=9.0
    )
    alone.configure(info, RunContext())
    first = build_optimizer(OptimizerConfig("sgd", lr=0.8), alone).param_groups[0]
    assert first["lr"] == 0.8


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layer_decay": 0.0}, "layer_decay is 0"),
        ({"layer_decay": 1.5}, "at most 1"),
        ({"head_lr_multiplier": 0.0, "head": "fc"}, "more than 0"),
        ({"head": "classifier"}, "no layer 'classifier'"),
    ],
)
def test_factors_and_heads_that_make_no_sense_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        layered_groups(torchvision.models.resnet18(), 0.1, **values)
