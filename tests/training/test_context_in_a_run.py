"""The run context in a real training: what ends with a step or an epoch, and what a resume keeps."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from common.config import Lifetime, RunContext, Source
from common.data import DatasetInfo
from common.training import Callback, Trainer, TrainerConfig
from common.utils import latest_checkpoint
from common.utils.errors import CheckpointError, InterruptedRun
from tests.training.tiny import TinyTask, assert_same_run, fit, loaders


class Counts(Callback):
    """Counts the steps of an epoch in the context, and notes what it finds there."""

    def __init__(self, stop_at: int = -1) -> None:
        self.stop_at = stop_at
        self.seen: list[Any] = []

    def before_update(self, trainer: Trainer) -> None:
        assert trainer.context.get("count.loss") is None
        assert not trainer.context.step_values

    def on_step_end(self, trainer: Trainer) -> None:
        context = trainer.context
        count = context.get("count.steps", 0) + 1
        context.set("count.steps", count, Source.DERIVED, Lifetime.EPOCH)
        context.set("count.loss", trainer.loss, Source.DERIVED, Lifetime.STEP)
        if trainer.state.step == 2:
            context.set("count.first", 5, Source.DERIVED)
        self.seen.append((trainer.state.step, count, context.get("count.first")))
        if trainer.state.step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_evaluation_end(self, trainer: Trainer, record: Any) -> None:
        self.seen.append(("evaluation", trainer.context.get("count.steps")))


def test_values_end_with_their_step_and_epoch(tmp_path: Path) -> None:
    counts = Counts()
    trainer = fit(tmp_path, callbacks=[counts])  # three epochs of seven steps
    assert [each[1] for each in counts.seen] == [1, 2, 3, 4, 5, 6, 7, 7] * 3
    assert trainer.context.get("count.steps") is None
    assert trainer.context.get("count.loss") is None
    assert trainer.context.get("count.first") == 5


@pytest.mark.parametrize("stop_at", [4, 7, 10])  # within an epoch, at its end, in the next one
def test_a_resumed_run_goes_on_with_the_values_of_its_epoch(tmp_path: Path, stop_at: int) -> None:
    whole, first, second = Counts(), Counts(stop_at), Counts()
    fit(tmp_path / "whole", callbacks=[whole])
    with pytest.raises(InterruptedRun):
        fit(tmp_path / "parts", callbacks=[first])
    newest = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    fit(tmp_path / "parts", callbacks=[second], resume=newest)
    assert first.seen + second.seen == whole.seen
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_step_that_leaves_nothing_in_the_context_costs_no_call() -> None:
    class Counting(RunContext):
        ended = 0

        def end(self, lifetime: Lifetime) -> None:
            Counting.ended += 1
            super().end(lifetime)

    trainer = Trainer(TrainerConfig(max_epochs=3, loggers=[]), context=Counting())
    trainer.fit(TinyTask(), *loaders())
    assert Counting.ended == 4  # before the first epoch, and after each of the three


class SizedTask(TinyTask):
    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        context.resolve("data.vocab_size", info.vocab_size)
        context.resolve("data.num_classes", info.num_classes)


def test_a_resume_over_other_data_names_every_contradiction(tmp_path: Path) -> None:
    from common.utils import Run

    def run(vocab_size: int, num_classes: int, resume: Path | None = None) -> None:
        info = DatasetInfo(vocab_size=vocab_size, num_classes=num_classes)
        with Run(tmp_path, 0) as record:
            trainer = Trainer(TrainerConfig(max_steps=2, loggers=[]), run=record)
            trainer.fit(SizedTask(), *loaders(), info=info, resume=resume)

    run(100, 3)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError) as raised:
        run(120, 4, newest)
    assert "data.vocab_size was 100 (DATA), is 120 (DATA)" in str(raised.value)
    assert "data.num_classes was 3 (DATA), is 4 (DATA)" in str(raised.value)
    run(100, 3, newest)
