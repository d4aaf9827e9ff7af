"""Gradient norms per layer and the gradient noise scale, against formulas written out."""

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loguru import logger
from torch import Tensor, nn

from common.data import TensorLoader
from common.training import Callback, OptimizerConfig, StepOutput, Task, Trainer, TrainerConfig
from common.training.callbacks import GradientNoise, GradientNorms
from common.utils.errors import ConfigError, FaultError, InterruptedRun
from common.visualization import plot_training_curves
from tests.training.tiny import TokenTask, assert_same_run, fit, records

STILL = OptimizerConfig(name="sgd", lr=1e-30)  # the weights stay where they are


class Logged(Callback):
    """Keeps the log records."""

    priority = 1000

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_log(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.records.append(dict(record))


class Watched(Callback):
    """Keeps gradients and weights around every update."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def before_update(self, trainer: Trainer) -> None:
        named = dict(trainer.task.named_parameters())
        self.gradients.append({n: p.grad.clone() for n, p in named.items()})
        self.weights.append({n: p.detach().clone() for n, p in named.items()})

    def on_fit_end(self, trainer: Trainer) -> None:
        named = trainer.task.named_parameters()
        self.weights.append({n: p.detach().clone() for n, p in named})


def joint(tensors: dict[str, Tensor], module: str) -> float:
    chosen = [v.flatten().double() for n, v in tensors.items() if n.startswith(f"{module}.")]
    return float(torch.cat(chosen).norm())


def test_norms_per_layer_are_those_of_the_tensors() -> None:
    logged, watched = Logged(), Watched()
    fit(callbacks=[GradientNorms(), watched, logged], max_epochs=1, log_every=2)
    assert [r["step"] for r in logged.records] == [2, 4, 6, 7]
    for record in logged.records:
        before, after = watched.weights[record["step"] - 1 : record["step"] + 1]
        updates = {name: after[name] - before[name] for name in before}
        for module in ("net.0", "net.3"):
            gradient = joint(watched.gradients[record["step"] - 1], module)
            assert record[f"grad_norm/{module}"] == pytest.approx(gradient, rel=1e-6)
            assert record[f"weight_norm/{module}"] == pytest.approx(joint(before, module), rel=1e-6)
            ratio = joint(updates, module) / joint(before, module)
            assert record[f"update_ratio/{module}"] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_norms_per_layer_add_up_to_the_norm_before_clipping(clip: float) -> None:
    logged = Logged()
    fit(callbacks=[GradientNorms(), logged], max_epochs=1, log_every=1, clip_norm=clip)
    for record in logged.records:
        squares = [v**2 for k, v in record.items() if k.startswith("grad_norm/")]
        assert len(squares) == 2
        assert sum(squares) ** 0.5 == pytest.approx(record["grad_norm"], rel=1e-5)
        assert record["grad_norm"] > 0.1


def test_modules_are_put_together_by_depth() -> None:
    logged = Logged()
    fit(callbacks=[GradientNorms(depth=1), logged], max_epochs=1, log_every=1)
    record = logged.records[0]
    assert [k for k in record if k.startswith("grad_norm/")] == ["grad_norm/net"]
    assert record["grad_norm/net"] == pytest.approx(record["grad_norm"], rel=1e-5)


def test_the_curves_of_a_run_show_norms_per_layer_only_when_asked(tmp_path: Path) -> None:
    fit(tmp_path, callbacks=[GradientNorms()], max_epochs=1, log_every=1)
    titles = [axis.get_title() for axis in plot_training_curves(tmp_path).axes]
    assert "grad_norm" in titles
    assert not any("net." in title for title in titles)
    figure = plot_training_curves(tmp_path, metrics=["grad_norm/net.0"])
    assert len(figure.axes[0].get_lines()[0].get_xdata()) == 7


def test_a_parameter_without_gradient_is_left_out() -> None:
    class Half(TokenTask):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(2, 2)

    logged = Logged()
    batches = [{"tokens": torch.arange(1, 9).reshape(2, 4)}]
    trainer = Trainer(
        TrainerConfig(max_steps=1, log_every=1, loggers=[]), callbacks=[GradientNorms(), logged]
    )
    trainer.fit(Half(), batches)
    assert "grad_norm/out" in logged.records[0]
    assert "grad_norm/unused" not in logged.records[0]


def test_the_layer_where_a_gradient_broke_is_named() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * torch.inf

    class Breaks(Task):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 4), nn.Linear(4, 4)
            self.third = nn.Linear(4, 3)

        def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
            hidden = self.second(self.first(batch["x"]))
            return nn.functional.cross_entropy(self.third(Broken.apply(hidden)), batch["y"])

    lines: list[str] = []
    sink = logger.add(lines.append, level="ERROR", format="{message}")
    try:
        with pytest.raises(FaultError, match="gradient is not finite"):
            fit(callbacks=[GradientNorms()], kind=Breaks)
    finally:
        logger.remove(sink)
    (line,) = lines
    assert "not finite in 2 of 3 modules: first, second" in line
    assert "'second' came first" in line


# ---- noise scale ------------------------------------------------------------------------------


class Linear(Task):
    """``0.5 (w x - y)^2`` at w = 0: the gradient of an example is ``-y x``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5))
        self.bias = nn.Parameter(torch.zeros(1))

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        residual = batch["x"] @ self.weight + self.bias - batch["y"]
        return StepOutput(0.5 * residual.square().sum(), len(residual))


def linear_data(size: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Data, and the gradient of every example, (N, 6) in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 5, generator=generator)
    y = x @ torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0]) + 1.0 + torch.randn(size, generator=generator)
    inputs = torch.cat([x, torch.ones(size, 1)], dim=1)
    return {"x": x, "y": y}, -(y[:, None] * inputs).double().numpy()


def noise(data: Any, callback: GradientNoise, **values: Any) -> list[dict[str, Any]]:
    logged = Logged()
    settings: dict[str, Any] = {"max_epochs": 1, "log_every": 1, "loggers": []}
    trainer = Trainer(TrainerConfig(**(settings | values)), callbacks=[callback, logged])
    trainer.fit(Linear(), data, optim=STILL)
    return logged.records


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_one_update_gives_the_estimate_of_its_unequal_parts(clip: float) -> None:
    data, gradients = linear_data(24)
    sizes = [10, 8, 6]
    bounds = np.cumsum([0, *sizes])
    batches = [{k: v[a:b] for k, v in data.items()} for a, b in pairwise(bounds)]
    callback = GradientNoise(every=1, decay=0.0)
    (record,) = noise(batches, callback, accumulate=3, clip_norm=clip)
    means = [gradients[a:b].mean(axis=0) for a, b in pairwise(bounds)]
    whole = gradients.mean(axis=0)
    between = sum(n * np.sum((m - whole) ** 2) for n, m in zip(sizes, means, strict=True))
    trace = between / (len(sizes) - 1)
    squared = np.sum(whole**2) - trace / 24
    found = callback.state_dict()["means"].tolist()
    assert found == pytest.approx([trace, squared], rel=1e-5)
    assert record["gradient_noise_scale"] == pytest.approx(trace / squared, rel=1e-5)


def test_averaged_over_updates_it_is_the_noise_scale_of_the_data() -> None:
    data, gradients = linear_data(4096)
    true_trace = np.trace(np.cov(gradients.T))
    true_squared = np.sum(gradients.mean(axis=0) ** 2)
    loader = TensorLoader(data, 4, shuffle=True)
    record = noise(loader, GradientNoise(every=1, decay=0.998), accumulate=2, max_epochs=3)[-1]
    assert record["gradient_noise_scale"] == pytest.approx(true_trace / true_squared, rel=0.1)


def test_it_is_measured_at_every_nth_update_only() -> None:
    counts = []

    class Count(Callback):
        priority = -10  # before the noise callback takes its hooks away

        def before_update(self, trainer: Trainer) -> None:
            counts.append(len(trainer.parameters[0]._backward_hooks or {}))

    data, _ = linear_data(64)
    logged = Logged()
    trainer = Trainer(
        TrainerConfig(max_epochs=1, accumulate=2, log_every=1, loggers=[]),
        callbacks=[GradientNoise(every=3), Count(), logged],
    )
    trainer.fit(Linear(), TensorLoader(data, 4), optim=STILL)
    assert counts == [0, 0, 1, 0, 0, 1, 0, 0]
    assert ["gradient_noise_scale" in r for r in logged.records][:2] == [False, False]
    assert not trainer.parameters[0]._backward_hooks


def test_a_single_part_per_update_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.accumulate is 1"):
        fit(callbacks=[GradientNoise()], accumulate=1)


def test_a_last_update_of_one_part_leaves_the_average_alone() -> None:
    data, _ = linear_data(20)
    records = noise(TensorLoader(data, 4), GradientNoise(every=1), accumulate=2)
    assert records[-1]["gradient_noise_scale"] == records[-2]["gradient_noise_scale"]


def callbacks() -> list[Callback]:
    return [GradientNoise(every=2), GradientNorms()]


def test_measuring_changes_no_weight_and_resumes_exactly(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    whole, plain, parts = (tmp_path / name for name in ("whole", "plain", "parts"))
    settings: dict[str, Any] = {"accumulate": 2, "log_every": 2}
    measured = fit(whole, callbacks=callbacks(), **settings)
    bare = fit(plain, **settings)
    for one, other in zip(measured.task.parameters(), bare.task.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InterruptedRun):
        fit(parts, callbacks=[*callbacks(), Stop()], **settings)
    resume = parts / "checkpoints" / "last.pt"
    fit(parts, callbacks=callbacks(), resume=resume, seed=4, **settings)  # the seed shall not help
    assert_same_run(whole, parts)
    assert "gradient_noise_scale" in [r for r in records(parts) if "train/loss" in r][-1]
