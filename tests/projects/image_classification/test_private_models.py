"""Networks of others under differential privacy: opacus#828, and per-example gradients that agree."""

import pytest
import torch
from torch import nn

pytest.importorskip("opacus")

from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.training import ClassificationTask, OptimizerConfig, Trainer, TrainerConfig
from common.training.privacy.budget import PrivacyConfig
from common.training.privacy.out_of_place import make_out_of_place
from common.utils.errors import ConfigError
from projects.image_classification.core.models import get_model
from tests.projects.image_classification.configurations import configuration

INFO = DatasetInfo(num_classes=3, input_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def train(model: nn.Module, noise: float = 0.5) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data = {"image": images, "label": torch.arange(24) % 3}
    privacy = PrivacyConfig(noise_multiplier=noise, replace_layers=True)
    config = TrainerConfig(strategy="private", privacy=privacy, max_steps=2, loggers=[])
    trainer = Trainer(config)
    task = ClassificationTask(lambda info: model)
    loader = TensorLoader(data, 8, shuffle=True)
    trainer.fit(task, loader, info=INFO, optim=OptimizerConfig("sgd", lr=0.1))
    return trainer


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "resnet18"},
        {"architecture": "mobilenet_v3_small"},
        {"type": "timm", "architecture": "resnet10t"},
        {"type": "custom"},
    ],
)
def test_a_network_trains_privately_under_its_own_names(values: dict) -> None:
    config = configuration((16, 16), classes=3, trainer_type="dp", **values)
    torch.manual_seed(0)  # where a unit is all but off, rounding can turn it on
    model = get_model(config)
    names = set(dict(model.named_parameters()))
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = train(model)
    assert trainer.state.step == 2
    assert trainer.strategy.budget.epsilon() > 0
    assert set(dict(model.named_parameters())) == names
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > 0.9 * len(names)


def test_without_rewriting_the_residual_addition_fails() -> None:
    """What is rewritten is needed: this is opacus#828."""
    model = get_model(configuration((16, 16), classes=3, architecture="resnet18"))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    with pytest.raises(ConfigError, match="modified inplace"):
        train(model)


def test_a_rewritten_network_computes_the_same_and_leaves_its_input_alone() -> None:
    config = configuration((16, 16), classes=3, architecture="resnet18")
    torch.manual_seed(0)
    plain = get_model(config)
    torch.manual_seed(0)
    config.training.trainer_type = "dp"
    rewritten = get_model(config)
    images = torch.randn(4, 3, 16, 16)
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(images), rewritten.train(mode)(images))
    assert plain.state_dict().keys() == rewritten.state_dict().keys()


def test_a_rewritten_network_can_be_exported() -> None:
    config = configuration((16, 16), classes=3, architecture="resnet18", trainer_type="dp")
    model = get_model(config).eval()
    images = torch.randn(2, 3, 16, 16)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    more = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(more), model(more))


class GoesOn(nn.Module):
    """Changes a tensor in place and reads it by its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        y.mul_(2.0)
        return y


def test_a_network_that_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot be rewritten.*simple_cnn"):
        make_out_of_place(GoesOn(), torch.randn(2, 4))
