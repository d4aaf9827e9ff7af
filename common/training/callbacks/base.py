"""What can be hung on a training run without touching its loop."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.training.trainer import Trainer


HOOKS = (
    "on_fit_start",
    "on_epoch_start",
    "before_update",
    "on_step_end",
    "on_log",
    "around_evaluation",
    "on_evaluation_end",
    "on_fit_end",
)


class Callback:
    """Eight hooks; override what is needed. A hook that is not overridden costs nothing.

    Callbacks run in the order of ``priority`` (low first). One with memory gives it in
    ``state_dict``, and it is in every checkpoint.
    """

    priority = 0

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Everything is built and restored; the loop is about to begin."""

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """An epoch begins, or goes on after a resume."""

    def before_update(self, trainer: "Trainer") -> None:
        """Gradients are final (averaged, unscaled, clipped); parameters are still the old ones."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """An update was made and ``trainer.state.step`` counts it."""

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """A record is about to be logged; entries may be added."""

    def around_evaluation(self, trainer: "Trainer") -> AbstractContextManager[None]:
        """Entered while validation runs (not for ``Trainer.evaluate`` called by hand)."""
        return nullcontext()

    def on_evaluation_end(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """Validation ended with these metrics; entries may be added."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """The loop ended: finished, stopped or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors to be saved."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
