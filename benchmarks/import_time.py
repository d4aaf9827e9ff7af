"""What a person waits for before anything happens: imports, the first optimizer, a config error.

Every sample is a fresh process; modules are compiled to bytecode and in the page cache, because a
round that does not count comes first. The brackets say what is added to ``import torch``.

    python -m benchmarks.import_time --json benchmarks/results/import_time.json
"""

import resource
import time

from benchmarks.harness import (
    Column,
    Measure,
    Result,
    command_line,
    installed,
    interleave,
    run_python,
)

_BASELINE = "import torch"
_OURS = "from common.training import Trainer"
_OPTIMIZER = "AdamW([torch.zeros(1, requires_grad=True)], fused=True)"
_PEERS = {
    "import lightning": "lightning",
    "from transformers import Trainer": "transformers",
    "import accelerate": "accelerate",
    "import ignite.engine": "ignite",
}
_CONFIG_ERROR = ["-m", "papers.attention_is_all_you_need.train", "trainer.max_stepz=1"]
_COLUMNS = [
    Column("wall", "wall, ms", 0, "wall", as_difference=True),
    Column("cpu", "CPU, ms", 0, "cpu", as_difference=True),
]
_NOTES = [
    "In brackets, milliseconds more than `import torch`. The first optimizer of a process makes "
    "torch import `torch._dynamo`. *A config error* is the whole command "
    f"`python {' '.join(_CONFIG_ERROR)}`, which names the nearest valid key and exits with 2."
]


def import_time(repeats: int, quick: bool = False) -> Result:
    """Measure fresh processes.

    Args:
        repeats: Interleaved rounds.
        quick: ``import torch`` and ours only.
    """
    measures = {_BASELINE: _process("-c", _BASELINE), _OURS: _process("-c", _OURS)}
    if not quick:
        measures = {"python -c pass": _process("-c", "pass"), **measures}
        measures |= {line: _process("-c", line) for line in installed(_PEERS)}
        first = f"import torch; torch.optim.{_OPTIMIZER}"
        measures["import torch, first optimizer"] = _process("-c", first)
        measures["ours, first optimizer"] = _process("-c", f"{_OURS}; {first}")
        measures["a config error"] = _process(*_CONFIG_ERROR, expected=2)
    baselines = dict.fromkeys(measures, _BASELINE)
    return Result("import_time", _COLUMNS, interleave(measures, repeats), baselines, _NOTES)


def _process(*arguments: str, expected: int = 0) -> Measure:
    def measure() -> dict[str, float]:
        cpu, wall = _children(), time.perf_counter()
        run_python(arguments, expected)
        wall, cpu = time.perf_counter() - wall, _children() - cpu
        return {"wall": wall * 1e3, "cpu": cpu * 1e3}

    return measure


def _children() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    command_line(import_time, repeats=9)
