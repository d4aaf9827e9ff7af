"""Weights to start from: what fits goes in, what does not is named, and nothing is unpickled."""

import os
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save, save_file
from torch import nn

from common.testing.hub import LoopbackHub
from common.utils.checkpoint import save_checkpoint
from common.utils.errors import CheckpointError, DownloadError
from projects.image_classification.core.models import get_model
from tests.projects.image_classification.configurations import configuration

pytest_plugins = ["common.testing.fixtures"]

NET = {"type": "custom", "custom_architecture": "simple_cnn", "size": (8, 8)}


def network(classes: int = 5, mode: str = "RGB") -> nn.Module:
    torch.manual_seed(1)
    return get_model(configuration(mode=mode, classes=classes, **NET))


def backbone(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def run_checkpoint(path: Path, model: nn.Module, names: list[str]) -> Path:
    """As a run leaves it: the task's names, statistics, and the configuration as text."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state |= {"mean": torch.zeros(3), "std": torch.ones(3)}
    config = "data:\n  class_names: [" + ", ".join(names) + "]\n"
    save_checkpoint({"model": state, "config": config, "callbacks": {"EMA": {"shadow": {}}}}, path)
    return path


@pytest.mark.parametrize("form", ["safetensors", "state dict", "wrapped", "run"])
def test_a_file_of_the_same_network_and_classes_fits_whole(
    tmp_path: Path, form: str, logged: list[str]
) -> None:
    given = network()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(given.state_dict(), path)
    elif form == "run":
        run_checkpoint(path, given, list("abcde"))
    elif form == "wrapped":
        torch.save({"state_dict": {f"module.{k}": v for k, v in given.state_dict().items()}}, path)
    else:
        torch.save(given.state_dict(), path)
    torch.manual_seed(2)
    config = configuration(weights=str(path), names=list("abcde"), **NET)
    assert same(get_model(config).state_dict(), given.state_dict())
    total = len(given.state_dict())
    assert any(f"{total} of {total} tensors fit" in line for line in logged)
    assert not any("anew" in line for line in logged)


def test_the_moving_average_of_a_run_is_taken(tmp_path: Path) -> None:
    given = network()
    state = {f"model.{key}": value for key, value in given.state_dict().items()}
    average = {"model.head.bias": torch.full((5,), 7.0)}
    path = tmp_path / "best.pt"
    save_checkpoint({"model": state, "callbacks": {"EMA": {"shadow": average}}}, path)
    model = get_model(configuration(weights=str(path), **NET))
    assert torch.equal(model.head.bias, torch.full((5,), 7.0))


@pytest.mark.parametrize(
    ("classes", "there", "here", "words"),
    [
        (3, None, None, "3 classes and the data 5"),
        (5, "vwxyz", "abcde", "its classes are others ('v' where the data has 'a')"),
        (5, "bacde", "abcde", "another order ('b' stands where the data has 'a')"),
    ],
)
def test_a_head_of_other_classes_begins_anew_with_a_word(
    tmp_path: Path, classes: int, there, here, words: str, logged: list[str]
) -> None:
    given = network(classes)
    path = tmp_path / "best.pt"
    run_checkpoint(path, given, list(there or "abc"))
    torch.manual_seed(2)
    config = configuration(weights=str(path), names=list(here or "abcde"), **NET)
    model = get_model(config)
    assert same(backbone(model), backbone(given))
    assert not torch.equal(model.head.weight[:3], given.head.weight[:3])
    assert any(words in line and "head begins anew" in line for line in logged)


def test_a_first_convolution_of_other_channels_responds_the_same(tmp_path: Path) -> None:
    colour = network().eval()
    path = tmp_path / "w.pt"
    torch.save(colour.state_dict(), path)
    grey = get_model(configuration(mode="L", weights=str(path), **NET)).eval()
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))
    torch.save(grey.state_dict(), path)
    back = get_model(configuration(weights=str(path), **NET)).eval()
    torch.testing.assert_close(back(images.expand(-1, 3, -1, -1)), grey(images))


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("fault", ["missing", "truncated", "pickle", "other", "no tensors", "text"])
def test_a_file_that_cannot_be_used_is_one_line_and_runs_nothing(
    tmp_path: Path, fault: str
) -> None:
    path, canary = tmp_path / "w.pt", tmp_path / "canary"
    torch.save(network().state_dict(), path)
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "pickle":
        torch.save({"model": Canary(canary)}, path)
    elif fault == "other":
        torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    elif fault == "no tensors":
        torch.save({"model": {"a": 1}}, path)
    else:
        path = tmp_path / "w.safetensors"
        path.write_text("no weights")
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        get_model(configuration(weights=str(path), **NET))
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    if fault == "other":
        assert "another architecture" in str(caught.value)


# ---- published weights -----------------------------------------------------------------------


def test_timms_weights_come_through_the_store_and_are_fetched_once(
    loopback_hub: LoopbackHub,
) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet", pretrained=False).eval()
    files = {"model.safetensors": save(reference.state_dict())}
    loopback_hub.push(f"models/{reference.pretrained_cfg['hf_hub_id']}", files)
    values = {"type": "timm", "architecture": "test_resnet", "pretrained": True}
    model = get_model(configuration(**values)).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = reference.forward_features(images)
    torch.testing.assert_close(model.forward_features(images), expected)
    assert model(images).shape == (2, 5)
    asked = len(loopback_hub.requests)
    grey = get_model(configuration(mode="L", **values)).eval()
    assert len(loopback_hub.requests) == asked
    one = images[:, :1]
    expected = reference.forward_features(one.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey.forward_features(one), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_torchvisions_weights_lose_their_head_and_keep_the_rest(
    torch_home: Path, logged: list[str]
) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.shufflenet_v2_x0_5()
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    torch.save(reference.state_dict(), torch_home / Path(url).name)
    model = get_model(configuration(mode="L", architecture="shufflenet_v2_x0_5", pretrained=True))
    own = model.state_dict()
    for key, value in reference.state_dict().items():
        if key == "conv1.0.weight":
            torch.testing.assert_close(own[key], value.sum(1, keepdim=True))
        elif not key.startswith("fc."):
            assert torch.equal(own[key], value), key
    assert any("1000 classes and the data 5" in line for line in logged)


def test_a_vit_of_another_resolution_gets_interpolated_positions(torch_home: Path) -> None:
    from projects.image_classification.core.models import _resized_positions
    from projects.image_classification.core.networks.architectures import Shape, build_torchvision

    model = build_torchvision("vit_b_32", Shape(5, 3, 64, 64))
    weights = {"encoder.pos_embedding": torch.randn(1, 50, 768)}
    resized = _resized_positions(model, weights)["encoder.pos_embedding"]
    assert resized.shape == model.encoder.pos_embedding.shape == (1, 5, 768)


@pytest.mark.parametrize("kind", ["base", "timm"])
def test_without_a_network_one_line_says_where_and_what_to_do(
    kind: str, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "shufflenet_v2_x0_5" if kind == "base" else "test_resnet"
    with pytest.raises(DownloadError, match=r"model\.pretrained=false") as caught:
        get_model(configuration(type=kind, architecture=name, pretrained=True))
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind == "base":
        assert "https://download.pytorch.org/models/shufflenetv2_x0.5" in str(caught.value)


def test_a_damaged_cached_download_is_told_and_not_run(torch_home: Path, tmp_path: Path) -> None:
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    torch.save({"a": Canary(tmp_path / "canary")}, torch_home / Path(url).name)
    config = configuration(architecture="shufflenet_v2_x0_5", pretrained=True)
    with pytest.raises(DownloadError, match="cannot be had") as caught:
        get_model(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
