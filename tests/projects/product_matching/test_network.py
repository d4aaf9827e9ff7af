"""Networks and losses from their sections: every file of configs/, and what the data fills in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from common.config import Source
from common.config.locate import group_options
from common.losses import ArcFace, adaptive_margins
from common.losses.angular import MarginOutput
from common.losses.triplet import TripletOutput
from common.utils.errors import ConfigError
from projects.product_matching.core.config import DataConfig
from projects.product_matching.core.items.images import fold_images
from projects.product_matching.core.items.items import read_items
from projects.product_matching.core.network import (
    build_loss,
    build_network,
    fill_sections,
    has_subcenters,
    published_statistics,
    warn_of_lone_images,
)
from tests.projects.product_matching.sessions import PROJECT, composed, write_photos


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


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["loss=triplet"], "TripletMarginLoss"),
        (["loss=multi_similarity"], "MultiSimilarityLoss"),
        (["loss=contrastive", "data.per_class=1"], "SupervisedNTXentLoss"),
        (["loss=contrastive", "data.per_class=4"], None),
        (["loss=arcface"], None),
    ],
)
def test_a_loss_of_pairs_asks_for_them(
    words: list[str], name: str | None, logged: list[str]
) -> None:
    warn_of_lone_images(composed(*words)[0])
    assert len(logged) == (name is not None)
    if name is not None:
        assert name in logged[0]
        assert "set data.per_class=4" in logged[0]


def test_a_section_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_ is torch\.nn\.Linear, which has no"):
        build_network({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2})
    with pytest.raises(ConfigError, match="allow"):
        build_network({"_target_": "os.system", "command": "true"})
    backbone = {"_target_": "timm.create_model", "model_name": "resnet18"}
    with pytest.raises(
        ConfigError, match=r"model\.backbone\._target_ is timm.*, which is no network"
    ):
        build_network({"_target_": "common.models.EmbeddingNetwork", "backbone": backbone})


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


@pytest.mark.parametrize("words", [(), ("transforms.preprocessing.mode=RGB",)])
def test_published_weights_take_grey_images(words: tuple[str, ...], tmp_path: Path) -> None:
    items = read_items(DataConfig(folder=str(write_photos(tmp_path / "photos"))), None)
    assert {image_mode(source) for source in items.sources} == {"L"}
    config, context = composed("model.backbone.pretrained=true", "data.batch_size=4", *words)
    images = fold_images(config, context, items, items)
    mean = [0.485, 0.456, 0.406] if words else [0.449]
    std = [0.229, 0.224, 0.225] if words else [0.226]
    assert images.preprocessing.config.mean == pytest.approx(mean)
    assert images.preprocessing.config.std == pytest.approx(std)
    assert context.source("transforms.preprocessing.mean") is Source.DATA
    backbone = build_network(config.model).backbone
    assert backbone.mean == pytest.approx(mean)
    assert backbone.std == pytest.approx(std)


def image_mode(source: Any) -> str:
    with Image.open(source) as image:
        return image.mode


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
