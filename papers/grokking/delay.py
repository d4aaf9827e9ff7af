"""How long after the training equations the others are known: the delay that names the paper.

Power et al. 2022 (arXiv 2201.02177), figure 1. Read from a run's ``metrics.jsonl``, so it is the
same for a run that was stopped and resumed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.visualization.curves import read_history

KNOWN = 0.99
"""The accuracy from which a set of equations counts as known."""


def first_step(records: Sequence[Mapping[str, Any]], metric: str, threshold: float) -> int | None:
    """The first recorded step at which ``metric`` reaches ``threshold``; ``None`` if it never does."""
    return next((r["step"] for r in records if r.get(metric, -1.0) >= threshold), None)


def grokking_steps(run: Path) -> dict[str, float]:
    """``steps/train_99`` and ``steps/validation_99`` of a run; what was never reached is left out.

    Training accuracy is the mean over the updates between two log records, validation accuracy
    that of all held-out equations.

    Args:
        run: The run's directory.
    """
    records = read_history(run)
    steps = {
        f"steps/{split}_99": first_step(records, f"{split}/accuracy", KNOWN)
        for split in ("train", "validation")
    }
    return {name: float(step) for name, step in steps.items() if step is not None}
