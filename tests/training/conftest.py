"""One launch of two ranks per strategy serves all tests, whichever process they run in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from common.utils.paths import get_project_root
from tests.training.ranks import train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--main_process_port", "0", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


def clean_environment() -> dict[str, str]:
    """Without what a launcher around the tests may have set."""
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    kept = {k: v for k, v in os.environ.items() if k not in names and "ACCELERATE" not in k}
    return kept | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where two ranks of a strategy left the runs of ``tests.training.ranks``."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def launch(strategy: str) -> Path:
        root = shared / f"ranks-{strategy}"
        with FileLock(shared / f"{strategy}.lock"):
            if not root.exists():
                train(root / "single", "single")
                launcher = ACCELERATE if strategy == "accelerate" else TORCHRUN
                command = [*launcher, "-m", "tests.training.ranks", strategy, str(root)]
                with (root / "log").open("w") as log:
                    subprocess.run(
                        command,
                        stdout=log,
                        stderr=log,
                        timeout=240,
                        cwd=get_project_root(),
                        env=clean_environment(),
                        check=False,
                    )
        assert (root / "exchanges-1.json").exists(), (root / "log").read_text()[-4000:]
        return root

    return launch
