"""What the time of a step goes into: a trace for ``chrome://tracing`` or Perfetto, and a table."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from torch.autograd.profiler import record_function
from torch.utils.hooks import RemovableHandle

from common.training.callbacks.base import Callback
from common.utils.errors import ConfigError
from common.utils.files import TEMPORARY_PREFIX, atomic_write_text

if TYPE_CHECKING:
    from common.training.trainer import Trainer

GRADIENTS, UPDATE, VALIDATION = "step/gradients", "step/update", "step/validation"

_ROWS = 30


class Profiler(Callback):
    """Profiles a few updates; writes ``profile/trace.json`` and ``profile/hot_ops.txt``.

    In the trace every update is a ``ProfilerStep#n`` of two ranges: ``step/gradients`` (what was
    due before it, such as logging, then reading its batches, forward and backward passes) and
    ``step/update``; inside, ``forward/<module>`` for every module, and ``step/validation``. A run
    with fewer updates than asked for is profiled at its end. Only the main rank writes.

    Args:
        wait: Updates to let pass.
        warmup: Updates to trace and forget: the first ones pay for the profiler's own start.
        active: Updates to keep.
        directory: Where to write; by default ``profile`` in the run directory.

    Raises:
        ConfigError: from ``on_fit_start``, if there is no directory.
    """

    priority = 100

    def __init__(
        self, wait: int = 10, warmup: int = 2, active: int = 5, directory: Path | None = None
    ) -> None:
        if min(wait, warmup) < 0 or active < 1:
            raise ValueError(
                f"wait, warmup, active are {wait}, {warmup}, {active}; expected at least 0, 0, 1"
            )
        self.wait, self.warmup, self.active = wait, warmup, active
        self.directory = directory
        self._profile: torch.profiler.profile | None = None
        self._range: Any = None
        self._hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: "Trainer") -> None:
        left = trainer.total_steps - trainer.state.step
        if not trainer.is_main or left < 1:
            return
        run = trainer.run
        directory = self.directory or (run.directory / "profile" if run is not None else None)
        if directory is None:
            raise ConfigError("the profiler has nowhere to write; give it a directory, or a run")
        directory.mkdir(parents=True, exist_ok=True)
        active = min(self.active, max(left - self.warmup, 1))
        warmup = min(self.warmup, left - active)
        wait = min(self.wait, left - active - warmup)
        on_gpu = trainer.device.type == "cuda"
        activities = [torch.profiler.ProfilerActivity.CPU]
        if on_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)

        def write(profile: torch.profiler.profile) -> None:
            self._end()
            order = f"self_{trainer.device.type if on_gpu else 'cpu'}_time_total"
            temporary = directory / f"{TEMPORARY_PREFIX}trace.json"
            temporary.unlink(missing_ok=True)
            profile.export_chrome_trace(str(temporary))
            os.replace(temporary, directory / "trace.json")
            table = profile.key_averages().table(sort_by=order, row_limit=_ROWS)
            atomic_write_text(directory / "hot_ops.txt", f"{table}\n")
            logger.info(f"profile of {active} updates: {directory}")

        self._profile = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=wait, warmup=warmup, active=active, repeat=1),
            on_trace_ready=write,
        )
        self._watch(trainer)
        self._profile.start()
        self._enter(GRADIENTS)

    def before_update(self, trainer: "Trainer") -> None:
        self._enter(UPDATE)

    def on_step_end(self, trainer: "Trainer") -> None:
        if self._profile is not None:
            self._leave()
            self._profile.step()
            self._enter(GRADIENTS)

    @contextmanager
    def around_evaluation(self, trainer: "Trainer") -> Iterator[None]:
        with record_function(VALIDATION):
            yield

    def on_fit_end(self, trainer: "Trainer") -> None:
        if (profile := self._profile) is not None:
            self._leave()
            profile.stop()
            self._end()

    def _end(self) -> None:
        self._leave()
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._profile = [], None

    def _watch(self, trainer: "Trainer") -> None:
        """Name the forward pass of every module; compiled ones must not be touched."""
        if trainer.config.compile:
            return
        running: list[Any] = []

        def enter(name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                running.append(record_function(name).__enter__())

            return hook

        def leave(*_: Any) -> None:
            running.pop().__exit__(None, None, None)

        for name, module in trainer.task.named_modules():
            if name:
                self._hooks += [
                    module.register_forward_pre_hook(enter(f"forward/{name}")),
                    module.register_forward_hook(leave, always_call=True),
                ]

    def _enter(self, name: str) -> None:
        self._leave()
        if self._profile is not None:
            self._range = record_function(name)
            self._range.__enter__()

    def _leave(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
