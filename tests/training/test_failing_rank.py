"""If one rank fails, all end soon, and its error is on the screen."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from common.utils.paths import get_project_root
from tests.training.conftest import TORCHRUN, clean_environment

MODULE = ["-m", "tests.training.failing_rank"]


@pytest.mark.parametrize(
    ("strategy", "how"), [("ddp", "raise"), pytest.param("fsdp", "kill", marks=pytest.mark.slow)]
)
def test_all_ranks_end_when_one_fails(tmp_path: Path, strategy: str, how: str) -> None:
    """A rank that is killed is also in ``tests/faults/test_several_processes.py``.

    With sharded weights: ``pytest -n 0 -m slow tests/training/test_failing_rank.py``.
    """
    process = subprocess.Popen(
        [*TORCHRUN, *MODULE, str(tmp_path), strategy, how],
        stderr=subprocess.PIPE,
        text=True,
        cwd=get_project_root(),
        env=clean_environment(),
    )
    pids: list[int] = []
    while process.poll() is None and len(pids) < 2:
        pids = [int(path.read_text() or 0) for path in tmp_path.glob("*.pid")]
        time.sleep(0.05)
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < 30, said[-3000:]
    assert process.returncode != 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert said.count("Traceback") == 1, said[-3000:]  # the launcher's own
    if how == "kill":
        assert "exitcode  : -9" in said  # the launcher's table names the rank
        return
    assert "error: sample 7 is damaged\n" in said
    # Rank 0 says why it ends, unless the launcher's SIGTERM finds it on its way out.
    explained = "error: rank 0 ends because another of the 2 processes ended"
    assert explained in said or "exitcode  : -15" in said
