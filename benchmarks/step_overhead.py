"""What stands around a training step: CPU time, calls, and the fixed cost of a fit.

Each loop trains the same classifier on the same batches with fused AdamW. The window that is timed
begins in the middle of the first epoch and is two epochs of 225 steps long, so that two ends of an
epoch are in it; CPU time of all threads of the process. A ratio compares with the loop written by
hand that has the same loader and nothing else: also for the realistic set-up.

    python -m benchmarks.step_overhead --json benchmarks/results/step_overhead.json
"""

import time
from functools import partial

from benchmarks.calls import count_calls
from benchmarks.harness import Column, Measure, Result, command_line, installed, interleave, timed
from benchmarks.loops import (
    ours_data_loader,
    ours_tensor_loader,
    raw_data_loader,
    raw_tensor_loader,
)
from benchmarks.peers import PEERS
from benchmarks.workloads import Loop, Workload, mlp_on_digits, run_loop, vit_on_digits

_RAW, _RAW_TENSORS = "raw loop, DataLoader", "raw loop, TensorLoader"
_COPIES = 10  # of the 1,437 training examples: 225 steps an epoch
_COLUMNS = [
    Column("mlp_plain", "MLP, us/step", 0, "mlp_plain"),
    Column("mlp_realistic", "MLP realistic", 0, "mlp_plain"),
    Column("vit_plain", "ViT, us/step", 0, "vit_plain"),
    Column("vit_realistic", "ViT realistic", 0, "vit_plain"),
    Column("calls_plain", "calls/step", 0, "calls_plain", as_difference=True),
    Column("calls_realistic", "calls realistic", 0, "calls_plain", as_difference=True),
    Column("fit_plain", "fit of one step, ms", 1, "fit_plain", as_difference=True),
    Column("fit_realistic", "fit realistic", 1, "fit_plain", as_difference=True),
]
_NOTES = [
    "In brackets, times over the raw loop with the same loader (of the plain kind), and calls and "
    "milliseconds more than it. *Realistic*: a progress bar, loss and accuracy every 50 steps in a "
    "text file and in TensorBoard, a checkpoint every epoch (225 steps). HF Trainer logs no "
    "accuracy. *Calls* are Python and C calls (`sys.setprofile`); with a `DataLoader` most are its "
    "own. *Fit of one step*: building the model included, imports not.",
]


class StepClock:
    """CPU time of the steps between two forward passes; hand it to the model as ``on_forward``.

    Args:
        first: The forward pass, from 1, that starts the clock.
        steps: Steps until it stops.
    """

    def __init__(self, first: int, steps: int) -> None:
        self._first, self._last, self._steps = first, first + steps, steps
        self._seen = 0
        self._started = self._stopped = -1

    def __call__(self) -> None:
        self._seen += 1
        if self._seen == self._first:
            self._started = time.process_time_ns()
        elif self._seen == self._last:
            self._stopped = time.process_time_ns()

    @property
    def microseconds(self) -> float:
        """CPU time per step.

        Raises:
            RuntimeError: if the loop ended before the clock stopped.
        """
        if self._stopped < 0:
            raise RuntimeError(f"{self._seen} forward passes; expected at least {self._last}")
        return (self._stopped - self._started) / 1e3 / self._steps


def step_overhead(repeats: int, quick: bool = False) -> Result:
    """Measure every installed loop.

    Args:
        repeats: Interleaved rounds.
        quick: Ours and raw with our loader only, on the MLP, with short epochs.
    """
    loops: dict[str, Loop] = {_RAW_TENSORS: raw_tensor_loader}
    if not quick:
        peers = installed({name: module for name, (module, _) in PEERS.items()})
        loops = {_RAW: raw_data_loader, **{name: PEERS[name][1] for name in peers}}
        loops |= {"ours, DataLoader": ours_data_loader, _RAW_TENSORS: raw_tensor_loader}
    loops["ours, TensorLoader"] = ours_tensor_loader
    copies = 1 if quick else _COPIES
    kinds = {name: ("plain",) if "raw" in name else ("plain", "realistic") for name in loops}
    workloads = {"mlp": mlp_on_digits(3, copies, validation=False)}
    if not quick:
        workloads["vit"] = vit_on_digits(3, copies, validation=False)
    samples = interleave(
        {name: _measure(loop, workloads, kinds[name]) for name, loop in loops.items()}, repeats
    )
    for name, loop in loops.items():
        samples[name] |= _calls(loop, kinds[name])
    tensors = {_RAW_TENSORS, "ours, TensorLoader"}
    baselines = {name: _RAW_TENSORS if name in tensors else _RAW for name in loops}
    return Result("step_overhead", _COLUMNS, samples, baselines, _NOTES)


def _measure(loop: Loop, workloads: dict[str, Workload], kinds: tuple[str, ...]) -> Measure:
    def measure() -> dict[str, float]:
        values: dict[str, float] = {}
        for kind in kinds:
            for name, workload in workloads.items():
                clock = StepClock(workload.steps_per_epoch // 2, 2 * workload.steps_per_epoch)
                run_loop(loop, workload, clock, realistic=kind == "realistic")
                values[f"{name}_{kind}"] = clock.microseconds
            one_step = workloads["mlp"].first_batch()
            fit = timed(partial(run_loop, loop, one_step, _no_tick, kind == "realistic"))
            values[f"fit_{kind}"] = fit.wall * 1e3
        return values

    return measure


def _calls(loop: Loop, kinds: tuple[str, ...]) -> dict[str, list[float]]:
    workload = mlp_on_digits(1, _COPIES, validation=False)
    counts = {kind: count_calls(loop, workload, kind == "realistic") for kind in kinds}
    return {f"calls_{kind}": [count.per_step] for kind, count in counts.items()}


def _no_tick() -> None:
    """Nobody listens to the forward passes of a fit of one step."""


if __name__ == "__main__":
    command_line(step_overhead, repeats=7)
