"""What the configuration alone shows to be wrong is refused before there is a run directory."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from common.config import RunContext
from common.training import (
    ExperimentConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
    open_run,
)
from common.training.privacy.budget import PrivacyConfig
from common.utils.errors import ConfigError

private = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None, reason="needs the extra dp"
)


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store; nothing says that a launcher started this process."""
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASSETS_DIR", str(tmp_path))
    return tmp_path


def experiment(values: dict[str, Any], **sections: Any) -> ExperimentConfig:
    trainer = TrainerConfig(**{"max_steps": 5, "device": "cpu", "loggers": []} | values)
    return ExperimentConfig(trainer=trainer, **sections)


def assert_refused(assets: Path, config: ExperimentConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=named), open_run(config, RunContext(experiment="paper")):
        pytest.fail("the run was opened")
    assert list(assets.iterdir()) == [], "a directory was made for a run that is refused"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"max_steps": None}, "the run has no end"),
        ({"strategy": "ddp"}, "needs a launcher"),
        ({"strategy": "fsdp"}, "needs a launcher"),
        ({"device": "gpu"}, "trainer.device is 'gpu'"),
        ({"loggers": ["tensorbord"]}, "did you mean 'tensorboard'"),
    ],
)
def test_a_trainer_that_cannot_work_leaves_no_directory(
    assets: Path, values: dict[str, Any], named: str
) -> None:
    assert_refused(assets, experiment(values), named)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"optim": OptimizerConfig("adamww")}, "did you mean 'adamw'"),
        ({"optim": OptimizerConfig("adamw", momentum=0.9)}, "has no momentum"),
        ({"schedule": ScheduleConfig("inverse_sqrt")}, "needs schedule.warmup_steps >= 1"),
        ({"schedule": ScheduleConfig("cosine", warmup_steps=5)}, "the run has 5 updates"),
    ],
)
def test_an_optimizer_or_schedule_that_cannot_work_leaves_no_directory(
    assets: Path, sections: dict[str, Any], named: str
) -> None:
    assert_refused(assets, experiment({}, **sections), named)


def test_a_service_that_is_not_installed_leaves_no_directory(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert_refused(assets, experiment({"loggers": ["wandb"]}), r"\[loggers\]")


@private
@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "needs trainer.privacy.target_epsilon"),
        ({"privacy": PrivacyConfig(1.0, noise_multiplier=0.0)}, "noise_multiplier is 0"),
        ({"privacy": PrivacyConfig(1.0), "precision": "bf16"}, "precision=bf16"),
        ({"privacy": PrivacyConfig(1.0), "clip_norm": 1.0}, "clip_norm=1"),
    ],
)
def test_a_promise_that_cannot_be_kept_leaves_no_directory(
    assets: Path, values: dict[str, Any], named: str
) -> None:
    assert_refused(assets, experiment({"strategy": "private"} | values), named)


@private
def test_private_training_in_several_processes_leaves_no_directory(
    assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = experiment({"strategy": "private", "privacy": PrivacyConfig(1.0)})
    assert_refused(assets, config, "several processes")


def test_two_precisions_leave_no_directory(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert_refused(assets, experiment({"precision": "fp16"}), "mixed_precision bf16")


def test_a_dry_run_needs_no_end(assets: Path) -> None:
    context = RunContext(experiment="paper", dry_run=True)
    with open_run(experiment({"max_steps": None}), context) as run:
        assert run.directory.is_dir()
