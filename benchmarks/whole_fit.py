"""Epochs per second of a whole fit with validation: what a user gets, loader and optimizer included.

The MLP over scikit-learn's digits: 23 steps and one validation over 360 examples an epoch, from
building the model to the end of the fit, wall time. ``raw loop, naive`` is what many a script has
(``DataLoader``, ``torch.optim.AdamW`` as it comes, ``loss.item()`` every step); all others have
fused AdamW, and ours its own loader. Every sample is a fresh process; imports do not count.

    python -m benchmarks.whole_fit --json benchmarks/results/whole_fit.json
"""

import gc
from dataclasses import replace
from functools import partial

from benchmarks.harness import (
    Column,
    Result,
    command_line,
    fresh_processes,
    installed,
    interleave,
    timed,
)
from benchmarks.loops import (
    ours_data_loader,
    ours_tensor_loader,
    raw_data_loader,
    raw_naive,
    raw_tensor_loader,
)
from benchmarks.peers import PEERS
from benchmarks.workloads import Loop, mlp_on_digits, run_loop

_NAIVE = "raw loop, naive"
_EPOCHS = 20
_LOOPS: dict[str, Loop] = {
    _NAIVE: raw_naive,
    "raw loop, fused AdamW": raw_data_loader,
    "raw loop, fused AdamW, TensorLoader": raw_tensor_loader,
    **{name: loop for name, (_, loop) in PEERS.items()},
    "ours, DataLoader": ours_data_loader,
    "ours": ours_tensor_loader,
}
_COLUMNS = [
    Column("plain", "epochs/s", 1, "plain"),
    Column("realistic", "epochs/s, realistic", 1, "plain"),
]
_NOTES = [
    "In brackets, times the naive loop. *Realistic*: a progress bar, loss and accuracy in a text "
    f"file and in TensorBoard, a checkpoint every epoch (23 steps). A fit has {_EPOCHS} epochs."
]


def whole_fit(repeats: int, quick: bool = False) -> Result:
    """Measure every installed loop.

    Args:
        repeats: Interleaved rounds.
        quick: The naive loop and ours only, for two epochs.
    """
    rows = [_NAIVE, "ours"]
    if not quick:
        peers = installed({name: module for name, (module, _) in PEERS.items()})
        rows = [row for row in _LOOPS if row not in PEERS or row in peers]
    samples = interleave(fresh_processes("whole_fit", rows, quick), repeats)
    return Result("whole_fit", _COLUMNS, samples, dict.fromkeys(rows, _NAIVE), _NOTES)


def sample(row: str, quick: bool = False) -> dict[str, float]:
    """One measurement of one row, in this process."""
    workload = mlp_on_digits(2 if quick else _EPOCHS)
    values: dict[str, float] = {}
    for kind in ("plain",) if "raw" in row else ("plain", "realistic"):
        fit = partial(run_loop, _LOOPS[row], on_forward=_no_tick, realistic=kind == "realistic")
        fit(replace(workload, epochs=2))  # what the library imports, here and at the end of a fit
        gc.collect()  # of what was imported; else it falls into some library's fit
        took = timed(partial(fit, workload))
        values[kind] = workload.epochs / took.wall
    return values


def _no_tick() -> None:
    """Nobody listens to the forward passes."""


if __name__ == "__main__":
    command_line(whole_fit, repeats=9, sample=sample)
