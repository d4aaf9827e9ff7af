"""Networks by name: sized by the data, refused with a word, dropped and frozen as asked."""

import copy
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.models import head_of
from common.utils.errors import ConfigError
from projects.image_classification.core.model_config import ModelConfig
from projects.image_classification.core.models import (
    MODEL_REGISTRY,
    get_model,
    register_model,
    training_options,
)
from projects.image_classification.core.networks.architectures import Shape
from projects.image_classification.core.networks.layers import DropInputs
from tests.projects.image_classification.configurations import configuration

DIVERSE = [
    ("base", "resnet18", (40, 56), "RGB"),
    ("base", "mobilenet_v3_small", (48, 48), "L"),
    ("base", "vit_b_16", (32, 32), "L"),
    ("base", "squeezenet1_1", (64, 64), "L"),
    ("base", "googlenet", (64, 64), "L"),
    ("base", "regnet_y_400mf", (64, 64), "L"),
    ("timm", "test_vit", (48, 48), "RGB"),
    ("timm", "test_efficientnet", (48, 48), "L"),
    ("custom", "simple_cnn", (9, 7), "RGB"),
    ("custom", "tiny_net", (8, 8), "L"),
]


@pytest.mark.parametrize(("kind", "name", "size", "mode"), DIVERSE)
def test_diverse_networks_give_logits_of_the_datas_classes(
    kind: str, name: str, size: tuple[int, int], mode: str
) -> None:
    key = "custom_architecture" if kind == "custom" else "architecture"
    config = configuration(size, mode, type=kind, **{key: name})
    model = get_model(config, "cpu")
    images = torch.randn(2, 1 if mode == "L" else 3, *size)
    logits = model.train()(images)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None]
    assert untrained == []
    assert training_options(config, model)["head"] in dict(model.named_modules())


@pytest.mark.slow
def test_every_classifier_of_torchvision_can_be_built() -> None:
    import torchvision

    from projects.image_classification.core.networks.input_size import check_input

    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) >= 80
    for name in names:
        check_input(ModelConfig(architecture=name), Shape(5, 1, 224, 224))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architecture": "resnet81"}, "did you mean 'resnet18'"),
        ({"architecture": "efficientnetv2_rw_s"}, "timm name: set model.type=timm"),
        ({"type": "timm", "architecture": "maxvit_t"}, "torchvision name: set model.type=base"),
        ({"architecture": "simple_cnn"}, "model.type=custom model.custom_architecture=simple_cnn"),
        ({"type": "custom", "custom_architecture": "tinynet"}, "did you mean 'tiny_net'"),
        ({"type": "custom", "custom_architecture": "resnet18"}, "model.architecture=resnet18"),
        ({"type": "timm", "architecture": "hf-hub:acme/net"}, "only timm's own names"),
        ({"type": "timm", "architecture": "resnet18.a9_in1k"}, "no such network"),
        ({"freeze": ["layr1"]}, "did you mean 'layer1'"),
        ({"freeze": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]}, "nothing"),
        ({"classes": 1}, "data.num_classes is 1"),
        ({"mode": "CMYK"}, "expected RGB or L"),
        ({"architecture": "vit_b_16", "size": (32, 64)}, "square"),
    ],
)
def test_what_cannot_be_built_is_one_line_that_says_what_to_do(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        get_model(configuration(**values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "side"),
    [
        ({"architecture": "alexnet", "size": (8, 8)}, 64),
        ({"architecture": "inception_v3", "size": (32, 32)}, 75),
        ({"architecture": "vit_b_16", "size": (60, 60)}, 64),
        ({"architecture": "maxvit_t", "size": (64, 64)}, 224),
    ],
)
def test_images_too_small_for_a_network_are_refused_with_a_size_that_works(
    values: dict, side: int
) -> None:
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=rf"image_size=\[{side},{side}\]"):
        get_model(configuration(**values))
    assert time.perf_counter() - started < 20
    from projects.image_classification.core.models import shape_of
    from projects.image_classification.core.networks.input_size import check_input

    fits = configuration(**(values | {"size": (side, side)}))
    check_input(fits.model, shape_of(fits))


def test_images_that_shrink_to_one_pixel_are_warned_of(logged: list[str]) -> None:
    get_model(configuration((8, 8), "L", architecture="resnet18"))
    assert any("11 of its 17 convolutions" in line for line in logged)
    logged.clear()
    get_model(configuration((64, 64), architecture="resnet18"))
    assert logged == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"freeze": "backbon"}, "expected none, backbone"),
        ({"unfreeze_epoch": 2}, "model.freeze is none"),
        ({"pretrained": True, "weights": "x.pt"}, "one of them"),
        ({"pretrained": True, "type": "custom"}, "nobody has published"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configuration(**values)


# ---- dropout ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "resnet18"},
        {"architecture": "mobilenet_v3_small"},
        {"architecture": "vit_b_16", "size": (32, 32)},
        {"architecture": "squeezenet1_1"},
        {"type": "timm", "architecture": "test_resnet"},
        {"type": "timm", "architecture": "test_vit", "size": (48, 48)},
        {"type": "custom"},
    ],
)
def test_the_last_layer_sees_dropped_inputs_in_training_only(values: dict) -> None:
    torch.manual_seed(0)
    plain, dropping = (get_model(configuration(**values, dropout=p)) for p in (0.0, 0.5))
    dropping.load_state_dict(plain.state_dict())  # or other units of each would never be active
    images = torch.randn(4, 3, *values.get("size", (64, 64)))
    seen: list[torch.Tensor] = []
    for model in (plain, dropping):
        model.get_submodule(head_of(model, 5)).register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        )
        for mode in (False, True):
            with torch.no_grad():
                model.train(mode)(images)
    before_eval, before, after_eval, after = seen
    assert torch.equal(after_eval, before_eval)
    zeros = [(inputs == 0).double().mean().item() for inputs in (before, after)]
    assert zeros[1] == pytest.approx(zeros[0] + 0.5 * (1 - zeros[0]), abs=0.1)


def test_a_network_with_a_dropout_hook_can_be_copied() -> None:
    model = get_model(configuration(architecture="resnet18", dropout=0.9))
    twin = copy.deepcopy(model).train()
    (hook,) = twin.fc._forward_pre_hooks.values()
    assert isinstance(hook, DropInputs)
    torch.testing.assert_close(twin.eval()(torch.ones(1, 3, 64, 64)).shape, torch.Size([1, 5]))


# ---- freezing --------------------------------------------------------------------------------


def test_a_frozen_backbone_and_its_statistics_hold_still(logged: list[str]) -> None:
    model = get_model(configuration(architecture="resnet18", freeze="backbone")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert any("freezes random weights" in line for line in logged)
    twin = copy.deepcopy(model).train()
    assert not twin.bn1.training
    assert twin.bn1 is not model.bn1


def test_both_heads_of_a_distilled_network_train() -> None:
    config = configuration(
        (32, 32), type="timm", architecture="deit_tiny_distilled_patch16_224", freeze="backbone"
    )
    model = get_model(config)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_prefixes_freeze_what_they_begin() -> None:
    model = get_model(configuration(architecture="resnet18", freeze=["conv1", "layer1"]))
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    assert not model.train().layer1[0].bn1.training
    assert model.bn1.training


# ---- our own networks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simple_cnn", "tiny_net"])
def test_with_group_norm_no_example_sees_another(name: str) -> None:
    config = configuration((12, 12), type="custom", custom_architecture=name, norm="group")
    model = get_model(config).train()
    images = torch.randn(5, 3, 12, 12)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_anybody_can_register_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "projects.image_classification.core.networks.small.MODEL_REGISTRY", MODEL_REGISTRY
    )

    @register_model("flat_for_a_test")
    def flat(num_classes: int, in_channels: int, norm: str) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    @register_model("wrong_for_a_test")
    def wrong(num_classes: int, in_channels: int, norm: str) -> nn.Module:
        return nn.Flatten()

    try:
        taken = pytest.raises(ConfigError, match="choose another")
        with taken:
            register_model("flat_for_a_test")(wrong)
        config = configuration((8, 8), type="custom", custom_architecture="wrong_for_a_test")
        with pytest.raises(ConfigError, match=r"gives \(2, 192\).*expected logits"):
            get_model(config)
        config = configuration((8, 8), type="custom", custom_architecture="flat_for_a_test")
        assert get_model(config)(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    finally:
        del MODEL_REGISTRY["flat_for_a_test"], MODEL_REGISTRY["wrong_for_a_test"]


def test_the_section_is_read_without_pytorch() -> None:
    code = (
        "import sys; from projects.image_classification.core.model_config import ModelConfig; "
        "from common.data import AugmentationConfig; ModelConfig(); AugmentationConfig(); "
        "print({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_an_image_size_of_one_number_is_a_square() -> None:
    config = configuration((8, 8), type="custom")
    config.preprocessing = SimpleNamespace(image_size=8, mode="L")
    assert get_model(config)(torch.randn(2, 1, 8, 8)).shape == (2, 5)
