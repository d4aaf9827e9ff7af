"""Epochs per second of a whole fit with validation: what a user gets, loader and optimizer included.

The MLP over scikit-learn's digits: 23 steps and one validation over 360 examples an epoch, from
building the model to the end of the fit, wall time. ``raw loop, naive`` is what many a script has
(``DataLoader``, ``torch.optim.AdamW`` as it comes, ``loss.item()`` every step); all others have
fused AdamW, and ours its own loader.

    python -m benchmarks.whole_fit --json benchmarks/results/whole_fit.json
"""

from benchmarks.harness import Column, Measure, Result, command_line, installed, interleave, timed
from benchmarks.loops import (
    ours_data_loader,
    ours_tensor_loader,
    raw_data_loader,
    raw_naive,
    raw_tensor_loader,
)
from benchmarks.peers import PEERS
from benchmarks.workloads import Loop, Workload, mlp_on_digits, run_loop

_NAIVE = "raw loop, naive"
_EPOCHS = 20
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
        quick: The raw loops and ours only, for two epochs.
    """
    peers = [] if quick else installed({name: module for name, (module, _) in PEERS.items()})
    loops: dict[str, Loop] = {
        _NAIVE: raw_naive,
        "raw loop, fused AdamW": raw_data_loader,
        "raw loop, fused AdamW, TensorLoader": raw_tensor_loader,
        **{name: PEERS[name][1] for name in peers},
        "ours, DataLoader": ours_data_loader,
        "ours": ours_tensor_loader,
    }
    workload = mlp_on_digits(2 if quick else _EPOCHS)
    measures = {name: _measure(loop, workload, "raw" not in name) for name, loop in loops.items()}
    baselines = dict.fromkeys(loops, _NAIVE)
    return Result("whole_fit", _COLUMNS, interleave(measures, repeats), baselines, _NOTES)


def _measure(loop: Loop, workload: Workload, with_realistic: bool) -> Measure:
    def epochs_per_second(realistic: bool) -> float:
        took = timed(lambda: run_loop(loop, workload, _no_tick, realistic))
        return workload.epochs / took.wall

    def measure() -> dict[str, float]:
        values = {"plain": epochs_per_second(realistic=False)}
        if with_realistic:
            values["realistic"] = epochs_per_second(realistic=True)
        return values

    return measure


def _no_tick() -> None:
    """Nobody listens to the forward passes."""


if __name__ == "__main__":
    command_line(whole_fit, repeats=7)
