"""``history.json``: one record per evaluation, and the curves of the run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.training.callbacks.base import Callback
from common.utils.files import atomic_write_text

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class History(Callback):
    """Writes ``history.json`` after every evaluation and ``plots/curves.png`` at the end.

    Args:
        directory: The run directory.
        plot: Draw the curves when the run ends.
    """

    priority = 40

    def __init__(self, directory: Path, plot: bool = True) -> None:
        self._directory = directory
        self._plot = plot
        self._records: list[dict[str, Any]] = []
        self._train: dict[str, Any] = {}

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._train = record

    def on_evaluation_end(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._records.append({**self._train, **record})
        text = json.dumps(self._records, indent=1) + "\n"
        atomic_write_text(self._directory / "history.json", text)

    def on_fit_end(self, trainer: "Trainer") -> None:
        if self._plot and len(self._records) > 1:
            from common.visualization import plot_training_curves

            plot_training_curves(self._directory, out=self._directory / "plots" / "curves.png")

    def state_dict(self) -> dict[str, Any]:
        return {"records": self._records, "train": self._train}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._records, self._train = list(state["records"]), dict(state["train"])
