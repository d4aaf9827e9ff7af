"""Python and C calls per training step: a cost that no clock disturbs.

``sys.setprofile`` reports every call of a Python function (a generator's resumption is one) and of
a C function. Their number per step is the same on a busy and on a quiet machine, so that a test
can hold it. Calls made by other threads are not counted.
"""

import os
import sys
from collections import Counter
from types import BuiltinFunctionType, FrameType
from typing import Any

from benchmarks.workloads import LOG_EVERY, Loop, Workload, run_loop

# The window holds two log intervals; whatever is imported at the first record is before it.
_SKIPPED_STEPS = LOG_EVERY + 10
_COUNTED_STEPS = 2 * LOG_EVERY


class CallCount:
    """Counts calls between two steps of a training loop; hand it to the model as ``on_forward``.

    It begins at the forward pass of step ``skip + 1`` and ends at that of step ``skip + steps + 1``,
    wherever the loop around them lives: both ends are the same place in the code.

    Args:
        skip: Steps before, to be warm and past what a loop does once.
        steps: Steps that are counted.

    Attributes:
        calls: How often each function was called, by ``module:function``.
    """

    def __init__(self, skip: int = _SKIPPED_STEPS, steps: int = _COUNTED_STEPS) -> None:
        self.calls: Counter[str] = Counter()
        self._first, self._last, self._steps, self._seen = skip + 1, skip + steps + 1, steps, 0

    def __call__(self) -> None:
        self._seen += 1
        if self._seen == self._first:
            sys.setprofile(self._count)
        elif self._seen == self._last:
            sys.setprofile(None)

    @property
    def per_step(self) -> float:
        """Calls per step, the mean over the counted ones.

        Raises:
            RuntimeError: if the loop made fewer steps than were to be counted.
        """
        if self._seen < self._last:
            raise RuntimeError(f"{self._seen} forward passes; expected at least {self._last}")
        return sum(self.calls.values()) / self._steps

    def added_to(self, other: "CallCount") -> list[tuple[str, float]]:
        """Calls per step beyond those of ``other``, by function, most first."""
        names = self.calls.keys() | other.calls.keys()
        more = [(name, (self.calls[name] - other.calls[name]) / self._steps) for name in names]
        return sorted(((n, c) for n, c in more if c > 0), key=lambda item: (-item[1], item[0]))

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            self.calls[f"{_module(code.co_filename)}:{code.co_qualname}"] += 1
        elif event == "c_call":
            self.calls[f"C:{_c_name(argument)}"] += 1


def count_calls(loop: Loop, workload: Workload, realistic: bool = False) -> CallCount:
    """Run ``loop`` and count its calls; see ``run_loop``."""
    count = CallCount()
    try:
        run_loop(loop, workload, count, realistic)
    finally:
        sys.setprofile(None)
    return count


def _module(path: str) -> str:
    parts = path.split(os.sep)
    start = parts.index("site-packages") + 1 if "site-packages" in parts else max(len(parts) - 3, 0)
    return "/".join(parts[start:])


def _c_name(function: BuiltinFunctionType) -> str:
    owner = getattr(function, "__self__", None)
    kind = "" if owner is None or isinstance(owner, type(sys)) else f"{type(owner).__name__}."
    return kind + function.__name__
