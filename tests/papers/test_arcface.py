"""Facts of ArcFace (Deng et al. 2018, 1801.07698), what sub-centers find, and the commands."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import RunContext, compose, load_run_config
from common.data import OpenSetImagesConfig, TensorLoader, load_open_set_images
from common.data.info import DatasetInfo, DataSplits
from common.training import Trainer, TrainerConfig, build_schedule
from common.utils.errors import ConfigError
from papers.arcface import train as paper
from papers.arcface.baselines import baselines, untrained
from papers.arcface.evaluate import evaluate
from papers.arcface.iresnet import IRBlock
from papers.arcface.model import (
    MARGINS,
    ArcFaceTask,
    LossConfig,
    ModelConfig,
    build_loss,
    build_network,
)
from papers.arcface.plot import main as draw
from papers.arcface.plot import pair_angles
from papers.arcface.subcenters import dominant_angles, suspicion, with_wrong_labels
from papers.arcface.suspects import main as list_suspects
from papers.arcface.suspects import write_suspects

TINY = ["model.channels=[4,8]", "model.embedding_dim=16", "trainer.loggers=[]"]
FACES = DatasetInfo(num_classes=10_575, input_shape=(3, 112, 112), mean=(0.5,) * 3, std=(0.5,) * 3)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.fact("eq. 3")
def test_the_loss_of_equation_3_by_its_angles() -> None:
    loss = build_loss(LossConfig(scale=64.0), 6, 5)
    x, labels = _normal(7, 6), torch.arange(7) % 5
    w = F.normalize(loss.centers.detach().double())
    theta = (F.normalize(x.double()) @ w.T).acos()
    theta[torch.arange(7), labels] += 0.5
    expected = F.cross_entropy(64.0 * theta.cos(), labels)
    found = loss(x, labels)
    assert (found.loss / found.weight).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.fact("eq. 2")
def test_without_a_margin_it_is_the_softmax_of_scaled_cosines() -> None:
    loss = build_loss(LossConfig(kind="softmax", scale=20.0), 6, 5)
    x, labels = _normal(7, 6), torch.arange(7) % 5
    cosines = F.normalize(x) @ F.normalize(loss.centers).T
    found = loss(x, labels)
    torch.testing.assert_close(found.loss / 7, F.cross_entropy(20.0 * cosines, labels))


@pytest.mark.fact("section 3.1: 160MB for ResNet50 and 250MB for ResNet100, 512-D features")
@pytest.mark.parametrize(("name", "megabytes"), [("ir50", 160), ("ir100", 250)])
def test_the_sizes_of_the_papers_networks(name: str, megabytes: int) -> None:
    with torch.device("meta"):
        network = build_network(ModelConfig(backbone=name, embedding_dim=512), FACES)
        assert network.backbone(torch.zeros(1, 3, 112, 112)).shape == (1, 512, 7, 7)
        assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 512)
    size = sum(4 * p.numel() for p in network.parameters()) / 2**20
    assert size == pytest.approx(megabytes, rel=0.05)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    shortcuts = [m for m in convolutions if m.kernel_size == (1, 1)]
    # The layers a ResNet is named for: convolutions and the fully connected one, no shortcuts.
    assert len(convolutions) - len(shortcuts) + 1 == int(name[2:])


@pytest.mark.fact("section 3.1: BN-Dropout-FC-BN")
def test_the_head_is_batch_norm_dropout_a_layer_of_the_whole_map_and_batch_norm() -> None:
    network = build_network(ModelConfig(channels=[4, 8], dropout=0.4), FACES)
    kinds = [type(module).__name__ for module in network.head]
    assert kinds == ["BatchNorm2d", "Dropout", "Flatten", "Linear", "BatchNorm1d"]
    assert network.head[3].in_features == 8 * 28 * 28
    assert network.training
    assert network.backbone.training
    assert not network.backbone.blocks[0][1].running_mean.any(), "the probe has left no trace"


@pytest.mark.fact("1801.07698v1, section 3.2: BN-Conv-BN-PReLU-Conv-BN")
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 2)])
def test_a_residual_block_by_hand(inputs: int, outputs: int, stride: int) -> None:
    torch.manual_seed(0)
    block = IRBlock(inputs, outputs, stride)
    x = _normal(3, inputs, 8, 8)

    def normed(x: Tensor) -> Tensor:
        centred = x - x.mean((0, 2, 3), keepdim=True)
        return centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()

    first, second = block.branch[1].weight, block.branch[4].weight
    y = normed(F.conv2d(normed(x), first, padding=1))
    y = torch.where(y > 0, y, 0.25 * y)
    y = normed(F.conv2d(y, second, stride=stride, padding=1))
    kept = x if stride == 1 else normed(F.conv2d(x, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(x), y + kept, rtol=1e-4, atol=1e-5)


@pytest.mark.fact("section 3.1: on CASIA 0.1, divided by 10 at 20K and 28K, finished at 32K")
def test_the_papers_own_settings_are_in_the_config() -> None:
    config, _ = compose(paper.Config, paper.__file__, "configs/casia_r50.yaml")
    schedule = build_schedule(config.schedule, 32_000)
    rates = [config.optim.lr * schedule(step) for step in (1, 20_000, 20_001, 28_001, 32_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == (
        "sgd",
        0.9,
        5e-4,
    )
    assert (config.data.batch_size, config.trainer.max_steps) == (512, 32_000)
    assert (config.loss.kind, config.loss.margin, config.loss.scale) == ("arcface", 0.5, 64.0)


@pytest.mark.parametrize("kind", MARGINS)
def test_every_loss_trains_the_network_and_itself(kind: str) -> None:
    torch.manual_seed(0)
    task = ArcFaceTask(ModelConfig(channels=[4], embedding_dim=8), LossConfig(kind=kind))
    info = DatasetInfo(num_classes=3, input_shape=(1, 8, 8), mean=(0.5,), std=(0.3,))
    task.configure(info, RunContext())
    images = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8)
    task.train_step({"image": images, "label": torch.arange(12) % 3}).loss_sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    own = [p for p in task.loss.parameters() if p.requires_grad]
    assert len(own) == (kind != "triplet")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "car"}, r"loss\.scale is 'car'; expected a positive number or auto"),
        ({"scale": -1.0}, r"loss\.scale is -1\.0"),
        ({"kind": "softmax", "margin": 0.3}, r"softmax, which has no margin.*loss\.margin=null"),
        ({"kind": "proxy_anchor", "num_centers": 3}, r"neither sub-centers nor a scale to train"),
        ({"kind": "triplet", "scale": 3.0}, r"triplet, which has no scale"),
    ],
)
def test_values_that_a_loss_does_not_have_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig(**values)


def test_a_margin_without_a_meaning_and_a_triplet_without_pairs_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"loss: margin is 2\.0; expected 0 to 1 with kind=cosface"
    ):
        build_loss(LossConfig(kind="cosface", margin=2.0), 4, 5)
    with pytest.raises(ConfigError, match=r"data\.per_class is 0; set data\.per_class=4"):
        paper.Config(loss=LossConfig(kind="triplet"))
    with pytest.raises(ConfigError, match=r"label_noise and data\.per_class exclude each other"):
        paper.Config(label_noise=0.1, data=OpenSetImagesConfig(per_class=4))


@pytest.fixture(scope="module")
def products() -> DataSplits:
    return load_open_set_images(OpenSetImagesConfig(), RunContext(), 0)


def test_wrong_labels_are_as_many_as_asked_for_all_wrong_and_the_seeds(
    products: DataSplits,
) -> None:
    before = products.train.tensors["label"].clone()
    data, wrong = with_wrong_labels(products, 0.25, seed=3)
    after = data.train.tensors["label"]
    assert torch.equal(after != before, wrong)
    assert wrong.sum() == len(before) // 4
    assert set(after.tolist()) <= set(range(64))
    assert torch.equal(with_wrong_labels(products, 0.25, seed=3)[0].train.tensors["label"], after)
    assert not torch.equal(with_wrong_labels(products, 0.25, seed=4)[1], wrong)
    assert torch.equal(products.train.tensors["label"], before)
    same, none = with_wrong_labels(products, 0.0, seed=3)
    assert same is products
    assert not none.any()


class _Points(nn.Module):
    """Images of pixels in a row, as points; the network of the test of noisy labels."""

    embedding_dim = 16

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, self.embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


@pytest.mark.fact("ECCV 2020, section 3.3: beyond 75 degrees of the dominant centre")
def test_sub_centers_find_labels_that_were_made_wrong(tmp_path: Path) -> None:
    """Twelve classes around twelve points, a fifth of the labels wrong, three centres a class."""
    torch.manual_seed(0)
    classes, each, pixels = 12, 25, 32
    labels = torch.arange(classes).repeat(each)
    points = 128 + 60 * _normal(classes, pixels)[labels] + 12 * _normal(len(labels), pixels, seed=1)
    images = points.clamp(0, 255).to(torch.uint8).view(-1, 1, 1, pixels)
    info = DatasetInfo(
        num_classes=classes,
        class_names=tuple(f"class {c}" for c in range(classes)),
        input_shape=(1, 1, pixels),
        mean=(0.5,),
        std=(0.25,),
    )
    loader = TensorLoader({"image": images, "label": labels}, 100, shuffle=True)
    data, wrong = with_wrong_labels(DataSplits(loader, None, loader, info), 0.2, seed=0)
    task = ArcFaceTask(ModelConfig(), LossConfig(num_centers=3, margin=0.3))
    task._build = lambda _: _Points(pixels)
    trainer = Trainer(TrainerConfig(max_steps=120, loggers=[], device="cpu"))
    trainer.fit(task, data.train, None, info=info)
    angles = dominant_angles(task, trainer, data)
    found = suspicion(angles, wrong)
    assert found["suspects/precision"] > 0.8
    assert found["suspects/recall"] > 0.8  # by chance precision would be a fifth
    suspects = angles > 75
    assert found["suspects/share"] == pytest.approx(suspects.float().mean().item())
    assert suspicion(angles, torch.zeros_like(wrong)) == {"suspects/share": found["suspects/share"]}

    assert write_suspects(angles, data, tmp_path) == suspects.sum()
    rows = list(csv.DictReader((tmp_path / "suspects.csv").open()))
    assert {int(row["image"]) for row in rows} == set(suspects.nonzero().squeeze(1).tolist())
    degrees = [float(row["degrees"]) for row in rows]
    assert degrees == sorted(degrees, reverse=True)
    given = data.train.tensors["label"]
    assert all(row["label"] == f"class {given[int(row['image'])]}" for row in rows)
    assert (tmp_path / "suspects.png").stat().st_size > 5_000


def test_precision_is_of_the_suspects_and_recall_of_the_wrong() -> None:
    angles = torch.tensor([80.0, 90.0, 10.0, 76.0, 74.0, 75.0, 20.0, 30.0])
    wrong = torch.tensor([True, False, True, True, False, True, False, True])
    expected = {"suspects/share": 3 / 8, "suspects/precision": 2 / 3, "suspects/recall": 2 / 5}
    assert suspicion(angles, wrong) == pytest.approx(expected)
    assert suspicion(angles.clamp(max=75.0), wrong)["suspects/precision"] == 0.0


def test_baselines_are_the_nearest_pixels_and_the_network_of_the_seed(products: DataSplits) -> None:
    config = paper.Config(model=ModelConfig(channels=[4], embedding_dim=8))
    config.seed, config.trainer.device = 5, "cpu"

    def make() -> ArcFaceTask:
        return ArcFaceTask(config.model, config.loss)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    trainer = Trainer(TrainerConfig(loggers=[], device="cpu"))
    found = baselines(make, trainer, products, config, RunContext())
    assert torch.equal(torch.get_rng_state(), state)

    def precision(vectors: Tensor) -> float:
        x = F.normalize(vectors.double())
        nearest = (x @ x.T).fill_diagonal_(-2.0).argmax(1)
        return (labels[nearest] == labels).double().mean().item()

    images, labels = products.test.tensors["image"], products.test.tensors["label"]
    assert found["baseline/raw_pixels"] == pytest.approx(precision(images.flatten(1)))
    one = untrained(make, products, config, RunContext())
    torch.manual_seed(5)
    other = make()
    other.configure(products.info, RunContext())
    for name, value in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], value), name
    with torch.no_grad():
        expected = precision(other.eval()(images))
    assert found["baseline/untrained"] == pytest.approx(expected)


def test_pairs_are_told_apart_by_label_and_measured_in_degrees() -> None:
    half = 2**-0.5
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [half, half], [-1.0, 0.0]])
    same, different = pair_angles(embeddings, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(same, torch.tensor([45.0, 90.0]))
    torch.testing.assert_close(different, torch.tensor([90.0, 180.0, 45.0, 135.0]))


def test_the_commands_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["trainer.max_steps=4", "schedule.warmup_steps=1", "trainer.eval_every=4"]
    sub = ["loss.num_centers=3", "label_noise=0.1"]
    words = [*TINY, *steps, *sub]
    precision = paper.train(*compose(paper.Config, paper.__file__, overrides=words))
    (run,) = (Path(os.environ["ASSETS_DIR"]) / "outputs" / "arcface").iterdir()
    assert evaluate(*load_run_config(paper.Config, run)) == precision
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == recorded
    assert {"test/map_at_r", "baseline/raw_pixels", "suspects/recall"} <= set(recorded)
    for command, written in (
        (draw, ["angles.png", "neighbors.png"]),
        (list_suspects, ["suspects.csv"]),
    ):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["command"])
        command()
        lines = capsys.readouterr().out.splitlines()
        assert [Path(line).name for line in lines if line.startswith(str(run))] == written
        assert all((run / "plots" / name).stat().st_size for name in written)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("num_centers: 3", "num_centers: 1"))
    with pytest.raises(SystemExit):
        list_suspects()
    assert "has one centre a class; train with loss.num_centers=3" in capsys.readouterr().err
