"""Asked to stop: saved at the next step boundary, nothing left behind, exact resume (rows 3, 4).

Signals go to the whole process group, workers included, as a scheduler or a terminal sends them.
The whole product of the sweep: ``pytest -n 0 -m slow tests/faults``.
"""

import itertools
import json
import random
import signal
import time
from pathlib import Path

import pytest

from common.testing.equality import metric_records, run_differences
from common.testing.trials import TrialServer
from common.utils import latest_checkpoint, load_checkpoint

TRAIN = "tests.faults.programs:train"


def stopped_run(trials: TrialServer, directory: Path, number: int, **values) -> int:
    """Stop a run by a signal that it sends to its group; returns the step of its checkpoint."""
    trial = trials.start(TRAIN, directory=str(directory), signals=[number], **values)
    assert trial.wait() == 128 + number, trial.errors
    assert trial.errors.splitlines()[-1].startswith("interrupted: stopped by")
    assert trial.errors.count("saving at the next step") == 1, "workers do not answer"
    assert trial.orphans() == []
    newest = latest_checkpoint(directory / "checkpoints")
    assert newest is not None
    step: int = load_checkpoint(newest)["state"]["step"]
    assert metric_records(directory)[-1]["step"] == step, "saved at the boundary it had reached"
    assert json.loads((directory / "run.json").read_text())["state"] == "interrupted"
    return step


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    ("number", "moment", "at", "workers", "accumulate", "step"),
    [
        (signal.SIGTERM, "step", 5, 0, 1, 5),
        (signal.SIGTERM, "train", 5, 2, 1, 5),
        (signal.SIGUSR1, "train", 10, 2, 3, 4),  # the last micro-batch of a short update
        (signal.SIGUSR1, "eval", 2, 2, 1, 10),
        (signal.SIGTERM, "eval", 5, 0, 3, 8),  # in the last validation
    ],
)
def test_a_signal_to_the_group_saves_at_the_next_boundary_and_resumes_exactly(
    trials: TrialServer,
    whole,
    tmp_path: Path,
    number: int,
    moment: str,
    at: int,
    workers: int,
    accumulate: int,
    step: int,
) -> None:
    values = {"workers": workers, "accumulate": accumulate}
    assert stopped_run(trials, tmp_path, number, moment=moment, signal_at=at, **values) == step
    trials.run(TRAIN, directory=str(tmp_path), **values)
    assert run_differences(whole(accumulate), tmp_path) == []


@pytest.mark.fault(3)
@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_signal_while_waiting_for_data_is_answered_after_the_batch(
    trials: TrialServer, whole, tmp_path: Path, workers: int, number: int
) -> None:
    trial = trials.start(TRAIN, directory=str(tmp_path), workers=workers, delay=0.1)
    while not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
    time.sleep(0.2)  # a batch takes 0.8 s, and a step of the model 1 ms
    trial.signal(number)
    assert trial.wait(20) == 128 + number, trial.errors
    assert trial.errors.count("saving at the next step") == 1, "workers do not answer"
    assert trial.orphans() == []
    trials.run(TRAIN, directory=str(tmp_path), workers=workers)
    assert run_differences(whole(1), tmp_path) == []


SWEEP = list(
    itertools.product(
        (1, 2, 3), (signal.SIGTERM, signal.SIGUSR1), ("step", "train", "eval"), (0, 2), (1, 3)
    )
)


@pytest.mark.slow
@pytest.mark.fault(3)
@pytest.mark.parametrize(("resumes", "number", "moment", "workers", "accumulate"), SWEEP)
def test_every_stop_of_the_sweep(
    trials: TrialServer,
    whole,
    tmp_path: Path,
    resumes: int,
    number: int,
    moment: str,
    workers: int,
    accumulate: int,
) -> None:
    values = {"workers": workers, "accumulate": accumulate}
    generator = random.Random(f"{resumes} {number} {moment} {workers} {accumulate}")
    reached = 0
    for _ in range(resumes):
        at = generator.randint(1, 3)  # counted in each process, except for steps
        at += reached if moment == "step" else 0
        if reached >= (19 if accumulate == 1 else 7):
            break
        reached = stopped_run(trials, tmp_path, number, moment=moment, signal_at=at, **values)
    trials.run(TRAIN, directory=str(tmp_path), **values)
    assert run_differences(whole(accumulate), tmp_path) == []


@pytest.mark.fault(4)
def test_the_first_ctrl_c_saves_and_stops(trials: TrialServer, whole, tmp_path: Path) -> None:
    assert stopped_run(trials, tmp_path, signal.SIGINT, signal_at=5, workers=2) == 5
    trials.run(TRAIN, directory=str(tmp_path))
    assert run_differences(whole(1), tmp_path) == []


@pytest.mark.fault(4)
def test_a_second_ctrl_c_stops_now(trials: TrialServer, whole, tmp_path: Path) -> None:
    twice = [signal.SIGINT, signal.SIGINT]
    values = {"signals": twice, "signal_at": 5, "moment": "train", "workers": 2}
    trial = trials.start(TRAIN, directory=str(tmp_path), **values)
    assert trial.wait() == 130, trial.errors
    assert trial.orphans() == []
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert load_checkpoint(newest)["state"]["step"] == 4, "the step it was in is given up"
    trials.run(TRAIN, directory=str(tmp_path))
    assert run_differences(whole(1), tmp_path) == []


@pytest.mark.fault(4)
@pytest.mark.parametrize("point", ["fsync", "rename", "fsync directory"])
def test_a_second_ctrl_c_inside_the_save_of_the_first_corrupts_nothing(
    trials: TrialServer, whole, tmp_path: Path, point: str
) -> None:
    checkpoints = tmp_path / "checkpoints"
    fault = {"kind": "killed_at", "point": point, "number": 1, "below": str(checkpoints)}
    fault["send"] = signal.SIGINT
    first = {"signals": [signal.SIGINT], "signal_at": 2, "save_every": 50}
    trial = trials.start(TRAIN, directory=str(tmp_path), fault=fault, **first)
    assert trial.wait() == 130, trial.errors
    for path in checkpoints.glob("*.pt"):
        load_checkpoint(path)
    trials.run(TRAIN, directory=str(tmp_path))
    assert run_differences(whole(1), tmp_path) == []
