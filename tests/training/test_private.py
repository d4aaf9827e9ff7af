"""Private training: its updates, its account and its resuming, against independent references."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

pytest.importorskip("opacus")

from common.config import Source
from common.data import TensorLoader
from common.training import Callback, OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.privacy.budget import PrivacyBudget, PrivacyConfig, default_delta
from common.utils import Run, latest_checkpoint, load_checkpoint, seed_everything
from common.utils.errors import CheckpointError, ConfigError, InterruptedRun
from tests.training.privately import B, N, assert_same_weights, train, twins
from tests.training.tiny import TinyTask, TokenTask, assert_same_run, features, records

# ---- the update ------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_without_noise_and_bound_it_is_sgd_on_the_same_samples(accumulate: int) -> None:
    task, reference = twins(dropout=0.0)
    privacy = {"noise_multiplier": 0.0, "max_grad_norm": 1e6}
    trainer = train(task, privacy=privacy, accumulate=accumulate)
    data, order = features(N), trainer.train_loader.order
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for epoch in range(2):
        parts = order(epoch)
        for first in range(0, len(parts), accumulate):
            rows = [int(i) for part in parts[first : first + accumulate] for i in part]
            logits = reference.net(data["x"][rows])
            loss = nn.functional.cross_entropy(logits, data["y"][rows], reduction="sum")
            optimizer.zero_grad()
            (loss / (B * accumulate)).backward()
            optimizer.step()
    assert trainer.state.step == 2 * -(-7 // accumulate)
    assert_same_weights(task, reference)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_example_is_clipped_by_itself(accumulate: int) -> None:
    """Against a loop over examples with plain automatic differentiation."""
    bound = 0.3
    task, reference = twins(dropout=0.0)
    privacy = {"noise_multiplier": 0.0, "max_grad_norm": bound}
    trainer = train(task, privacy=privacy, max_epochs=1, max_steps=2, accumulate=accumulate)
    data, parts = features(N), trainer.train_loader.order(0)
    clipped = 0
    for step in range(2):
        sums = [torch.zeros_like(p) for p in reference.parameters()]
        for i in (int(i) for part in parts[step * accumulate :][:accumulate] for i in part):
            loss = nn.functional.cross_entropy(reference.net(data["x"][[i]]), data["y"][[i]])
            own = torch.autograd.grad(loss, list(reference.parameters()))
            norm = math.sqrt(sum(float(g.square().sum()) for g in own))
            clipped += norm > bound
            for total, gradient in zip(sums, own, strict=True):
                total += gradient * min(1.0, bound / (norm + 1e-6))
        with torch.no_grad():
            for parameter, total in zip(reference.parameters(), sums, strict=True):
                parameter -= 0.1 * total / (B * accumulate)
    assert clipped > 10
    assert_same_weights(task, reference)


def test_a_sentence_is_the_example_whatever_its_number_of_tokens() -> None:
    bound = 0.5
    tokens = torch.randint(1, 10, (40, 12), generator=torch.Generator().manual_seed(0))
    for row in range(40):
        tokens[row, 12 - row // 4 :] = 0
    task, reference = twins(TokenTask)
    loader = TensorLoader({"tokens": tokens}, 16, shuffle=True)
    privacy = {"noise_multiplier": 0.0, "max_grad_norm": bound}
    trainer = train(task, loader=loader, privacy=privacy, max_steps=1)
    sums = [torch.zeros_like(p) for p in reference.parameters()]
    for i in trainer.train_loader.order(0)[0]:
        loss = reference.train_step({"tokens": tokens[[int(i)]]}).loss_sum
        own = torch.autograd.grad(loss, list(reference.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in own))
        for total, gradient in zip(sums, own, strict=True):
            total += gradient * min(1.0, bound / (norm + 1e-6))
    with torch.no_grad():
        for parameter, total in zip(reference.parameters(), sums, strict=True):
            parameter -= 0.1 * total / 16
    assert_same_weights(task, reference)


class Silent(Task):
    """A task whose gradients are all zero: its updates are the noise alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(100, 100)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"]).mean() * 0.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_noise_has_the_variance_the_account_assumes(accumulate: int) -> None:
    sigma, bound = 1.5, 0.7
    task, before = twins(Silent)
    loader = TensorLoader({"x": torch.randn(100, 100)}, 10, shuffle=True)
    privacy = {"noise_multiplier": sigma, "max_grad_norm": bound}
    train(task, loader=loader, privacy=privacy, max_steps=1, lr=1.0, accumulate=accumulate)
    noise = torch.cat(
        [(p - q).flatten() for p, q in zip(task.parameters(), before.parameters(), strict=True)]
    )
    expected = sigma * bound / (10 * accumulate)
    count = noise.numel()
    assert noise.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count))
    assert abs(noise.mean().item()) < 4 * expected / math.sqrt(count)


def test_an_empty_sample_is_an_update_of_noise_that_is_paid_for() -> None:
    task, before = twins(dropout=0.0)
    data = {name: value[:20] for name, value in features().items()}
    kept: list[Tensor] = []

    class Keep(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            kept.append(trainer.task.net[0].weight.detach().clone())

    loader = TensorLoader(data, 1, shuffle=True)
    trainer = train(task, loader=loader, callbacks=[Keep()], max_epochs=1)
    sizes = [len(batch) for batch in trainer.train_loader.order(0)]
    empty = sizes.index(0)
    weights = [before.net[0].weight, *kept]
    assert not torch.equal(weights[empty], weights[empty + 1])
    assert trainer.strategy.state_dict()["privacy"]["history"] == [[1.0, 0.05, 20]]
    assert trainer.state.samples == sum(sizes)


# ---- the account -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rdp", "prv"])
def test_epsilon_is_that_of_opacus_own_engine(kind: str) -> None:
    from opacus import PrivacyEngine

    trainer = train(privacy={"accountant": kind, "target_delta": 1e-4}, max_epochs=1, max_steps=5)
    engine = PrivacyEngine(accountant=kind)
    model = nn.Linear(8, 3)
    data = torch.utils.data.TensorDataset(features(N)["x"], features(N)["y"])
    private, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data, B),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    optimizer.attach_step_hook(engine.accountant.get_optimizer_hook_fn(sample_rate=B / N))
    for steps, (x, y) in enumerate(loader):
        if steps == 5:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(private(x), y).backward()
        optimizer.step()
    assert trainer.strategy.budget.epsilon() == engine.get_epsilon(1e-4)


def test_a_budget_alone_finds_the_noise_that_just_keeps_it() -> None:
    trainer = train(privacy={"noise_multiplier": None, "target_epsilon": 3.0})
    budget = trainer.strategy.budget
    assert trainer.state.step == trainer.total_steps == 14
    assert 2.9 < budget.epsilon() <= 3.0
    assert budget.delta == 1e-3


def test_noise_and_budget_together_stop_before_the_budget_is_passed() -> None:
    trainer = train(privacy={"target_epsilon": 4.0}, max_epochs=50)
    budget = trainer.strategy.budget
    assert 0 < trainer.state.step < trainer.total_steps
    assert budget.epsilon() <= 4.0 < budget.epsilon(ahead=1)


def test_a_budget_that_one_update_passes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"one update spends epsilon .*\.target_epsilon=0\.01"):
        train(privacy={"noise_multiplier": 0.5, "target_epsilon": 0.01})


@pytest.mark.parametrize(("noise", "warned"), [(0.0, True), (1e-3, False)])
def test_no_noise_is_a_warning_and_an_epsilon_without_end(
    noise: float, warned: bool, logged: list[str]
) -> None:
    budget = PrivacyBudget(PrivacyConfig(noise_multiplier=noise), N, B / N, planned_steps=14)
    said = "privacy: noise_multiplier is 0, so there is no privacy, only clipping" in logged
    assert said is warned
    assert math.isinf(budget.epsilon(ahead=1)) is warned


@pytest.mark.parametrize(
    ("samples", "delta"), [(200, 1e-3), (999, 1e-3), (1000, 1e-4), (6e4, 1e-5)]
)
def test_the_default_delta_is_below_one_in_the_number_of_examples(
    samples: float, delta: float
) -> None:
    assert default_delta(int(samples)) == delta < 1 / samples


def test_epsilon_of_every_epoch_is_in_the_record_and_the_promise_in_the_config(
    tmp_path: Path,
) -> None:
    trainer = train(directory=tmp_path, validation=TensorLoader(features(64), 64))
    spent = {r["step"]: r["privacy/epsilon"] for r in records(tmp_path) if "privacy/epsilon" in r}
    budget = PrivacyBudget(PrivacyConfig(noise_multiplier=1.0), N, B / N, 14)
    assert spent == {7: budget.epsilon(7), 14: budget.epsilon(14)}
    assert trainer.metrics["privacy/epsilon"] == budget.epsilon(14)
    assert trainer.context.source("trainer.privacy.delta") is Source.DERIVED
    assert "delta: 0.001  # DERIVED" in (tmp_path / "config.yaml").read_text()


# ---- resuming --------------------------------------------------------------------------------


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_has_the_same_weights_and_has_forgotten_nothing(
    tmp_path: Path, accumulate: int, secret: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, seed: int = 3, **more: Any) -> Trainer:
        monkeypatch.setattr("secrets.randbits", lambda bits: seed)  # the system's, made to repeat
        seed_everything(seed)
        noise = 1.0 if accumulate == 1 else 2.5  # so that the budget lasts for some ten updates
        privacy = {"noise_multiplier": noise, "target_epsilon": 3.5, "secret_seed": secret}
        values = {"accumulate": accumulate, "max_epochs": 4 * accumulate}
        return train(TinyTask(), tmp_path / name, privacy=privacy, **values, **more)

    whole = run("whole")
    with pytest.raises(InterruptedRun):
        run("parts", callbacks=[StopAt(4)])
    newest = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert load_checkpoint(newest)["strategy"]["privacy"]["history"][0][2] == 4
    resumed = run("parts", seed=99, resume=newest) if secret else run("parts", resume=newest)
    assert resumed.strategy.budget.epsilon() == whole.strategy.budget.epsilon() > 0
    assert 4 < resumed.state.step == whole.state.step < whole.total_steps
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_spent_budget_stays_spent(tmp_path: Path) -> None:
    values = {"privacy": {"target_epsilon": 4.0}, "max_epochs": 50}
    first = train(directory=tmp_path, **values)
    again = train(directory=tmp_path, resume=tmp_path / "checkpoints" / "last.pt", **values)
    assert again.state.step == first.state.step
    assert_same = zip(first.task.parameters(), again.task.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in assert_same)


def test_a_checkpoint_without_an_account_is_not_resumed(tmp_path: Path) -> None:
    with Run(tmp_path, 3) as run:
        Trainer(TrainerConfig(max_steps=2, loggers=[]), run=run, seed=3).fit(
            TinyTask(),
            TensorLoader(features(N), B, shuffle=True, seed=1),
            optim=OptimizerConfig("sgd", lr=0.1),
        )
    with pytest.raises(CheckpointError, match="nobody knows what its weights have spent"):
        train(directory=tmp_path, resume=tmp_path / "checkpoints" / "last.pt")


def test_an_account_is_not_forgotten_by_going_on_without_privacy(tmp_path: Path) -> None:
    train(directory=tmp_path, max_steps=2)
    with Run(tmp_path, 3) as run, pytest.raises(CheckpointError, match=r"\(privacy, noise, seed\)"):
        Trainer(TrainerConfig(max_steps=4, loggers=[]), run=run, seed=3).fit(
            TinyTask(dropout=0.0),
            TensorLoader(features(N), B, shuffle=True, seed=1),
            optim=OptimizerConfig("sgd", lr=0.1),
            resume=tmp_path / "checkpoints" / "last.pt",
        )


def test_the_checkpoint_holds_the_tasks_own_names_and_the_task_comes_back_clean(
    tmp_path: Path,
) -> None:
    trainer = train(directory=tmp_path)
    stored = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["model"]
    assert stored.keys() == TinyTask().state_dict().keys()
    assert not any(hasattr(p, "grad_sample") for p in trainer.task.parameters())
    Trainer(TrainerConfig(max_steps=1)).fit(trainer.task, TensorLoader(features(N), B))
