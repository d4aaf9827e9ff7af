"""What a paper writes: a ``Task`` turns a batch into a loss and knows nothing of the machinery.

A simple task writes ``compute_loss(batch)``. A task with more to say overrides ``train_step`` and
``eval_step``. No task knows a device, a rank, a logger or a checkpoint.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from common.config import RunContext
from common.data.info import DatasetInfo

Batch: TypeAlias = Any
Weight: TypeAlias = Tensor | int | float


@dataclass(slots=True)
class StepOutput:
    """What one micro-batch contributes; sums, so that parts of a batch add up.

    The trainer divides by the weight of the whole global batch, over micro-batches and ranks:
    accumulation, bucketing and the number of processes cannot change the gradient.

    Attributes:
        loss: Scalar, the loss summed over the units of ``weight``; differentiable.
        weight: How many units (examples or tokens) the sum covers.
        metrics: Further sums over the same units, reported divided by the weight.
        collected: Tensors with a leading batch axis that ``Task.compute_metrics`` sees once, whole,
            at the end of an evaluation.
        metrics_weight: What the metrics are divided by where that is not ``weight``: examples, if
            the loss counts some of them more than others.
        has_loss: False where an evaluation has none: ``loss`` is then 0 and is not reported.
        is_mean: The loss (not the metrics) is a mean over the units. A micro-batch that is a whole
            batch is then differentiated just as it is.
    """

    loss: Tensor
    weight: Weight
    metrics: dict[str, Tensor] = field(default_factory=dict)
    collected: dict[str, Tensor] = field(default_factory=dict)
    is_mean: bool = False
    metrics_weight: Weight | None = None
    has_loss: bool = True

    @property
    def loss_sum(self) -> Tensor:
        """The loss summed over the units of ``weight``; differentiable."""
        return self.loss * self.weight if self.is_mean else self.loss


class Task(nn.Module):
    """A model with its loss: the unit the ``Trainer`` trains."""

    def configure(self, info: DatasetInfo, context: RunContext) -> None:
        """Size the model from the data, before the optimizer sees any parameter.

        Args:
            info: What the data says of itself (sizes, classes, vocabulary).
            context: Where values the data decides are recorded (``context.resolve``).
        """

    def compute_loss(self, batch: Batch) -> Any:
        """The mean loss of a batch: a scalar, or a dict or dataclass with ``loss`` and metrics."""
        raise TypeError(
            f"{type(self).__name__} defines neither compute_loss(batch) nor train_step(batch)"
        )

    def forward_batch(self, batch: Batch) -> Any:
        """Override for batches that need preparation; returns what ``compute_loss`` returns."""
        return self.compute_loss(batch)

    def train_step(self, batch: Batch) -> StepOutput:
        """Loss and metrics of one training micro-batch."""
        return as_step_output(self.forward_batch(batch), batch_size(batch))

    def eval_step(self, batch: Batch) -> StepOutput:
        """Loss and metrics of one evaluation batch; gradients are off."""
        return self.train_step(batch)

    def predict_step(self, batch: Batch) -> Any:
        """What ``Trainer.predict`` gives for a batch; by default the module's own output."""
        return self(batch)

    def compute_metrics(self, collected: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics over a whole evaluation, from what the steps ``collected`` (on their device)."""
        return {}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimizer: matrices decay, vectors (biases, norms, scales) do not."""
        trained = [p for p in self.parameters() if p.requires_grad]
        if weight_decay == 0.0:
            return [{"params": trained}]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, innermost first; by default the members of every ``nn.ModuleList``.

        ``strategy=fsdp`` brings the weights of one block at a time together, so only a call
        (``block(...)``) sees whole weights; what is in no block is whole during a step.
        ``trainer.activation_checkpointing`` computes a block's activations twice.
        """
        units: dict[nn.Module, None] = {}
        waiting: list[nn.Module] = [self]
        while waiting:
            module = waiting.pop()
            is_stack = isinstance(module, nn.ModuleList)
            for child in module.children():
                if is_stack and not isinstance(child, nn.ModuleList | nn.ModuleDict):
                    units[child] = None
                else:
                    waiting.append(child)
        return list(units)


def as_step_output(result: Any, weight: int) -> StepOutput:
    """Read what ``compute_loss`` returned: a mean loss, alone or named among metrics.

    Args:
        result: A scalar tensor, or a mapping or dataclass with ``loss`` and scalar metrics.
        weight: The number of examples the means are over.

    Raises:
        TypeError: for anything else, saying what came.
    """
    if isinstance(result, Tensor):
        return StepOutput(result, weight, is_mean=True)
    if isinstance(result, StepOutput):
        return result
    if type(result) is not dict:  # what follows is slower, and dicts are the common case
        if is_dataclass(result) and not isinstance(result, type):
            result = {entry.name: getattr(result, entry.name) for entry in fields(result)}
        elif isinstance(result, Mapping):
            result = dict(result)
    if isinstance(result, dict) and isinstance(result.get("loss"), Tensor):
        metrics = {
            key: (value if isinstance(value, Tensor) else torch.as_tensor(value)) * weight
            for key, value in result.items()
            if key != "loss" and value is not None
        }
        return StepOutput(result["loss"], weight, metrics, is_mean=True)
    raise TypeError(
        "compute_loss must return a scalar tensor, or a dict or dataclass with a tensor 'loss'; "
        f"got {type(result).__name__}"
    )


def tensors_of(batch: Batch) -> Iterable[Tensor]:
    """All tensors of a batch, depth first."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)


def batch_size(batch: Batch) -> int:
    """The length of the first tensor of a batch; 1 if there is none."""
    if type(batch) is dict:  # the common case, without a generator's cost at every step
        for value in batch.values():
            if isinstance(value, Tensor):
                return value.shape[0] if value.ndim else 1
            break
    first = next(iter(tensors_of(batch)), None)
    return first.shape[0] if first is not None and first.ndim else 1


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch with its tensors on ``device``; the copy does not wait where memory is pinned.

    Args:
        batch: Tensors, in mappings and sequences.
        device: Where they go.
        channels_last: Lay images, tensors ``(B, C, H, W)``, out with the channels innermost.
    """
    if isinstance(batch, Tensor):
        if channels_last and batch.ndim == 4:
            return batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        return batch if batch.device == device else batch.to(device, non_blocking=True)
    if type(batch) is dict and not channels_last:
        for value in batch.values():
            if type(value) is not Tensor or value.device != device:
                break
        else:
            return batch  # the common case on a CPU: everything is there
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return rebuilt(batch, [to_device(value, device, channels_last) for value in batch])
    return batch


def rebuilt(sequence: Any, values: list[Any]) -> Any:
    """``values`` as a sequence of the same kind, named tuples included."""
    if hasattr(sequence, "_fields"):
        return type(sequence)(*values)
    return type(sequence)(values)
