"""Frozen parts: they hold still, norms included, and a schedule of them resumes to the last bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.testing.equality import run_differences
from common.training import (
    EMA,
    Callback,
    ClassificationTask,
    OptimizerConfig,
    Trainer,
    TrainerConfig,
    Unfreeze,
)
from common.training.freezing import freeze
from common.utils import Run, load_checkpoint, seed_everything
from common.utils.errors import ConfigError, InterruptedRun
from common.utils.paths import get_project_root

pytestmark = pytest.mark.usefixtures("no_curves")
INFO = DatasetInfo(num_classes=3, input_shape=(1, 6, 6), mean=(0.5,), std=(0.25,))
BACKBONE = ("stem", "body")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(
            nn.Dropout(0.2), nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)).relu().mean((2, 3)))


def frozen(names: Sequence[str] = BACKBONE) -> Net:
    net = Net()
    freeze(net, names)
    return net


def images(size: int = 60) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (size, 1, 6, 6), dtype=torch.uint8, generator=generator)
    return {"image": pixels, "label": pixels[:, 0, 2, 2].long() // 86}


def train(
    directory: Path | None,
    callbacks: Sequence[Callback],
    *,
    resume: Path | None = None,
    task: ClassificationTask | None = None,
    optim: OptimizerConfig | None = None,
    **values: Any,
) -> Trainer:
    seed_everything(3)
    settings = {"max_epochs": 4, "log_every": 2, "loggers": []} | values
    task = task or ClassificationTask(lambda info: frozen(), train_frozen=True)
    loaders = TensorLoader(images(), 16, shuffle=True, seed=1), TensorLoader(images(), 60)
    optim = optim or OptimizerConfig(lr=1e-2, weight_decay=0.1)
    if directory is None:
        trainer = Trainer(TrainerConfig(**settings), callbacks=callbacks)
        trainer.fit(task, *loaders, info=INFO, optim=optim, resume=resume)
        return trainer
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, 3) as run:
        trainer = Trainer(TrainerConfig(**settings), run=run, callbacks=callbacks)
        trainer.fit(task, *loaders, info=INFO, optim=optim, resume=resume)
    return trainer


class Watch(Callback):
    """The state of the network after every update, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def on_fit_start(self, trainer: Trainer) -> None:
        self.on_step_end(trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        state = trainer.task.model.state_dict()
        self.seen[trainer.state.step] = {key: value.clone() for key, value in state.items()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


def test_frozen_layers_and_their_statistics_hold_still() -> None:
    watch = Watch()
    train(None, [watch], task=ClassificationTask(lambda info: frozen()), max_epochs=1)
    assert moved(watch.seen[0], watch.seen[4]) == {"head.weight", "head.bias"}


def test_only_what_is_frozen_holds_still() -> None:
    watch = Watch()
    train(None, [watch], task=ClassificationTask(lambda info: frozen(["stem"])), max_epochs=1)
    changed = moved(watch.seen[0], watch.seen[4])
    assert "body.2.running_mean" in changed
    assert not any(name.startswith("stem.") for name in changed)


def test_everything_trains_from_the_epoch_on() -> None:
    watch = Watch()
    train(None, [Unfreeze(2), watch])
    assert moved(watch.seen[0], watch.seen[8]) == {"head.weight", "head.bias"}
    assert moved(watch.seen[8], watch.seen[9]) == set(watch.seen[0])  # the first of epoch 2


def test_parts_can_follow_each_other() -> None:
    watch = Watch()
    train(None, [Unfreeze(1, ["model.body"]), Unfreeze(3, ["model.stem"]), watch])
    assert not any(name.startswith("body") for name in moved(watch.seen[0], watch.seen[4]))
    assert not any(name.startswith("stem") for name in moved(watch.seen[4], watch.seen[12]))
    assert any(name.startswith("body") for name in moved(watch.seen[4], watch.seen[5]))
    assert moved(watch.seen[12], watch.seen[13]) == set(watch.seen[0])


def test_before_and_after_the_epoch_it_is_training_without_a_schedule() -> None:
    """Plain SGD has no memory, so the second half is a run that starts from the first's weights."""
    plain = OptimizerConfig("sgd", lr=0.05)
    first, both = Watch(), Watch()
    train(None, [first], task=ClassificationTask(lambda info: frozen()), optim=plain)
    train(None, [Unfreeze(2), both], optim=plain)
    for step in range(9):
        assert moved(first.seen[step], both.seen[step]) == set()
    assert moved(first.seen[9], both.seen[9])


@pytest.mark.parametrize(
    ("stop", "optimizer"), [(3, "adamw"), (4, "sgd"), (5, "adamw"), (8, "adamw"), (9, "sgd")]
)
def test_a_run_stopped_around_the_epoch_resumes_to_the_last_bit(
    tmp_path: Path, stop: int, optimizer: str
) -> None:
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    values = {"optim": OptimizerConfig(optimizer, lr=1e-2, weight_decay=0.1, **momentum)}
    values |= {"clip_norm": 0.5, "max_epochs": 3}

    def callbacks() -> list[Callback]:
        return [EMA(0.9), Unfreeze(1, ["model.body"]), Unfreeze(2, ["model.stem"])]

    train(tmp_path / "whole", callbacks(), **values)
    with pytest.raises(InterruptedRun):
        train(tmp_path / "parts", [*callbacks(), SignalAt(stop)], **values)
    last = tmp_path / "parts" / "checkpoints" / "last.pt"
    assert load_checkpoint(last)["state"]["step"] == stop
    train(tmp_path / "parts", callbacks(), resume=last, **values)
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []


class SignalAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from tests.training.test_unfreeze import EMA, Callback, Unfreeze, train
class Kill(Callback):
    def on_step_end(self, trainer):
        if trainer.state.step == int(sys.argv[2]):
            trainer.settle()
            os.kill(os.getpid(), signal.SIGKILL)
directory = Path(sys.argv[1])
last = directory / "checkpoints" / "last.pt"
callbacks = [EMA(0.9), Unfreeze(2)] + [Kill()] * (int(sys.argv[2]) > 0)
train(directory, callbacks, resume=last if last.exists() else None, save_every=1)
"""


@pytest.mark.slow
def test_runs_killed_across_the_epoch_end_as_the_undisturbed_one(tmp_path: Path) -> None:
    def run(name: str, kill: int) -> int:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / name), str(kill)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(get_project_root())}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode

    assert run("whole", 0) == 0
    assert [run("killed", step) for step in (8, 10)] == [-signal.SIGKILL] * 2
    assert run("killed", 0) == 0
    assert run_differences(tmp_path / "whole", tmp_path / "killed") == []


def test_the_average_of_what_was_frozen_begins_with_its_first_update() -> None:
    ema, watch = EMA(0.9), Watch()
    train(None, [ema, Unfreeze(2), watch])
    expected = watch.seen[8]["stem.0.weight"]
    for step in range(9, 17):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * watch.seen[step]["stem.0.weight"]
    torch.testing.assert_close(ema.shadow["model.stem.0.weight"], expected)


@pytest.mark.parametrize(
    ("callback", "task", "words"),
    [
        (Unfreeze(1), lambda: ClassificationTask(lambda info: Net()), "nothing is frozen"),
        (Unfreeze(1), lambda: ClassificationTask(lambda info: frozen()), "train_frozen=True"),
        (Unfreeze(1, ["model.bdy"]), lambda: None, "did you mean 'model.body"),
    ],
)
def test_a_schedule_that_would_do_nothing_is_refused(callback, task, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(None, [callback], task=task())


def test_an_epoch_that_freezes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Unfreeze(0)


@pytest.mark.slow
def test_two_processes_unfreeze_as_one_does(tmp_path: Path) -> None:
    """Gradients of what was frozen when the ranks began must be exchanged, too."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from tests.training.test_unfreeze import Sums, Unfreeze, train, ClassificationTask, OptimizerConfig\n"
        "trainer = train(None, [Unfreeze(1)], task=Sums(), strategy=sys.argv[2], device='cpu',\n"
        "    max_epochs=3, optim=OptimizerConfig('sgd', lr=0.05))\n"
        "torch.save(trainer.task.state_dict(), f'{sys.argv[1]}-{trainer.strategy.rank}.pt')\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(get_project_root())}
    single = [sys.executable, str(program), str(tmp_path / "one"), "single"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *launcher, str(program), str(tmp_path / "two"), "ddp"]
    for command in (single, two):
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:] + f"{time.monotonic() - started}"
    one, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("one-0", "two-0", "two-1")
    )
    for key in one:
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(one[key], first[key], rtol=1e-4, atol=1e-5)


class Sums(ClassificationTask):
    """Without batch statistics and dropout, which differ between ranks."""

    def __init__(self) -> None:
        def build(info: DatasetInfo) -> nn.Module:
            net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))
            freeze(net, ["1"])
            return net

        super().__init__(build, train_frozen=True)
