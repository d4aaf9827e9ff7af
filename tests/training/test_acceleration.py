"""Faster, smaller, or only a try: the numbers stay those of the plain run."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import RunContext
from common.data import TensorLoader
from common.training import Callback, OptimizerConfig, StepOutput, Task, Trainer, TrainerConfig
from common.utils import Run, seed_everything
from common.utils.errors import ConfigError
from tests.training.tiny import TinyTask, features, fit, loaders


class Stack(Task):
    """Blocks with dropout; counts how often a block computes."""

    dropout = 0.3

    def __init__(self) -> None:
        super().__init__()
        self.blocks_ = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(self.dropout)) for _ in range(3)
        )
        self.head = nn.Linear(8, 3)
        self.calls = 0
        for block in self.blocks_:
            block[0].register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = batch["x"]
        for block in self.blocks_:
            hidden = hidden + block(hidden)
        return nn.functional.cross_entropy(self.head(hidden), batch["y"])


class Picture(Task):
    """A convolution over images of 2 x 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 2)
        self.head = nn.Linear(6, 3)
        self.seen: set[bool] = set()

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        self.seen.add(batch["x"].is_contiguous(memory_format=torch.channels_last))
        hidden = self.conv(batch["x"]).flatten(1).relu()
        return nn.functional.cross_entropy(self.head(hidden), batch["y"])


def train(kind: type[Task], data: dict[str, Tensor], **values: Any) -> Task:
    seed_everything(0)
    task = kind()
    loader = TensorLoader(data, 32, shuffle=True)
    Trainer(TrainerConfig(**{"max_epochs": 2} | values)).fit(task, loader, TensorLoader(data, 64))
    return task


def test_activation_checkpointing_changes_no_bit_and_computes_blocks_twice() -> None:
    plain = train(Stack, features())
    twice = train(Stack, features(), activation_checkpointing=True)
    assert plain.state_dict().keys() == twice.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key]), key
    training, evaluation = 3 * 2 * 7, 3 * 2 * 4
    assert plain.calls == training + evaluation
    assert twice.calls == 2 * training + evaluation


def test_activation_checkpointing_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"TinyTask\.blocks\(\) names none"):
        train(TinyTask, features(), activation_checkpointing=True)


def test_images_with_their_channels_innermost_give_the_same_weights() -> None:
    data = features()
    data["x"] = data["x"].view(-1, 2, 2, 2)
    plain, innermost = train(Picture, data), train(Picture, data, channels_last=True)
    assert plain.seen == {False}
    assert innermost.seen == {True}  # in training and in evaluation
    assert innermost.conv.weight.is_contiguous(memory_format=torch.channels_last)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(innermost.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_images_with_their_channels_innermost_go_on_exactly(tmp_path: Path, name: str) -> None:
    """Fused kernels read weights and moments side by side, in whatever layout each has."""
    data = features()
    data["x"] = data["x"].view(-1, 2, 2, 2)
    optim = OptimizerConfig(name=name, lr=0.1, momentum=0.9 if name == "sgd" else None)

    def run(directory: Path, steps: int, resume: Path | None = None) -> dict[str, Tensor]:
        seed_everything(0)
        task = Picture()
        directory.mkdir(exist_ok=True)
        config = TrainerConfig(max_steps=steps, channels_last=True, loggers=[])
        with Run(directory) as run:
            Trainer(config, run=run).fit(
                task, TensorLoader(data, 32, shuffle=True), optim=optim, resume=resume
            )
        return task.state_dict()

    whole = run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 4)
    parts = run(tmp_path / "parts", 8, resume=tmp_path / "parts" / "checkpoints" / "last.pt")
    for key, value in whole.items():
        assert torch.equal(parts[key], value), key


def test_tf32_is_a_choice_of_each_trainer() -> None:
    Trainer(TrainerConfig(tf32=True))
    assert torch.get_float32_matmul_precision() == "high"
    Trainer(TrainerConfig())
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_task_gives_the_same_weights() -> None:
    class Certain(Stack):
        dropout = 0.0  # a compiled dropout draws other numbers

    plain, compiled = train(Certain, features()), train(Certain, features(), compile=True)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_one_batch_is_learned_by_heart_and_validated_on() -> None:
    seen: set[float] = set()

    class Watch(TinyTask):
        def compute_loss(self, batch: dict[str, Tensor]) -> Any:
            seen.update(batch["x"][:, 0].tolist())
            return super().compute_loss(batch)

    seed_everything(0)
    task = Watch(dropout=0.0)
    config = TrainerConfig(max_steps=150, overfit_batches=1, eval_every=50)
    optim = OptimizerConfig(lr=0.03)
    metrics = Trainer(config).fit(task, *loaders(batch_size=16), optim=optim)
    assert len(seen) == 16
    assert metrics["validation/accuracy"] == 1.0


def test_a_dry_run_does_one_step_of_everything_and_reads_its_checkpoint(tmp_path: Path) -> None:
    restored: list[int] = []

    class Remembers(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"step": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            restored.append(state["step"])

    class Counts(TinyTask):
        evaluations = 0

        def eval_step(self, batch: Any) -> StepOutput:
            self.evaluations += 1
            return super().eval_step(batch)

    task = Counts()
    with Run(tmp_path, 0) as run:
        context = RunContext(dry_run=True)
        trainer = Trainer(
            TrainerConfig(max_epochs=5), run=run, context=context, callbacks=[Remembers()]
        )
        trainer.fit(task, *loaders())
    assert (trainer.state.step, task.evaluations, restored) == (1, 1, [1])


def test_fp16_resumes_with_the_scale_it_had(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 4:
                trainer.save()
                trainer.precision.scaler.update(2.0)  # what happens later is not in the file

    fit(tmp_path, precision="fp16", callbacks=[Interrupt()], keep=9)
    resumed = fit(tmp_path / "on", precision="fp16", max_epochs=1)
    assert resumed.precision.scaler.get_scale() == 65536.0
    other = Trainer(TrainerConfig(precision="fp16", max_steps=4))
    other.fit(TinyTask(), *loaders(), resume=tmp_path / "checkpoints" / "step-4.pt")
    assert other.precision.scaler.get_scale() == 65536.0
