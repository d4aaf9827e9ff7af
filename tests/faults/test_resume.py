"""Resumed under other circumstances: refused, or gone on with and said so (row 25)."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from common.config import RunContext, Source
from common.testing.equality import run_differences
from common.testing.trials import TrialServer
from common.training import Trainer, TrainerConfig
from common.utils import Run, latest_checkpoint, load_checkpoint
from common.utils.errors import CheckpointError
from tests.training.tiny import TinyTask, fit, loaders

TRAIN = "tests.faults.programs:train"
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(trials: TrialServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole")
    trials.run(TRAIN, directory=str(directory))
    return directory


@pytest.fixture
def killed(trials: TrialServer, tmp_path: Path) -> Path:
    """A run that was killed at its fifth step."""
    trials.run(TRAIN, expect=KILLED, directory=str(tmp_path / "run"), kill_at=5)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of ``tiny.fit``, with seven batches an epoch."""
    directory = tmp_path_factory.mktemp("tiny")
    fit(directory, max_epochs=1)
    return directory / "checkpoints" / "last.pt"


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("values", "batch_size", "seed", "message"),
    [
        ({}, 16, 0, "batches per epoch was 7, is 13"),
        ({"accumulate": 2}, 32, 0, "accumulate was 1, is 2"),
        ({}, 32, 8, "seed was 0, is 8"),
    ],
)
def test_another_batch_size_accumulation_or_seed_is_refused(
    checkpoint: Path, values: dict[str, int], batch_size: int, seed: int, message: str
) -> None:
    trainer = Trainer(TrainerConfig(max_epochs=3, **values), seed=seed)
    with pytest.raises(CheckpointError, match=message) as caught:
        trainer.fit(TinyTask(), *loaders(batch_size=batch_size), resume=checkpoint)
    assert str(checkpoint) in str(caught.value)
    assert "Restore the old value, or start a new run" in str(caught.value)
    assert trainer.state.step == 0


@pytest.mark.fault(25)
def test_another_vocabulary_is_refused_with_both_values(tmp_path: Path) -> None:
    def train(size: int, resume: Path | None = None) -> None:
        context = RunContext()
        context.set("model.vocab_size", size, Source.DATA)
        with Run(tmp_path, 0) as run:
            trainer = Trainer(TrainerConfig(max_epochs=1, loggers=[]), run=run, context=context)
            trainer.fit(TinyTask(), *loaders(), resume=resume)

    train(100)
    with pytest.raises(
        CheckpointError, match=r"model\.vocab_size was 100 \(DATA\), is 101 \(DATA\)"
    ):
        train(101, tmp_path / "checkpoints" / "last.pt")


@pytest.mark.fault(25)
def test_more_epochs_are_a_longer_run(tmp_path: Path) -> None:
    """How long a run is may change; that it goes on is not refused."""
    fit(tmp_path, max_epochs=1)
    longer = fit(tmp_path, resume=tmp_path / "checkpoints" / "last.pt", max_epochs=2)
    assert longer.state.epoch == 2


@pytest.mark.fault(25)
def test_another_version_of_torch_is_a_warning_that_names_both(
    trials: TrialServer, whole: Path, killed: Path
) -> None:
    record = json.loads((killed / "run.json").read_text())
    now, record["versions"]["torch"] = record["versions"]["torch"], "1.13.0"
    (killed / "run.json").write_text(json.dumps(record))
    text = trials.run(TRAIN, directory=str(killed))
    assert f"resumed under torch {now}, was 1.13.0" in text
    assert f"resumed under torch {now}, was 1.13.0" in (killed / "logs" / "train.log").read_text()
    record = json.loads((killed / "run.json").read_text())
    assert record["versions"]["torch"] == "1.13.0"  # of the beginning
    assert record["resumed"][-1]["versions"]["torch"] == now
    assert run_differences(whole, killed) == []


@pytest.mark.fault(25)
def test_the_same_versions_are_no_warning(trials: TrialServer, killed: Path) -> None:
    assert "resumed under" not in trials.run(TRAIN, directory=str(killed))


@pytest.mark.fault(25)
def test_a_moved_run_directory_goes_on(
    trials: TrialServer, whole: Path, killed: Path, tmp_path: Path
) -> None:
    moved = shutil.move(killed, tmp_path / "elsewhere and deeper")
    trials.run(TRAIN, directory=str(moved))
    assert run_differences(whole, moved) == []


@pytest.mark.fault(25)
@pytest.mark.parametrize("hours", [-100, 100])
def test_a_clock_that_was_set_changes_nothing_but_dates(
    trials: TrialServer, whole: Path, killed: Path, hours: int
) -> None:
    before = load_checkpoint(killed / "checkpoints" / "last.pt")["state"]["wall_seconds"]
    for number, path in enumerate(sorted((killed / "checkpoints").iterdir())):
        os.utime(path, (1_000_000 * number, 1_000_000 * number))  # dates that say nothing
    trials.run("tests.faults.programs:train_at_another_time", directory=str(killed), hours=hours)
    assert run_differences(whole, killed) == []
    after = load_checkpoint(killed / "checkpoints" / "last.pt")["state"]["wall_seconds"]
    assert before < after < before + 60
    record = json.loads((killed / "run.json").read_text())
    assert 0 <= record["wall_seconds"] < 60
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line).get("time/seconds", 0.0) for line in lines]
    assert min(seconds) >= 0.0
    assert all(json.loads(line).get("time/units_per_second", 1.0) > 0.0 for line in lines)


@pytest.mark.fault(25)
def test_runs_begun_before_a_clock_was_set_back_keep_their_names(
    trials: TrialServer, tmp_path: Path
) -> None:
    values = {"outputs": str(tmp_path), "hours": -100}
    for _ in range(2):
        trials.run("tests.faults.programs:create_run", outputs=str(tmp_path))
        trials.run("tests.faults.programs:create_run_at_another_time", **values)
    names = [path.name for path in (tmp_path / "paper").iterdir()]
    assert len(names) == 4
    assert all(re.match(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", name) for name in names)


@pytest.mark.fault(25)
def test_a_second_trainer_on_one_directory_is_told_the_pid_of_the_first(
    trials: TrialServer, whole: Path, tmp_path: Path
) -> None:
    first = trials.start(TRAIN, directory=str(tmp_path), pause=0.05)
    while latest_checkpoint(tmp_path / "checkpoints") is None:
        time.sleep(0.02)
    before = (tmp_path / "run.json").read_bytes()
    text = trials.run(TRAIN, expect=1, directory=str(tmp_path))
    assert f"error: {tmp_path} is in use by process {first.pid};" in text
    assert (tmp_path / "run.json").read_bytes() == before
    assert first.wait() == 0, first.errors
    assert run_differences(whole, tmp_path) == []


@pytest.mark.fault(25)
def test_a_killed_trainer_with_workers_can_be_resumed_at_once(
    trials: TrialServer, whole: Path, tmp_path: Path
) -> None:
    """Its workers live on for seconds; they do not hold the directory."""
    values = {"directory": str(tmp_path), "workers": 2}
    killed = trials.start(TRAIN, kill_at=5, delay=0.02, **values)
    assert killed.wait() == KILLED
    trials.run(TRAIN, **values)
    assert run_differences(whole, tmp_path) == []
    assert killed.orphans() == []
