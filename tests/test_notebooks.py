"""Every notebook runs from top to bottom: with fewer updates, and as it stands.

As they stand: ``pytest -n 0 -m slow tests/test_notebooks.py``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.utils.paths import get_project_root

NOTEBOOKS = sorted((get_project_root() / "exploratory").glob("*.ipynb"))
# What only makes the curves better; the cells and what they do stay the same.
SHORTER = {
    "01_attention.ipynb": {
        '"trainer.max_steps=150"': '"trainer.max_steps=10", "schedule.warmup_steps=2"',
        "trainer.eval_every=50": "trainer.eval_every=5",
        "side[:200]": "side[:20]",
    },
    "03_train_a_paper.ipynb": {'"trainer.max_steps": 800': '"trainer.max_steps": 100'},
    "04_compare_runs.ipynb": {"trainer.max_steps=200": "trainer.max_steps=20"},
}
all_notebooks = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)


def run(notebook: Path, assets: Path) -> None:
    """Every cell, in a kernel of its own."""
    command = [sys.executable, "-m", "pytest", "--nbmake", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"ASSETS_DIR": str(assets), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [*command, "--nbmake-timeout=240", str(notebook)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=get_project_root(),
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "1 passed" in result.stdout


@all_notebooks
def test_a_notebook_runs_and_shows_something(notebook: Path, tmp_path: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    for long, short in SHORTER.get(notebook.name, {}).items():
        long, short = json.dumps(long)[1:-1], json.dumps(short)[1:-1]
        assert text.count(long) == 1, f"{notebook.name} has no {long}"
        text = text.replace(long, short)
    copy = tmp_path / notebook.name
    copy.write_text(text, encoding="utf-8")
    run(copy, tmp_path / "assets")


@pytest.mark.slow
@all_notebooks
def test_a_notebook_runs_as_it_stands(notebook: Path, tmp_path: Path) -> None:
    run(notebook, tmp_path)
