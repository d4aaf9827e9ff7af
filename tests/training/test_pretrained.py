"""Published weights of backbones: from the store, fitted to channels and size, never forgotten."""

import copy
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from common.models import EmbeddingNetwork, TimmBackbone
from common.testing.hub import LoopbackHub
from common.training import load_published
from common.utils.errors import CheckpointError, ConfigError, DownloadError

pytest_plugins = ["common.testing.fixtures"]


def _images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"features": (2, 3)}, {"features": (3, 4)}])
def test_published_weights_come_through_the_store_and_are_fetched_once(
    loopback_hub: LoopbackHub, options: dict, logged: list[str]
) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet").eval()
    files = {"model.safetensors": save(reference.state_dict())}
    loopback_hub.push(f"models/{reference.pretrained_cfg['hf_hub_id']}", files)
    network = EmbeddingNetwork(TimmBackbone("test_resnet", pretrained=True, **options))
    load_published(network)
    backbone = network.backbone.eval()
    stages = {"features": (4,), **options}["features"]
    expected = reference.forward_intermediates(_images(), intermediates_only=True)[stages[-1]]
    assert torch.equal(backbone(_images()), expected)
    assert any("published weights from" in line for line in logged)
    asked = len(loopback_hub.requests)
    grey = TimmBackbone("test_resnet", pretrained=True, in_channels=1, **options).eval()
    load_published(grey)
    assert len(loopback_hub.requests) == asked
    one = _images(channels=1)
    torch.testing.assert_close(grey(one), backbone(one.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_positions_of_published_weights_are_fitted_to_the_size(loopback_hub: LoopbackHub) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_vit").eval()
    files = {"model.safetensors": save(reference.state_dict())}
    loopback_hub.push(f"models/{reference.pretrained_cfg['hf_hub_id']}", files)
    backbone = TimmBackbone("test_vit", pretrained=True, img_size=64).eval()
    load_published(backbone)
    reference.set_input_size(img_size=(64, 64))
    tokens = reference.forward_features(_images())
    torch.testing.assert_close(backbone(_images()).flatten(2).transpose(1, 2), tokens[:, 1:])


def test_a_checkpoint_takes_the_place_of_published_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trained = EmbeddingNetwork(TimmBackbone("test_resnet"))
    restored = EmbeddingNetwork(TimmBackbone("test_resnet", pretrained=True))
    restored.load_state_dict(trained.state_dict())
    load_published(restored)  # nothing is awaited, so nothing is asked for
    assert torch.equal(restored.eval()(_images()), trained.eval()(_images()))


def test_without_a_network_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="published weights of 'test_resnet'") as caught:
        load_published(TimmBackbone("test_resnet", pretrained=True))
    assert "HF_HUB_OFFLINE" in str(caught.value)
    with torch.device("meta"):
        backbone = TimmBackbone("botnet50ts_256", pretrained=True)
    with pytest.raises(ConfigError, match="there are no published weights of 'botnet50ts_256'"):
        load_published(backbone)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("fault", ["missing", "damaged", "other", "pickle"])
def test_a_file_that_does_not_fit_changes_nothing_and_runs_nothing(
    tmp_path: Path, fault: str
) -> None:
    path = tmp_path / ("w.pt" if fault == "pickle" else "model.safetensors")
    if fault == "pickle":
        torch.save({"state_dict": Canary(tmp_path / "canary")}, path)
    elif fault == "damaged":
        path.write_bytes(b"no weights")
    elif fault == "other":
        save_file(timm.create_model("test_efficientnet").state_dict(), path)
    backbone = TimmBackbone("test_resnet", pretrained=True)
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(CheckpointError, match=f"weights of test_resnet from {path}") as caught:
        backbone.load_file(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()
    assert backbone.awaits_weights
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
