"""GeM's p over training, in every record of the log: ``gem_p``, and its range where channels have own ones."""

from typing import TYPE_CHECKING, Any

from common.models import GeM
from common.training.callbacks import Callback

if TYPE_CHECKING:
    from common.training.trainer import Trainer

P = "gem_p"


class PoolingLog(Callback):
    """Adds the p of every learned ``GeM`` to what is logged."""

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        learned = [m for m in trainer.task.modules() if isinstance(m, GeM) and m.learnable]
        if not learned:
            return
        values = [float(p) for module in learned for p in module.p.detach()]
        record[P] = sum(values) / len(values)
        if len(values) > 1:
            record[f"{P}_min"], record[f"{P}_max"] = min(values), max(values)
