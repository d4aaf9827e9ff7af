"""Finished weights: several writers of one file, and what is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.utils import hash_weights, read_weights, save_weights

_WRITER = """
import sys
from pathlib import Path
from torch import nn
from common.utils import save_weights
value, folder = float(sys.argv[1]), Path(sys.argv[2])
module = nn.Linear(300, 300)
for parameter in module.parameters():
    nn.init.constant_(parameter, value)
(folder / f"ready-{sys.argv[1]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    pass
for _ in range(100):
    save_weights(module, folder / "model.safetensors")
"""


def test_two_processes_that_write_one_file_leave_a_whole_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER]
    writers = [subprocess.Popen([*command, value, tmp_path]) for value in ("1", "2")]
    try:
        assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
    module = nn.Linear(300, 300)
    read_weights(module, tmp_path / "model.safetensors")
    values = torch.cat([p.detach().flatten() for p in module.parameters()]).unique()
    assert values.tolist() in ([1.0], [2.0])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "ready-1", "ready-2"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def fail(module: nn.Module, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("no room")

    monkeypatch.setattr("safetensors.torch.save_model", fail)
    with pytest.raises(OSError, match="no room"):
        save_weights(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_of_weights_tells_values_names_kinds_and_shapes_apart() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(6.0).view(3, 2), "b": torch.tensor(1)},
        {"a": torch.arange(6.0).view(2, 3).to(torch.bfloat16), "b": torch.tensor(1)},
        {"a": torch.arange(6.0).view(2, 3) + 1e-6, "b": torch.tensor(1)},
        {"a": torch.arange(6.0).view(2, 3), "c": torch.tensor(1)},
    ]
    digests = [hash_weights(each) for each in (weights, *others)]
    assert len(set(digests)) == 5
    assert hash_weights({"b": weights["b"], "a": weights["a"].T.contiguous().T}) == digests[0]
