"""Facts of "Deep Residual Learning", section 4.2, and the commands end to end."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from common.config import RunContext, compose, load_run_config
from common.data.info import DatasetInfo
from common.training import OptimizerConfig, build_optimizer, build_schedule
from common.utils.errors import ConfigError
from papers.resnet import train as paper
from papers.resnet.evaluate import evaluate
from papers.resnet.model import ClassificationTask, ModelConfig

CIFAR = DatasetInfo(num_classes=10, input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


def _task(depth: int, shortcut: str = "padding") -> ClassificationTask:
    task = ClassificationTask(ModelConfig(depth=depth, shortcut=shortcut))
    task.configure(CIFAR, RunContext())
    return task


@pytest.mark.fact("Table 6")
@pytest.mark.parametrize(
    ("depth", "count", "millions"),
    [
        (20, 269_722, "0.27"),
        (32, 464_154, "0.46"),
        (44, 658_586, "0.66"),
        (56, 853_018, "0.85"),
        (110, 1_727_962, "1.7"),
    ],
)
def test_parameters_of_table_6(depth: int, count: int, millions: str) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in _task(depth).parameters())
    assert found == count
    decimals = len(millions.split(".")[1])
    assert f"{found / 1e6:.{decimals}f}" == millions


@pytest.mark.fact("section 4.2")
@pytest.mark.parametrize("n", [1, 3, 5, 18])
def test_weighted_layers_are_6n_plus_2(n: int) -> None:
    layers = [m for m in _task(6 * n + 2).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * n + 2


@pytest.mark.fact("section 4.2")
def test_maps_are_32_16_and_8_pixels_wide_with_16_32_and_64_channels() -> None:
    model = _task(20).model
    x = model.relu(model.bn1(model.conv1(torch.randn(2, 3, 32, 32))))
    shapes = []
    for stage in model.stages:
        x = model.get_submodule(stage)(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.fact("section 3.3, option A")
def test_identity_shortcuts_add_no_parameters_and_projections_do() -> None:
    plain, projected = _task(20), _task(20, "projection")
    extra = sum(p.numel() for p in projected.parameters())
    extra -= sum(p.numel() for p in plain.parameters())
    # Two 1x1 convolutions, 16 -> 32 and 32 -> 64, and a batch norm behind each.
    assert extra == 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_torchvisions_blocks_with_a_shortcut_of_zeros(training: bool) -> None:
    """The whole forward pass once more, from torchvision's block with copied weights."""
    torch.manual_seed(0)
    task = _task(8).train(training)
    model = task.model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)

    def padded(x: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(len(x), x.shape[1], x.shape[2] // 2, x.shape[3] // 2)
        return torch.cat([x[:, :, 0::2, 0::2], zeros], dim=1)

    with torch.no_grad():
        x = model.conv1((images / 255.0 - 0.5) / 0.25)
        x = torch.relu(model.bn1(x))
        for stage, (inputs, width) in zip(
            model.stages, [(16, 16), (16, 32), (32, 64)], strict=True
        ):
            block = BasicBlock(inputs, width, stride=width // inputs).train(training)
            block.load_state_dict(model.get_submodule(stage)[0].state_dict())
            block.downsample = padded if width > inputs else None
            x = block(x)
        expected = model.fc(x.mean(dim=(2, 3)))
        torch.testing.assert_close(task(images), expected)


@pytest.mark.fact("section 4.2")
def test_the_rates_of_the_paper() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/cifar10_resnet20.yaml")
    assert config.trainer.max_steps == 64_000
    schedule = build_schedule(config.schedule, 64_000)
    rates = [config.optim.lr * schedule(step) for step in (1, 32_000, 32_001, 48_000, 48_001)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    deep, _ = compose(paper.Config, paper.__file__, "configs/cifar10_resnet110.yaml")
    schedule = build_schedule(deep.schedule, 64_000)
    rates = [deep.optim.lr * schedule(step) for step in (1, 400, 401, 32_001)]
    assert rates == pytest.approx([0.01, 0.01, 0.1, 0.01])


def test_the_papers_own_settings_are_in_the_config() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/cifar10_resnet20.yaml")
    optim, data = config.optim, config.data
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (data.batch_size, 50_000 * (1 - data.validation_share)) == (128, 45_000)
    assert (config.augment.padding, config.augment.flip) == (4, True)


def test_weight_decay_excepts_nothing() -> None:
    task = _task(8)
    (group,) = build_optimizer(OptimizerConfig("sgd", weight_decay=1e-4), task).param_groups
    assert group["weight_decay"] == 1e-4
    assert len(group["params"]) == len(list(task.parameters()))


def test_a_depth_that_no_network_of_the_family_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.depth is 21: .* 6n \+ 2 layers, e\.g\. 20"):
        ModelConfig(depth=21)


def test_evaluate_gives_what_training_recorded() -> None:
    small = ["model.width=4", "trainer.max_steps=8", "trainer.loggers=[]", "trainer.eval_every=4"]
    accuracy = paper.train(*compose(paper.Config, paper.__file__, overrides=small))
    (run,) = (Path(os.environ["ASSETS_DIR"]) / "outputs" / "resnet").iterdir()
    assert evaluate(*load_run_config(paper.Config, run)) == accuracy
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == recorded
    config, context = load_run_config(paper.Config, run)
    context.checkpoint = "best"
    assert 0.0 <= evaluate(config, context) <= 1.0
