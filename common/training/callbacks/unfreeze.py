"""A schedule of freezing: parts of a network that train only from some epoch on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loguru import logger

from common.training.callbacks.base import Callback
from common.training.freezing import is_named, set_trainable
from common.training.sharding import is_sharded
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean

if TYPE_CHECKING:
    from common.training.trainer import Trainer


class Unfreeze(Callback):
    """Keeps parts of the network frozen for ``epoch`` epochs, and trains them afterwards.

    What is frozen is a function of the epoch alone, so it has no state of its own: a run that goes
    on from a checkpoint trains what the uninterrupted run trains. The optimizer holds the frozen
    parameters from the start (``ClassificationTask(train_frozen=True)``); its moments of them
    begin with their first gradient. Several of these, with other epochs, unfreeze step by step.

    Args:
        epoch: How many epochs the parts stay frozen; the first epoch is number 0.
        names: Prefixes of parameters of the task, e.g. ``model.layer4``; all that are frozen when
            the run begins if left out.
    """

    priority = -60  # before EMA, which averages what is trained

    def __init__(self, epoch: int, names: Sequence[str] | None = None) -> None:
        if epoch < 1:
            raise ValueError(f"epoch is {epoch}; expected at least 1")
        self.epoch = epoch
        self._given = names
        self._names: list[str] = []
        self._are_frozen: bool | None = None

    def on_fit_start(self, trainer: "Trainer") -> None:
        self._names = self._find(trainer)
        self._are_frozen = None
        epochs = trainer.config.max_epochs
        if epochs is not None and epochs <= self.epoch and trainer.is_main:
            logger.warning(
                f"the run has {epochs} epochs, so what trains after {self.epoch} stays frozen"
            )
        self._set(trainer)

    def on_epoch_start(self, trainer: "Trainer") -> None:
        self._set(trainer)

    def _set(self, trainer: "Trainer") -> None:
        """Bring the parts to where they are in this epoch."""
        frozen = trainer.state.epoch < self.epoch
        if frozen == self._are_frozen:
            return
        was_frozen, self._are_frozen = self._are_frozen, frozen
        task = trainer.task
        before = [parameter.requires_grad for parameter in task.parameters()]
        set_trainable(task, self._names, not frozen)
        if before != [parameter.requires_grad for parameter in task.parameters()]:
            trainer.updater.rewrap()
        if was_frozen and trainer.is_main:
            logger.info(
                f"epoch {trainer.state.epoch}: {len(self._names)} frozen tensors train from here on"
            )

    def _find(self, trainer: "Trainer") -> list[str]:
        """The parameters meant, all of them with a place in the optimizer."""
        named = dict(trainer.task.named_parameters())
        if trainer.strategy.name == "private":
            raise ConfigError(
                "model.unfreeze_epoch does not go with trainer.strategy=private, which prepares "
                "per-example gradients once; freeze for the whole run, or not at all"
            )
        if any(map(is_sharded, named.values())):
            raise ConfigError(
                "model.unfreeze_epoch does not go with trainer.strategy=fsdp; use ddp"
            )
        if self._given is None:
            found = [name for name, parameter in named.items() if not parameter.requires_grad]
        else:
            found = [name for name in named if is_named(name, self._given)]
            for prefix in self._given:
                if not any(is_named(name, [prefix]) for name in named):
                    raise ConfigError(
                        f"the task has nothing named '{prefix}' to unfreeze; "
                        f"{did_you_mean(prefix, named)}"
                    )
        if not found:
            raise ConfigError(
                "model.unfreeze_epoch is set, but nothing is frozen; set model.freeze=backbone"
            )
        trained = {id(parameter) for parameter in trainer.parameters}
        if missing := [name for name in found if id(named[name]) not in trained]:
            raise ConfigError(
                f"{len(missing)} frozen tensors such as {missing[0]} have no place in the "
                "optimizer, so they could not train later; give the task train_frozen=True"
            )
        return found
