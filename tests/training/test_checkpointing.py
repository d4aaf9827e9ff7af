"""The loop waits for a copy, a thread writes it, and nothing of this shows in what is written."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.testing.equality import differences
from common.training.callbacks import Callback
from common.training.checkpointing import Checkpointer
from common.training.snapshot import Snapshot
from common.training.trainer import Trainer
from common.utils import load_checkpoint
from common.utils.errors import CheckpointError
from tests.training.tiny import fit


def state(value: float = 1.0, size: int = 10) -> dict[str, Any]:
    return {"model": {"weight": torch.full((size,), value)}, "history": [{"loss": value}]}


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No file is durable before the event is set."""
    opened = threading.Event()
    fsync = os.fsync

    def wait(descriptor: int) -> None:
        opened.wait(20)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    return opened


def test_a_copy_is_equal_and_apart() -> None:
    shared = torch.randn(3, 4)
    live: dict[str, Any] = {
        "tied": [shared, shared],
        "turned": shared.t(),
        "half": torch.randn(5).bfloat16(),
        "number": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 4),
        "list": [1, {"a": "b"}],
    }
    before = {"tied": [shared.clone(), shared.clone()], "turned": shared.t().clone()}
    copy = Snapshot().take(live)
    assert differences(copy, live, "copy") == []
    shared.zero_()
    live["list"].append(2)
    live["list"][1]["a"] = "c"
    assert torch.equal(copy["tied"][0], before["tied"][0])
    assert torch.equal(copy["turned"], before["turned"])
    assert copy["list"] == [1, {"a": "b"}]
    assert copy["tied"][0].data_ptr() == copy["tied"][1].data_ptr()


def test_memory_is_reserved_once_and_used_again() -> None:
    snapshot = Snapshot()
    snapshot.reserve(40_000_000)  # large enough to be touched in the background
    places = {snapshot.take(state(size=n))["model"]["weight"].data_ptr() for n in (10, 9_000_000)}
    assert len(places) == 1
    grown = snapshot.take(state(2.0, size=20_000_000))
    assert torch.equal(grown["model"]["weight"], torch.full((20_000_000,), 2.0))


def test_the_loop_does_not_wait_for_the_disk(tmp_path: Path, slow_disk: threading.Event) -> None:
    checkpointer = Checkpointer(tmp_path)
    live = state()
    begun = time.monotonic()
    checkpointer.save(live, 1)
    assert time.monotonic() - begun < 5
    live["model"]["weight"].zero_()  # the loop goes on
    live["history"].append({"loss": 0.0})
    assert not checkpointer.last.exists()
    slow_disk.set()
    checkpointer.wait()
    written = load_checkpoint(checkpointer.last)
    assert torch.equal(written["model"]["weight"], torch.ones(10))
    assert written["history"] == [{"loss": 1.0}]


def test_one_checkpoint_is_in_flight_at_a_time(tmp_path: Path, slow_disk: threading.Event) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    checkpointer.save(state(1.0), 1)
    second = threading.Thread(target=checkpointer.save, args=(state(2.0), 2))
    second.start()
    second.join(0.3)
    assert second.is_alive(), "the second save did not wait for the first"
    slow_disk.set()
    second.join(20)
    checkpointer.wait()
    assert [load_checkpoint(tmp_path / f"step-{n}.pt")["history"] for n in (1, 2)] == [
        [{"loss": 1.0}],
        [{"loss": 2.0}],
    ]


@pytest.mark.parametrize("asks", ["save", "wait"])
def test_what_the_writer_met_is_raised_where_one_asks_next(tmp_path: Path, asks: str) -> None:
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    checkpointer.save(state(1.0), 1)
    checkpointer.wait()
    (tmp_path / "checkpoints" / "step-2.pt").mkdir()  # nothing can be renamed onto a folder
    checkpointer.save(state(2.0), 2)
    with pytest.raises(CheckpointError, match=r"cannot write .*step-2\.pt"):
        checkpointer.save(state(3.0), 3) if asks == "save" else checkpointer.wait()
    assert load_checkpoint(checkpointer.last)["history"] == [{"loss": 1.0}]


def test_an_error_of_the_writer_ends_the_run(tmp_path: Path) -> None:
    class Obstacle(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 20:
                (tmp_path / "checkpoints" / "step-21.pt").mkdir()

    with pytest.raises(CheckpointError, match=r"step-21\.pt"):
        fit(tmp_path, callbacks=[Obstacle()], keep=50)


def test_the_error_of_the_loop_is_heard_before_that_of_the_writer(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 3:
                (tmp_path / "checkpoints" / "step-3.pt").mkdir()
                trainer.save()
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, callbacks=[Fails()])


def test_what_a_killed_process_left_is_gone_before_the_first_step(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-step-4.pt-1-ab"
    left.write_bytes(b"half")
    Checkpointer(tmp_path).prepare(100)
    assert not left.exists()


def test_optimizer_moments_are_copied_too(tmp_path: Path) -> None:
    """A checkpoint taken in the middle is that of the middle, however far the loop has come."""

    class SaveAt(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.state.step == 5:
                trainer.save()
                self.moments = [
                    value.clone()
                    for entry in trainer.optimizer.state.values()
                    for value in entry.values()
                ]

    saving = SaveAt()
    fit(tmp_path, callbacks=[saving], keep=9)
    written = load_checkpoint(tmp_path / "checkpoints" / "step-5.pt")["optimizer"]["state"]
    moments = [value for entry in written.values() for value in entry.values()]
    assert all(map(torch.equal, moments, saving.moments))
    assert nn.utils.parameters_to_vector(m for m in moments if m.ndim).abs().sum() > 0
