"""Networks and losses from their sections: every file of configs/, and what the data fills in."""

from pathlib import Path

import pytest
import torch

from common.config.locate import group_options
from common.losses import ArcFace, adaptive_margins
from common.losses.angular import MarginOutput
from common.losses.triplet import TripletOutput
from common.utils.errors import ConfigError
from projects.product_matching.core.network import (
    build_loss,
    build_network,
    fill_sections,
    has_subcenters,
    published_statistics,
)
from tests.projects.product_matching.sessions import PROJECT, composed


@pytest.mark.parametrize("name", group_options(PROJECT, "loss"))
def test_every_loss_is_built_and_gives_gradients(name: str) -> None:
    config, context = composed(f"loss={name}")
    fill_sections(config, context, (1, 32, 32), [4, 2, 8])
    loss = build_loss(config.loss, 16)
    embeddings = torch.randn(12, 16, requires_grad=True)
    result = loss(embeddings, torch.arange(12) % 3)
    value = result.loss if isinstance(result, MarginOutput | TripletOutput) else result
    value.backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0
    assert has_subcenters(loss) == (name == "subcenter_arcface")


@pytest.mark.parametrize("name", group_options(PROJECT, "model"))
def test_every_network_takes_the_channels_of_the_data(name: str) -> None:
    config, context = composed(f"model={name}")
    fill_sections(config, context, (1, 32, 32), [2, 2])
    network = build_network(config.model)
    embeddings = network.eval()(torch.randn(2, 1, 32, 32))
    assert embeddings.shape == (2, network.embedding_dim)


def test_margins_follow_the_counts_of_the_data() -> None:
    config, context = composed("loss=arcface_adaptive")
    fill_sections(config, context, (1, 32, 32), [4, 100, 8])
    loss = build_loss(config.loss, 16)
    assert isinstance(loss, ArcFace)
    assert loss.margins.tolist() == pytest.approx(adaptive_margins([4, 100, 8]))


def test_a_number_of_classes_that_is_not_the_data_s_is_refused() -> None:
    config, context = composed("+loss.num_classes=7")
    with pytest.raises(ConfigError, match=r"loss\.num_classes is 7"):
        fill_sections(config, context, (1, 32, 32), [4, 4])


def test_a_section_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_ is torch\.nn\.Linear, which has no"):
        build_network({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2})
    with pytest.raises(ConfigError, match="allow"):
        build_network({"_target_": "os.system", "command": "true"})


def test_published_weights_bring_their_statistics() -> None:
    mean, std = published_statistics(
        {
            "_target_": "x",
            "backbone": {"_target_": "y", "model_name": "resnet18", "pretrained": True},
        }
    ) or ([], [])
    assert mean == pytest.approx([0.485, 0.456, 0.406])
    assert std == pytest.approx([0.229, 0.224, 0.225])
    assert published_statistics({"_target_": "x", "model_name": "resnet18"}) is None


@pytest.mark.parametrize("group", ["dataloader", "optimizer", "scheduler", "transforms"])
def test_every_file_of_a_group_composes(group: str) -> None:
    options = group_options(PROJECT, group)
    assert options
    for name in options:
        composed(f"{group}={name}")


def test_the_files_of_whole_experiments_compose() -> None:
    from common.config import compose
    from projects.product_matching.core.config import Config

    for path in sorted(Path(PROJECT / "configs").glob("*.yaml")):
        compose(Config, PROJECT / "run.py", path)
