"""The torture tool on a small experiment of its own, with real processes (rows 1 and 2).

The long one: ``python -m common.testing.torture papers.attention_is_all_you_need.train --kills 50``.
"""

import re
from pathlib import Path

import pytest

from common.testing import torture

TRAIN = '''
"""A toy experiment: dropout, random augmentation, checkpoints all the time."""

import os
import random
import time
from dataclasses import dataclass

import torch
from torch import nn

from common.config import RunContext, launch, nested, option
from common.data import SampleLoader, ShuffledBatches
from common.training import Task, Trainer, TrainerConfig, open_run
from common.utils import save_weights


@dataclass
class Config:
    seed: int = option("seed", 0)
    workers: int = option("processes that read", 0)
    trainer: TrainerConfig = nested(TrainerConfig)


class Points:
    def __getitem__(self, index):
        time.sleep(0.001)
        return {"x": torch.full((8,), index / 64) + torch.randn(8) * random.random()}


class Toy(Task):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.2), nn.Linear(64, 8))

    def compute_loss(self, batch):
        return (self.net(batch["x"]) - batch["x"]).square().mean()


def train(config: Config, context: RunContext) -> float:
    with open_run(config, context) as run:
        order = ShuffledBatches(64, 8, seed=config.seed)
        loader = SampleLoader(Points(), order, num_workers=config.workers, seed=config.seed)
        trainer = Trainer(config.trainer, run=run, context=context, seed=config.seed)
        task = Toy()
        trainer.fit(task, loader, loader, resume=run.resume_from)
        if os.environ.get("TOY_IS_INEXACT"):
            nn.init.normal_(task.net[0].weight, generator=torch.Generator().manual_seed(os.getpid()))
        save_weights(task, run.directory / "model.safetensors")
        run.record(metrics=trainer.metrics)
    return 0.0


if __name__ == "__main__":
    launch(train, Config, __file__)
'''
SHORT = ["lab.toy.train", "trainer.save_every=3", "trainer.eval_every=10", "trainer.max_steps=20"]
WORDS = [*SHORT[:-1], "trainer.max_steps=40"]


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that ``python -m`` finds."""
    folder = tmp_path / "lab" / "toy"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "config.yaml").write_text("trainer: {loggers: []}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.fault(1, 2)
def test_two_kills_are_survived_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    code = torture.main([*WORDS, "--kills", "2", "--seed", "1"])
    captured = capsys.readouterr()
    assert code == 0, captured.out + captured.err
    assert "kills survived: 2" in captured.out
    assert "equal to the uninterrupted run: yes" in captured.out
    lost = re.search(r"median ([\d.]+) steps, worst (\d+)", captured.out)
    assert lost is not None
    assert int(lost[2]) <= 40
    assert captured.err.count("goes on from step") == 2


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_run_that_is_not_the_same_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_IS_INEXACT", "1")
    code = torture.main([*SHORT, "--kills", "1"])
    captured = capsys.readouterr()
    assert code == 1
    assert "equal to the uninterrupted run: NO" in captured.out
    assert "model.safetensors" in captured.out


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_training_that_fails_by_itself_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        torture.main([*WORDS, "trainer.lrr=1", "--kills", "1"])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the training ended with 2")
    assert "did you mean" in error
