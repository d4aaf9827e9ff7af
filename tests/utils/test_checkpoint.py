"""Checkpoint files: whole or not there, verified when read, safe to read."""

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.utils import latest_checkpoint, load_checkpoint, save_checkpoint
from common.utils.checkpoint import link_checkpoint, load_weights
from common.utils.errors import CheckpointError


def _state(step: int = 3) -> dict:
    return {"state": {"step": step}, "model": {"w": torch.arange(5000.0)}, "names": ["a", None]}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(_state(), tmp_path / "a" / "last.pt")
    loaded = load_checkpoint(tmp_path / "a" / "last.pt")
    assert loaded["state"] == {"step": 3}
    assert loaded["names"] == ["a", None]
    assert torch.equal(loaded["model"]["w"], torch.arange(5000.0))


def test_only_plain_values_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.a\[1\] is a float64"):
        save_checkpoint({"a": [1, np.float64(2.0)]}, tmp_path / "last.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused_with_its_size(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(_state(), path)
    size = int(path.stat().st_size * share)
    os.truncate(path, size)
    with pytest.raises(CheckpointError, match=f"{size:,} bytes"):
        load_checkpoint(path)


def test_one_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(_state(), path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(5000.0).numpy().tobytes()[4000:4040])] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # PyTorch itself does not notice
    with pytest.raises(CheckpointError, match="CRC-32"):
        load_checkpoint(path)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    torch.save({"model": Attack()}, tmp_path / "zip.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Attack()))
    (tmp_path / "link.pt").symlink_to(tmp_path / "zip.pt")
    for name in ("zip.pt", "raw.pt", "link.pt"):
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / name)
    assert not canary.exists()


def test_a_full_disk_keeps_the_previous_file_and_names_the_bytes(tmp_path: Path) -> None:
    save_checkpoint(_state(1), tmp_path / "last.pt")
    code = (
        "import resource, sys, torch; from common.utils import save_checkpoint;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "save_checkpoint({'w': torch.zeros(10**6)}, sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "last.pt")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in message
    assert "bytes needed" in message
    assert "last.pt" in message
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_latest_is_the_readable_file_with_the_most_steps(tmp_path: Path) -> None:
    save_checkpoint(_state(10), tmp_path / "step-10.pt")
    save_checkpoint(_state(30), tmp_path / "last.pt")
    save_checkpoint(_state(20), tmp_path / "step-20.pt")  # newest by time, not by step
    (tmp_path / ".tmp-step-40.pt").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) == tmp_path / "last.pt"
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "last.pt").write_bytes(content)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-20.pt"
    assert (tmp_path / "last.pt").exists(), "a broken file is never deleted"


def test_a_linked_name_survives_its_source(tmp_path: Path) -> None:
    save_checkpoint(_state(1), tmp_path / "step-1.pt")
    link_checkpoint(tmp_path / "step-1.pt", tmp_path / "last.pt")
    link_checkpoint(tmp_path / "step-1.pt", tmp_path / "last.pt")
    (tmp_path / "step-1.pt").unlink()
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_weights_that_do_not_fit_change_nothing() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    weights = {"weight": torch.zeros(2, 3), "extra": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match="3 differences: missing bias; unexpected extra; weight"
    ):
        load_weights(module, weights)
    assert torch.equal(module.weight, before)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="format version 99"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_write_error_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where a directory should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(_state(), tmp_path / "checkpoints" / "last.pt")
