"""What a model is made of and what it costs: parameters per module, FLOPs per example.

print(summarize(task, batch))
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.training.rng import preserved_rng
from common.training.task import Batch, Task, batch_size, to_device
from common.visualization.tables import text_table

_NO_MODULE = "(in no module)"


@dataclass(frozen=True)
class ModuleSummary:
    """A module with all that is inside it.

    Attributes:
        name: Its path from the task.
        kind: Its class.
        parameters: Numbers in its parameters; one shared with a module before it counts there.
        trained: Those of them that are trained.
        flops: Of its forward pass, per example; of a container, those of its parts.
        tied: Parameters it uses that count elsewhere, by the name under which they count.
    """

    name: str
    kind: str
    parameters: int
    trained: int
    flops: float
    tied: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its class, and what it is tied to."""
        tied = f"tied to {', '.join(self.tied)}" if self.tied else ""
        return ", ".join(filter(None, [self.kind, tied]))


@dataclass(frozen=True)
class ModelSummary:
    """A task's modules and totals; ``str`` gives a table.

    A multiplication and an addition are two FLOPs. Matrix products, convolutions and attention
    count, as in ``torch.utils.flop_counter``; element-wise work does not, and causal attention
    counts whole.

    Attributes:
        modules: In the order of definition, down to the depth asked for; last, if it costs
            anything, what is computed in no module, such as a product with a tied matrix.
        parameters: Numbers in all parameters, shared ones once.
        trained: Those of them that are trained.
        forward_flops: Of the forward pass and the loss, per example; also what is in no module.
        training_flops: Of forward and backward pass, per example.
        batch_size: Examples in the batch this was measured on.
    """

    modules: tuple[ModuleSummary, ...]
    parameters: int
    trained: int
    forward_flops: float
    training_flops: float
    batch_size: int

    def __str__(self) -> str:
        columns = [
            [row.name for row in self.modules],
            [row.label for row in self.modules],
            _aligned([f"{row.parameters:,}" for row in self.modules]),
            _aligned([f"{row.trained:,}" for row in self.modules]),
            _aligned([_si(row.flops) for row in self.modules]),
            _aligned([f"{row.flops / (self.forward_flops or 1.0):.1%}" for row in self.modules]),
        ]
        rows = list(zip(*columns, strict=True))
        headers = ("module", "kind", "parameters", "trained", "forward FLOPs", "share")
        return (
            f"{text_table(rows, headers)}\n"
            f"{self.parameters:,} parameters, {self.trained:,} trained; FLOPs per example: "
            f"{_si(self.forward_flops)} forward, {_si(self.training_flops)} forward + backward"
        )


def summarize(task: Task, batch: Batch, depth: int = 2) -> ModelSummary:
    """Count a task's parameters and run a copy of it on one batch to count its FLOPs.

    The task and the generators are left as they are. Only the forward pass is told apart by
    module: in the backward pass of a model with several inputs nothing says where a module ends.

    Args:
        task: Configured, on any device.
        batch: A training batch.
        depth: How many levels of modules to list; 1 lists the task's own children.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected at least 1")
    size = batch_size(batch)
    by_module, forward, training, borrowed = _count_flops(task, batch)
    owners = _owners(task)
    names = {p: name for name, p in task.named_parameters()}
    rows = []
    for name, module in task.named_modules():
        if name and name.count(".") < depth:
            owned = [p for owner, p in owners if _is_inside(owner, name)]
            rows.append(
                ModuleSummary(
                    name,
                    type(module).__name__,
                    sum(p.numel() for p in owned),
                    sum(p.numel() for p in owned if p.requires_grad),
                    _flops_inside(module, name, by_module) / size,
                    tuple(
                        names[p]
                        for p in module.parameters()
                        if not _is_inside(names[p].rpartition(".")[0], name)
                    ),
                )
            )
    parts = (_flops_inside(module, name, by_module) for name, module in task.named_children())
    if (rest := forward - sum(parts)) > 0:
        rows.append(ModuleSummary(_NO_MODULE, "", 0, 0, rest / size, borrowed))
    parameters = [p for _, p in owners]
    return ModelSummary(
        tuple(rows),
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        forward / size,
        training / size,
        size,
    )


class _Step(nn.Module):
    """A training step as a forward pass: the root from which modules get their names."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.train_step(batch).loss_sum


class _Borrowed(TorchFunctionMode):
    """Notes the parameters that are used while no module of the task is at work."""

    def __init__(self, task: Task, parents: Callable[[], set[str]]) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in task.named_parameters()}
        self._parents = parents
        self.found: dict[str, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._parents() <= {"Global", _Step.__name__}:
            used = (*args, *(kwargs or {}).values())
            named = (self._names[id(value)] for value in used if id(value) in self._names)
            self.found |= dict.fromkeys(named)
        return func(*args, **(kwargs or {}))


def _count_flops(task: Task, batch: Batch) -> tuple[dict[str, int], int, int, tuple[str, ...]]:
    """FLOPs of a forward pass by module and in all, of forward and backward pass in all.

    Last, the parameters that the forward pass uses outside of all modules.
    """
    from torch.utils.flop_counter import FlopCounterMode

    step = _Step(copy.deepcopy(task).train())
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    batch = to_device(batch, device)
    with preserved_rng(), torch.enable_grad():
        forward = FlopCounterMode(display=False)
        borrowed = _Borrowed(step.task, lambda: forward.mod_tracker.parents)
        with torch.no_grad(), forward, borrowed:
            step(batch)
        with FlopCounterMode(display=False) as training:
            step(batch).backward()
    prefix = f"{_Step.__name__}.task."
    by_module = {
        name.removeprefix(prefix): sum(counts.values())
        for name, counts in forward.get_flop_counts().items()
        if name.startswith(prefix)
    }
    totals = forward.get_total_flops(), training.get_total_flops()
    return by_module, *totals, tuple(borrowed.found)


def _flops_inside(module: nn.Module, name: str, by_module: dict[str, int]) -> int:
    """FLOPs of a module, also if it is never called itself, like a ``ModuleList``."""
    parts = (_flops_inside(m, f"{name}.{n}", by_module) for n, m in module.named_children())
    return max(by_module.get(name, 0), sum(parts))


def _owners(task: Task) -> list[tuple[str, nn.Parameter]]:
    """Every parameter once, with the first module that has it."""
    return [(name.rpartition(".")[0], p) for name, p in task.named_parameters()]


def _is_inside(owner: str, name: str) -> bool:
    return owner == name or owner.startswith(f"{name}.")


def _si(value: float) -> str:
    """A number with a unit prefix: ``3.63 G``."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}"


def _aligned(cells: list[str]) -> list[str]:
    width = max(map(len, cells), default=0)
    return [cell.rjust(width) for cell in cells]
