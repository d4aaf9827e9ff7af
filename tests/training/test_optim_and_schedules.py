"""Optimizers by name and schedules as pure functions."""

import math

import pytest
import torch
from torch import nn

from common.training import OptimizerConfig, ScheduleConfig, Task, build_optimizer, build_schedule
from common.utils.errors import ConfigError
from tests.training.tiny import TinyTask


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("Adam", torch.optim.Adam), ("SGD", torch.optim.SGD)]
    + [("rmsprop", torch.optim.RMSprop), ("nadam", torch.optim.NAdam)],
)
def test_any_optimizer_by_name(name: str, kind: type) -> None:
    assert type(build_optimizer(OptimizerConfig(name), TinyTask())) is kind


def test_adamw_is_fused() -> None:
    optimizer = build_optimizer(OptimizerConfig("adamw"), TinyTask())
    assert optimizer.param_groups[0]["fused"] is True


def test_an_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        build_optimizer(OptimizerConfig("adamww"), TinyTask())


def test_a_value_the_optimizer_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.momentum is set, but torch\.optim\.AdamW"):
        build_optimizer(OptimizerConfig("adamw", momentum=0.9), TinyTask())


def test_matrices_decay_and_vectors_do_not() -> None:
    task = TinyTask()
    decayed, rest = build_optimizer(OptimizerConfig(weight_decay=0.1), task).param_groups
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in rest["params"])


def test_a_forgotten_parameter_is_named() -> None:
    class Forgetful(Task):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Linear(2, 2)
            self.forgotten = nn.Parameter(torch.zeros(2))

        def parameter_groups(self, weight_decay: float) -> list[dict]:
            return [{"params": list(self.kept.parameters())}]

    with pytest.raises(ValueError, match=r"Forgetful\.forgotten is in no parameter group"):
        build_optimizer(OptimizerConfig(), Forgetful())


def _curve(total: int = 100, **values) -> list[float]:
    schedule = build_schedule(ScheduleConfig(**values), total)
    return [schedule(step) for step in range(1, total + 1)]


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step", "exponential", "wsd"])
def test_warm_up_is_linear_and_belongs_to_every_schedule(name: str) -> None:
    curve = _curve(name=name, warmup_steps=10)
    assert curve[:10] == pytest.approx([step / 10 for step in range(1, 11)])


def test_inverse_sqrt_is_equation_3_of_the_paper() -> None:
    """lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5), relative to its peak."""
    d_model, warmup = 512, 4000
    schedule = build_schedule(ScheduleConfig("inverse_sqrt", warmup_steps=warmup), 100_000)
    peak = (d_model * warmup) ** -0.5
    assert peak == pytest.approx(6.99e-4, rel=1e-3)
    for step in (1, 100, 3999, 4000, 4001, 50_000):
        expected = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert peak * schedule(step) == pytest.approx(expected, rel=1e-12)


def test_each_shape_ends_where_it_should() -> None:
    assert _curve(name="constant")[-1] == 1.0
    assert _curve(name="cosine")[-1] == pytest.approx(0.0)
    assert _curve(name="cosine")[49] == pytest.approx(0.5)
    assert _curve(name="cosine", final_factor=0.1)[-1] == pytest.approx(0.1)
    assert _curve(name="linear", final_factor=0.2)[-1] == pytest.approx(0.2)
    assert _curve(name="step", step_size=40, gamma=0.5)[38:41] == [1.0, 0.5, 0.5]
    assert _curve(name="exponential", step_size=10, gamma=0.1)[19] == pytest.approx(0.01)
    stable = _curve(name="wsd", decay_fraction=0.25)
    assert stable[74] == 1.0
    assert stable[75] < 1.0
    assert stable[-1] == pytest.approx(0.0)


def test_multistep_is_torchs_multi_step_lr() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [32, 48], gamma=0.1)
    rates = []
    for _ in range(64):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    curve = _curve(64, name="multistep", milestones=[32, 48])
    assert curve == pytest.approx(rates, rel=1e-12)
    assert curve[31:33] == pytest.approx([1.0, 0.1])  # 32 updates at the peak


def test_a_warm_up_may_be_a_constant_lower_rate() -> None:
    curve = _curve(name="multistep", milestones=[50], warmup_steps=10, warmup_factor=0.2)
    assert curve[:11] == [0.2] * 10 + [1.0]
    assert curve[49:51] == pytest.approx([1.0, 0.1])


@pytest.mark.parametrize("milestones", [[], [0, 5], [40, 20]])
def test_milestones_that_do_not_rise_are_refused(milestones: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.milestones is .* rising"):
        _curve(name="multistep", milestones=milestones)


@pytest.mark.parametrize("name", ["cosine", "linear", "inverse_sqrt", "wsd"])
def test_rates_are_positive_until_the_end_and_never_above_the_peak(name: str) -> None:
    curve = _curve(name=name, warmup_steps=7)
    assert all(0.0 < value <= 1.0 + 1e-12 for value in curve[:-1])
    assert max(curve) == pytest.approx(1.0)
    assert not any(math.isnan(value) for value in curve)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_steps is 100, but the run has 100 updates"):
        _curve(name="cosine", warmup_steps=100)
