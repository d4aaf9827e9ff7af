"""Private training: which tasks, layers and loaders it takes, and which it refuses by name."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

pytest.importorskip("opacus")

from common.config import compose, nested
from common.data import PoissonBatches, SampleLoader, ShuffledBatches
from common.training import Task, TrainerConfig
from common.training.privacy.budget import PrivacyConfig
from common.utils.errors import ConfigError
from tests.training.privately import B, N, train
from tests.training.tiny import TinyTask, features

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


def test_the_layout_of_images_changes_no_examples_gradient() -> None:
    """Opacus reads a convolution's input as if its channels were outermost."""
    from opacus.grad_sample import GradSampleHooks

    from common.training import TrainerConfig
    from common.training.privacy.budget import PrivacyConfig
    from common.training.privacy.strategy import PrivateStrategy

    class Images(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

        def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
            return self.net(batch["image"]).square().sum((1, 2, 3)).mean()

    torch.manual_seed(0)
    images = torch.randn(3, 3, 8, 8)
    strategy = PrivateStrategy(
        TrainerConfig(strategy="private", privacy=PrivacyConfig(noise_multiplier=1.0), max_steps=1)
    )
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        task = Images()
        strategy.attach(task)
        assert isinstance(strategy.hooks, GradSampleHooks)
        task.train_step({"image": images.to(memory_format=layout)}).loss_sum.backward()
        found.append([parameter.grad_sample.clone() for parameter in task.parameters()])
        strategy.detach()
    for plain, innermost in zip(*found, strict=True):
        torch.testing.assert_close(plain, innermost)


def test_what_only_rounding_tips_over_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The first examples disagree, all others agree."""
    from common.training.privacy import example_gradients as rehearsal

    def tipped(task: Task, hooks: object, batch: object, rows: range) -> list[str]:
        return ["net.0.weight"] if rows.start == 0 else []

    monkeypatch.setattr(rehearsal, "_disagreeing", tipped)
    rows = {"x": torch.randn(9, 4), "y": torch.zeros(9, dtype=torch.long)}
    rehearsal.check_example_gradients(TinyTask(), None, rows)
    assert any("which is rounding" in line for line in logged)
    few = {name: values[:8] for name, values in rows.items()}
    with pytest.raises(ConfigError, match=r"net\.0\.weight"):
        rehearsal.check_example_gradients(TinyTask(), None, few)


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
