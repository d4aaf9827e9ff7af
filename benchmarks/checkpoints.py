"""How long a checkpoint holds up the loop, when it is safe on disk, and how long it takes to read.

The state is that of a model of 100M parameters with AdamW's two moments: 1.2 GB. While a checkpoint
is written a loop goes on multiplying matrices; *stall* is the longest time that loop stood still,
the call that saves included, and *durable* is the time until the bytes are fsynced under their
final name. Every way replaces its previous file. The files go to the temporary directory (set
``TMPDIR`` to a real disk) and are deleted.

    python -m benchmarks.checkpoints --json benchmarks/results/checkpoints.json
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Column, Measure, Result, command_line, installed, interleave, timed
from common.training.checkpointing import Checkpointer
from common.utils import load_checkpoint
from common.utils.files import atomic_write, fsync_dir

_BASELINE = "torch.save + fsync"
_WIDTH = 2048
_LAYERS = 24
_SPACE_NEEDED = 14  # times the state: every way has an old and a new file
_COLUMNS = [
    Column("stall", "stall, s", 3, "stall"),
    Column("durable", "durable, s", 2, "durable"),
    Column("speed", "MB/s", 0),
    Column("load", "load, s", 3, "load"),
]

State = dict[str, dict[str, Tensor]]
Save = Callable[[], Callable[[], object]]  # begins, and returns what waits until it is durable


def checkpoints(repeats: int, quick: bool = False) -> Result:
    """Measure every installed way of writing and reading.

    Args:
        repeats: Interleaved rounds.
        quick: Ours and ``torch.save`` only, with 0.5M parameters.
    """
    state = _state(layers=2, width=512) if quick else _state(_LAYERS, _WIDTH)
    size = sum(tensor.nbytes for part in state.values() for tensor in part.values())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        directory = Path(name)
        free = shutil.disk_usage(directory).free
        if free < _SPACE_NEEDED * size:
            raise SystemExit(
                f"{directory} has {free:,} bytes free, {_SPACE_NEEDED * size:,} are needed; "
                "set TMPDIR to another place"
            )
        measures = _measures(state, size, directory, quick)
        samples = interleave(measures, repeats)
    parameters = size / 12 / 1e6
    notes = [
        f"{parameters:,.1f}M parameters with AdamW's moments, {size / 1e9:.2f} GB; in brackets, "
        "times `torch.save` + fsync and `torch.load`. Ours writes in a thread and checks every "
        "record's CRC when it loads. `torch.load` checks none; with `mmap=True` it reads nothing "
        "yet, nor does safetensors. All files are in the page cache when they are loaded."
    ]
    return Result("checkpoints", _COLUMNS, samples, dict.fromkeys(measures, _BASELINE), notes)


def _measures(state: State, size: int, directory: Path, quick: bool) -> dict[str, Measure]:
    saved, ours = directory / "torch.pt", _Ours(state, directory / "ours")
    load_saved = partial(torch.load, saved, weights_only=True)
    measures: dict[str, Measure] = {
        _BASELINE: _measure(partial(_torch_save, state, saved), size, load_saved),
        "ours": _measure(ours, size, lambda: load_checkpoint(ours.path)),
    }
    if quick:
        return measures
    measures["write + fsync"] = _measure(partial(_write, state, directory / "raw"), size)
    if installed({"safetensors": "safetensors"}):
        path = directory / "model.safetensors"
        load = partial(_load_safetensors, path)
        measures["safetensors + fsync"] = _measure(partial(_safetensors, state, path), size, load)
    measures["dcp.async_save"] = _measure(_Distributed(state, directory / "dcp"), size)
    mapped = partial(torch.load, saved, weights_only=True, mmap=True)
    measures["torch.load(mmap=True)"] = lambda: {"load": _seconds_to_load(mapped)}
    return measures


def _measure(save: Save, size: int, load: Callable[[], object] | None = None) -> Measure:
    def measure() -> dict[str, float]:
        os.sync()
        values = _stall_and_durable(save)
        values["speed"] = size / values["durable"] / 1e6
        if load is not None:
            values["load"] = _seconds_to_load(load)
        return values

    return measure


def _stall_and_durable(save: Save) -> dict[str, float]:
    """Save while a loop goes on; seconds of its longest pause, and until the file is durable."""
    weight = torch.ones(256, 256)
    with ThreadPoolExecutor(1) as pool:
        begin = time.perf_counter()
        written = pool.submit(save())
        last = time.perf_counter()
        stall = last - begin
        while not written.done():
            weight = weight @ weight * 0.0 + 1.0
            now = time.perf_counter()
            stall, last = max(stall, now - last), now
        written.result()
        return {"stall": stall, "durable": time.perf_counter() - begin}


def _seconds_to_load(load: Callable[[], object]) -> float:
    return timed(load).wall


def _state(layers: int, width: int) -> State:
    """Weights and moments as a training run has them."""
    names = [f"layers.{i}.weight" for i in range(layers)]
    parts = ("model", "exp_avg", "exp_avg_sq")
    return {part: {name: torch.randn(width, width) for name in names} for part in parts}


class _Ours:
    """Our checkpointer, over a whole run."""

    def __init__(self, state: State, directory: Path) -> None:
        directory.mkdir()
        self.path = directory / "last.pt"
        self._state = state
        self._step = 0
        self._checkpointer = Checkpointer(directory, keep=0)

    def __call__(self) -> Callable[[], object]:
        self._step += 1
        self._checkpointer.save(self._state, self._step)
        return getattr(self._checkpointer, "wait", _is_durable)


class _Distributed:
    """``torch.distributed.checkpoint`` in one process, with a stager that keeps its buffers."""

    def __init__(self, state: State, directory: Path) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._state = state
        self._directory = directory
        needs_cuda = ("use_pinned_memory", "use_async_staging", "use_non_blocking_copy")
        without = dict.fromkeys((*needs_cuda, "use_shared_memory"), False)
        self._stager = DefaultStager(StagingOptions(**without))

    def __call__(self) -> Callable[[], object]:
        from torch.distributed.checkpoint import async_save

        written = async_save(
            self._state,
            checkpoint_id=self._directory,
            async_stager=self._stager,
            no_dist=True,
        )
        assert isinstance(written, Future)
        return written.result


def _torch_save(state: State, path: Path) -> Callable[[], object]:
    with atomic_write(path) as file:
        torch.save(state, file)
    return _is_durable


def _write(state: State, path: Path) -> Callable[[], object]:
    with atomic_write(path) as file:
        for tensor in _flat(state).values():
            file.write(memoryview(tensor.numpy()).cast("B"))
    return _is_durable


def _safetensors(state: State, path: Path) -> Callable[[], object]:
    from safetensors.torch import save_file

    temporary = path.with_suffix(".tmp")
    save_file(_flat(state), temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_dir(path.parent)
    return _is_durable


def _load_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return load_file(path)


def _flat(state: State) -> dict[str, Tensor]:
    return {
        f"{part}.{k}": tensor for part, tensors in state.items() for k, tensor in tensors.items()
    }


def _is_durable() -> None:
    """What was saved in the call itself needs no waiting."""


if __name__ == "__main__":
    command_line(checkpoints, repeats=5)
