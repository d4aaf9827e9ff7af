"""When a run ends, validates and saves: pure functions of where it stands."""

from common.data.loaders import EpochLoader
from common.training.config import TrainerConfig
from common.training.state import TrainState
from common.utils.errors import ConfigError


def count_steps(config: TrainerConfig, train: EpochLoader) -> int:
    """The updates of a whole run; the last one of an epoch may have fewer micro-batches.

    Raises:
        ConfigError: if the run has no end.
    """
    check_end(config)
    if config.max_epochs is None:
        return config.max_steps or 0
    counts = (train.num_batches(epoch) for epoch in range(config.max_epochs))
    steps = sum(-(-count // config.accumulate) for count in counts)
    return min(steps, config.max_steps or steps)


def check_end(config: TrainerConfig) -> None:
    """Refuse a run that would never end.

    Raises:
        ConfigError: if neither limit is set.
    """
    if config.max_epochs is None and config.max_steps is None:
        raise ConfigError("set trainer.max_steps or trainer.max_epochs: the run has no end")


def already_ended(config: TrainerConfig, total_steps: int, step: int) -> str:
    """What to say of a resumed run that stands at its end, or past a limit that was lowered."""
    limits = {"trainer.max_steps": config.max_steps, "trainer.max_epochs": config.max_epochs}
    asked = " and ".join(f"{key}={value}" for key, value in limits.items() if value is not None)
    return (
        f"the run stands at step {step:,}, and {asked} ends it at step {total_steps:,}: nothing "
        "more is trained; raise the limit to go on"
    )


class Cadence:
    """Answers for the step boundary a run stands at.

    Args:
        config: ``eval_every`` and ``save_every``.
        has_validation: Whether there is anything to validate on.
    """

    def __init__(self, config: TrainerConfig, has_validation: bool) -> None:
        self._config = config
        self._has_validation = has_validation

    def validates(self, state: TrainState, finished: bool) -> bool:
        """Whether a validation is due that was not yet done at this step."""
        if not self._has_validation or state.step == 0 or state.evaluated_at == state.step:
            return False
        every = self._config.eval_every
        return finished or (state.step % every == 0 if every else _at_epoch_end(state))

    def saves(self, state: TrainState, finished: bool) -> bool:
        """Whether a checkpoint is due."""
        if state.step == 0:
            return False
        if every := self._config.save_every:
            return finished or state.step % every == 0
        if self._has_validation:
            return finished or state.evaluated_at == state.step
        return finished or _at_epoch_end(state)


def _at_epoch_end(state: TrainState) -> bool:
    return state.batch == 0
