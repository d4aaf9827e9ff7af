"""Two processes give the numbers of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.utils import load_checkpoint

SCRIPT = """
import sys
from pathlib import Path
from common.config import RunContext
from common.training import Trainer, TrainerConfig
from common.training.strategies import build_strategy
from common.utils import Run, seed_everything
from tests.training.tiny import TinyTask, loaders

directory = Path(sys.argv[1])
strategy = build_strategy("auto", "cpu")
directory.mkdir(exist_ok=True)
seed_everything(3)
with Run(directory, 3, is_owner=strategy.rank == 0) as run:
    # 200 examples in batches of 32: the last batch has 8, and validation 200 = 3 * 64 + 8
    config = TrainerConfig(max_epochs=2, log_every=3, loggers=[], accumulate=int(sys.argv[2]))
    trainer = Trainer(config, run=run)
    trainer.fit(TinyTask(dropout=0.0), *loaders())
strategy.close()
"""


def _launch(directory: Path, processes: int, accumulate: int) -> None:
    script = directory.parent / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    prefix = [sys.executable, *(launcher if processes > 1 else [])]
    command = [*prefix, str(script), str(directory), str(accumulate)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_give_the_result_of_one(tmp_path: Path, accumulate: int) -> None:
    for processes in (1, 2):
        _launch(tmp_path / str(processes), processes, accumulate)
    one, two = (load_checkpoint(tmp_path / n / "checkpoints/last.pt") for n in ("1", "2"))
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-5, atol=1e-6)
    assert one["state"]["samples"] == two["state"]["samples"]
    assert len(two["rng"]) == 2
    lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("1", "2")]
    for ours, theirs in zip(*lines, strict=True):
        left, right = json.loads(ours), json.loads(theirs)
        for key in left.keys() - {"time/seconds", "time/units_per_second"}:
            assert right[key] == pytest.approx(left[key], rel=1e-4, abs=1e-5), key
