"""From two real runs to a row, its tables and a page, as a person does it: in a copy of the tree."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from common.records import find_paper, read_results
from common.utils.paths import get_project_root
from tests.records.examples import commit

PAPER = "attention_is_all_you_need"
TINY = [
    *("trainer.max_steps=4", "trainer.eval_every=2", "trainer.log_every=1"),
    *("model.d_model=8", "model.num_heads=1", "model.d_ff=8", "model.num_encoder_layers=1"),
    *("model.num_decoder_layers=1", "decode.beam_size=1", "decode.extra_length=1"),
]


class Copy:
    """A repository of its own with the project's files, and a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.assets = root / "assets"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Python with ``words``, in the copy."""
        environment = os.environ | {"PYTHONPATH": str(self.root), "ASSETS_DIR": str(self.assets)}
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True
        )

    @property
    def runs(self) -> list[str]:
        """The names of the runs, the oldest first."""
        return sorted(path.name for path in (self.assets / "outputs" / PAPER).iterdir())


def _left_out(folder: str, names: list[str]) -> list[str]:
    """Caches, pictures, and links to data."""
    return [n for n in names if n in ("__pycache__", "images") or Path(folder, n).is_symlink()]


def make_copy(root: Path) -> Copy:
    """Copy the project, commit it, and train twice in one sweep over seeds."""
    copy = Copy(root)
    kept = ("common", "papers", "projects", "tools", "docs", "README.md", "pyproject.toml")
    for name in kept:
        source = get_project_root() / name
        copy.root.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy.root / name, ignore=_left_out)
        else:
            shutil.copy(source, copy.root / name)
    (copy.root / ".gitignore").write_text("__pycache__\n")
    commit(copy.root)
    result = copy.run("-m", f"papers.{PAPER}.train", "-m", "seed=0,1", *TINY)
    assert result.returncode == 0, result.stderr
    return copy


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """One copy for all tests, whichever process they run in."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "record-result"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            make_copy(root)
    return Copy(root)


def test_two_seeds_of_a_real_sweep_become_a_row_and_its_tables(copy: Copy) -> None:
    folder = copy.root / "papers" / PAPER
    before = read_results(folder)
    words = [*copy.runs, "--scale", "reduced: four steps", "--name", "tiny"]
    what = "'tiny' (reduced: four steps)"
    for said in (f"added {what}", f"replaced {what} with {what}"):  # again is not another one
        result = copy.run("tools/record_result.py", *words)
        assert result.returncode == 0, result.stderr
        assert f"results.json: {said}\n" in result.stdout
    *earlier, row = read_results(folder)
    assert earlier == before
    assert row.seeds == (0, 1)
    assert row.command == f"python -m papers.{PAPER}.train " + " ".join(
        sorted([*TINY, "seed=0"], key=row.command.index)
    )
    assert row.updates == 4
    assert row.parameters is not None
    assert not row.dirty
    assert row.runs == tuple(copy.runs)
    record = json.loads((copy.assets / "outputs" / PAPER / copy.runs[1] / "run.json").read_text())
    assert row.metrics["test/bleu"].values[1] == record["metrics"]["test/bleu"]
    assert row.commit == record["code"]["commit"]

    check = copy.run("tools/make_index.py", "--check")
    assert check.returncode == 1
    assert f"papers/{PAPER}/README.md is out of date: run python tools/make_index.py" in (
        check.stderr.splitlines()
    )
    assert copy.run("tools/make_index.py").returncode == 0
    assert copy.run("tools/make_index.py", "--check").returncode == 0
    assert "| tiny |" in (folder / "README.md").read_text()

    stale = copy.run("tools/make_index.py", "--stale").stdout.splitlines()
    assert f"papers.{PAPER}, tiny: verified at commit {row.commit[:7]}; up to date" in stale


def test_a_page_over_real_runs_is_written(copy: Copy, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = copy.run("tools/report.py", *copy.runs, "--out", str(page))
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "seed=0" in text
    assert text.count("<polyline") >= 4


def test_a_run_that_is_none_is_one_line(copy: Copy) -> None:
    result = copy.run("tools/record_result.py", "yesterday")
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no run 'yesterday' in ")
    assert result.stderr.count("\n") == 1


def test_this_repositorys_documents_are_up_to_date() -> None:
    tool = get_project_root() / "tools" / "make_index.py"
    result = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, cwd=tool.parents[1]
    )
    assert result.returncode == 0, result.stderr


def test_the_first_papers_results_kept_their_facts() -> None:
    multi30k, dates = read_results(find_paper(PAPER).folder)[:2]
    assert multi30k.metrics["test/bleu"].mean == 38.3306
    assert dates.metrics["test/exact_match"].mean == 0.998
    assert "38.19" in multi30k.note
    assert multi30k.dirty
