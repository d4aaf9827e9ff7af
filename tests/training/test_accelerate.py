"""The same tasks under ``accelerate launch``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.training import TrainerConfig
from common.training.strategies import build_strategy
from common.utils.errors import ConfigError
from tests.training.ranks import STEPS, train
from tests.training.test_distributed import assert_close_run, note

Ran = Callable[[str], Path]


def test_accelerate_gives_the_run_of_one_process(ran: Ran, tmp_path: Path) -> None:
    root = ran("accelerate")
    assert_close_run(root / "single", root / "whole")
    train(tmp_path, "single", accumulate=3)
    assert_close_run(tmp_path, root / "accumulated")


def test_accelerate_goes_on_where_one_process_stopped(ran: Ran) -> None:
    assert_close_run(ran("accelerate") / "single", ran("accelerate") / "from_single", 1e-5)


def test_the_launcher_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_strategy(TrainerConfig(strategy="auto", device="cpu")).name == "single"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    strategy = build_strategy(TrainerConfig(strategy="auto", device="cpu"))
    assert strategy.name == "accelerate"
    assert strategy.precision_name("fp32") == "bf16"  # the default gives way to the launch
    assert strategy.precision_name("bf16") == "bf16"


def test_two_precisions_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match=r"trainer\.precision is fp16, .* mixed_precision bf16"):
        build_strategy(TrainerConfig(strategy="accelerate", device="cpu")).precision_name("fp16")


def test_another_device_than_accelerates_is_refused() -> None:
    with pytest.raises(ConfigError, match="Accelerate decides the device"):
        build_strategy(TrainerConfig(strategy="accelerate", device="cpu:1"))


def test_several_processes_that_would_each_train_alone_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were launched, which would each train"):
        build_strategy(TrainerConfig(strategy="single", device="cpu"))


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_without_a_launcher_a_line_says_how_to_launch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=rf"strategy={name} needs a launcher.*torchrun"):
        build_strategy(TrainerConfig(strategy=name, device="cpu"))


def test_an_update_makes_one_exchange_beside_the_gradients(ran: Ran) -> None:
    assert note(ran("accelerate"), "exchanges") <= STEPS + STEPS // 3 + 1 + 2
