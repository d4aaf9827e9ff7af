"""Killed at once, also inside a save: the resumed run is the uninterrupted one (rows 1 and 2).

The whole product of the sweep: ``pytest -n 0 -m slow tests/faults``.
"""

import itertools
import random
import signal
from pathlib import Path

import pytest

from common.testing.equality import metric_records, run_differences
from common.testing.faults import POINTS
from common.testing.trials import TrialServer
from common.utils import latest_checkpoint, load_checkpoint

TRAIN = "tests.faults.programs:train"
KILLED = -signal.SIGKILL


def killed_run(trials: TrialServer, directory: Path, kills: list[int], **values: int) -> Path:
    """A run that is killed after each of these updates, and then finishes."""
    for step in kills:
        trials.run(TRAIN, expect=KILLED, directory=str(directory), kill_at=step, **values)
    trials.run(TRAIN, directory=str(directory), **values)
    return directory


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    ("kills", "workers", "accumulate"),
    [
        ([1], 0, 1),  # before the first checkpoint: it begins anew
        ([7], 2, 1),
        ([10], 0, 1),  # at the end of an epoch
        ([3, 13], 0, 3),
        ([5, 5, 6], 0, 1),  # three times, twice at one place
        ([2, 4, 7], 2, 3),
    ],
)
def test_a_killed_run_resumes_to_the_uninterrupted_run(
    trials: TrialServer, whole, tmp_path: Path, kills: list[int], workers: int, accumulate: int
) -> None:
    kills = [step for step in kills if step <= 8 or accumulate == 1]
    parts = killed_run(trials, tmp_path, kills, workers=workers, accumulate=accumulate)
    assert run_differences(whole(accumulate), parts) == []


SWEEP = list(itertools.product((1, 2, 3), (0, 2), (1, 3), range(8)))


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize(("resumes", "workers", "accumulate", "draw"), SWEEP)
def test_every_kill_of_the_sweep(
    trials: TrialServer,
    whole,
    tmp_path: Path,
    resumes: int,
    workers: int,
    accumulate: int,
    draw: int,
) -> None:
    last = 19 if accumulate == 1 else 7
    generator = random.Random(f"{resumes} {workers} {accumulate} {draw}")
    kills = sorted(generator.randint(1, last) for _ in range(resumes))
    parts = killed_run(trials, tmp_path, kills, workers=workers, accumulate=accumulate)
    assert run_differences(whole(accumulate), parts) == []


def test_the_comparison_sees_another_order_of_the_data(
    trials: TrialServer, whole, tmp_path: Path
) -> None:
    """The sweep would notice: one run with other dropout differs in weights and records."""
    trials.run(TRAIN, directory=str(tmp_path), dropout=0.31)
    found = run_differences(whole(1), tmp_path)
    assert any(line.startswith("last.pt.model") for line in found)
    assert any(line.startswith("metrics.jsonl") for line in found)


@pytest.mark.fault(2)
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_inside_a_save_leaves_a_whole_checkpoint(
    trials: TrialServer, whole, tmp_path: Path, point: str, number: int
) -> None:
    checkpoints = tmp_path / "checkpoints"
    fault = {"kind": "killed_at", "point": point, "number": number, "below": str(checkpoints)}
    trials.run(TRAIN, expect=KILLED, directory=str(tmp_path), fault=fault)
    reached = metric_records(tmp_path)[-1]["step"]
    newest = latest_checkpoint(checkpoints)
    step = 0 if newest is None else load_checkpoint(newest)["state"]["step"]
    assert step >= reached - 4  # one save in flight, and the steps until the next waits for it
    trials.run(TRAIN, directory=str(tmp_path))
    assert not list(checkpoints.glob(".tmp-*")), "what the killed process left is cleaned up"
    assert run_differences(whole(1), tmp_path) == []


@pytest.mark.fault(2)
@pytest.mark.parametrize("size", [0, 1_000, 10_000])
def test_a_kill_at_a_byte_of_the_file_leaves_the_previous_checkpoint(
    trials: TrialServer, whole, tmp_path: Path, size: int
) -> None:
    trials.run(TRAIN, expect=KILLED, directory=str(tmp_path), kill_at=6)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    before = newest.read_bytes()
    fault = {"kind": "killed_while_writing", "size": size}
    trials.run(TRAIN, expect=-signal.SIGXFSZ, directory=str(tmp_path), fault=fault)
    # The first kill may have come between the names of the file, which are given anew.
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    trials.run(TRAIN, directory=str(tmp_path))
    assert run_differences(whole(1), tmp_path) == []
