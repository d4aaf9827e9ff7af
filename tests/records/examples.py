"""Papers, rows and runs as small as they may be, written as the tools would find them."""

import json
import subprocess
from pathlib import Path
from typing import Any

from common.records import Measurement, Row

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAPER = """\
title: A Method
authors: Ada Lovelace, Charles Babbage
year: 1843
arxiv: "1801.00001"
headline: {metric: test/accuracy, higher_is_better: true}
smoke: [trainer.max_steps=4]
overfit: {overrides: [trainer.max_steps=8], ratio: 0.2}
claims:
  - {name: small, metric: test/accuracy, value: 0.9, where: Table 1, tolerance: 0.005,
     config: configs/full.yaml, note: "a | b"}
"""
README = "# A Method\n\n<!-- results -->\n<!-- /results -->\n\nprose\n"
FILES = {
    "paper.yaml": PAPER,
    "README.md": README,
    "config.yaml": "seed: 0\nlr: 0.1\ndata: {name: embedded/digits}\n",
    "configs/full.yaml": "seed: 0\nlr: 0.2\ndata: {name: cifar10}\n",
    "model.py": "WIDTH = 3\n",
    "train.py": "from papers.method import model\n",
    "evaluate.py": "import papers.method.train\n",
    "results.json": "[]\n",
    "__init__.py": "",
}


def project(root: Path, name: str = "method", **files: str) -> Path:
    """A project with one paper; returns the paper's folder."""
    folder = root / "papers" / name
    for file, text in {**FILES, **files}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    (root / "docs").mkdir(exist_ok=True)
    (root / "README.md").write_text("# P\n\n<!-- papers -->\n<!-- /papers -->\n")
    (root / "papers" / "__init__.py").write_text("")
    return folder


def git(root: Path, *words: str) -> str:
    """Git in ``root``, as nobody in particular."""
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(root), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(root: Path, message: str = "all") -> str:
    """Commit everything; returns the commit."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(root, "rev-parse", "HEAD")


def row(**values: Any) -> Row:
    """A full row of ``configs/full.yaml`` whose accuracy is 0.9."""
    given: dict[str, Any] = {
        "name": "full",
        "config": "configs/full.yaml",
        "command": "python -m papers.method.train --config configs/full.yaml",
        "scale": "full",
        "metrics": {"test/accuracy": Measurement.of([0.9])},
        "seeds": (0,),
        "parameters": 1234567,
        "updates": 10,
        "hours": 1.5,
        "commit": COMMIT,
        "dirty": False,
        "runs": ("2026-01-01_00-00-00",),
        "hardware": "an abacus",
        "versions": {"python": "3.11.7"},
        "date": "2026-01-01",
    }
    return Row(**{**given, **values})


def make_run(
    outputs: Path,
    name: str = "2026-01-01_00-00-00",
    *,
    experiment: str = "method",
    overrides: dict[str, Any] | None = None,
    config: str | None = None,
    files: dict[str, str] | None = None,
    **values: Any,
) -> Path:
    """A run directory of ``method`` as the engine leaves it, finished unless ``values`` say else."""
    directory = outputs / experiment / name
    directory.mkdir(parents=True)
    typed = {"seed": values.get("seed", 0), **(overrides or {})}
    settings = {"seed": 0, "lr": 0.2 if config else 0.1, "data.name": "embedded/digits"}
    if config:
        settings["data.name"] = "cifar10"
    lines = []
    for key, value in {**settings, **typed}.items():
        origin = "command line" if key in typed else (config or "config.yaml")
        if key == "data.name":
            lines += ["data:", f"  name: {value}  # USER: {origin}"]
        else:
            lines.append(f"{key}: {value}  # USER: {origin}")
    (directory / "config.yaml").write_text("\n".join(lines) + "\n")
    options = ["--config", config] if config else []
    record: dict[str, Any] = {
        "state": "finished",
        "seed": 0,
        "command": ["train.py", *options, *(f"{k}={v}" for k, v in typed.items())],
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T02:00:00+00:00",
        "resumed": [],
        "code": {"commit": COMMIT, "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "hardware": {"processor": "an abacus", "cores": 2, "threads": 1, "accelerators": []},
        "wall_seconds": 7200.0,
        "error": None,
        "metrics": {"test/accuracy": 0.9},
        "parameters": 10,
    }
    (directory / "run.json").write_text(json.dumps({**record, **values}))
    log = [
        {"step": step, "train/loss": 1.0 / step, "time/seconds": 360.0 * step}
        for step in range(1, 11)
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    for file, text in (files or {}).items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(text)
    return directory
