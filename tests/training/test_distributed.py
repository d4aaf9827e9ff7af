"""Two processes give the numbers of one, whichever strategy shares the work between them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.utils import load_checkpoint
from tests.training.ranks import MIDDLE, STEPS, last, middle, train
from tests.training.tiny import assert_same_run, records

Ran = Callable[[str], Path]
both = pytest.mark.parametrize("strategy", ["ddp", "fsdp"])


def note(root: Path, name: str, rank: int = 0) -> Any:
    return json.loads((root / f"{name}-{rank}.json").read_text())


def assert_close_run(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """Weights, moving average, optimizer state and metrics agree, and are laid out alike."""
    ours, theirs = (load_checkpoint(last(path)) for path in (one, other))
    for key in ("model", "optimizer", "state", "metrics"):
        ours[key].pop("wall_seconds", None), theirs[key].pop("wall_seconds", None)
        torch.testing.assert_close(theirs[key], ours[key], rtol=tolerance, atol=tolerance)
        assert list(ours[key]) == list(theirs[key])
    averages = (state["callbacks"]["EMA"]["shadow"] for state in (ours, theirs))
    torch.testing.assert_close(*averages, rtol=tolerance, atol=tolerance)
    by_step = ({(r["step"], *sorted(r)): r for r in records(path)} for path in (one, other))
    left, right = by_step
    assert right.keys() <= left.keys()  # a resumed run has only the later ones
    for key, record in right.items():
        assert record == pytest.approx(left[key], rel=10 * tolerance, abs=tolerance), key


@both
def test_two_ranks_give_the_run_of_one_process(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    assert_close_run(root / "single", root / "whole")
    assert len(load_checkpoint(last(root / "whole"))["rng"]) == 2


@both
def test_two_ranks_accumulate_as_one_process_does(ran: Ran, strategy: str, tmp_path: Path) -> None:
    train(tmp_path, "single", accumulate=3)
    assert_close_run(tmp_path, ran(strategy) / "accumulated")


@both
def test_two_ranks_compute_in_fp16_as_one_process_does(
    ran: Ran, strategy: str, tmp_path: Path
) -> None:
    train(tmp_path, "single", precision="fp16")
    root = ran(strategy)
    assert_close_run(tmp_path, root / "fp16", tolerance=1e-4)
    scaler = load_checkpoint(last(root / "fp16"))["precision"]
    assert scaler == load_checkpoint(last(tmp_path))["precision"]


@both
def test_an_evaluation_counts_every_example_once(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    metrics = load_checkpoint(last(root / "whole"))["metrics"]
    assert (metrics["validation/seen"], metrics["validation/distinct"]) == (200, 200)
    for rank in (0, 1):
        for name, size in (("uneven", 3), ("lonely", 1)):  # and all ranks know the result
            metrics = note(root, name, rank)
            assert (metrics["test/seen"], metrics["test/distinct"]) == (size, size)


@both
def test_the_ranks_have_the_main_ranks_buffers_at_the_end(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    ours, theirs = (note(root, "norm", rank) for rank in (0, 1))
    assert ours == theirs
    saved = load_checkpoint(last(root / "norm"))["model"]["inward.1.running_mean"]
    assert saved.tolist() == pytest.approx(ours["inward.1.running_mean"])


@both
def test_a_resumed_run_of_two_ranks_is_the_uninterrupted_one(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    ours, theirs = (load_checkpoint(last(root / name)) for name in ("dropout", "dropout_resumed"))
    for key in ("model", "optimizer", "rng", "meter"):
        torch.testing.assert_close(theirs[key], ours[key], rtol=0, atol=0)


@both
def test_a_run_goes_on_in_another_number_of_processes(
    ran: Ran, strategy: str, tmp_path: Path
) -> None:
    root = ran(strategy)
    assert_close_run(root / "single", root / "from_single", 1e-5)  # 1 -> 2
    train(tmp_path, "single", resume=middle(root / "whole"))  # 2 -> 1
    assert_close_run(root / "single", tmp_path, 1e-5)
    log = (root / "log").read_text()
    assert "begun with 1 processes, resumed with 2" in log
    assert "drawn anew" in log


@both
def test_a_signal_to_one_rank_stops_all_after_the_same_step(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    said = [(root / "stopped" / f"stopped-{rank}").read_text() for rank in (0, 1)]
    assert said[0].startswith(said[1])  # the main rank also says how to go on
    assert f"after step {MIDDLE + 1}" in said[0]  # what one was asked travels with the next step
    assert_same_run(root / "dropout", root / "stopped")


@both
def test_all_ranks_abandon_an_evaluation_and_do_it_anew(ran: Ran, strategy: str) -> None:
    root = ran(strategy)
    said = [(root / "abandoned" / f"stopped-{rank}").read_text() for rank in (0, 1)]
    assert all("after step 7" in text for text in said)
    assert_same_run(root / "evaluated", root / "abandoned")


@both
def test_an_update_makes_one_exchange_beside_the_gradients(ran: Ran, strategy: str) -> None:
    logged, evaluations = STEPS // 3 + 1, 1
    exchanges = STEPS + logged + 2 * evaluations
    measured = note(ran(strategy), "exchanges")
    # fsdp adds up what the ranks' NaN guards found, the norm where it is logged, and the wish to
    # stop at both batches of an evaluation.
    assert measured <= exchanges + (STEPS + logged + 2 if strategy == "fsdp" else 0)
