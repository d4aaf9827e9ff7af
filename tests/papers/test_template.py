"""Facts of "A Template", each with its place in the paper."""

import numpy as np
import pytest
import torch

from common.config import RunContext, compose
from common.data.info import DatasetInfo
from papers._template import train as paper
from papers._template.dataset import shifted
from papers._template.model import ModelConfig, Template, TemplateTask


@pytest.mark.fact("eq. 1")
def test_the_logits_are_those_of_equation_1() -> None:
    torch.manual_seed(0)
    model = Template(d_in=12, d_hidden=5, num_classes=3)
    images = torch.randn(2, 3, 2, 2)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in model.parameters())
    hidden = np.maximum(0.0, images.double().numpy().reshape(2, 12) @ w1.T + b1)
    np.testing.assert_allclose(model(images).detach().numpy(), hidden @ w2.T + b2, rtol=1e-5)


def test_the_sizes_of_the_model_are_those_of_the_data() -> None:
    config, context = compose(paper.Config, paper.__file__, overrides=["model.d_hidden=16"])
    info = DatasetInfo(num_classes=10, input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    task = TemplateTask(config.model)
    task.configure(info, context)
    assert sum(p.numel() for p in task.parameters()) == (64 + 1) * 16 + (16 + 1) * 10
    assert task(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)


def test_an_undecided_model_has_the_loss_of_a_uniform_guess() -> None:
    info = DatasetInfo(num_classes=10, input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    task = TemplateTask(ModelConfig(dropout=0.0))
    task.configure(info, RunContext())
    torch.nn.init.zeros_(task.model.output.weight)
    torch.nn.init.zeros_(task.model.output.bias)
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    loss = task.compute_loss({"image": images, "label": torch.arange(4)})["loss"]
    assert loss.item() == pytest.approx(np.log(10))


def test_a_shift_moves_the_whole_image_by_at_most_one_pixel() -> None:
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 4, 4] = 255
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        moved = shifted({"image": images, "label": torch.zeros(1)})["image"]
        seen.add(tuple(moved[0, 0].nonzero().squeeze(0).tolist()))
    assert seen == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
