"""Corners of going on: what a checkpoint, a second fit and a late signal must not lose."""

import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from common.data import TensorLoader
from common.training import (
    Callback,
    EarlyStopping,
    OptimizerConfig,
    StepOutput,
    Trainer,
    TrainerConfig,
)
from common.utils import Run, latest_checkpoint, load_checkpoint, seed_everything
from common.utils.errors import CheckpointError, FaultError, InterruptedRun
from tests.training.tiny import TinyTask, assert_same_run, features, fit, loaders, records


class SignalAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("missing", ["last.pt", "best.pt"])
def test_names_that_a_kill_left_behind_are_given_on_resume(tmp_path: Path, missing: str) -> None:
    fit(tmp_path / "whole", keep=9)
    fit(tmp_path / "parts", keep=9, max_epochs=1)
    checkpoints = tmp_path / "parts" / "checkpoints"
    (checkpoints / missing).unlink()
    fit(tmp_path / "parts", keep=9, resume=checkpoints / "step-7.pt", max_epochs=1)
    assert (checkpoints / missing).samefile(checkpoints / "step-7.pt")


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    def patience() -> list[Callback]:
        return [EarlyStopping(patience=1, min_delta=10.0)]

    first = fit(tmp_path, callbacks=patience(), log_every=50)
    assert first.state.step == 14
    assert first.state.samples == 400  # what came since the last record is counted
    again = fit(
        tmp_path, callbacks=patience(), log_every=50, resume=tmp_path / "checkpoints" / "last.pt"
    )
    assert again.state.step == 14
    assert "has not improved" in str(again.state.stopped)


def test_a_record_is_written_once_however_often_a_run_goes_on_from_its_step(
    tmp_path: Path,
) -> None:
    class SaveFirst(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 6:
                trainer.save()  # before the record of step 6

    fit(tmp_path / "whole", keep=9)
    with pytest.raises(InterruptedRun):
        fit(tmp_path / "parts", keep=9, callbacks=[SaveFirst(), SignalAt(8)])
    checkpoints = tmp_path / "parts" / "checkpoints"
    fit(tmp_path / "parts", keep=9, resume=checkpoints / "step-6.pt")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_a_run_that_was_stopped_keeps_the_checkpoints_of_the_one_that_was_not(
    tmp_path: Path,
) -> None:
    """What is averaged at the end is then the same."""
    fit(tmp_path / "whole", keep=2)
    with pytest.raises(InterruptedRun):
        fit(tmp_path / "parts", keep=2, callbacks=[SignalAt(17)])
    fit(tmp_path / "parts", keep=2, resume=tmp_path / "parts" / "checkpoints" / "last.pt")
    whole, parts = (
        sorted(p.name for p in (tmp_path / n).glob("checkpoints/*.pt")) for n in ("whole", "parts")
    )
    assert parts == whole


def test_a_second_fit_starts_anew() -> None:
    trainer = Trainer(TrainerConfig(max_epochs=1))
    first, second = TinyTask(), TinyTask()
    for task in (first, second):
        before = [p.clone() for p in task.parameters()]
        trainer.fit(task, *loaders())
        assert not any(map(torch.equal, before, task.parameters()))
        assert trainer.state.step == 7


def test_without_validation_the_last_training_record_is_returned() -> None:
    metrics = Trainer(TrainerConfig(max_epochs=1)).fit(TinyTask(), loaders()[0])
    assert metrics["train/loss"] > 0


def test_a_signal_while_the_last_checkpoint_is_written_is_answered(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun, match="after step 21"):
        fit(tmp_path, callbacks=[SignalAt(21)])
    trainer = fit(tmp_path, resume=latest_checkpoint(tmp_path / "checkpoints"))
    trainer.evaluate(trainer.task, loaders()[1])  # the request is over


def test_what_ended_the_run_is_heard_whatever_its_end_meets(tmp_path: Path) -> None:
    class BadEnd(Callback):
        def on_fit_end(self, trainer: Trainer) -> None:
            raise ValueError("no plot")

    with pytest.raises(InterruptedRun):
        fit(tmp_path, callbacks=[SignalAt(3), BadEnd()])
    with pytest.raises(ValueError, match="no plot"):
        fit(tmp_path / "other", callbacks=[BadEnd()])


def test_a_signal_with_a_broken_terminal_still_saves(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        with pytest.raises(InterruptedRun):
            fit(tmp_path, callbacks=[SignalAt(3)])
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["state"]["step"] == 3


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        ({"max_epochs": None, "max_steps": 5}, "trainer.max_steps=5 ends it at step 5:"),
        ({"max_epochs": 1}, "trainer.max_epochs=1 ends it at step 7:"),
        ({"max_steps": 3}, "trainer.max_steps=3 and trainer.max_epochs=3 ends it at step 3:"),
        ({}, "trainer.max_epochs=3 ends it at step 21:"),
    ],
)
def test_a_resume_past_its_limit_says_so_and_trains_nothing(
    tmp_path: Path, limits: dict[str, Any], asked: str
) -> None:
    before = fit(tmp_path)
    weights = {key: value.clone() for key, value in before.task.state_dict().items()}
    log = tmp_path / "logs" / "train.log"
    assert "nothing more is trained" not in log.read_text()
    again = fit(tmp_path, resume=tmp_path / "checkpoints" / "last.pt", **limits)
    assert again.state.step == 21
    assert again.metrics == before.metrics
    assert all(torch.equal(again.task.state_dict()[key], weights[key]) for key in weights)
    (line,) = [line for line in log.read_text().splitlines() if "nothing more is trained" in line]
    assert f"the run stands at step 21, and {asked}" in line
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"


def test_another_batch_size_with_as_many_batches_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=1)  # 200 examples in 7 batches of 32
    newest = tmp_path / "checkpoints" / "last.pt"
    with pytest.raises(CheckpointError, match="examples in the first batch was 32, is 30"):
        Trainer(TrainerConfig(max_epochs=3)).fit(TinyTask(), *loaders(batch_size=30), resume=newest)


def test_another_optimizer_is_refused_and_other_values_are_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, max_epochs=1)
    newest = tmp_path / "checkpoints" / "last.pt"

    def go_on(**values: Any) -> Trainer:
        trainer = Trainer(TrainerConfig(max_epochs=2), seed=0)
        trainer.fit(TinyTask(), *loaders(), optim=OptimizerConfig(**values), resume=newest)
        return trainer

    with pytest.raises(CheckpointError, match="optimizer was AdamW, is SGD"):
        go_on(name="sgd", lr=0.1)
    group = go_on(lr=1e-5, betas=[0.5, 0.6]).optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-5, (0.5, 0.6))


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    class Odd(TinyTask):
        def compute_metrics(self, collected: Any) -> dict[str, float]:
            self.asked = getattr(self, "asked", 0) + 1
            return {"odd": [float("nan"), 2.0, 3.0][self.asked - 1]}

        def eval_step(self, batch: Any) -> StepOutput:
            output = super().eval_step(batch)
            output.collected = {"y": batch["y"]}
            return output

    trainer = fit(tmp_path, kind=Odd, monitor="validation/odd", mode="max")
    assert (trainer.state.best, trainer.state.best_step) == (3.0, 21)


def test_fp16_that_overflows_at_any_scale_ends_the_run() -> None:
    class Overflows(TinyTask):
        def compute_loss(self, batch: Any) -> Tensor:
            return super().compute_loss(batch)["loss"] * float("inf")

    with pytest.raises(FaultError, match="overflow fp16 at any scale"):
        seed_everything(0)
        Trainer(TrainerConfig(precision="fp16", max_epochs=20)).fit(Overflows(), loaders()[0])


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_batches_may_be_named_tuples_and_loaders_plain_iterators() -> None:
    class Plain:
        """An ``EpochLoader`` whose batches come from a plain iterator."""

        inner = TensorLoader(features(), 32)

        def num_batches(self, epoch: int) -> int:
            return self.inner.num_batches(epoch)

        def indices(self, epoch: int, batch: int) -> list[int]:
            return self.inner.indices(epoch, batch)

        def batches(self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1) -> Any:
            inner = self.inner.batches(epoch, start)
            return iter([Pair(batch["x"], batch["y"]) for batch in inner])

    class OfPairs(TinyTask):
        def forward_batch(self, batch: Pair) -> Any:
            return self.compute_loss({"x": batch.x, "y": batch.y})

    trainer = Trainer(TrainerConfig(max_epochs=1, channels_last=True))
    trainer.fit(OfPairs(), Plain(), Plain())
    assert trainer.state.samples == 200


def test_a_loader_with_a_state_of_its_own_goes_on_after_an_epochs_end(tmp_path: Path) -> None:
    class Stateful:
        """Counts for itself; its position begins anew only once it has seen its end."""

        def __init__(self) -> None:
            self.position = 0

        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Any:
            data = features(40)
            while self.position < 5:
                rows = slice(8 * self.position, 8 * self.position + 8)
                self.position += 1
                yield {key: value[rows] for key, value in data.items()}
            self.position = 0

        def state_dict(self) -> dict[str, int]:
            return {"position": self.position}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.position = state["position"]

    def train(directory: Path, epochs: int, resume: Path | None = None) -> None:
        seed_everything(1)
        directory.mkdir(exist_ok=True)
        config = TrainerConfig(max_epochs=epochs, loggers=[], keep=9, log_every=5)
        with Run(directory, 1) as run:
            Trainer(config, run=run).fit(TinyTask(), Stateful(), resume=resume)

    train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    train(tmp_path / "parts", 3, resume=tmp_path / "parts" / "checkpoints" / "last.pt")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
