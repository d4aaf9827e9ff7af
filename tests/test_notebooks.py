"""Every notebook runs from top to bottom."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.utils.paths import get_project_root

NOTEBOOKS = sorted((get_project_root() / "exploratory").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_something(notebook: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbmake", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"ASSETS_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [*command, "--nbmake-timeout=240", str(notebook)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=get_project_root(),
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "1 passed" in result.stdout
