"""Memory that is not there becomes one line: which batch was too large, and what to do about it."""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from common.training.evaluation import evaluate
from common.utils.errors import FaultError

if TYPE_CHECKING:
    from common.training.trainer import Trainer

# PyTorch has a type for accelerators only; its CPU allocator raises a plain RuntimeError.
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


@contextmanager
def explained_out_of_memory(trainer: "Trainer") -> Iterator[None]:
    """Entered once around the whole loop, so that a step pays nothing for it.

    Raises:
        FaultError: for an allocation that failed, with the step, the batch and its examples.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise FaultError(_explain(trainer, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_ALLOCATOR)


def _explain(trainer: "Trainer", error: BaseException) -> str:
    state, reason = trainer.state, str(error).splitlines()[0] if str(error) else "no memory"
    frames = traceback.walk_tb(error.__traceback__)
    if any(frame.f_code is inspect.unwrap(evaluate).__code__ for frame, _ in frames):
        return (
            f"out of memory in the evaluation after step {state.step}: {reason}; "
            "use smaller batches for the validation data"
        )
    ids = trainer.train_loader.indices(state.epoch, state.batch)
    count = f", {len(ids)} examples" if ids else ""
    return (
        f"out of memory at step {state.step + 1} (epoch {state.epoch}, batch {state.batch}{count} "
        f"in a micro-batch of {trainer.strategy.world_size} process(es)): {reason}; "
        "use a smaller batch size and, to keep the update the same, as many times more "
        "trainer.accumulate"
    )
