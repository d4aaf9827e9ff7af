"""The learning-rate range test: where it diverges, what it suggests, and that it leaves no trace."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.config import RunContext
from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.training import OptimizerConfig, StepOutput, Task, Trainer, TrainerConfig
from common.training.lr_finder import (
    find_learning_rate,
    longest_decrease,
    steepest_rate,
    valley_rate,
)
from common.training.rng import rng_state
from common.utils import seed_everything
from common.utils.errors import ConfigError, DataError, FaultError
from tests.training.tiny import TinyTask, loaders

SGD = OptimizerConfig(name="sgd", lr=1.0)


class Regression(Task):
    """Least squares, ``0.5 (w x - y)^2``: its Hessian is ``X^T X / n``, whatever the weights."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        residual = batch["x"] @ self.weight - batch["y"]
        return StepOutput(0.5 * residual.square().sum(), len(residual))


def regression(size: int = 256) -> tuple[dict[str, Tensor], float]:
    """Data, and the largest eigenvalue of the Hessian of their loss."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([3.0, 1.0, 0.5, 0.2])
    x = torch.randn(size, 4, generator=generator) * scales
    y = x @ torch.tensor([1.0, -2.0, 3.0, 4.0]) + 0.5 * torch.randn(size, generator=generator)
    hessian = (x.T @ x / size).double().numpy()
    return {"x": x, "y": y}, float(np.linalg.eigvalsh(hessian)[-1])


def sweep(task: Task, loader: Any, config: TrainerConfig | None = None, **values: Any) -> Any:
    return find_learning_rate(Trainer(config or TrainerConfig()), task, loader, **values)


def test_gradient_descent_diverges_at_two_over_the_curvature() -> None:
    """The error shrinks by ``|1 - rate * curvature|``: it is smallest where that becomes 1."""
    curvature = 5.0
    directions, _ = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    x = directions * math.sqrt(64 * curvature)  # X^T X / n = curvature * I
    whole = TensorLoader({"x": x, "y": x.sum(dim=1)}, 64)
    edge = 2.0 / curvature
    found = sweep(
        Regression(), whole, optim=SGD, start_lr=0.75 * edge, end_lr=2 * edge, num_iter=100, beta=0
    )
    least = int(np.argmin(found.losses))
    assert found.rates[least - 1] <= edge < found.rates[least + 1]
    assert found.stopped_early
    assert edge < found.rates[-1] < 1.1 * edge


def test_suggestions_lie_below_the_rate_at_which_gradient_descent_diverges() -> None:
    data, curvature = regression()
    edge = 2.0 / curvature
    for batch_size in (16, 256):
        batches = TensorLoader(data, batch_size, shuffle=True)
        found = sweep(Regression(), batches, optim=SGD, start_lr=edge / 1e4, end_lr=edge * 1e2)
        assert found.stopped_early
        assert 0.5 * edge < found.rates[-1] < 5 * edge
        assert edge / 1e3 < found.steepest < edge / 10
        assert edge / 1e3 < found.valley < edge / 2


def test_suggestions_from_noisy_batches_train_and_the_rate_of_divergence_does_not() -> None:
    data, _ = regression()
    batches = TensorLoader(data, 16, shuffle=True)
    found = sweep(Regression(), batches, optim=SGD, start_lr=1e-5, end_lr=100.0)

    def loss_after(rate: float) -> float:
        trainer = Trainer(TrainerConfig(max_epochs=10, loggers=[]))
        task = Regression()
        trainer.fit(task, batches, optim=OptimizerConfig(name="sgd", lr=rate))
        return trainer.evaluate(task, batches)["test/loss"]

    untrained = found.losses[0]
    assert loss_after(found.steepest) < untrained / 4
    assert loss_after(found.valley) < untrained / 4
    with pytest.raises(FaultError, match="the update was not made"):
        loss_after(2 * found.rates[-1])


def test_the_curve_is_the_loss_of_updates_written_by_hand() -> None:
    data, _ = regression(size=60)
    found = sweep(
        Regression(),
        TensorLoader(data, 20),
        TrainerConfig(accumulate=2),
        optim=SGD,
        start_lr=1e-3,
        end_lr=1e-2,
        num_iter=12,
        beta=0.9,
    )
    x, y = (data[name].double().numpy() for name in ("x", "y"))
    weight, mean, losses, smoothed = np.zeros(4), 0.0, [], []
    for number in range(12):
        rate = 1e-3 * 10 ** (number / 11)
        rows = slice(0, 40) if number % 2 == 0 else slice(40, 60)  # an epoch is two updates
        residual = x[rows] @ weight - y[rows]
        losses.append(0.5 * np.mean(residual**2))
        mean = 0.9 * mean + 0.1 * losses[-1]
        smoothed.append(mean / (1 - 0.9 ** (number + 1)))
        weight -= rate * residual @ x[rows] / len(residual)
        assert found.rates[number] == pytest.approx(rate)
    assert found.losses == pytest.approx(losses, rel=1e-5)
    assert found.smoothed == pytest.approx(smoothed, rel=1e-5)
    assert not found.stopped_early


class Normalised(TinyTask):
    """With batch statistics and a counter that is in no ``state_dict``."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))
        self.seen = 0

    def compute_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen += 1
        return super().compute_loss(batch)


def everything(task: Task, trainer: Trainer) -> list[Any]:
    moments = trainer.optimizer.state_dict()
    return [
        {key: value.clone() for key, value in task.state_dict().items()},
        {key: {n: v.clone() for n, v in s.items()} for key, s in moments["state"].items()},
        moments["param_groups"],
        rng_state(),
        [module.training for module in task.modules()],
        task.seen,
        [parameter.grad for parameter in task.parameters()],
        vars(trainer.state).copy(),
    ]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_a_trained_task_its_optimizer_and_the_generators_come_back_bit_for_bit() -> None:
    seed_everything(0)
    task, (train, _) = Normalised(), loaders()
    trainer = Trainer(TrainerConfig(max_epochs=10, loggers=[]))
    trainer.fit(task, train, optim=OptimizerConfig(lr=1e-2))
    task.eval()
    task.net[2].train()  # a mode of its own
    before = everything(task, trainer)
    found = find_learning_rate(trainer, task, train, num_iter=30, end_lr=10.0)
    assert_same(everything(task, trainer), before)
    fresh = find_learning_rate(trainer, Normalised(), train, num_iter=1)
    assert found.losses[0] < fresh.losses[0]  # it went on from the trained weights


def test_the_moments_of_a_prepared_optimizer_take_part() -> None:
    task, (train, _) = TinyTask(dropout=0.0), loaders()
    trainer = Trainer(TrainerConfig(max_epochs=2, loggers=[]))
    trainer.fit(task, train)
    warm = find_learning_rate(trainer, task, train, start_lr=1e-3, num_iter=12)
    fresh = find_learning_rate(
        trainer, task, train, start_lr=1e-3, num_iter=12, optim=OptimizerConfig()
    )
    assert warm.losses[0] == fresh.losses[0]
    assert warm.losses[1:] != fresh.losses[1:]


def test_fit_after_a_sweep_is_fit_without_one() -> None:
    class Late(TinyTask):
        """Draws its weights when it is configured, as the tasks of papers do."""

        def configure(self, info: DatasetInfo, context: RunContext) -> None:
            self.net[0] = nn.Linear(8, 16)

    weights, first = [], []
    for sweeps in (False, True):
        seed_everything(5)
        task, (train, validation) = Late(), loaders()
        trainer = Trainer(TrainerConfig(max_epochs=1, loggers=[]))
        if sweeps:
            first.append(find_learning_rate(trainer, task, train, num_iter=12).losses[0])
        trainer.fit(task, train, validation)
        weights.append([p.detach().clone() for p in task.parameters()])
    assert_same(weights[0], weights[1])


class Resumable:
    """A loader that keeps its own position, like torchdata's ``StatefulDataLoader``."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.at = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        while self.at < len(self.batches):
            self.at += 1
            yield self.batches[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_loader_that_keeps_its_position_is_put_back() -> None:
    loader = Resumable(list(TensorLoader(regression(size=48)[0], 8).batches(0)))
    stream = iter(loader)
    next(stream), next(stream)
    found = sweep(Regression(), loader, optim=SGD, num_iter=15)
    assert len(found.rates) == 15  # the four that were left, then from the beginning
    assert loader.state_dict() == {"at": 2}


def test_a_loss_that_is_not_a_number_ends_the_sweep() -> None:
    class Breaks(Regression):
        def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
            output = super().train_step(batch)
            self.calls = getattr(self, "calls", 0) + 1
            factor = math.nan if self.calls == 30 else 1.0
            return StepOutput(output.loss_sum * factor, output.weight)

    found = sweep(Breaks(), TensorLoader(regression()[0], 16), optim=SGD, start_lr=1e-3)
    assert found.stopped_early
    assert len(found.rates) == 29
    assert "the loss is nan" in found.remark
    assert all(map(math.isfinite, found.losses))
    assert found.valley is not None


def test_too_few_points_give_no_suggestion_and_say_so() -> None:
    found = sweep(Regression(), TensorLoader(regression()[0], 16), optim=SGD, num_iter=5)
    assert (found.steepest, found.valley) == (None, None)
    assert "5 points are too few" in found.remark


def test_a_loss_that_only_grows_gives_no_suggestion() -> None:
    data, curvature = regression()
    found = sweep(
        Regression(),
        TensorLoader(data, 256),
        optim=SGD,
        start_lr=3 / curvature,
        end_lr=3.1 / curvature,
        diverge_threshold=1e9,
        num_iter=20,
    )
    assert (found.steepest, found.valley) == (None, None)
    assert "does not fall" in found.remark


def test_parameter_groups_keep_their_proportion() -> None:
    seen = []

    class Grouped(TinyTask):
        def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
            first, second = list(self.net[0].parameters()), list(self.net[3].parameters())
            return [{"params": first}, {"params": second, "lr": 1e-4}]

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.append([group["lr"] for group in self.param_groups])
            super().step(closure)

    torch.optim.Spy = Spy  # type: ignore[attr-defined]
    try:
        sweep(Grouped(), loaders()[0], optim=OptimizerConfig(name="spy", lr=1e-2), num_iter=10)
    finally:
        del torch.optim.Spy  # type: ignore[attr-defined]
    assert all(second == pytest.approx(first / 100) for first, second in seen)
    assert (seen[0][0], seen[-1][0]) == (pytest.approx(1e-7), pytest.approx(1.0))


def test_a_sweep_is_saved_as_numbers_and_a_picture(tmp_path: Path) -> None:
    found = sweep(Regression(), TensorLoader(regression()[0], 16), optim=SGD, end_lr=10.0)
    found.save(tmp_path / "sweep")
    saved = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert saved["rates"] == found.rates
    assert saved["valley"] == found.valley
    assert saved["stopped_early"] is True
    assert (tmp_path / "sweep" / "lr_plot.png").read_bytes().startswith(b"\x89PNG")


def test_suggestions_of_a_curve_known_in_closed_form() -> None:
    rates = np.logspace(-6, 0, 601)
    losses = 2.0 - np.tanh(
        2 * (np.log10(rates) + 3.0)
    )  # falls fastest at 1e-3, decreasing all along
    assert steepest_rate(rates, losses) == pytest.approx(1e-4, rel=0.02)
    assert valley_rate(rates, losses) == pytest.approx(1e-3, rel=1e-6)


def test_the_longest_decrease_is_the_best_of_all_subsequences() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        values = generator.integers(0, 8, size=9).tolist()
        found = longest_decrease(values)
        assert all(a < b and values[a] > values[b] for a, b in pairwise(found))
        best = max(
            (bin(mask).count("1") for mask in range(1, 1 << 9) if _decreases(values, mask)),
        )
        assert len(found) == best


def _decreases(values: list[int], mask: int) -> bool:
    chosen = [value for index, value in enumerate(values) if mask >> index & 1]
    return all(a > b for a, b in pairwise(chosen))


@pytest.mark.parametrize(
    "values",
    [
        {"start_lr": 0.0},
        {"start_lr": 2.0},
        {"num_iter": 0},
        {"beta": 1.0},
        {"diverge_threshold": 1},
    ],
)
def test_values_that_do_not_fit_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        sweep(Regression(), TensorLoader(regression()[0], 16), **values)


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(DataError, match="no batch"):
        sweep(Regression(), [], optim=SGD)
