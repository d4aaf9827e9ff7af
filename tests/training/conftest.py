"""One run of two ranks per strategy serves all tests, whichever process they run in."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from common.testing.trials import TrialServer
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
def forked() -> Iterator[TrialServer]:
    """Forks what the ranks of this folder run: torch is imported once for all of them."""
    with TrialServer(["tests.training.ranks", "tests.training.diagnostics_of_ranks"]) as server:
        yield server


def run_two_ranks(
    server: TrialServer, target: str, timeout: float = 240.0, **arguments: Any
) -> str:
    """Two processes with the variables that ``torchrun`` sets; returns what they wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    trials = [
        server.start(target, launched | {"RANK": rank, "LOCAL_RANK": rank}, **arguments)
        for rank in ("0", "1")
    ]
    codes = [trial.wait(timeout) for trial in trials]
    said = "".join(trial.errors for trial in trials)
    assert codes == [0, 0], said[-4000:]
    return said


@pytest.fixture(scope="session")
def ran(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Path]:
    """Where two ranks of a strategy left the runs of ``tests.training.ranks``.

    Accelerate's come from its launcher; ``test_failing_rank.py`` is what goes through ``torchrun``.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def launch(strategy: str) -> Path:
        root = shared / f"ranks-{strategy}"
        with FileLock(shared / f"{strategy}.lock"):
            if not root.exists():
                train(root / "single", "single")
                (root / "log").touch()  # a second test finds out why the first had no result
                if strategy == "accelerate":
                    _launch_accelerate(root)
                else:
                    server = request.getfixturevalue("forked")
                    said = run_two_ranks(
                        server, "tests.training.ranks:main", strategy=strategy, root=str(root)
                    )
                    (root / "log").write_text(said)
        assert (root / "exchanges-1.json").exists(), (root / "log").read_text()[-4000:]
        return root

    return launch


def _launch_accelerate(root: Path) -> None:
    command = [*ACCELERATE, "-m", "tests.training.ranks", "accelerate", str(root)]
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
