"""Private training: its updates, its account, and what it refuses, against independent references."""

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

pytest.importorskip("opacus")

from common.config import Source, compose, nested
from common.data import PoissonBatches, SampleLoader, ShuffledBatches, TensorLoader
from common.training import Callback, OptimizerConfig, Task, Trainer, TrainerConfig
from common.training.privacy.budget import PrivacyBudget, PrivacyConfig, default_delta
from common.utils import Run, latest_checkpoint, load_checkpoint, seed_everything
from common.utils.errors import CheckpointError, ConfigError, InterruptedRun
from tests.training.tiny import TinyTask, TokenTask, assert_same_run, features, records

N, B = 200, 32


def train(
    task: Task | None = None,
    directory: Path | None = None,
    *,
    loader: Any = None,
    privacy: dict[str, Any] | None = None,
    callbacks: Any = (),
    resume: Path | None = None,
    lr: float = 0.1,
    validation: Any = None,
    **values: Any,
) -> Trainer:
    """Train privately with plain SGD; returns the trainer."""
    settings = {"noise_multiplier": 1.0} | (privacy or {})
    config = TrainerConfig(
        **({"strategy": "private", "max_epochs": 2, "log_every": 3, "loggers": []} | values),
        privacy=PrivacyConfig(**settings),
    )
    task = TinyTask(dropout=0.0) if task is None else task
    loader = TensorLoader(features(N), B, shuffle=True, seed=1) if loader is None else loader
    arguments = {"optim": OptimizerConfig("sgd", lr=lr), "resume": resume}
    if directory is None:
        trainer = Trainer(config, callbacks=callbacks)
        trainer.fit(task, loader, validation, **arguments)
        return trainer
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, 3) as run:
        trainer = Trainer(config, run=run, callbacks=callbacks, seed=3)
        trainer.fit(task, loader, validation, **arguments)
    return trainer


def twins(kind: type[Task] = TinyTask, **arguments: Any) -> tuple[Task, Task]:
    torch.manual_seed(0)
    one, other = kind(**arguments), kind(**arguments)
    other.load_state_dict(one.state_dict())
    return one, other


def assert_same_weights(one: Task, other: Task) -> None:
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)


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


# ---- what is refused -------------------------------------------------------------------------


class Normalised(TinyTask):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__(dropout=0.0)
        self.net = nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 3))


class DerivedNorm(nn.BatchNorm1d):
    pass


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(16), nn.BatchNorm1d(16, affine=False), DerivedNorm(16, affine=False)],
)
def test_layers_that_mix_examples_are_named(norm: nn.Module) -> None:
    with pytest.raises(ConfigError, match=rf"these layers: net\.1 \({type(norm).__name__}\)"):
        train(Normalised(norm))


class Convolving(TinyTask):
    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        layers = [nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))


def test_layers_that_mix_examples_are_replaced_on_request() -> None:
    task = Convolving()
    before = task.net[2].weight
    trainer = train(task, privacy={"replace_layers": True})
    assert isinstance(task.net[2], nn.GroupNorm)
    assert any(p is task.net[2].weight for p in trainer.parameters)
    assert not any(p is before for p in trainer.parameters)
    assert not torch.equal(task.net[2].weight, torch.ones(4))


def test_a_batch_norm_over_vectors_becomes_one_group() -> None:
    """A group of one value has no deviation to divide by."""

    class Normalising(TinyTask):
        def __init__(self) -> None:
            super().__init__(dropout=0.0)
            self.net = nn.Sequential(
                nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
            )

    task = Normalising()
    train(task, privacy={"replace_layers": True})
    assert isinstance(task.net[1], nn.GroupNorm)
    assert (task.net[1].num_groups, task.net[1].num_channels) == (1, 16)


class Comparing(TinyTask):
    """Its loss compares an example with the others of the batch, as contrastive losses do."""

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        z = self.net(batch["x"])
        return nn.functional.cross_entropy(z @ z.T, torch.arange(len(z)))


class Borrowing(TinyTask):
    """Uses a weight outside of the layer that owns it."""

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return super().compute_loss(batch)["loss"] + (batch["x"] @ self.net[0].weight.T).mean()


class OwnParameter(TinyTask):
    """Holds a parameter itself, where no layer's hooks see it."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.scale = nn.Parameter(torch.ones(3))

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["x"]) * self.scale, batch["y"])


@pytest.mark.parametrize(
    ("kind", "named"),
    [(Comparing, r"net\.0\.weight"), (Borrowing, r": net\.0\.weight\."), (OwnParameter, "scale")],
)
def test_a_gradient_that_is_not_the_examples_own_is_found(kind: type[Task], named: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be told from the others'.*{named}"):
        train(kind())


class Drawing(TinyTask):
    """Draws in its own training step, as variational and masked models do."""

    borrows = False

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["x"] + torch.randn_like(batch["x"])
        loss = nn.functional.cross_entropy(self.net(x), batch["y"])
        return loss + (x @ self.net[0].weight.T).mean() if self.borrows else loss


class DrawingAndBorrowing(Drawing):
    borrows = True


def test_a_step_that_draws_is_trained_and_still_checked_for_its_sum() -> None:
    trainer = train(Drawing(dropout=0.0), max_steps=2)
    assert trainer.state.step == 2
    with pytest.raises(ConfigError, match=r"cannot be told from the others'.*net\.0\.weight"):
        train(DrawingAndBorrowing(dropout=0.0), max_steps=2)


def test_the_rehearsal_changes_nothing() -> None:
    """Weights, buffers, modes and the generator that dropout draws from."""
    from opacus.grad_sample import GradSampleHooks

    from common.training.privacy.example_gradients import check_example_gradients

    task = TinyTask(dropout=0.5)
    task.register_buffer("counter", torch.zeros(1))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    generator, modes = torch.get_rng_state(), [m.training for m in task.modules()]
    hooks = GradSampleHooks(task, loss_reduction="sum")
    check_example_gradients(task, hooks, features(5))
    torch.testing.assert_close(task.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in task.modules()] == modes
    assert all(p.grad is None and p.grad_sample is None for p in task.parameters())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"precision": "fp16"}, "precision=fp16"),
        ({"precision": "bf16"}, "precision=bf16"),
        ({"compile": True}, "trainer.compile"),
        ({"clip_norm": 1.0}, "clip_norm=1"),
        ({"activation_checkpointing": True}, "activation_checkpointing"),
        ({"overfit_batches": 1}, "overfit_batches"),
        ({"privacy": {"noise_multiplier": None}}, "needs trainer.privacy.target_epsilon"),
        ({"privacy": {"noise_multiplier": 0.0, "target_epsilon": 1.0}}, "noise_multiplier is 0"),
        ({"accumulate": 7}, "sampling rate is 1.12"),
        ({"loader": [features(8)]}, "fixed batch_size over single examples"),
    ],
)
def test_what_makes_no_sense_together_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        train(**values)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes"):
        train()


def test_a_promise_that_nobody_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.strategy is 'auto'"):
        TrainerConfig(privacy=PrivacyConfig(noise_multiplier=1.0))


# ---- the samples -----------------------------------------------------------------------------


def test_every_sample_comes_with_the_sampling_rate_independently_of_the_others() -> None:
    order = PoissonBatches(50, 0.2, num_batches=4000, seed=5)
    taken = torch.zeros(4000, 50, dtype=torch.float64)
    for row, batch in zip(taken, order(0), strict=True):
        assert len(set(batch.tolist())) == len(batch)
        row[torch.from_numpy(batch)] = 1.0
    deviation = math.sqrt(0.2 * 0.8 / 4000)
    assert (taken.mean(0) - 0.2).abs().max() < 4.5 * deviation
    assert taken.sum(1).var().item() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)
    covariance = torch.cov(taken.T) - torch.diag(torch.cov(taken.T).diag())
    assert covariance.abs().max() < 5.5 * 0.16 / math.sqrt(4000)


def test_the_parts_of_a_sample_are_the_sample() -> None:
    whole, cut = PoissonBatches(100, 0.1, 5, seed=2), PoissonBatches(100, 0.1, 5, seed=2, parts=4)
    parts = [part.tolist() for part in cut(3)]
    assert len(parts) == len(cut) == 20
    joined = [[i for part in parts[4 * k : 4 * k + 4] for i in part] for k in range(5)]
    assert joined == [batch.tolist() for batch in whole(3)]
    assert [batch.tolist() for batch in whole(4)] != joined


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in features(N).items()}


@pytest.mark.parametrize("kind", ["samples", "plain"])
def test_loaders_of_single_examples_are_sampled(kind: str) -> None:
    if kind == "plain":
        loader: Any = DataLoader(Squares(), B, shuffle=True)
    else:
        loader = SampleLoader(Squares(), ShuffledBatches(N, B, seed=1))
    trainer = train(loader=loader, max_steps=2)
    assert isinstance(trainer.train_loader.order, PoissonBatches)
    assert trainer.strategy.budget.rate == B / N


def test_a_weighted_sampler_is_refused() -> None:
    sampler = torch.utils.data.WeightedRandomSampler([1.0] * N, N)
    with pytest.raises(ConfigError, match="fixed batch_size over single examples"):
        train(loader=DataLoader(Squares(), B, sampler=sampler))


@dataclass
class Experiment:
    trainer: TrainerConfig = nested(TrainerConfig)


def test_the_command_line_reaches_the_promise(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("trainer: {strategy: private, max_steps: 2}\n")
    words = ["trainer.privacy.target_epsilon=3", "trainer.privacy.max_grad_norm=0.5"]
    config, _ = compose(Experiment, tmp_path / "train.py", None, words)
    assert config.trainer.privacy == PrivacyConfig(target_epsilon=3.0, max_grad_norm=0.5)
    with pytest.raises(ConfigError, match=r"did you mean 'trainer\.privacy\.target_epsilon'"):
        compose(Experiment, tmp_path / "train.py", None, ["trainer.privacy.target_epsilom=3"])
