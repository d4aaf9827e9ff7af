"""Whether two runs are the same run: to the last bit, apart from what a clock measured.

    assert run_differences(whole, resumed) == []

Compared are the newest checkpoint (weights, optimizer moments, generators, state, callbacks),
``metrics.jsonl`` line by line, the final metrics of ``run.json``, and ``model.safetensors``.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.utils.files import sha256_file

_CLOCK = ("time/", "wall_")
_FINISHED_WEIGHTS = "model.safetensors"


def run_differences(one: Path, other: Path) -> list[str]:
    """Where two run directories differ; nothing if they hold the same run.

    Args:
        one: A run directory, e.g. of the uninterrupted run.
        other: Another.
    """
    from common.utils.checkpoint import load_checkpoint

    def both(what: Callable[[Path], Any], name: str) -> list[str]:
        return differences(without_clock(what(one)), without_clock(what(other)), name)

    return [
        *both(lambda run: load_checkpoint(run / "checkpoints" / "last.pt"), "last.pt"),
        *both(metric_records, "metrics.jsonl"),
        *both(_final_metrics, "run.json"),
        *both(lambda run: _digest(run / _FINISHED_WEIGHTS), _FINISHED_WEIGHTS),
    ]


def metric_records(directory: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` of a run without what a clock measured."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    records: list[dict[str, Any]] = [without_clock(json.loads(line)) for line in lines]
    return records


def without_clock(value: Any) -> Any:
    """Nested plain values without the entries named ``time/...`` and ``wall_...``."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not str(k).startswith(_CLOCK)}
        return {key: without_clock(item) for key, item in kept.items()}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, where: str) -> list[str]:
    """The places at which two nested values differ; tensors are compared bit by bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
        return [] if same else [f"{where} holds other numbers"]
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return [f"{where} is a {type(one).__name__} and a {type(other).__name__}"]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in one if key in other]
        only = sorted(map(str, one.keys() ^ other.keys()))
        found = [f"{where}.{key} is on one side only" for key in only]
        parts = [differences(one[key], other[key], f"{where}.{key}") for key in keys]
        return found + [line for part in parts for line in part]
    if _is_list(one) and _is_list(other):
        if len(one) != len(other):
            return [f"{where} has {len(one)} entries and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        parts = [differences(a, b, f"{where}[{index}]") for index, (a, b) in pairs]
        return [line for part in parts for line in part]
    same = one == other or (one != one and other != other)  # NaN is the same as NaN
    return [] if same else [f"{where} is {one!r:.80} and {other!r:.80}"]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _bits(tensor: Any) -> Any:
    """The tensor's bytes, so that NaN equals NaN and 0.0 is not -0.0; keeps the shape apart."""
    import torch

    shape = torch.tensor(tensor.shape, dtype=torch.int64).view(torch.uint8)
    return torch.cat([shape, tensor.detach().contiguous().flatten().view(torch.uint8)])


def _final_metrics(directory: Path) -> Any:
    return json.loads((directory / "run.json").read_text()).get("metrics")


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None
