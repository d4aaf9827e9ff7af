"""A disk that is full, read-only or too small (rows 5 and 6)."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.testing.equality import run_differences
from common.testing.faults import small_disk
from common.testing.trials import TrialServer
from common.utils import latest_checkpoint, load_checkpoint

TRAIN = "tests.faults.programs:train"
KILLED = -signal.SIGKILL
WHERE_AND_HOW_MUCH = r"^error: cannot write {path}.*: .*bytes needed, [\d,]+ free"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", megabytes=4))
        except PermissionError as error:
            pytest.skip(f"cannot mount here: {error}")
        yield tmp_path / "disk"


def fill(disk: Path, leave: int) -> Path:
    """Take all but ``leave`` bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"\0" * (free - leave))
    return ballast


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.mark.fault(5)
def test_a_file_that_may_not_grow_is_one_line_and_the_previous_checkpoint_stays(
    trials: TrialServer, tmp_path: Path
) -> None:
    trials.run(TRAIN, expect=KILLED, directory=str(tmp_path), kill_at=6)
    newest = latest_checkpoint(tmp_path / "checkpoints")  # last.pt, if it was linked in time
    assert newest is not None
    before = load_checkpoint(newest)["state"]["step"]
    fault = {"kind": "file_size_limit", "size": 10_000}
    text = trials.run(TRAIN, expect=1, directory=str(tmp_path), fault=fault)
    path = tmp_path / "checkpoints"
    assert re.match(WHERE_AND_HOW_MUCH.format(path=path), last_line(text)), text
    assert "Traceback" not in text
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["state"]["step"] == before
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


@pytest.mark.fault(5)
def test_a_disk_that_fills_up_is_one_line_and_the_run_goes_on_when_there_is_room(
    trials: TrialServer, disk: Path, tmp_path: Path
) -> None:
    trials.run(TRAIN, directory=str(tmp_path / "whole"))
    run = disk / "run"
    trials.run(TRAIN, expect=KILLED, directory=str(run), kill_at=7)
    saved = load_checkpoint(run / "checkpoints" / "last.pt")["state"]["step"]
    ballast = fill(disk, leave=500_000)  # the record fits, a checkpoint does not
    text = trials.run(TRAIN, expect=1, directory=str(run))
    assert re.match(WHERE_AND_HOW_MUCH.format(path=run), last_line(text)), text
    assert "Traceback" not in text
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert load_checkpoint(newest)["state"]["step"] == saved
    ballast.unlink()
    trials.run(TRAIN, directory=str(run))
    assert run_differences(tmp_path / "whole", run) == []


@pytest.mark.fault(5)
def test_not_a_single_free_byte_is_one_line(trials: TrialServer, disk: Path) -> None:
    trials.run(TRAIN, expect=KILLED, directory=str(disk / "run"), kill_at=7)
    before = {path: path.read_bytes() for path in (disk / "run").glob("*.json*")}
    fill(disk, leave=0)
    text = trials.run(TRAIN, expect=1, directory=str(disk / "run"))
    assert "No space left on device" in last_line(text)
    assert re.match(rf"error: cannot write {disk}/run/\S+: .*\(0 bytes free\)", last_line(text))
    assert "Traceback" not in text
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.fault(6)
def test_a_disk_too_small_for_a_checkpoint_is_refused_before_the_first_step(
    trials: TrialServer, disk: Path
) -> None:
    text = trials.run(TRAIN, expect=1, directory=str(disk / "run"), width=100_000)
    assert re.search(r"about [\d,]+ bytes needed, [\d,]+ free", last_line(text)), text
    assert not (disk / "run" / "metrics.jsonl").exists(), "a step was made"


@pytest.mark.fault(6)
def test_a_read_only_place_is_refused_before_anything_is_made(
    trials: TrialServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk", megabytes=1, read_only=True))
        except PermissionError as error:
            pytest.skip(f"cannot mount here: {error}")
        text = trials.run(TRAIN, expect=1, directory=str(tmp_path / "disk"))
        assert re.match(r"error: cannot write in .*/disk: Read-only file system", last_line(text))
        text = trials.run(
            "tests.faults.programs:create_run", expect=1, outputs=str(tmp_path / "disk")
        )
        assert "Read-only file system; set ASSETS_DIR to a place that can be written" in text
        assert "Traceback" not in text


@pytest.mark.fault(6)
def test_a_checkpoint_folder_that_cannot_be_written_is_refused_before_the_first_step(
    trials: TrialServer, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    text = trials.run(TRAIN, expect=1, directory=str(tmp_path))
    assert f"cannot write {tmp_path}/checkpoints" in last_line(text)
    assert not (tmp_path / "metrics.jsonl").exists(), "a step was made"
