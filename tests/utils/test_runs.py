"""Run directories have one owner, are never overwritten, and record what made a number."""

import json
import sys
from pathlib import Path

import pytest

from common.utils import Run
from common.utils.errors import ConfigError, FaultError, InterruptedRun, UnsafeNameError
from common.utils.runs import slug


def test_two_runs_of_one_second_have_two_directories(tmp_path: Path) -> None:
    runs = [Run.create("paper", ["optim.lr=1e-3"], 0, tmp_path) for _ in range(3)]
    names = {run.directory.name for run in runs}
    assert len(names) == 3
    assert all("lr=1e-3" in name for name in names)


def test_the_record_says_what_ran_and_how_it_ended(tmp_path: Path) -> None:
    with Run.create("paper", (), 7, tmp_path) as run:
        record = json.loads((run.directory / "run.json").read_text())
        assert record["state"] == "running"
        run.record(metrics={"test/accuracy": 0.5})
    record = json.loads((run.directory / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["seed"] == 7
    assert record["metrics"] == {"test/accuracy": 0.5}
    assert record["versions"]["torch"]
    assert record["hardware"]["cores"] >= 1
    assert set(record["code"]) == {"commit", "dirty"}


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError("x"), "failed"), (InterruptedRun("x", 15), "interrupted")]
)
def test_an_error_is_recorded(tmp_path: Path, error: Exception, state: str) -> None:
    run = Run.create("paper", (), 0, tmp_path)
    with pytest.raises(type(error)), run:
        raise error
    assert json.loads((run.directory / "run.json").read_text())["state"] == state


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(FaultError, match="ASSETS_DIR"):
        Run.create("paper", (), 0, tmp_path / "outputs")


def test_an_unsafe_experiment_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeNameError):
        Run.create("../elsewhere", (), 0, tmp_path)


def test_a_slug_is_short_and_safe() -> None:
    assert slug(["optim.lr=1e-3", "+new.key=a/b c", "model=arc face"]) == (
        "lr=1e-3_key=a-b-c_model=arc-face"
    )
    assert len(slug([f"key{i}=value" for i in range(50)])) <= 80


def test_a_resume_that_is_refused_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    with Run(tmp_path, 0) as run:
        run.write_config("seed: 0\n")
        run.record(metrics={"loss": 1.0})
    before = {name: (tmp_path / name).read_text() for name in ("run.json", "config.yaml")}
    with pytest.raises(ConfigError), Run(tmp_path, 3) as run:
        run.write_config("seed: 3\n")
        run.record(metrics={})
        raise ConfigError("seed was 0, is 3")
    assert {name: (tmp_path / name).read_text() for name in before} == before


def test_a_confirmed_resume_adds_to_the_record(tmp_path: Path) -> None:
    for seed in (0, 0):
        with Run(tmp_path, seed) as run:
            run.confirm()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["state"] == "finished"
    assert [part["command"] for part in record["resumed"]] == [record["command"]]


def test_a_new_run_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    run = Run.create("x", outputs=tmp_path)
    with pytest.raises(ConfigError), run:
        raise ConfigError("the run has no end")
    assert list((tmp_path / "x").iterdir()) == []


def test_a_run_that_failed_after_a_record_stays(tmp_path: Path) -> None:
    run = Run.create("x", outputs=tmp_path)
    with pytest.raises(ConfigError), run:
        (run.directory / "metrics.jsonl").write_text("{}\n")
        raise ConfigError("trainer.monitor is not measured")
    assert json.loads((run.directory / "run.json").read_text())["state"] == "failed"


def test_the_command_to_resume_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "with a space")
    assert run.resume_command().endswith(f"--resume '{tmp_path}/with a space'")
    part = Run(tmp_path / "whole" / "part")
    part.part_of = tmp_path / "whole"
    assert part.resume_command().endswith(f"--resume {tmp_path}/whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.resume_command().startswith("torchrun --standalone --nproc-per-node 2 ")


@pytest.mark.parametrize(
    ("program", "processes", "command"),
    [
        ("/opt/venv/bin/ml-train", "1", "ml-train --resume {}"),
        (
            "/opt/venv/bin/ml-train",
            "2",
            "torchrun --standalone --nproc-per-node 2 --no-python ml-train --resume {}",
        ),
        ("papers/x/train.py", "1", "python papers/x/train.py --resume {}"),
    ],
)
def test_what_resumes_a_run_is_what_began_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    processes: str,
    command: str,
) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert run.resume_command() == command.format(tmp_path)
