"""Two processes (gloo): killed, stopped, damaged, uneven; and one that fails (row 26).

All but the last tests start the two ranks themselves, with the variables that ``torchrun`` sets;
the failing rank goes through ``torchrun``, whose agent is part of what is tested.
The whole product of the sweep: ``pytest -n 0 -m slow tests/faults/test_several_processes.py``.
"""

import itertools
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from common.testing.equality import metric_records, run_differences
from common.testing.processes import Session, members, orphans
from common.testing.trials import Trial, TrialServer
from common.utils import latest_checkpoint, load_checkpoint

TRAIN = "tests.faults.programs:train"
KILLED = -signal.SIGKILL
STOPPED = 128 + signal.SIGTERM
Whole = Callable[[int], Path]


def start_ranks(trials: TrialServer, directory: Path, **values) -> list[Trial]:
    """Two trainings that share every batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        trials.start(
            TRAIN,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            directory=str(directory),
            **values,
        )
        for rank in range(2)
    ]


def run_ranks(trials: TrialServer, directory: Path, expect: int = 0, **values) -> str:
    """Both to their end; returns what they wrote."""
    ranks = start_ranks(trials, directory, **values)
    codes = [rank.wait() for rank in ranks]
    text = "".join(rank.errors for rank in ranks)
    assert codes == [expect, expect], text
    assert [rank.orphans() for rank in ranks] == [[], []]
    return text


@pytest.fixture(scope="module")
def whole_of_two(trials: TrialServer, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The uninterrupted run of two processes for a number of micro-batches, made once each."""

    @cache
    def get(accumulate: int) -> Path:
        directory = tmp_path_factory.mktemp("whole")
        run_ranks(trials, directory, accumulate=accumulate)
        return directory

    return get


@pytest.mark.fault(26, 1)
@pytest.mark.parametrize(("kills", "workers"), [([7], 2), ([3, 14], 0)])
def test_two_killed_processes_resume_to_the_uninterrupted_run(
    trials: TrialServer, whole_of_two: Whole, tmp_path: Path, kills: list[int], workers: int
) -> None:
    for step in kills:
        run_ranks(trials, tmp_path, KILLED, kill_at=step, workers=workers)
    run_ranks(trials, tmp_path, workers=workers)
    assert run_differences(whole_of_two(1), tmp_path) == []


@pytest.mark.fault(26, 3)
@pytest.mark.parametrize("asked", ["one", "both"])
@pytest.mark.parametrize(("moment", "at"), [("train", 5), ("eval", 2)])
def test_all_ranks_stop_at_one_step_and_resume_exactly(
    trials: TrialServer, whole_of_two: Whole, tmp_path: Path, asked: str, moment: str, at: int
) -> None:
    values = {"moment": moment, "signal_at": at}
    signals = [signal.SIGTERM]
    if asked == "one":
        values["signal_rank"] = 1
    run_ranks(trials, tmp_path, STOPPED, signals=signals, **values)
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["state"]
    assert state["step"] == (5 if moment == "train" else 10)
    run_ranks(trials, tmp_path)
    assert run_differences(whole_of_two(1), tmp_path) == []


@pytest.mark.fault(26, 3)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_rank_whose_first_batch_after_a_resume_is_empty_goes_on_exactly(
    trials: TrialServer, whole_of_two: Whole, tmp_path: Path, workers: int
) -> None:
    """The tenth batch has one example: the second rank has none, and none from before either."""
    stop = {"signals": [signal.SIGTERM], "moment": "train", "signal_at": 9}
    run_ranks(trials, tmp_path, STOPPED, workers=workers, **stop)
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["state"]
    assert (state["epoch"], state["batch"]) == (0, 9)
    run_ranks(trials, tmp_path, workers=workers)
    assert run_differences(whole_of_two(1), tmp_path) == []


SWEEP = list(itertools.product((1, 2, 3), ("kill", "one", "both"), (0, 2), (1, 3), range(3)))


@pytest.mark.slow
@pytest.mark.fault(26, 1, 3)
@pytest.mark.parametrize(("resumes", "how", "workers", "accumulate", "draw"), SWEEP)
def test_every_end_of_two_processes_of_the_sweep(
    trials: TrialServer,
    whole_of_two: Whole,
    tmp_path: Path,
    resumes: int,
    how: str,
    workers: int,
    accumulate: int,
    draw: int,
) -> None:
    """Both killed after an update, or one or both asked to stop: anywhere in the two epochs."""
    values = {"workers": workers, "accumulate": accumulate}
    last = 19 if accumulate == 1 else 7  # before the end: what comes later is not in time
    generator = random.Random(f"{resumes} {how} {workers} {accumulate} {draw}")
    reached = 0
    for _ in range(resumes):
        if how == "kill":
            reached = generator.randint(max(reached, 1), last)
            run_ranks(trials, tmp_path, KILLED, kill_at=reached, **values)
            continue
        if reached > last - 3:
            break
        moment = generator.choice(("step", "train", "eval"))
        # Calls of the task are counted in each process, updates from the beginning.
        at = generator.randint(reached + 1, last - 1) if moment == "step" else draw + 1
        stop = {"signals": [signal.SIGTERM], "moment": moment, "signal_at": at}
        stop["signal_rank"] = 1 if how == "one" else None
        run_ranks(trials, tmp_path, STOPPED, **stop, **values)
        reached = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["state"]["step"]
    run_ranks(trials, tmp_path, **values)
    assert run_differences(whole_of_two(accumulate), tmp_path) == []


@pytest.mark.fault(26, 7)
def test_all_ranks_fall_back_to_the_same_checkpoint(
    trials: TrialServer, whole_of_two: Whole, tmp_path: Path
) -> None:
    run_ranks(trials, tmp_path, KILLED, kill_at=11, keep=9)
    for path in (tmp_path / "checkpoints").glob("step-*.pt"):
        if int(path.stem[5:]) > 4:
            os.truncate(path, 500)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert load_checkpoint(newest)["state"]["step"] == 4
    text = run_ranks(trials, tmp_path)
    assert "skipping" in text
    assert run_differences(whole_of_two(1), tmp_path) == []


@pytest.mark.fault(26, 25)
def test_another_number_of_processes_goes_on_and_says_what_is_not_exact(
    trials: TrialServer, tmp_path: Path
) -> None:
    trials.run(TRAIN, expect=KILLED, directory=str(tmp_path), kill_at=5)
    text = run_ranks(trials, tmp_path)
    assert "begun with 1 processes, resumed with 2: data, weights and optimizer go on" in text
    trials.run(TRAIN, directory=str(tmp_path / "whole"))
    ours, whole = (metric_records(path)[-1] for path in (tmp_path, tmp_path / "whole"))
    assert (ours["step"], ours["epoch"]) == (whole["step"], whole["epoch"])


@pytest.mark.fault(26)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_uneven_batches_and_an_uneven_evaluation_give_the_numbers_of_one_process(
    trials: TrialServer, tmp_path: Path, accumulate: int
) -> None:
    """73 examples in batches of 8: the last batch has one, and leaves the second rank nothing."""
    values = {"dropout": 0.0, "accumulate": accumulate}
    trials.run(TRAIN, directory=str(tmp_path / "1"), **values)
    run_ranks(trials, tmp_path / "2", **values)
    one, two = (load_checkpoint(tmp_path / n / "checkpoints" / "last.pt") for n in ("1", "2"))
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-6, atol=1e-6)
    assert one["state"]["samples"] == two["state"]["samples"] == 2 * 73
    lines = [metric_records(tmp_path / n) for n in ("1", "2")]
    for ours, theirs in zip(*lines, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"train/order", "validation/order"}:  # places in a rank's share
            assert theirs[key] == pytest.approx(ours[key], rel=1e-5, abs=1e-6), key
    counted = [line for line in lines[1] if "validation/counted" in line]
    assert counted
    assert all(line["validation/counted"] == 21.0 for line in counted), "no padded duplicates"
    assert all(line["validation/different"] == 21.0 for line in counted), "and none left out"


@pytest.mark.fault(26)
def test_an_evaluation_that_leaves_a_rank_nothing_counts_every_example_once(
    trials: TrialServer, tmp_path: Path
) -> None:
    run_ranks(trials, tmp_path, validation_size=1)
    measured = [line for line in metric_records(tmp_path) if "validation/counted" in line]
    assert len(measured) == 2
    assert all(line["validation/counted"] == 1.0 for line in measured)
    assert all(torch.isfinite(torch.tensor(line["validation/loss"])) for line in measured)


FAILING = """
import os, signal, sys
from tests.faults import programs

def fail():
    if os.environ["RANK"] != "1":
        return
    print("FAILS NOW", file=sys.stderr, flush=True)
    if sys.argv[2] == "raise":
        raise ValueError("a mistake of the second rank")
    os.kill(os.getpid(), signal.SIGKILL)

programs.train(sys.argv[1], at_step=(3, fail), workers=2)
"""


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("kill", "Signal 9 (SIGKILL)"),
        pytest.param("raise", "ValueError: a mistake of the second rank", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_ends_all_within_30_seconds_with_its_error(
    tmp_path: Path, how: str, shown: str
) -> None:
    """A rank that raises is also in ``tests/training/test_failing_rank.py``.

    Here: ``pytest -n 0 -m slow tests/faults/test_several_processes.py -k fails_ends``.
    """
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, script, tmp_path / "run", how]
    with Session(command, {"OMP_NUM_THREADS": "1"}) as session:
        session.wait_until(lambda: "FAILS NOW" in session.errors, timeout=120)
        failed = time.monotonic()
        assert session.wait(timeout=60) == 1, session.errors
        assert time.monotonic() - failed < 30
        assert shown in session.errors
        assert orphans(session.pid) == [], [p.cmdline() for p in members(session.pid)]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pid"] > 0
