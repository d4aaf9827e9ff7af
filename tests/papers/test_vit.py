"""Facts of "An Image is Worth 16x16 Words", attention rollout, and the commands end to end."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from common.config import RunContext, compose, load_run_config
from common.data.info import DatasetInfo
from common.data.labelled_images import load_labelled_images
from common.models import VisionTransformer
from common.testing.hub import LoopbackHub
from common.training import restore_task
from common.utils.errors import CheckpointError, ConfigError
from papers.vit import train as paper
from papers.vit.attention import attention_rollout, class_token_maps, position_similarity
from papers.vit.attention import main as draw
from papers.vit.evaluate import evaluate
from papers.vit.model import VIT_BASE, VIT_LARGE, ClassificationTask, ModelConfig, build_model
from papers.vit.pretrained import read_pretrained, resized_positions

pytest_plugins = ["common.testing.fixtures"]

TINY = ModelConfig(patch_size=2, d_model=6, num_heads=2, num_layers=2, d_ff=10)


def _task(
    config: ModelConfig = TINY, pretrained: Mapping[str, Tensor] | None = None
) -> ClassificationTask:
    info = DatasetInfo(num_classes=3, input_shape=(3, 4, 4), mean=(0.5,) * 3, std=(0.2,) * 3)
    task = ClassificationTask(config, pretrained)
    task.configure(info, RunContext())
    return task.eval()


@pytest.mark.fact("Table 1")
@pytest.mark.parametrize(
    ("config", "name", "count", "millions"),
    [(VIT_BASE, "base", 86_567_656, 86), (VIT_LARGE, "large", 304_326_632, 307)],
)
def test_parameters_of_table_1(config: ModelConfig, name: str, count: int, millions: int) -> None:
    with torch.device("meta"):
        model = build_model(config, (3, 224, 224), 1000)
        reference = timm.create_model(f"vit_{name}_patch16_224", pretrained=False)
    found = sum(p.numel() for p in model.parameters())
    assert found == sum(p.numel() for p in reference.parameters()) == count
    assert found / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.fact("section 3.1")
@pytest.mark.parametrize(("side", "patch"), [(224, 16), (32, 4), (8, 2), (8, 8)])
def test_a_sequence_has_hw_over_p_squared_patches_and_a_class_token(side: int, patch: int) -> None:
    config = ModelConfig(patch_size=patch, d_model=6, num_heads=2, num_layers=0, d_ff=6)
    model = build_model(config, (1, side, side), 2)
    expected = side * side // patch**2 + 1
    assert model.positions.shape == (1, expected, 6)
    assert model.features(torch.zeros(1, 1, side, side)).shape == (1, expected, 6)


@pytest.mark.fact("section 3.2")
def test_the_head_starts_at_zero_so_that_all_classes_are_equally_probable() -> None:
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    assert not _task()(images).any()


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight + norm.bias
    )


@pytest.mark.fact("eq. 1-4, eq. 5-8")
def test_equations_1_to_4_by_hand() -> None:
    """The network written out once more with matrices, patch by patch and head by head."""
    torch.manual_seed(0)
    model = build_model(TINY, (3, 4, 4), 3).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    image = torch.randn(3, 4, 4, dtype=torch.float64)

    kernel = model.patch_embedding
    embedding = kernel.weight.reshape(6, -1).T  # E, (P^2 C) x D
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    patches = torch.stack([image[:, i : i + 2, j : j + 2].reshape(-1) for i, j in corners])
    z = torch.cat([model.class_token[0], patches @ embedding + kernel.bias]) + model.positions[0]
    for layer in model.encoder:
        attention, mlp = layer.attention, layer.feed_forward
        x = _normed(z, layer.attention_residual.norm)
        q, k, v = (x @ attention.in_proj.weight.T + attention.in_proj.bias).split(6, dim=-1)
        heads = []
        for head in (slice(0, 3), slice(3, 6)):  # D_h = D / k = 3
            scores = q[:, head] @ k[:, head].T / 3**0.5
            heads.append(scores.softmax(-1) @ v[:, head])
        msa = torch.cat(heads, dim=-1) @ attention.out_proj.weight.T + attention.out_proj.bias
        z = msa + z
        x = _normed(z, layer.feed_forward_residual.norm)
        hidden = F.gelu(x @ mlp.linear1.weight.T + mlp.linear1.bias)
        z = hidden @ mlp.linear2.weight.T + mlp.linear2.bias + z
    y = _normed(z[0], model.norm)
    expected = y @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(image[None])[0], expected, rtol=0, atol=1e-10)


def test_rollout_of_two_layers_by_hand() -> None:
    """Abnar & Zuidema, eq. 1: mean of heads, plus identity, rows to one, last layer first."""
    first = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])[None]
    second = torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])[None]
    # Means: [[.5 .5] [0 1]] and [[0 1] [1 0]]; with the identity [[.75 .25] [0 1]], [[.5 .5] [.5 .5]].
    rolled = attention_rollout([first, second])
    torch.testing.assert_close(rolled, torch.tensor([[[0.375, 0.625], [0.375, 0.625]]]))


def test_rollout_of_layers_that_look_only_at_themselves_is_the_identity() -> None:
    maps = [torch.eye(4).expand(2, 3, 4, 4)] * 5
    torch.testing.assert_close(attention_rollout(maps), torch.eye(4).expand(2, 4, 4))


def test_the_class_tokens_map_finds_the_patch_that_the_network_reads() -> None:
    """Every query is made to match the key of the patch that is lit, and no other."""
    task = _task(ModelConfig(patch_size=2, d_model=4, num_heads=1, num_layers=1, d_ff=4))
    model = task.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embedding.weight[0] = 1.0
        residual = model.encoder[0].attention_residual
        residual.norm.weight.fill_(1.0)
        projection = model.encoder[0].attention.in_proj
        projection.bias[0] = 5.0  # q = (5, 0, 0, 0)
        projection.weight[4, 0] = 5.0  # k = (5 x_0, 0, 0, 0)
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    images[:, :, 0:2, 2:4] = 255
    (found,) = class_token_maps(task, images)
    assert found.shape == (2, 2)
    assert found[0, 1] == 1.0
    assert found.flatten()[[0, 2, 3]].max() < 0.01


def test_positions_are_compared_by_angle_and_without_the_class_token() -> None:
    positions = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [3.0, 0.0], [0.0, -2.0], [-1.0, 0.0]]])
    expected = [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]]
    torch.testing.assert_close(position_similarity(positions), torch.tensor(expected).float())


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 30, 30), "images are 30 x 30 and model.patch_size is 4"), ((3, 32, 28), "32 x 28")],
)
def test_images_that_cannot_be_cut_into_patches_are_refused(shape: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(patch_size=4), shape, 10)


@pytest.mark.parametrize("name", ["cifar10_tiny", "cifar10_short", "cifar10_b16_finetune"])
def test_the_configs_build_a_network_for_cifar(name: str) -> None:
    config, _ = compose(paper.Config, paper.__file__, f"configs/{name}.yaml")
    with torch.device("meta"):
        model: VisionTransformer = build_model(config.model, (3, 32, 32), 10)
    count = sum(p.numel() for p in model.parameters())
    expected = {"cifar10_tiny": 5_362_762, "cifar10_short": 311_338}
    assert count == expected.get(name, 86_098_186)


@pytest.mark.fact("section 3.2")
@pytest.mark.parametrize("side", [5, 3, 2])
def test_positions_of_another_resolution_are_interpolated_as_timm_does(side: int) -> None:
    torch.manual_seed(0)
    positions = torch.randn(1, 10, 6)
    expected = timm.layers.resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=1)
    found = resized_positions(positions, side * side + 1)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[:, 0], positions[:, 0])


@pytest.mark.fact("section 3.2")
def test_fine_tuning_starts_from_timms_features_and_a_new_head(loopback_hub: LoopbackHub) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=8, patch_size=4, depth=1, num_classes=5
    ).eval()
    loopback_hub.push("models/acme/vit", {"model.safetensors": save(reference.state_dict())})
    sizes = {"patch_size": 4, "d_model": 192, "num_heads": 3, "num_layers": 1, "d_ff": 768}
    task = _task(ModelConfig(**sizes, image_size=8), read_pretrained("acme/vit"))
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    seen = task.normalized(images)
    assert seen.shape == (2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(task.model.features(seen), reference.forward_features(seen))
    assert not task(images).any()
    with pytest.raises(CheckpointError, match="has the shape"):
        other = ModelConfig(**{**sizes, "d_ff": 64}, image_size=8)
        _task(other, read_pretrained("acme/vit"))


def test_a_fine_tuned_run_is_read_and_resumed_without_the_weights_it_started_from(
    loopback_hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=8,
        patch_size=4,
        in_chans=1,
        depth=1,
        num_classes=5,
    )
    loopback_hub.push("models/acme/vit", {"model.safetensors": save(reference.state_dict())})
    sizes = ["patch_size=4", "d_model=192", "num_heads=3", "num_layers=1", "d_ff=768"]
    words = [*(f"model.{size}" for size in sizes), "model.weights=acme/vit", "optim.lr=1e-9"]
    steps = ["trainer.max_steps=2", "schedule.warmup_steps=0", "trainer.loggers=[]"]
    paper.train(*compose(paper.Config, paper.__file__, overrides=[*words, *steps]))
    assets = Path(os.environ["ASSETS_DIR"])
    (run,) = (assets / "outputs" / "vit").iterdir()
    shutil.rmtree(assets / "models")
    config, context = load_run_config(paper.Config, run)
    assert config.model.weights == "acme/vit"
    info = load_labelled_images(config.data, context, config.seed).info
    asked = len(loopback_hub.requests)
    task = restore_task(ClassificationTask(config.model), info, config, context)
    torch.testing.assert_close(
        task.model.patch_embedding.weight, reference.patch_embed.proj.weight
    )  # the run began there, and hardly moved
    context.resume, config.trainer.max_steps = run, 3
    paper.train(config, context)
    assert len(loopback_hub.requests) == asked
    assert not (assets / "models").exists()


def test_train_evaluate_and_attention_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.d_model=16", "model.num_layers=2", "model.d_ff=16", "trainer.loggers=[]"]
    steps = ["trainer.max_steps=8", "schedule.warmup_steps=2"]
    paper.train(*compose(paper.Config, paper.__file__, overrides=[*small, *steps]))
    (run,) = (Path(os.environ["ASSETS_DIR"]) / "outputs" / "vit").iterdir()
    evaluate(*load_run_config(paper.Config, run))
    recorded = json.loads((run / "run.json").read_text())["metrics"]
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == recorded
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["attention"])
    draw()
    pictures = [Path(line) for line in capsys.readouterr().out.split()]
    assert [picture.name for picture in pictures] == ["rollout.png", "positions.png"]
    assert all(picture.stat().st_size > 5_000 for picture in pictures)
    monkeypatch.setattr(sys, "argv", ["attention", "--out", str(run / "config.yaml")])
    with pytest.raises(SystemExit) as caught:
        draw()
    assert caught.value.code == 2
    assert "config.yaml is a file, not a folder" in capsys.readouterr().err
