"""``batch_size=auto``: the largest batch that fits, found, fixed and recorded."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from common.config import RunContext, Source, compose, option
from common.data import TensorLoader
from common.training import TrainerConfig, find_batch_size, settle_batch_size
from common.utils.errors import ConfigError, FaultError
from tests.training.tiny import TinyTask, features


@pytest.fixture(autouse=True)
def _few_objects() -> Iterator[None]:
    """Memory is tidied after every try, and this process holds a whole suite."""
    gc.freeze()
    yield
    gc.unfreeze()


class Hungry(TinyTask):
    """Says that it is out of memory where a GPU would, above so many examples."""

    limit = 24

    def compute_loss(self, batch: Any) -> Any:
        if len(batch["x"]) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().compute_loss(batch)


def loader(size: int) -> TensorLoader:
    return TensorLoader(features(100), size)


def test_the_largest_power_of_two_that_fits_is_found_and_nothing_else_changes() -> None:
    task = Hungry()
    before = [p.clone() for p in task.parameters()]
    generator = torch.get_rng_state()
    assert find_batch_size(task, loader) == 16
    assert all(map(torch.equal, before, task.parameters()))
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_batch_of_the_whole_epoch_is_enough() -> None:
    assert find_batch_size(TinyTask(), loader) == 128


def test_what_does_not_fit_at_all_is_an_error() -> None:
    task = Hungry()
    task.limit = 0
    with pytest.raises(FaultError, match="not even a batch of one"):
        find_batch_size(task, loader)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    class Broken(TinyTask):
        def compute_loss(self, batch: Any) -> Any:
            raise FaultError("sample 3 is damaged")

    with pytest.raises(FaultError, match="sample 3"):
        find_batch_size(Broken(), loader)


PROGRAM = """
import resource, torch
from common.data import TensorLoader
from common.training import Task, find_batch_size

class Large(Task):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def compute_loss(self, batch):
        return (self.weight * batch["x"].expand(-1, 4 << 20)).square().mean()  # 16 MiB an example

def loader(size):
    return TensorLoader({"x": torch.ones(4096, 1)}, size)

torch.set_num_threads(1)
find_batch_size(Large(), loader, largest=1)  # what is imported on the way takes memory too
for line in open("/proc/self/status"):
    if line.startswith("VmSize"):
        size = int(line.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 30), -1))  # one GiB is left
print(find_batch_size(Large(), loader))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_that_really_ends_is_survived() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-2000:]
    # Five results of 16 MiB an example live at once: 16 examples need 1.3 GiB.
    assert int(result.stdout) in (2, 4, 8)


@dataclass
class Config:
    """An experiment whose batch size may be searched for."""

    batch_size: int | Literal["auto"] = option("examples of an update, or auto", 32, ge=1)


def test_the_number_found_is_in_the_saved_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("batch_size: auto\n")
    config, context = compose(Config, tmp_path / "train.py", None, [])
    assert settle_batch_size(context, "batch_size", lambda: 16) == 16
    assert config.batch_size == 16
    assert context.source("batch_size") is Source.DERIVED
    assert "batch_size: 16  # DERIVED" in context.to_yaml()
    assert settle_batch_size(context, "batch_size", lambda: 1 // 0) == 16


def test_a_batch_size_is_a_number_or_auto(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("batch_size: 8\n")
    for word, message in (("0", "expected >= 1"), ("automatic", "an integer or one of auto")):
        with pytest.raises(ConfigError, match=message):
            compose(Config, tmp_path / "train.py", None, [f"batch_size={word}"])


def test_several_steps_of_accumulation_are_kept() -> None:
    context = RunContext()
    context.set("batch_size", 4, Source.USER)
    assert settle_batch_size(context, "batch_size", lambda: 8) == 4
    assert find_batch_size(Hungry(), loader, config=TrainerConfig(accumulate=2)) == 16
