"""What several ranks run in the tests of the strategies: many small runs in one launch.

The ranks of ``accelerate launch`` run it as a module, the others are forked (``conftest.py``):
``torchrun --nproc-per-node 2 -m tests.training.ranks STRATEGY DIRECTORY`` does the same.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.data import TensorLoader
from common.training import EMA, OptimizerConfig, StepOutput, Task, Trainer, TrainerConfig
from common.training.callbacks import Callback
from common.training.sharding import is_sharded
from common.training.strategies import build_strategy
from common.utils import Run, seed_everything
from common.utils.errors import ConfigError, InterruptedRun
from tests.training.tiny import features

STEPS = 14  # two epochs of 200 examples in batches of 32: the last batch of each has 8
MIDDLE = 5


class StackTask(Task):
    """Residual layers in a ``ModuleList`` between two matrices; every third example is padding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inward = nn.Linear(8, 15)
        self.layers = nn.ModuleList(nn.Linear(15, 15) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.outward = nn.Linear(15, 3)

    def train_step(self, batch: dict[str, Tensor]) -> StepOutput:
        x = self.inward(batch["x"])
        for layer in self.layers:
            x = x + self.dropout(layer(x).relu())
        losses = nn.functional.cross_entropy(self.outward(x), batch["y"], reduction="none")
        counted = (batch["index"] % 3 != 0).to(losses.dtype)
        rows = {"index": batch["index"]}
        return StepOutput((losses * counted).sum(), counted.sum(), collected=rows)

    def compute_metrics(self, collected: Any) -> dict[str, float]:
        seen = collected["index"].sort().values
        return {"seen": len(seen), "distinct": len(seen.unique())}


class DroppingTask(StackTask):
    """One that draws from the generators."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)


class NormTask(StackTask):
    """One with a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Sequential(nn.Linear(8, 15), nn.BatchNorm1d(15))


class ScalarTask(StackTask):
    """One with a parameter that has no axis."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))


class StopAt(Callback):
    """Sends SIGTERM to rank 1 after a step, or in the middle of the validation after it."""

    def __init__(self, step: int, in_validation: bool = False) -> None:
        self.step, self.in_validation = step, in_validation

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step != self.step or trainer.strategy.rank != 1:
            return
        if not self.in_validation:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        original = trainer.task.eval_step

        def eval_step(batch: Any) -> StepOutput:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(batch)

        trainer.task.eval_step = eval_step


def data(size: int = 200) -> tuple[TensorLoader, TensorLoader]:
    """Training batches of 32, of which the last has 8; a last validation batch of one example."""
    rows = features(size) | {"index": torch.arange(size)}
    return TensorLoader(rows, 32, shuffle=True, seed=1), TensorLoader(rows, max(size - 1, 1))


def train(
    directory: Path, strategy: str, make: Callable[[], Task] = StackTask, **values: Any
) -> Trainer:
    """A run of 14 updates with clipping, weight decay and a moving average of the weights."""
    resume = values.pop("resume", None)
    callbacks = values.pop("callbacks", [])
    settings = {"max_steps": STEPS, "clip_norm": 0.5, "log_every": 3, "eval_every": STEPS} | values
    settings = {"save_every": MIDDLE, "keep": 9} | settings
    config = TrainerConfig(strategy=strategy, device="cpu", loggers=[], **settings)
    rank = int(os.environ.get("RANK", "0"))
    seed_everything(3 + rank)  # ranks agree on weights because the strategy makes them
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, 3, is_owner=rank == 0) as run:
        trainer = Trainer(config, run=run, seed=3, callbacks=[EMA(0.9), *callbacks])
        optim = OptimizerConfig(lr=1e-2, weight_decay=0.1)
        trainer.fit(make(), *data(), optim=optim, resume=resume)
    return trainer


def last(directory: Path) -> Path:
    return directory / "checkpoints" / "last.pt"


def middle(directory: Path) -> Path:
    return directory / "checkpoints" / f"step-{MIDDLE}.pt"


def interrupted(directory: Path, strategy: str, stop: StopAt) -> None:
    """A run that is stopped, and goes on to its end."""
    every = 7 if stop.in_validation else STEPS
    try:
        train(directory, strategy, DroppingTask, callbacks=[stop], eval_every=every)
    except InterruptedRun as error:
        (directory / f"stopped-{os.environ['RANK']}").write_text(str(error))
    train(directory, strategy, DroppingTask, resume=last(directory), eval_every=every)


def main(strategy: str, root: str | Path) -> None:
    """Every scenario, one after the other; each leaves a run directory or a file."""
    root = Path(root)
    group = build_strategy(TrainerConfig(strategy=strategy, device="cpu"))

    def note(name: str, value: Any) -> None:
        (root / f"{name}-{group.rank}.json").write_text(json.dumps(value))

    task = train(root / "whole", strategy).task
    note("sharded", [name for name, p in task.named_parameters() if is_sharded(p)])
    note("kind", type(task).__name__)
    note("weights", {name: value.tolist() for name, value in task.state_dict().items()})
    train(root / "accumulated", strategy, accumulate=3)
    train(root / "from_single", strategy, resume=middle(root / "single"))
    if strategy != "accelerate":
        train(root / "again", strategy, lambda: task, max_steps=2)
        train(root / "fp16", strategy, precision="fp16")
        _evaluations(root, strategy, note)
        _resumptions(root, strategy)
        _stops(root, strategy)
    if strategy == "fsdp":
        train(root / "other_strategy", "ddp", resume=middle(root / "whole"))
        try:
            train(root / "scalar", strategy, ScalarTask)
        except ConfigError as error:
            note("scalar", str(error))
    note("exchanges", _count_exchanges(lambda: train(root / "counted", strategy, clip_norm=0.0)))
    group.close()


def _evaluations(root: Path, strategy: str, note: Callable[[str, Any], None]) -> None:
    trainer = train(root / "norm", strategy, NormTask)
    note("norm", {name: value.tolist() for name, value in trainer.task.named_buffers()})
    note("uneven", trainer.evaluate(trainer.task, data(3)[1]))  # two examples, then one
    note("lonely", trainer.evaluate(trainer.task, data(1)[1]))  # rank 1 has none


def _resumptions(root: Path, strategy: str) -> None:
    train(root / "dropout", strategy, DroppingTask)
    train(root / "dropout_resumed", strategy, DroppingTask, resume=middle(root / "dropout"))


def _stops(root: Path, strategy: str) -> None:
    train(root / "evaluated", strategy, DroppingTask, eval_every=7)
    interrupted(root / "stopped", strategy, StopAt(MIDDLE))
    interrupted(root / "abandoned", strategy, StopAt(7, in_validation=True))


def _count_exchanges(work: Callable[[], Any]) -> int:
    """How often ``work`` asks for a sum over ranks; the gradients' own are not counted."""
    original, count = dist.all_reduce, 0

    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    dist.all_reduce = all_reduce
    try:
        work()
    finally:
        dist.all_reduce = original
    return count


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
