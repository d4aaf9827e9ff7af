"""A small experiment, written as a paper is, with groups and a second configuration file."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import launch
from common.utils.paths import get_project_root

TRAIN = '''
"""A toy experiment."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import RunContext, launch, nested, option
from common.config.tree import plain


@dataclass
class ModelConfig:
    d_model: int = option("width of the model", 8, ge=1)
    num_heads: int = option("attention heads", 2, ge=1)
    vocab_size: int | None = option("entries of the vocabulary; the data knows", None, ge=1)
    kwargs: dict[str, Any] = option("further arguments", {})

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model={self.d_model} is not a multiple of {self.num_heads} heads")


@dataclass
class OptimConfig:
    lr: float = option("peak learning rate", 1e-3, gt=0)
    betas: list[float] = option("decay rates", [0.9, 0.98], ge=0, lt=1)
    name: str = option("the optimizer", "adamw", choices=("adamw", "sgd"))
    nesterov: bool = option("Nesterov's momentum", False)


@dataclass
class Config:
    seed: int = option("seed of everything random", 0, ge=0)
    title: str = option("a name for the run", "toy")
    folder: Path | None = option("where to look", None)
    batch_size: int = option("examples per step", 4, ge=1)
    model: ModelConfig = nested(ModelConfig)
    optim: OptimConfig = nested(OptimConfig)


def train(config: Config, context: RunContext) -> float:
    """Train the toy."""
    record = {
        "config": plain(config),
        "extra": context.extra,
        "experiment": context.experiment,
        "overrides": context.overrides,
        "config_file": str(context.config_file),
        "resume": context.resume and str(context.resume),
        "run_dir": context.run_dir and str(context.run_dir),
        "checkpoint": context.checkpoint,
        "dry_run": context.dry_run,
        "cwd": os.getcwd(),
    }
    print("RAN", json.dumps(record))
    return 2 * config.optim.lr


if __name__ == "__main__":
    launch(train, Config, __file__)
'''
FILES = {
    "config.yaml": "defaults:\n  - model: base\n  - _self_\nseed: 1\noptim:\n  lr: 1e-3\n",
    "configs/big.yaml": "seed: 7\nmodel:\n  d_model: 64\n",
    "configs/model/base.yaml": "d_model: 16\n",
    "configs/model/arcface.yaml": "d_model: 32\nnum_heads: 4\nkwargs: {margin: 0.5}\n",
}


@dataclass
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What each started run saw."""
        lines = [line for line in self.out.splitlines() if line.startswith("RAN ")]
        return [json.loads(line.removeprefix("RAN ")) for line in lines]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the only run."""
        assert self.code == 0, self.err
        (run,) = self.runs
        return dict(run["config"])

    @property
    def error(self) -> str:
        """The one line of an input error, before anything ran."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("error: ").rstrip("\n")


Run = Callable[..., Outcome]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The experiment's folder; the working directory is the one above its package."""
    folder = tmp_path / "lab" / "toy"
    for name, text in {**FILES, "train.py": TRAIN}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def module(toy: Path) -> Any:
    """The experiment's ``train.py``, imported."""
    spec = importlib.util.spec_from_file_location("toy_train", toy / "train.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def run(module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls ``launch`` with the given words, in this process."""

    def call(*words: str, needs_run: bool = False) -> Outcome:
        monkeypatch.setattr(sys, "argv", [module.__file__, *words])
        code = 0
        try:
            launch(module.train, module.Config, module.__file__, needs_run=needs_run)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def start(words: Sequence[str | Path], cwd: Path) -> Outcome:
    """A real process, as a person starts it."""
    path = os.pathsep.join([str(get_project_root()), str(cwd)])
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Outcome(result.returncode, result.stdout, result.stderr)
