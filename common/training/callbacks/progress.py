"""What a person sees while a run runs: a live bar on a terminal, a line per evaluation elsewhere."""

import sys
from typing import TYPE_CHECKING, Any

import torch
from loguru import logger
from tqdm import tqdm

from common.training.callbacks.base import Callback

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class Progress(Callback):
    """A header, and a bar with loss, learning rate, speed and time left, refreshed at every log record.

    Args:
        bar: Show the bar; by default only if standard error is a terminal.
    """

    priority = 50

    def __init__(self, bar: bool | None = None) -> None:
        self._show = sys.stderr.isatty() if bar is None else bar
        self._bar: tqdm[Any] | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        count = sum(parameter.numel() for parameter in trainer.parameters)
        logger.info(
            f"{trainer.device} x {trainer.strategy.world_size}, {torch.get_num_threads()} threads, "
            f"{trainer.precision.name} | {count:,} trained parameters | "
            f"{trainer.first_epoch_batches:,} batches an epoch, {trainer.total_steps:,} updates"
        )
        if self._show:
            self._bar = tqdm(
                total=trainer.total_steps,
                initial=trainer.state.step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                file=sys.stderr,
            )

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self._bar is None:
            return
        shown = {
            "loss": f"{record['train/loss']:.3f}",
            "lr": f"{record['lr']:.2e}",
            f"{trainer.units}/s": f"{record['time/units_per_second']:,.0f}",
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.state.step - self._bar.n)

    def on_evaluation_end(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        state = trainer.state
        metrics = "  ".join(
            f"{key} {value:.4g}" for key, value in record.items() if isinstance(value, float)
        )
        logger.info(f"step {state.step:,}/{trainer.total_steps:,}  epoch {state.epoch}  {metrics}")

    def on_fit_end(self, trainer: "Trainer") -> None:
        if self._bar is not None:
            self._bar.update(trainer.state.step - self._bar.n)
            self._bar.close()
            self._bar = None
