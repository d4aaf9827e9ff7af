"""The diagnostics that sum over processes give, on two, the numbers of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_gradient_callbacks import linear_data

SCRIPT = """
import json, sys
from common.data import TensorLoader
from common.training import OptimizerConfig, Trainer, TrainerConfig
from common.training.callbacks import GradientNoise
from common.training.lr_finder import find_learning_rate
from common.training.strategies import build_strategy
from tests.training.test_gradient_callbacks import STILL, Linear, linear_data

strategy = build_strategy(TrainerConfig(strategy="auto", device="cpu"))
data, _ = linear_data(12)
# A batch of 7 and one of 5: two processes take 4 + 3 and 3 + 2 examples.
batches = [{k: v[:7] for k, v in data.items()}, {k: v[7:] for k, v in data.items()}]
config = TrainerConfig(max_epochs=1, log_every=1, loggers=[], accumulate=2)
noise = GradientNoise(every=1, decay=0.0)
Trainer(config, callbacks=[noise]).fit(Linear(), batches, optim=STILL)
loader = TensorLoader(linear_data(50)[0], 12, shuffle=True)
optim = OptimizerConfig(name="sgd", lr=1.0)
found = find_learning_rate(Trainer(config), Linear(), loader, optim=optim, num_iter=40)
if strategy.rank == 0:
    means = noise.state_dict()["means"].tolist()
    result = {"means": means, "losses": found.losses, "valley": found.valley}
    open(sys.argv[1], "w").write(json.dumps(result))
strategy.close()
"""


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        prefix = [sys.executable, *(launcher if processes > 1 else [])]
        command = [*prefix, str(script), str(out)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr[-3000:]
        results.append(json.loads(out.read_text()))
    one, two = results
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["valley"] == one["valley"]

    _, gradients = linear_data(12)
    rows = [range(0, 7, 2), range(1, 7, 2), range(7, 12, 2), range(8, 12, 2)]
    whole = gradients.mean(axis=0)
    trace = sum(len(r) * ((gradients[list(r)].mean(axis=0) - whole) ** 2).sum() for r in rows) / 3
    squared = (whole**2).sum() - trace / 12
    assert two["means"] == pytest.approx([trace, squared], rel=1e-5)
