"""The loop: what it computes, what it leaves behind, how it ends."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common.data import TensorLoader
from common.training import (
    Callback,
    OptimizerConfig,
    ScheduleConfig,
    StepOutput,
    Trainer,
    TrainerConfig,
)
from common.utils import latest_checkpoint, load_checkpoint
from common.utils.errors import ConfigError, DataError, InterruptedRun
from tests.training.tiny import (
    TinyTask,
    assert_same_run,
    features,
    fit,
    loaders,
    records,
)


class SignalAt(Callback):
    """Sends this process a signal at a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM, hook: str = "on_step_end") -> None:
        self.step, self.number = step, number
        setattr(self, hook, self._send)

    def on_step_end(self, trainer: Trainer) -> None: ...

    def _send(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), self.number)


def test_training_is_plain_gradient_descent() -> None:
    """Against a loop written by hand with the same order of data."""
    torch.manual_seed(0)
    task, reference = TinyTask(dropout=0.0), TinyTask(dropout=0.0)
    reference.load_state_dict(task.state_dict())
    train, _ = loaders()
    trainer = Trainer(TrainerConfig(max_epochs=2))
    trainer.fit(
        task,
        train,
        optim=OptimizerConfig("sgd", lr=0.1),
        schedule=ScheduleConfig("linear", warmup_steps=2),
    )
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    total = 2 * train.num_batches(0)
    step = 0
    for epoch in range(2):
        for batch in train.batches(epoch):
            step += 1
            factor = step / 2 if step < 2 else 1 - (step - 2) / (total - 2)
            optimizer.param_groups[0]["lr"] = 0.1 * factor
            optimizer.zero_grad()
            reference.compute_loss(batch)["loss"].backward()
            optimizer.step()
    assert trainer.state.step == total
    for ours, theirs in zip(task.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("stop", [1, 7, 8, 20])
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path: Path, stop: int, accumulate: int) -> None:
    values = {"accumulate": accumulate, "clip_norm": 1.0, "max_epochs": 10 if accumulate > 1 else 3}
    fit(tmp_path / "whole", **values)
    with pytest.raises(InterruptedRun) as caught:
        fit(tmp_path / "parts", callbacks=[SignalAt(stop)], **values)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    newest = latest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert load_checkpoint(newest)["state"]["step"] == stop
    resumed = fit(tmp_path / "parts", resume=newest, seed=99, **values)
    assert resumed.state.step == resumed.total_steps
    states = [
        load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "parts")
    ]
    for state in states:
        state["callbacks"].pop("SignalAt", None)
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_message_says_how_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRun, match=rf"after step 2; resume with: .*--resume {tmp_path}"):
        fit(tmp_path, callbacks=[SignalAt(2)])
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["state"] == "interrupted"


def test_validating_more_often_does_not_change_training(tmp_path: Path) -> None:
    weights = []
    for every in (0, 2):
        trainer = fit(tmp_path / str(every), eval_every=every)
        weights.append(trainer.task.net[0].weight)
    assert torch.equal(*weights)


def test_validation_covers_every_example_once() -> None:
    class Count(TinyTask):
        def eval_step(self, batch: Any) -> StepOutput:
            ones = torch.ones(len(batch["y"]))
            return StepOutput(batch["x"].sum(), len(ones), {"one": ones.sum()}, {"y": batch["y"]})

        def compute_metrics(self, collected: Any) -> dict[str, float]:
            return {"rows": float(len(collected["y"]))}

    data = features(77)
    trainer = Trainer()
    metrics = trainer.evaluate(Count(), TensorLoader(data, 10))
    assert metrics["test/loss"] == pytest.approx(data["x"].sum().item() / 77, rel=1e-5)
    assert metrics["test/one"] == 1.0
    assert metrics["test/rows"] == 77.0


def test_evaluation_leaves_the_mode_as_it_was() -> None:
    task = TinyTask().train()
    _, validation = loaders()
    Trainer().evaluate(task, validation)
    assert task.training
    list(Trainer().predict(_Predicts(), validation))
    assert task.training


class _Predicts(TinyTask):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"])


def test_prediction_gives_every_batch_in_order() -> None:
    task = _Predicts().eval()
    data = features(77)
    outputs = torch.cat(list(Trainer().predict(task, TensorLoader(data, 10))))
    torch.testing.assert_close(outputs, task(data))


def test_the_best_checkpoint_is_the_best_and_n_are_kept(tmp_path: Path) -> None:
    trainer = fit(tmp_path, keep=2, eval_every=4, monitor="validation/accuracy", mode="max")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-20.pt", "step-21.pt"]
    measured = [r for r in records(tmp_path) if "validation/accuracy" in r]
    best = max(measured, key=lambda r: r["validation/accuracy"])
    state = load_checkpoint(tmp_path / "checkpoints" / "best.pt")["state"]
    assert state["best"] == best["validation/accuracy"]
    assert state["best_step"] == trainer.state.best_step


@pytest.mark.parametrize("keep", [0, 1, 3, 5])
def test_exactly_the_newest_n_are_kept(tmp_path: Path, keep: int) -> None:
    fit(tmp_path, keep=keep, save_every=3)  # at least seven are written
    steps = [int(path.stem[5:]) for path in (tmp_path / "checkpoints").glob("step-*.pt")]
    assert len(steps) == keep
    assert not keep or max(steps) == 21


def test_a_wrong_monitor_names_the_nearest_metric(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'validation/accuracy'"):
        fit(tmp_path, monitor="validation/acuracy")


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_steps or trainer\.max_epochs"):
        Trainer().fit(TinyTask(), loaders()[0])


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="no batch"):
        Trainer(TrainerConfig(max_epochs=1)).fit(TinyTask(), [])


def test_a_plain_dataloader_and_a_list_of_batches_train_too() -> None:
    data = features(64)
    dataset = TensorDataset(data["x"], data["y"])

    class Pairs(TinyTask):
        def forward_batch(self, batch: Any) -> Any:
            return self.compute_loss({"x": batch[0], "y": batch[1]})

    for loader in (DataLoader(dataset, 16, shuffle=True), [dataset[:32], dataset[32:]]):
        trainer = Trainer(TrainerConfig(max_epochs=2))
        trainer.fit(Pairs(), loader)
        assert trainer.state.epoch == 2


def test_a_hook_that_is_not_overridden_is_never_called() -> None:
    trainer = Trainer(callbacks=[SignalAt(1)])
    assert trainer.hooks["on_epoch_start"] == []
    assert len(trainer.hooks["on_step_end"]) == 1


def test_bf16_trains_and_keeps_fp32_weights() -> None:
    trainer = fit(precision="bf16", max_epochs=8)
    assert trainer.metrics["validation/loss"] < 1.05
    assert trainer.task.net[0].weight.dtype == torch.float32


def test_compiling_keeps_the_names_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: compiled.append(self))
    trainer = fit(compile=True, max_epochs=1)
    assert compiled == [trainer.task.net]
    assert set(trainer.task.state_dict()) == set(TinyTask().state_dict())
