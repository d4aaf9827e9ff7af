"""Any ``Task`` under ``lightning.Trainer``: the same step, optimizer groups, schedule and metrics.

    module = LightningTask(task, OptimizerConfig(lr=1e-3), ScheduleConfig("cosine"), info=info)
    lightning.Trainer(max_epochs=3).fit(module, LightningLoader(train), LightningLoader(validation))

Needs the extra ``lightning``. Reading checkpoints does not: see ``lightning_checkpoints``.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from common.config import RunContext
from common.config.tree import plain
from common.data.foreign import as_epoch_loader
from common.data.info import DatasetInfo
from common.training.lightning_checkpoints import load_lightning_checkpoint, task_record
from common.training.meters import Collector, Meter, averages
from common.training.optim import OptimizerConfig, build_optimizer
from common.training.schedules import ScheduleConfig, build_schedule
from common.training.task import Batch, StepOutput, Task
from common.utils.errors import ConfigError, DataError

__all__ = ["LightningLoader", "LightningTask", "load_lightning_checkpoint"]


class LightningTask(pl.LightningModule):
    """A task as a ``LightningModule``.

    Metrics are averaged by ``StepOutput.weight``, over batches and ranks. Lightning averages the
    gradients of micro-batches and ranks whatever they weigh; where weights differ (tokens), only
    our own Trainer's gradient is that of the whole batch.

    Args:
        task: What to train.
        optim: The optimizer; AdamW by default.
        schedule: The learning rate's course, for every update; constant by default.
        info: What the data says of itself; given, the task is configured with it.
        arguments: What the task was built with (plain values or dataclasses), so that
            ``load_lightning_checkpoint`` can build it again from the checkpoint alone.
    """

    def __init__(
        self,
        task: Task,
        optim: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        *,
        info: DatasetInfo | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if info is not None:
            task.configure(info, RunContext())
        self.task = task
        self.optim = optim or OptimizerConfig()
        self.schedule = schedule or ScheduleConfig()
        self._meter, self._collector = Meter(), Collector()
        record = task_record(
            task,
            {name: plain(value) for name, value in arguments.items()} if arguments else None,
            plain(info) if info is not None else None,
        )
        self.save_hyperparameters(
            record | {"optim": asdict(self.optim), "schedule": asdict(self.schedule)}
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The task's own ``forward``."""
        return self.task(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        """Our groups and our schedule, which moves with every update."""
        optimizer = build_optimizer(self.optim, self.task)
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ConfigError("set max_steps or max_epochs of lightning.Trainer: it has no end")
        schedule = build_schedule(self.schedule, int(total))
        # Lightning counts updates from 0, a schedule from 1.
        scheduler = LambdaLR(optimizer, lambda step: schedule(step + 1))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of a micro-batch; ``train/...`` is logged for the epoch."""
        output = self.task.train_step(batch)
        weight = float(output.weight) or 1.0
        counted = weight if output.metrics_weight is None else float(output.metrics_weight) or 1.0
        means = {name: value / counted for name, value in output.metrics.items()}
        loss = output.loss_sum / weight
        values = {"loss": loss.detach()} | means
        self.log_dict(
            {f"train/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=max(round(weight), 1),
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects one batch's sums."""
        self._count(self.task.eval_step(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects one batch's sums."""
        self._count(self.task.eval_step(batch))

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """The task's ``predict_step``."""
        return self.task.predict_step(batch)

    def on_validation_epoch_start(self) -> None:
        self._forget()

    def on_test_epoch_start(self) -> None:
        self._forget()

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _forget(self) -> None:
        self._meter, self._collector = Meter(), Collector()

    def _count(self, output: StepOutput) -> None:
        self._meter.add(output, samples=0)
        self._collector.add_rows(output.collected)

    def _log_evaluation(self, prefix: str) -> None:
        names, totals = self._meter.totals(self.device)
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        metrics = averages(names, totals, prefix)
        whole = self._collector.result(self._gather_rows)
        extra = self.task.compute_metrics(whole) if whole else {}
        metrics |= {f"{prefix}/{name}": float(value) for name, value in extra.items()}
        # Every rank has the same numbers; sync_dist only keeps Lightning from asking for it.
        self.log_dict(metrics, sync_dist=self.trainer.world_size > 1)

    def _gather_rows(self, rows: Tensor) -> Tensor:
        """All ranks' rows; ranks may have different numbers of them."""
        if self.trainer.world_size == 1:
            return rows
        gather: Callable[[Tensor], Any] = self.all_gather
        counts = gather(torch.tensor(len(rows), device=self.device)).tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = gather(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class LightningLoader:
    """A loader of this project as Lightning reads one: the order is still that of (seed, epoch).

    Lightning tells a loader's ``sampler`` the epoch before it reads it; here that is the loader
    itself. Each rank reads its share of the same global batch.

    Args:
        loader: What ``Trainer.fit`` accepts.
        seed: Of the order, for a loader without one of its own.
    """

    batch_sampler = None  # asked for of every object that has a sampler

    def __init__(self, loader: Any, seed: int = 0) -> None:
        self._loader = as_epoch_loader(loader, seed)
        self._epoch = 0

    @property
    def sampler(self) -> "LightningLoader":
        """What Lightning calls ``set_epoch`` on."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is read next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._loader.num_batches(self._epoch)

    def __iter__(self) -> Iterator[Batch]:
        shared = dist.is_available() and dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if shared else (0, 1)
        for batch in self._loader.batches(self._epoch, 0, rank, world_size):
            if batch is None:
                raise DataError(
                    f"a batch has fewer examples than the {world_size} processes, which Lightning "
                    "cannot do; use a larger batch_size or drop_last=True"
                )
            yield batch
