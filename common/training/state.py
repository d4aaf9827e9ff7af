"""Where a run stands: the only place that knows."""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass
class TrainState:
    """The loop's whole state; with weights, optimizer and generators it is the run.

    Attributes:
        step: Optimizer updates done.
        epoch: Passes over the training data completed.
        batch: Micro-batches of the current epoch consumed.
        samples: Examples seen, over all ranks.
        units: Loss units (examples or tokens) seen, over all ranks.
        evaluated_at: The step of the last evaluation, -1 before the first.
        best: The best value of the monitored metric so far.
        best_step: Where it was reached, -1 if nowhere.
        wall_seconds: Time spent in the loop, over all resumptions.
        records: Records given to the loggers.
        stopped: Why a callback ended the run, if one did.
        skipped: Updates left out because a batch had no loss units or fp16 overflowed.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    units: float = 0.0
    evaluated_at: int = -1
    best: float | None = None
    best_step: int = -1
    wall_seconds: float = 0.0
    records: int = 0
    stopped: str | None = None
    skipped: int = 0

    def state_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of ``state_dict``."""
        return cls(**values)
