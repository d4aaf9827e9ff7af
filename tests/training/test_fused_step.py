"""The update without ``Optimizer.step``'s Python gives the optimizer's own numbers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from common.training.fused_step import FusedStep


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[], Any],
    steps: range,
    without_last: Callable[[int], bool] = lambda _: False,
) -> None:
    """Gradients and rates that change with the step, and are the same for every ``step``."""
    for number in steps:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(7, 6, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + number)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if without_last(number):
            model[2].bias.grad = None  # type: ignore[index]
        step()


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture(params=[torch.optim.AdamW, torch.optim.Adam])
def pair(request: pytest.FixtureRequest) -> list[tuple[nn.Module, torch.optim.Optimizer]]:
    models = network(), network()
    return [(m, request.param(groups(m), lr=1e-2, fused=True)) for m in models]


def test_it_is_the_optimizers_own_step(pair: Any) -> None:
    (model, optimizer), (other, reference) = pair
    step = FusedStep(optimizer)
    train(model, optimizer, step, range(6))
    train(other, reference, reference.step, range(6))
    same(model.state_dict(), other.state_dict())
    same(optimizer.state_dict(), reference.state_dict())


def test_only_the_first_step_asks_the_optimizer(pair: Any, monkeypatch: Any) -> None:
    (model, optimizer), _ = pair
    calls = []
    own = type(optimizer).step
    monkeypatch.setattr(type(optimizer), "step", lambda self: (calls.append(1), own(self)))
    train(model, optimizer, FusedStep(optimizer), range(5))
    assert len(calls) == 1


def test_a_loaded_state_counts(pair: Any) -> None:
    (model, optimizer), (other, reference) = pair
    step = FusedStep(optimizer)
    for own, kind, update in ((model, optimizer, step), (other, reference, reference.step)):
        train(own, kind, update, range(3))
        kept = copy.deepcopy((own.state_dict(), kind.state_dict()))
        train(own, kind, update, range(3, 6))
        own.load_state_dict(kept[0])
        kind.load_state_dict(kept[1])
        train(own, kind, update, range(3, 5))
    same(model.state_dict(), other.state_dict())
    same(optimizer.state_dict(), reference.state_dict())


@pytest.mark.parametrize("without_last", [lambda n: n == 0, lambda n: n == 2, lambda n: True])
def test_a_parameter_without_a_gradient_stays(
    pair: Any, without_last: Callable[[int], bool]
) -> None:
    (model, optimizer), (other, reference) = pair
    step = FusedStep(optimizer)
    train(model, optimizer, step, range(4), without_last)
    train(other, reference, reference.step, range(4), without_last)
    same(model.state_dict(), other.state_dict())
    same(optimizer.state_dict(), reference.state_dict())


def test_a_parameter_added_later_is_trained(pair: Any) -> None:
    (model, optimizer), _ = pair
    step = FusedStep(optimizer)
    train(model, optimizer, step, range(2))
    late = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [late]})
    late.grad = torch.ones(3)
    step()
    assert bool((late < 1).all())


@pytest.mark.parametrize("kind", ["hook", "patched"])
def test_who_listens_to_the_optimizer_is_heard(pair: Any, kind: str) -> None:
    (model, optimizer), _ = pair
    step, heard = FusedStep(optimizer), []
    train(model, optimizer, step, range(2))
    if kind == "hook":
        optimizer.register_step_post_hook(lambda *_: heard.append(1))
    else:
        own = optimizer.step
        optimizer.step = lambda: (heard.append(1), own())
    train(model, optimizer, step, range(2, 4))
    assert len(heard) == 2


def test_any_other_optimizer_steps_itself() -> None:
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        model, other = network(), network()
        optimizer, reference = (kind(m.parameters(), lr=1e-2, fused=False) for m in (model, other))
        train(model, optimizer, FusedStep(optimizer), range(4))
        train(other, reference, reference.step, range(4))
        same(model.state_dict(), other.state_dict())
