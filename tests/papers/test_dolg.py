"""Facts of DOLG (Yang et al. 2021, 2108.02927), its branches alone, and the commands end to end."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import RunContext, compose, load_run_config
from common.data.info import DatasetInfo
from common.models import DOLG
from common.utils.errors import ConfigError
from common.visualization import plot_image_attention
from papers.arcface.model import LossConfig
from papers.dolg import train as paper
from papers.dolg.evaluate import evaluate
from papers.dolg.model import DolgTask, LocalOnly, ModelConfig, build_network
from papers.dolg.plot import attention_maps
from papers.dolg.plot import main as draw

INFO = DatasetInfo(num_classes=3, input_shape=(1, 16, 16), mean=(0.5,), std=(0.3,))
SMALL = {"channels": [4, 6, 8], "features": [2, 3], "atrous_rates": [1, 2], "embedding_dim": 5}


def _task(scales: tuple[float, ...] = (1.0,), **values) -> DolgTask:
    torch.manual_seed(0)
    task = DolgTask(ModelConfig(**{**SMALL, **values}), LossConfig(), scales)
    task.configure(INFO, RunContext())
    return task.eval()


def _images(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)


@pytest.mark.fact("section 3.3, eq. 1-3: f_proj = <f_l, f_g> / |f_g|^2 f_g, f_orth = f_l - f_proj")
def test_the_embedding_is_made_of_f_g_and_what_is_orthogonal_to_it_at_each_position() -> None:
    task = _task()
    model, pixels = task.model, (_images().double() / 255.0 - 0.5) / 0.3
    with torch.no_grad():
        found = task(_images())
        local, deep = model.backbone.feature_maps(pixels.float())
        vectors = model.to_global(model.pool(deep)).double()  # f_g
        features = model.local(local).features.double()  # f_l
        fused = []
        for f_g, f_l in zip(vectors, features, strict=True):
            rows = []
            for point in f_l.flatten(1).T:
                f_orth = point - (point @ f_g) / (f_g @ f_g) * f_g
                assert abs(f_orth @ f_g) < 1e-9 * f_g.norm() * point.norm()
                rows.append(torch.cat([f_g, f_orth]))
            fused.append(torch.stack(rows).mean(0))
        expected = model.embed(torch.stack(fused).float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.fact("section 3.2: features of length one, times an attention above zero")
def test_a_local_features_length_is_its_attention() -> None:
    task = _task()
    maps = attention_maps(task, _images())
    assert maps.shape == (4, 4, 4)
    assert (maps > 0).all()
    with torch.no_grad():
        local = task.model.backbone.feature_maps(task.normalized(_images()))[0]
        lengths = task.model.local(local).features.norm(dim=1)
    torch.testing.assert_close(maps, lengths)


@pytest.mark.fact("section 4.1: R50, f_l and f_g of 1024, embeddings of 512, GeM from p = 3")
def test_the_papers_network_and_settings_are_those_of_the_config() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/gldv2_r50.yaml")
    config.model.pretrained = False
    info = DatasetInfo(num_classes=81_313, input_shape=(3, 512, 512))
    with torch.device("meta"):
        model = build_network(config.model, info)
        assert isinstance(model, DOLG)
        local, deep = model.backbone.feature_maps(torch.zeros(2, 3, 512, 512))
        assert model.eval()(torch.zeros(2, 3, 512, 512)).shape == (2, 512)
    assert (local.shape[1:], deep.shape[1:]) == ((1024, 32, 32), (2048, 16, 16))
    assert (model.to_global.in_features, model.to_global.out_features) == (2048, 1024)
    assert (model.embed.in_features, model.embed.out_features) == (2 * 1024, 512)
    assert [layer.dilation for layer in model.local.atrous.dilated] == [(6, 6), (12, 12), (18, 18)]
    assert _task().model.pool.p.item() == 3.0
    assert (config.loss.kind, config.loss.margin, config.loss.scale) == ("arcface", 0.15, 30.0)
    assert config.scales == [0.3535, 0.5, 0.7071, 1.0, 1.4142]
    optim = config.optim
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (config.data.batch_size, config.trainer.max_epochs) == (128, 100)


@pytest.mark.fact("section 4.1: the mean over scales of embeddings of length one")
def test_an_image_is_embedded_at_every_scale() -> None:
    task = _task(scales=(0.5, 1.0, 1.5))
    batch = {"image": _images()}
    with torch.no_grad():
        found = task.predict_step(batch)
        pixels = (_images() / 255.0 - 0.5) / 0.3
        total = torch.zeros(4, 5)
        for side in (8, 16, 24):
            sized = pixels
            if side != 16:
                sized = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
            total += F.normalize(task.model(sized))
        torch.testing.assert_close(found, F.normalize(total), rtol=1e-4, atol=1e-5)
        task.scales = (1.0,)
        torch.testing.assert_close(task.predict_step(batch), F.normalize(task(_images())))


@pytest.mark.parametrize("branches", ["both", "global", "local"])
def test_a_branch_alone_has_no_part_of_the_other_and_all_it_has_is_trained(branches: str) -> None:
    task = _task(branches=branches).train()
    batch = {"image": _images(12), "label": torch.arange(12) % 3}
    task.train_step(batch).loss_sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    names = {name.split(".")[0] for name, _ in task.model.named_parameters()}
    expected = {
        "both": {"backbone", "local", "pool", "to_global", "embed"},
        "global": {"backbone", "pool", "neck"},
        "local": {"backbone", "local", "embed"},
    }
    assert names == expected[branches]
    assert len(task.model.backbone.blocks) == (2 if branches == "local" else 3)


def test_the_local_branch_alone_is_the_average_of_its_features() -> None:
    task = _task(branches="local", fusion_dim=7)
    model, images = task.model, _images()
    assert isinstance(model, LocalOnly)
    with torch.no_grad():
        (maps,) = model.backbone.feature_maps(task.normalized(images))
        features = model.local(maps).features
        assert features.shape == (4, 7, 4, 4)
        torch.testing.assert_close(task(images), model.embed(features.flatten(2).mean(2)))


def test_published_weights_are_awaited_and_a_run_brings_them() -> None:
    info = DatasetInfo(num_classes=3, input_shape=(3, 64, 64), mean=(0.5,) * 3, std=(0.3,) * 3)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    values = {"backbone": "test_resnet", "features": [3, 4], "atrous_rates": [], "embedding_dim": 4}
    task = DolgTask(ModelConfig(**values, pretrained=True), LossConfig())
    task.configure(info, RunContext())
    with pytest.raises(ConfigError, match="awaits its published weights"):
        task(images)
    other = DolgTask(ModelConfig(**values), LossConfig())
    other.configure(info, RunContext())
    task.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(task.eval()(images), other.eval()(images))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": [3]}, r"model\.features is \[3\]; expected two stages"),
        ({"channels": [4, 6]}, r"has 2 blocks, and the global branch reads stage 3"),
        ({"pretrained": True}, r"model\.backbone=conv has no weights"),
    ],
)
def test_networks_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{**SMALL, **values})


def test_no_scale_and_a_triplet_without_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scales is empty"):
        paper.Config(scales=[])
    with pytest.raises(ConfigError, match=r"data\.per_class is 0"):
        paper.Config(loss=LossConfig(kind="triplet"))


def test_the_commands_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model.channels=[4,6,8]", "model.fusion_dim=8", "trainer.loggers=[]"]
    steps = ["trainer.max_steps=4", "schedule.warmup_steps=1", "trainer.eval_every=4"]
    precision = paper.train(*compose(paper.Config, paper.__file__, overrides=[*words, *steps]))
    (run,) = (Path(os.environ["ASSETS_DIR"]) / "outputs" / "dolg").iterdir()
    assert evaluate(*load_run_config(paper.Config, run)) == precision
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == recorded
    assert {"baseline/raw_pixels", "baseline/untrained"} <= set(recorded)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["plot", "--count", "3"])
    captions = list[Any]()
    monkeypatch.setattr(
        "papers.dolg.plot.plot_image_attention",
        lambda images, maps, names, out: (
            captions.extend(names),
            plot_image_attention(images, maps, names, out),
        ),
    )
    draw()
    assert captions == [("test image 1",), ("test image 2",), ("test image 3",)]
    picture = Path(capsys.readouterr().out.strip())
    assert picture == run / "plots" / "attention.png"
    assert picture.stat().st_size > 5_000
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("branches: both", "branches: global"))
    with pytest.raises(SystemExit):
        draw()
    assert "has model.branches=global" in capsys.readouterr().err
