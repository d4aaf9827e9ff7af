"""Parameters and FLOPs, against counts by hand and published ones; throughput and MFU in a record."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import RunContext
from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.training import OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.callbacks import Throughput
from common.training.callbacks.throughput import peak_flops
from common.training.rng import rng_state
from common.training.summary import summarize
from common.utils.errors import ConfigError
from papers.attention_is_all_you_need.model import ModelConfig, TranslationTask
from tests.training.test_lr_finder import Normalised, assert_same
from tests.training.tiny import TinyTask, features, fit, loaders, records


class Wrapped(Task):
    """Any classifier of images as a task."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["x"]), batch["y"])


def test_a_linear_layer_costs_two_flops_per_weight_and_three_times_that_to_train() -> None:
    summary = summarize(TinyTask(), features(size=50))
    first, second = 2 * 8 * 16, 2 * 16 * 3
    assert summary.batch_size == 50
    assert summary.forward_flops == first + second
    # Nobody asks for the gradient of the data, so the first layer has two products and not three.
    assert summary.training_flops == 2 * first + 3 * second
    rows = {row.name: row for row in summary.modules}
    assert {name: row.flops for name, row in rows.items()} == {
        "net": first + second,
        "net.0": first,
        "net.1": 0,
        "net.2": 0,
        "net.3": second,
    }
    assert rows["net.0"].parameters == 8 * 16 + 16
    assert rows["net.0"].kind == "Linear"


def test_resnet18_costs_what_its_publisher_says() -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    batch = {"x": torch.randn(1, 3, 224, 224), "y": torch.zeros(1, dtype=torch.long)}
    summary = summarize(Wrapped(resnet18()), batch)
    published = ResNet18_Weights.DEFAULT.meta
    assert summary.parameters == published["num_params"]
    assert summary.forward_flops / 2e9 == pytest.approx(published["_ops"], abs=5e-4)  # 1.814 GMACs


def test_the_base_transformer_follows_the_rule_of_six_flops_per_weight_and_token() -> None:
    length, vocab = 32, 8_000
    task = TranslationTask(ModelConfig())
    task.configure(DatasetInfo(vocab_size=vocab), RunContext())
    tokens = torch.randint(1, vocab, (1, length + 1))
    summary = summarize(task, {"source": tokens[:, :length], "target": tokens}, depth=4)
    width, inner = 512, 2048
    encoder = 6 * (4 * width**2 + 2 * width * inner)
    decoder = 6 * (8 * width**2 + 2 * width * inner)
    rule = 6 * length * (encoder + decoder + vocab * width)  # Kaplan et al. 2020, table 1
    assert summary.training_flops == pytest.approx(rule, rel=0.02)
    assert summary.forward_flops == pytest.approx(rule / 3, rel=0.02)
    rows = {row.name: row.flops for row in summary.modules}
    # The task calls its model's parts and not the model: a row holds what is inside it all the same.
    assert rows["model.encoder"] == sum(rows[f"model.encoder.{i}"] for i in range(6)) > 0
    assert rows["model"] == rows["model.encoder"] + rows["model.decoder"]
    layers = [row for row in summary.modules if row.kind in ("EncoderLayer", "DecoderLayer")]
    assert len(layers) == 12
    attention = 6 * 3 * 2 * 2 * length**2 * width  # scores and their use, three times a layer pair
    expected = 2 * length * (encoder + decoder) + attention
    assert sum(row.flops for row in layers) == pytest.approx(expected, rel=1e-6)


def test_shared_and_frozen_parameters_are_counted_as_what_they_are() -> None:
    class Tied(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 6)
            self.out = nn.Linear(6, 10)
            self.out.weight = self.embedding.weight
            self.frozen = nn.Linear(6, 6).requires_grad_(False)

        def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
            logits = self.out(self.frozen(self.embedding(batch["y"])))
            return nn.functional.cross_entropy(logits, batch["y"])

    summary = summarize(Tied(), {"y": torch.arange(5)})
    assert summary.parameters == 60 + 10 + 42
    assert summary.trained == 60 + 10
    assert [row.parameters for row in summary.modules] == [60, 10, 42]
    assert [row.trained for row in summary.modules] == [60, 10, 0]
    assert [row.tied for row in summary.modules] == [(), ("embedding.weight",), ()]
    (line,) = [line for line in str(summary).splitlines() if "tied to" in line]
    assert "out" in line
    assert "Linear, tied to embedding.weight" in line


def test_a_tied_projection_without_a_module_is_a_row_that_counts_no_parameter() -> None:
    length, vocab = 7, 300
    config = ModelConfig(d_model=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    task = TranslationTask(config)
    task.configure(DatasetInfo(vocab_size=vocab), RunContext())
    tokens = torch.randint(1, vocab, (2, length + 1))
    summary = summarize(task, {"source": tokens[:, :length], "target": tokens}, depth=1)
    model, projection = summary.modules
    assert projection.flops == 2 * length * vocab * 16  # the output matrix of section 3.4
    assert projection.tied == ("model.source_embedding.weight",)
    assert (projection.parameters, projection.trained) == (0, 0)
    assert model.flops + projection.flops == summary.forward_flops
    assert model.parameters == summary.parameters
    assert "(in no module)" in str(summary)


def test_without_anything_outside_of_modules_there_is_no_such_row() -> None:
    assert [row.name for row in summarize(TinyTask(), features(size=4), depth=1).modules] == ["net"]


def test_a_summary_leaves_the_task_and_the_generators_as_they_were() -> None:
    task = Normalised().eval()
    weights = {key: value.clone() for key, value in task.state_dict().items()}
    generators = rng_state()
    summarize(task, features(size=20))
    assert_same(task.state_dict(), weights)
    assert_same(rng_state(), generators)
    assert (task.seen, task.training) == (0, False)
    assert all(parameter.grad is None for parameter in task.parameters())


def test_the_table_names_every_module_and_the_totals() -> None:
    text = str(summarize(TinyTask(), features(size=4)))
    lines = text.splitlines()
    assert any(
        "net.0" in line and "Linear" in line and "144" in line and "72.7%" in line for line in lines
    )
    assert lines[-1] == (
        "195 parameters, 195 trained; FLOPs per example: 352 forward, 800 forward + backward"
    )


def test_the_record_has_the_flops_of_the_examples_seen(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Kept:
        def rewind(self, step: int, records: int) -> None: ...
        def close(self) -> None: ...
        def log(self, record: dict[str, Any]) -> None:
            seen.append(record)

    config = TrainerConfig(max_epochs=2, log_every=3, loggers=[])
    trainer = Trainer(config, callbacks=[Throughput()], loggers=[Kept()])
    trainer.fit(TinyTask(), loaders()[0])
    assert len(seen) == 5
    for record in seen:
        # 800 FLOPs for each of the examples, which are also the units of the loss
        expected = record["time/units_per_second"] * 800 / 1e12
        assert record["time/tflops"] == pytest.approx(expected, rel=1e-6)
        assert "time/mfu" not in record  # no GPU, no peak


def test_the_peak_is_that_of_the_whole_name_and_the_arithmetic() -> None:
    assert peak_flops("NVIDIA H200", "bf16") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", "fp16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32", tf32=True) == 156e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert peak_flops("NVIDIA H100 NVL", "bf16") is None
    assert peak_flops("cpu", "fp32") is None


def test_diagnostics_are_switched_on_by_name_and_change_no_weight(tmp_path: Path) -> None:
    names = ["gradient_norms", "gradient_noise", "profile", "summary"]
    plain = fit(tmp_path / "plain", accumulate=2, max_steps=12)
    full = fit(tmp_path / "full", accumulate=2, max_steps=12, diagnostics=names)
    for one, other in zip(plain.task.parameters(), full.task.parameters(), strict=True):
        assert torch.equal(one, other)
    last = [r for r in records(tmp_path / "full") if "train/loss" in r][-1]
    assert {"grad_norm/net.0", "update_ratio/net.3", "gradient_noise_scale"} <= last.keys()
    assert (tmp_path / "full" / "profile" / "trace.json").exists()
    assert "195 parameters" in (tmp_path / "full" / "summary.txt").read_text()


def test_a_loader_that_keeps_its_position_is_not_moved_by_the_summary() -> None:
    from tests.training.test_lr_finder import Resumable

    batches = list(TensorLoader(features(size=96), 32).batches(0))
    trainers = []
    for diagnostics in ([], ["summary"]):
        torch.manual_seed(0)
        config = TrainerConfig(max_epochs=1, log_every=1, loggers=[], diagnostics=diagnostics)
        trainers.append(Trainer(config))
        trainers[-1].fit(TinyTask(), Resumable(batches), optim=OptimizerConfig(lr=0.1))
    plain, summarized = (list(trainer.task.parameters()) for trainer in trainers)
    assert_same(plain, summarized)


def test_an_unknown_diagnostic_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gradient_norms'"):
        Trainer(TrainerConfig(diagnostics=["gradient_norm"]))
