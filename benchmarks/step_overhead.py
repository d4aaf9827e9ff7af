"""What stands around a training step: CPU time, calls, and the fixed cost of a fit.

Each loop trains the same classifier on the same batches with fused AdamW. The window that is timed
begins in the middle of the first epoch of 225 steps and ends in the middle of the second, so that
the end of an epoch is in it; CPU time of all threads. A ratio compares with the loop written by
hand that has the same loader and nothing else: also for the realistic set-up. Every sample is a
fresh process: a loop does not know what another library has changed.

    python -m benchmarks.step_overhead --json benchmarks/results/step_overhead.json
"""

import gc
import time
from functools import partial

from benchmarks.calls import count_calls
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
    raw_tensor_loader,
)
from benchmarks.peers import PEERS
from benchmarks.workloads import Loop, mlp_on_digits, run_loop, vit_on_digits

_RAW, _RAW_TENSORS = "raw loop, DataLoader", "raw loop, TensorLoader"
_WITH_TENSORS: dict[str, Loop] = {
    _RAW_TENSORS: raw_tensor_loader,
    "ours, TensorLoader": ours_tensor_loader,
}
_LOOPS: dict[str, Loop] = {
    _RAW: raw_data_loader,
    **{name: loop for name, (_, loop) in PEERS.items()},
    "ours, DataLoader": ours_data_loader,
    **_WITH_TENSORS,
}
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
    "accuracy; the hand-written realistic loop prints instead of a bar and TensorBoard, and saves "
    "with `torch.save`, which is not durable. *Calls* are Python and C calls (`sys.setprofile`); with a `DataLoader` most are its "
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
    rows = list(_WITH_TENSORS)
    if not quick:
        peers = installed({name: module for name, (module, _) in PEERS.items()})
        rows = [row for row in _LOOPS if row not in PEERS or row in peers]
    samples = interleave(fresh_processes("step_overhead", rows, quick), repeats)
    baselines = {row: _RAW_TENSORS if row in _WITH_TENSORS else _RAW for row in rows}
    return Result("step_overhead", _COLUMNS, samples, baselines, _NOTES)


def sample(row: str, quick: bool = False) -> dict[str, float]:
    """One measurement of one row, in this process."""
    loop = _LOOPS[row]
    copies = 1 if quick else _COPIES
    workloads = {"mlp": mlp_on_digits(2, copies, validation=False)}
    if not quick:
        workloads["vit"] = vit_on_digits(2, copies, validation=False)
    one_step = workloads["mlp"].first_batch()
    values: dict[str, float] = {}
    for kind in ("plain",) if row == _RAW else ("plain", "realistic"):
        realistic = kind == "realistic"
        fit = partial(run_loop, loop, one_step, _no_tick, realistic)
        fit()  # what the library imports, and what it does once in a process
        gc.collect()  # or a collection of all that was imported falls into anybody's fit
        values[f"fit_{kind}"] = timed(fit).wall * 1e3
        for name, workload in workloads.items():
            clock = StepClock(workload.steps_per_epoch // 2, workload.steps_per_epoch)
            run_loop(loop, workload, clock, realistic)
            values[f"{name}_{kind}"] = clock.microseconds
        counted = mlp_on_digits(1, _COPIES, validation=False)
        values[f"calls_{kind}"] = count_calls(loop, counted, realistic).per_step
    return values


def _no_tick() -> None:
    """Nobody listens to the forward passes of a fit of one step."""


if __name__ == "__main__":
    command_line(step_overhead, repeats=7, sample=sample)
