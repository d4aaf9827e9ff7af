"""Checkpoints that are cut, changed, foreign or malicious (rows 7 to 10)."""

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.testing.equality import differences
from common.training import Trainer, TrainerConfig, load_run_weights
from common.utils import latest_checkpoint, load_checkpoint, save_checkpoint
from common.utils.checkpoint import load_weights
from common.utils.errors import CheckpointError
from tests.training.tiny import TinyTask, assert_same_run, fit, loaders

GENERATOR = random.Random(0)


def _state(step: int = 3) -> dict[str, Any]:
    return {"state": {"step": step}, "model": {"w": torch.arange(5000.0)}, "names": ["a", None]}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good file."""
    path = tmp_path_factory.mktemp("good") / "last.pt"
    save_checkpoint(_state(), path)
    return path.read_bytes()


@pytest.mark.fault(7)
@pytest.mark.parametrize("tenths", [*range(10), "all but a byte"])
def test_a_truncated_file_is_refused_with_its_size(
    tmp_path: Path, content: bytes, tenths: int | str
) -> None:
    size = len(content) * tenths // 10 if isinstance(tenths, int) else len(content) - 1
    path = tmp_path / "last.pt"
    path.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=rf"last\.pt \({size:,} bytes\)"):
        load_checkpoint(path)


@pytest.mark.fault(7)
@pytest.mark.parametrize("size", [1, 100, 50_000])
def test_random_bytes_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(GENERATOR.randbytes(size))
    with pytest.raises(CheckpointError, match=rf"last\.pt \({size:,} bytes\)"):
        load_checkpoint(path)


@pytest.mark.fault(7)
def test_latest_is_the_readable_file_with_the_most_steps(tmp_path: Path) -> None:
    save_checkpoint(_state(10), tmp_path / "step-10.pt")
    save_checkpoint(_state(30), tmp_path / "last.pt")
    save_checkpoint(_state(20), tmp_path / "step-20.pt")  # newest by time, not by step
    (tmp_path / ".tmp-step-40.pt").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) == tmp_path / "last.pt"
    broken = bytearray((tmp_path / "last.pt").read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "last.pt").write_bytes(broken)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-20.pt"
    assert (tmp_path / "last.pt").read_bytes() == broken, "a broken file is never deleted"


@pytest.mark.fault(7)
def test_a_run_falls_back_to_the_checkpoint_before_and_an_explicit_path_does_not(
    tmp_path: Path,
) -> None:
    values = {"max_epochs": 1, "save_every": 2, "keep": 3}
    fit(tmp_path / "whole", **values)
    fit(tmp_path / "parts", **values)
    checkpoints = tmp_path / "parts" / "checkpoints"
    assert {path.stem for path in checkpoints.glob("step*")} == {"step-4", "step-6", "step-7"}
    for name in ("step-7", "step-6"):  # best.pt and last.pt are further names of step-7
        os.truncate(checkpoints / f"{name}.pt", 1000)
    newest = latest_checkpoint(checkpoints)
    assert newest == checkpoints / "step-4.pt"
    with pytest.raises(CheckpointError, match=r"last\.pt \(1,000 bytes\)"):
        fit(tmp_path / "parts", resume=checkpoints / "last.pt", **values)
    fit(tmp_path / "parts", resume=newest, **values)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.fault(8)
def test_one_flipped_bit_is_found_where_pytorch_itself_does_not(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "last.pt"
    changed = bytearray(content)
    changed[content.index(torch.arange(5000.0).numpy().tobytes()[4000:4040])] ^= 1
    path.write_bytes(changed)
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["w"], torch.arange(5000.0))
    with pytest.raises(CheckpointError, match="CRC-32"):
        load_checkpoint(path)


@pytest.mark.fault(8)
def test_a_flipped_byte_anywhere_never_gives_other_values(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    found = 0
    for place in GENERATOR.sample(range(len(content)), 60):
        changed = bytearray(content)
        changed[place] ^= GENERATOR.randint(1, 255)
        path.write_bytes(changed)
        try:
            read = load_checkpoint(path)
        except CheckpointError:
            found += 1
        else:  # in the padding that aligns a record
            assert differences(read, {"format": 1, **_state()}, "state") == []
    assert found > 45  # nearly all of the file is what one wrote


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"1 differences: weight has shape \(2, 3\), expected"),
        ({"weight": torch.zeros(3, 2).long()}, "1 differences: weight has dtype torch.int64"),
        ({"weight": "text"}, r"1 differences: weight has shape \(\), expected \(3, 2\)"),
        ({"weight": None, "more": torch.zeros(1)}, "differences: .*unexpected more"),
        ({f"k{i}": torch.zeros(1) for i in range(30)}, r"30 differences: (unexpected k\d+; ){10}"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change: dict[str, Any], message: str) -> None:
    module = nn.Linear(2, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    weights = {key: torch.ones_like(value) for key, value in before.items()} | change
    with pytest.raises(CheckpointError, match=message):
        load_weights(module, weights)
    assert differences(module.state_dict(), before, "module") == []


@pytest.mark.fault(9)
def test_a_missing_and_an_unexpected_key_are_named(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    weights = {"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="2 differences: missing bias; unexpected extra"):
        load_weights(module, weights)


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["model"].pop("net.0.weight"), "1 differences: missing net.0.weight"),
        (lambda state: state["model"].update(more=torch.ones(1)), "unexpected more"),
        (lambda state: state.pop("optimizer"), r"has no optimizer; it is not a run's checkpoint"),
        (lambda state: state.update(format=99), "format version 99, this version reads 1"),
    ],
)
def test_a_run_is_not_half_restored(tmp_path: Path, change: Any, message: str) -> None:
    fit(tmp_path, max_epochs=1)
    path = tmp_path / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    change(state)
    torch.save(state, path)
    task = TinyTask()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    trainer = Trainer(TrainerConfig(max_epochs=2))
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(task, *loaders(), resume=path)
    assert trainer.state.step == 0
    assert differences(task.state_dict(), before, "task") == []


@pytest.mark.fault(9)
def test_another_format_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="format version 99"):
        load_checkpoint(tmp_path / "last.pt")


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def _zip(attack: Attack) -> bytes:
    sink = io.BytesIO()
    torch.save({"model": attack, "state": {"step": 1}}, sink)
    return sink.getvalue()


def _legacy(attack: Attack) -> bytes:
    sink = io.BytesIO()
    torch.save({"model": attack}, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def _npy(attack: Attack) -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([attack], dtype=object), allow_pickle=True)
    return sink.getvalue()


def _npz(attack: Attack) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, w=np.array([attack], dtype=object))
    return sink.getvalue()


@pytest.mark.fault(10)
@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "npz", "npy", "safetensors"])
@pytest.mark.parametrize("make", [_zip, _legacy, pickle.dumps, _npy, _npz])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, make: Any, ending: str) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(make(Attack(canary)))
    (tmp_path / "link.pt").symlink_to(path)
    for name in (path, tmp_path / "link.pt"):
        with pytest.raises(CheckpointError):
            load_checkpoint(name)
        with pytest.raises(CheckpointError):
            load_run_weights(TinyTask(), name)
    assert latest_checkpoint(tmp_path) is None
    assert not canary.exists()


@pytest.mark.fault(10)
def test_the_attack_would_succeed_without_the_guard(tmp_path: Path) -> None:
    """The canary sings when the file is read carelessly."""
    canary = tmp_path / "canary"
    torch.load(io.BytesIO(_zip(Attack(canary))), weights_only=False)
    assert canary.exists()


def test_tensors_are_what_the_comparison_compares() -> None:
    """The comparison these tests stand on sees a sign of zero, a shape and a missing key."""
    one: dict[str, Tensor] = {"a": torch.zeros(2, 3)}
    assert differences(one, {"a": torch.zeros(2, 3)}, "x") == []
    for other in ({"a": -torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {}, {"a": [0.0]}):
        assert differences(one, other, "x") != []
