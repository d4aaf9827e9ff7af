"""Graphs of small networks: what is written is what PyTorch computes, or there is a word why not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from common.models import Normalize
from common.utils.errors import ConfigError, FaultError
from projects.image_classification.core.export.onnx_benchmark import benchmark
from projects.image_classification.core.export.onnx_export import check_opset, export_network
from projects.image_classification.core.export.onnx_network import Member, OnnxNetwork
from projects.image_classification.core.export.onnx_validation import compare, validate
from projects.image_classification.core.export.quantisation import quantise

SHAPE = (3, 8, 8)
QUICK = 14  # through the older exporter: a tenth of the seconds


def _convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class _Tokens(nn.Module):
    """An attention network: nearly all weights are of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(24, 2, 64, batch_first=True, norm_first=True)
        self.layer, self.head = layer, nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images.flatten(2).transpose(1, 2).reshape(-1, 8, 24)).mean(1))


def _network(
    *after: nn.Module, takes: str = "pixels", body: nn.Module | None = None
) -> OnnxNetwork:
    network = nn.Sequential(body or _convolutions(), *after)
    return OnnxNetwork([Member(network, [0.5, 0.4, 0.3], [0.2, 0.1, 0.0], 1.7)], takes).eval()


def _pixels(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), generator=draw, dtype=torch.uint8)


def _run(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: images})


@pytest.mark.parametrize("opset", [None, 25, 14, 9])
def test_the_graph_takes_pixels_and_gives_what_pytorch_gives(
    tmp_path: Path, opset: int | None
) -> None:
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {"key": "value"}, opset)
    for count in (1, 2, 5):
        logits, probabilities = _run(path, _pixels(count).numpy())
        plain = (_pixels(count).double() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1)) / (
            torch.tensor([0.2, 0.1, 1.0]).view(-1, 1, 1)
        )
        with torch.no_grad():
            expected = network.members[0].network.double()(plain).numpy()
        network.float()
        assert np.abs(logits - expected).max() < 1e-5
        assert probabilities == pytest.approx(
            torch.tensor(expected / 1.7).softmax(1).numpy(), abs=1e-6
        )
    model = onnx.load(path)
    assert model.opset_import[0].version == (opset or 20)
    assert {each.key: each.value for each in model.metadata_props} == {"key": "value"}


def test_the_normalised_graph_takes_floats(tmp_path: Path) -> None:
    path, network = tmp_path / "a.onnx", _network(takes="normalized")
    export_network(network, path, SHAPE, {}, QUICK)
    fed = network.feed(_pixels(3))
    assert fed.dtype == torch.float32
    assert np.abs(_run(path, fed.numpy())[0] - network(fed)[0].detach().numpy()).max() < 1e-5


def test_normalisation_is_that_of_training_to_the_last_bit() -> None:
    ours = _network().members[0].normalized(_pixels(4))  # type: ignore[operator]
    assert torch.equal(ours, Normalize([0.5, 0.4, 0.3], [0.2, 0.1, 0.0])(_pixels(4)))


def test_the_same_network_gives_the_same_bytes_and_nothing_of_this_machine(
    tmp_path: Path,
) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_network(_network(), tmp_path / name, SHAPE, {"k": "v"})
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert b".py" not in content
    assert str(tmp_path).encode() not in content


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j1(x)


class _Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class _Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)[:, :5]


@pytest.mark.parametrize(
    ("layer", "opset", "said"),
    [
        (_Bessel(), None, r"no operator for prims\.bessel_j1 in 1 \(_Bessel\)"),
        (_Bessel(), 14, r"no operator for aten::special_bessel_j1 in network\.1 \(_Bessel\)"),
        (_Decides(), None, r"cannot follow the network: .* if x\.sum\(\) > 0:"),
        (_Fixed(), None, "fixes the size of the batch"),
        (_Fixed(), 14, "fixes the size of the batch"),
    ],
)
def test_what_cannot_be_exported_is_named_in_one_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    layer: nn.Module,
    opset: int | None,
    said: str,
) -> None:
    with pytest.raises(FaultError, match=said) as raised:
        export_network(_network(layer), tmp_path / "a.onnx", SHAPE, {}, opset)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700
    assert not list(tmp_path.iterdir())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""  # PyTorch prints the whole graph


def test_the_older_exporter_says_that_it_fixed_a_decision(
    tmp_path: Path, logged: list[str]
) -> None:
    export_network(_network(_Decides()), tmp_path / "a.onnx", SHAPE, {}, 14)
    assert "fixed 1 decisions" in "".join(logged)


@pytest.mark.parametrize("opset", [-1, 8, 1000])
def test_an_operator_set_nobody_writes_is_refused(opset: int) -> None:
    with pytest.raises(ConfigError, match=f"--opset is {opset}; expected 9 to"):
        check_opset(opset)


def test_more_than_two_gigabytes_are_refused_before_the_work(tmp_path: Path) -> None:
    network = _network(nn.Linear(5, 120_000_000, device="meta"))
    with pytest.raises(FaultError, match="2 GB"):
        export_network(network, tmp_path / "a.onnx", SHAPE, {})


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    with pytest.raises(FaultError):
        export_network(_network(_Bessel()), path, SHAPE, {}, QUICK)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("opset", [20, 9])
def test_an_ensemble_is_the_mean_of_softmaxes(tmp_path: Path, opset: int) -> None:
    torch.manual_seed(1)
    bodies = [_convolutions() for _ in range(3)]
    for number, body in enumerate(bodies):
        nn.init.normal_(body[-1].weight, std=1.0 + number)  # type: ignore[index, arg-type]
    members = [Member(b, [0.1 * k] * 3, [0.2] * 3, 1.0 + k) for k, b in enumerate(bodies)]
    network = OnnxNetwork(members).eval()
    export_network(network, tmp_path / "e.onnx", SHAPE, {}, opset)
    logits, probabilities = _run(tmp_path / "e.onnx", _pixels(4).numpy())
    with torch.no_grad():
        each = [
            (b((_pixels(4).float() / 255 - 0.1 * k) / 0.2) / (1.0 + k)).softmax(1)
            for k, b in enumerate(bodies)
        ]
    expected = sum(each) / 3
    assert np.abs(probabilities - expected.numpy()).max() < 1e-6  # type: ignore[union-attr]
    assert torch.allclose(torch.tensor(logits).softmax(1), torch.tensor(probabilities), atol=1e-6)
    assert not validate(tmp_path / "e.onnx", network, SHAPE)["problems"]


def test_a_class_that_all_members_rule_out_keeps_its_logit(tmp_path: Path) -> None:
    bodies = [_convolutions() for _ in range(2)]
    for body in bodies:
        with torch.no_grad():
            body[-1].bias[3] = -500.0  # type: ignore[index, union-attr]
    network = OnnxNetwork([Member(b, [0.5] * 3, [0.2] * 3) for b in bodies]).eval()
    export_network(network, tmp_path / "e.onnx", SHAPE, {}, QUICK)
    logits, probabilities = _run(tmp_path / "e.onnx", _pixels(2).numpy())
    assert (logits[:, 3] < -490).all()
    assert (probabilities[:, 3] == 0).all()
    assert not validate(tmp_path / "e.onnx", network, SHAPE)["problems"]


def test_members_that_normalise_differently_cannot_share_normalised_input() -> None:
    members = [Member(_convolutions(), [0.1 * k] * 3, [0.2] * 3) for k in range(2)]
    with pytest.raises(ConfigError, match="--input pixels"):
        OnnxNetwork(members, "normalized")


def _batches() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(5)
    return [
        {"image": _pixels(count, count), "label": torch.randint(0, 5, (count,), generator=draw)}
        for count in (6, 6, 1)
    ]


def test_validation_finds_a_file_of_another_network(tmp_path: Path) -> None:
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {}, QUICK)
    assert validate(path, network, SHAPE)["problems"] == []
    assert compare(path, network, _batches())["problems"] == []
    with torch.no_grad():
        network.members[0].network[0][-1].bias[2] += 0.01  # type: ignore[index, union-attr]
    assert "logits differ by up to 0.01" in validate(path, network, SHAPE)["problems"][0]
    found = compare(path, network, _batches())
    assert "the tolerance is 0.0001" in found["problems"][0]
    assert found["max_abs_difference_logits"] == pytest.approx(0.01, abs=1e-5)


def test_comparison_counts_every_image_once(tmp_path: Path) -> None:
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {}, QUICK)
    batches = _batches()
    found = compare(path, network, batches)
    hits = sum(
        int((network(batch["image"])[0].argmax(1) == batch["label"]).sum()) for batch in batches
    )
    assert found["images"] == 13
    assert found["accuracy_pytorch"] == found["accuracy_onnxruntime"] == hits / 13
    assert found["argmax_agreement"] == 1.0


@pytest.mark.parametrize(
    ("body", "method", "opset"), [(_convolutions, "static", QUICK), (_Tokens, "dynamic", 20)]
)
def test_quantisation_is_smaller_and_near(
    tmp_path: Path, body: Any, method: str, opset: int
) -> None:
    path, target = tmp_path / "a.onnx", tmp_path / "a.int8.onnx"
    network = _network(body=body())
    export_network(network, path, SHAPE, {"class_names": "[]"}, opset)
    found = quantise(path, target, network, [_pixels(1, seed) for seed in range(16)])
    assert found["method"] == method
    assert found["bytes_after"] == target.stat().st_size
    kinds = {node.op_type for node in onnx.load(target).graph.node}
    assert "QuantizeLinear" in kinds or "DynamicQuantizeLinear" in kinds
    differ = compare(target, network, _batches(), tolerance=None)
    assert 0 < differ["max_abs_difference_probabilities"] < 0.02
    metadata = {each.key: each.value for each in onnx.load(target).metadata_props}
    assert metadata == {"class_names": "[]", "quantisation": f"int8, {method}"}


def test_the_benchmark_measures_every_variant_and_says_what_it_left_out(tmp_path: Path) -> None:
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {}, QUICK)
    found = benchmark(path, network, SHAPE, rounds=2, compiles=False)
    measured = {(row["variant"], row["batch"]) for row in found["results"]}
    assert measured == {(name, size) for name in ("eager", "onnxruntime") for size in (1, 16)}
    assert found["threads"] == torch.get_num_threads()
    assert found["skipped"] == {"compiled": "not asked for"}
    for row in found["results"]:
        assert row["images_per_second"] == pytest.approx(
            row["batch"] / row["milliseconds"] * 1e3, rel=0.02
        )


def test_a_compiler_that_fails_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> None:
            raise RuntimeError("no C++ compiler here\nand more lines")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {}, QUICK)
    found = benchmark(path, network, SHAPE, rounds=1, batch_sizes=(1,))
    assert found["skipped"] == {"compiled": "no C++ compiler here"}
    assert len(found["results"]) == 2


@pytest.mark.slow
def test_the_benchmark_compiles(tmp_path: Path) -> None:
    path, network = tmp_path / "a.onnx", _network()
    export_network(network, path, SHAPE, {}, QUICK)
    found = benchmark(path, network, SHAPE, rounds=2)
    assert ("compiled", 16) in {(row["variant"], row["batch"]) for row in found["results"]}
