"""Checkpoint files: what comes back, and under which names (their faults: ``tests/faults``)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.utils import load_checkpoint, save_checkpoint
from common.utils.checkpoint import link_checkpoint, load_weights


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


def test_a_linked_name_survives_its_source(tmp_path: Path) -> None:
    save_checkpoint(_state(1), tmp_path / "step-1.pt")
    link_checkpoint(tmp_path / "step-1.pt", tmp_path / "last.pt")
    link_checkpoint(tmp_path / "step-1.pt", tmp_path / "last.pt")
    (tmp_path / "step-1.pt").unlink()
    assert load_checkpoint(tmp_path / "last.pt")["state"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float16),  # more digits, less range
        (torch.float16, torch.bfloat16),
    ],
)
def test_weights_that_are_rounded_are_told_in_one_line(
    given: torch.dtype, kept: torch.dtype, logged: list[str]
) -> None:
    module = torch.nn.Linear(3, 2).to(kept)
    weights = {
        key: torch.rand_like(value, dtype=given) for key, value in module.state_dict().items()
    }
    load_weights(module, weights, "old.pt")
    (line,) = logged
    assert line.startswith("old.pt: 2 tensors are rounded to the model's kind, such as weight from")
    assert f"from {given} to {kept}" in line
    assert torch.equal(module.weight, weights["weight"].to(kept))


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_that_lose_nothing_are_loaded_in_silence(
    given: torch.dtype, logged: list[str]
) -> None:
    module = torch.nn.Linear(3, 2)
    weights = {
        key: torch.rand_like(value, dtype=given) for key, value in module.state_dict().items()
    }
    load_weights(module, weights)
    assert logged == []
    assert torch.equal(module.weight, weights["weight"].float())
