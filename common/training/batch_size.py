"""``batch_size=auto``: the largest power of two whose training step fits into memory.

Every size is tried with real updates of a copy of the task, until one does not fit. What is found
is written into the run's configuration, so that a resumed or repeated run does not search again.

    batch_size = settle_batch_size(context, "data.batch_size", lambda: find_batch_size(
        task, lambda size: TensorLoader(tensors, size), config=config.trainer, info=info))
"""

import gc
import resource
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from loguru import logger

from common.config import RunContext, Source
from common.data.foreign import as_epoch_loader
from common.data.info import DatasetInfo
from common.data.loaders import EpochLoader
from common.training.config import TrainerConfig
from common.training.optim import OptimizerConfig
from common.training.out_of_memory import is_out_of_memory
from common.training.rng import preserved_rng
from common.training.task import Task
from common.training.trainer import Trainer
from common.utils.errors import ConfigError, FaultError

AUTO = "auto"
_USABLE = 0.8  # of the host's free memory; the system takes the process's life, not an exception
_CGROUP = Path("/sys/fs/cgroup")


def settle_batch_size(context: RunContext, key: str, search: Callable[[], int]) -> int:
    """The value of ``key``; where it is ``auto``, what ``search`` finds, recorded as DERIVED.

    Args:
        context: The run's; its configuration holds the number from now on.
        key: For example ``data.batch_size``, a field of kind ``int | Literal["auto"]``.
        search: Usually ``find_batch_size`` of the task.
    """
    value = context.get(key)
    if value == AUTO:
        value = search()
        context.set(key, value, Source.DERIVED)
        logger.info(f"{key} is {value}: the largest power of two that fits")
    return int(value)


def find_batch_size(
    task: Task,
    make_loader: Callable[[int], EpochLoader],
    *,
    config: TrainerConfig | None = None,
    info: DatasetInfo | None = None,
    optim: OptimizerConfig | None = None,
    largest: int = 1 << 16,
) -> int:
    """Double the batch size until a step does not fit.

    On an accelerator a size fits if two updates do not run out of memory. On a CPU the next size
    is not tried if the growth so far says that it would take more than 80% of what is free,
    because there the system ends the process instead.

    Args:
        task: Comes back as it was; so do the random generators.
        make_loader: A training loader for a batch size; give it the longest examples first if
            they differ.
        config: The trainer's values; steps, logging and saving are replaced.
        info: For ``task.configure``.
        optim: The optimizer, because its moments take memory too.
        largest: Do not look further.

    Returns:
        A power of two, at most the first that holds the whole epoch in one batch.

    Raises:
        ConfigError: under several processes.
        FaultError: if not even one example fits.
    """
    config = replace(config or TrainerConfig(), max_epochs=None, max_steps=2, log_every=2)
    config = replace(config, loggers=[], diagnostics=[], eval_every=0, overfit_batches=0)
    best, size, peaks = 0, 1, [_peak_memory()]
    while size <= largest:
        loader = as_epoch_loader(make_loader(size), seed=0)
        if not _fits(task, loader, config, info, optim):
            break
        best = size
        peaks.append(_peak_memory())
        growth = 2 * (peaks[-1] - peaks[-2])
        if loader.num_batches(0) == 1 or growth > _USABLE * _free_memory():
            break
        size *= 2
    if best == 0:
        raise FaultError("not even a batch of one example fits into memory")
    return best


def _fits(
    task: Task,
    loader: EpochLoader,
    config: TrainerConfig,
    info: DatasetInfo | None,
    optim: OptimizerConfig | None,
) -> bool:
    with preserved_rng():
        trainer = Trainer(config)
        if trainer.strategy.world_size > 1:
            raise ConfigError(
                "a batch size is searched for by one process; set the number it finds"
            )
        try:
            trainer.fit(deepcopy(task), loader, info=info, optim=optim)
        except FaultError as error:
            if error.__cause__ is None or not is_out_of_memory(error.__cause__):
                raise
            return False
        finally:
            del trainer
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return True


def _peak_memory() -> int:
    """The most this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free_memory() -> int:
    """What the host, or the container's limit, still has, in bytes."""
    free = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)
