"""Callbacks that average, stop and slow down."""

from pathlib import Path

import pytest
import torch

from common.training import EMA, Callback, EarlyStopping, ReduceOnPlateau, Trainer
from common.utils import load_checkpoint
from common.utils.errors import ConfigError
from tests.training.tiny import fit, records


def test_ema_is_the_recurrence_written_by_hand() -> None:
    seen: list[torch.Tensor] = []

    class Watch(Callback):
        def on_fit_start(self, trainer: Trainer) -> None:
            seen.append(trainer.task.net[0].weight.detach().clone())

        def on_step_end(self, trainer: Trainer) -> None:
            seen.append(trainer.task.net[0].weight.detach().clone())

    ema = EMA(0.9)
    fit(callbacks=[ema, Watch()], max_epochs=1)
    expected = seen[0]
    for step, weight in enumerate(seen[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.shadow["net.0.weight"], expected)


def test_validation_sees_the_average_and_training_goes_on_with_the_raw_weights(
    tmp_path: Path,
) -> None:
    fit(tmp_path / "plain")
    fit(tmp_path / "ema", callbacks=[EMA(0.99)])
    plain, averaged = (
        load_checkpoint(tmp_path / n / "checkpoints/last.pt") for n in ("plain", "ema")
    )
    for key, value in plain["model"].items():
        assert torch.equal(value, averaged["model"][key])
    losses = [[r.get("validation/loss") for r in records(tmp_path / n)] for n in ("plain", "ema")]
    assert losses[0] != losses[1]


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    stopping = EarlyStopping("validation/loss", patience=2, min_delta=10.0)
    trainer = fit(tmp_path, callbacks=[stopping], max_epochs=50)
    assert trainer.state.epoch == 3  # the first counts as the best, then two without a gain of 10
    assert (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_plateau_lowers_the_rate(tmp_path: Path) -> None:
    plateau = ReduceOnPlateau("validation/loss", factor=0.5, patience=1, min_delta=10.0)
    fit(tmp_path, callbacks=[plateau], max_epochs=4)
    rates = [r["lr"] for r in records(tmp_path) if "lr" in r]
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-3 * 0.5**2)


def test_a_metric_nobody_measures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'validation/loss'"):
        fit(tmp_path, callbacks=[EarlyStopping("validation/los")])


def test_history_holds_one_record_per_validation(tmp_path: Path) -> None:
    import json

    fit(tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert all({"train/loss", "validation/loss", "lr"} <= record.keys() for record in history)
    assert (tmp_path / "plots" / "curves.png").stat().st_size > 5_000


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, loggers=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("validation/loss")]
    ours = [r["validation/loss"] for r in records(tmp_path) if "validation/loss" in r]
    assert written == pytest.approx(ours)


def test_an_unknown_logger_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        fit(tmp_path, loggers=["tensorbord"])
