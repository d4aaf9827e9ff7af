"""From a configuration to a record and back: what the scripts of every paper share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config import RunContext, load_run_config, nested
from common.data import DataSplits, LabelledImagesConfig, load_labelled_images
from common.data.info import DatasetInfo
from common.training import (
    ExperimentConfig,
    Task,
    Trainer,
    TrainerConfig,
    finish,
    fit,
    open_run,
    report,
    restore_task,
)
from common.utils.errors import CheckpointError


@dataclass
class Config(ExperimentConfig):
    """A linear classifier of digits."""

    data: LabelledImagesConfig = nested(LabelledImagesConfig)


class Linear(Task):
    """Sizes itself from the data."""

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        pixels = int(torch.tensor(info.input_shape).prod())
        self.layer = nn.Linear(pixels, info.num_classes or 0)

    def compute_loss(self, batch: dict[str, Tensor]) -> Any:
        logits = self.layer(batch["image"].flatten(1) / 255.0)
        hits = logits.argmax(1) == batch["label"]
        loss = nn.functional.cross_entropy(logits, batch["label"])
        return {"loss": loss, "accuracy": hits.float().mean()}


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    context = RunContext()
    context.experiment = "linear"
    return context


@pytest.fixture
def config() -> Config:
    return Config(trainer=TrainerConfig(max_steps=30, device="cpu"))


def trained(config: Config, context: RunContext) -> tuple[Path, dict[str, float], DataSplits]:
    with open_run(config, context) as run:
        data = load_labelled_images(config.data, context, config.seed)
        task = Linear()
        trainer = fit(task, data, config, context, run)
        metrics = trainer.evaluate(task, data.test)
        finish(task, trainer, run, metrics)
        return run.directory, metrics, data


def test_a_run_leaves_its_weights_and_metrics(
    config: Config, context: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, metrics, _ = trained(config, context)
    record = json.loads((directory / "run.json").read_text())
    assert record["metrics"] == metrics
    assert record["parameters"] == 64 * 10 + 10
    assert (directory / "model.safetensors").is_file()
    shown = capsys.readouterr().out
    assert f"{metrics['test/accuracy']:.4f}" in shown
    assert str(directory) in shown


def test_an_evaluation_of_the_run_gives_what_it_recorded(
    config: Config, context: RunContext
) -> None:
    directory, metrics, data = trained(config, context)
    again, found = load_run_config(Config, str(directory))
    found.checkpoint = "final"
    task = restore_task(Linear(), data.info, again, found)
    assert not task.training
    report(Trainer(again.trainer).evaluate(task, data.test), found)
    evaluation = json.loads((directory / "evaluation.json").read_text())
    assert evaluation["metrics"] == metrics
    assert evaluation["checkpoint"] == "final"


def test_another_models_weights_are_refused(config: Config, context: RunContext) -> None:
    directory, _, _ = trained(config, context)
    again, found = load_run_config(Config, str(directory))
    found.checkpoint = "final"
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        restore_task(Linear(), DatasetInfo(num_classes=9, input_shape=(1, 8, 8)), again, found)


def test_without_a_run_there_is_nothing_to_restore(config: Config) -> None:
    with pytest.raises(ValueError, match="names no run"):
        restore_task(Linear(), DatasetInfo(), config, RunContext())
    with pytest.raises(ValueError, match="names no run"):
        report({}, RunContext())
