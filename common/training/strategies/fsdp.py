"""Fully sharded data parallelism: every rank keeps a part of weights, gradients and moments.

PyTorch's FSDP2 (``fully_shard``; Zhao et al. 2023, 2304.11277; the idea: Rajbhandari et al. 2020,
1910.02054). The weights of a unit (``Task.blocks``) come together while it computes.
Checkpoints are whole, so that every strategy and number of processes reads them.

    torchrun --nproc-per-node 2 -m papers.attention_is_all_you_need.train trainer.strategy=fsdp
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn import Parameter
from torch.optim import Optimizer

from common.training.gradients import clip_gradients, gradient_norm
from common.training.sharding import whole
from common.training.strategies.distributed import DistributedStrategy, persistent_buffers
from common.training.task import Batch, StepOutput, Task
from common.training.update import TrainStep
from common.utils.checkpoint import check_weights
from common.utils.errors import ConfigError

_STEPS = ("train_step", "eval_step", "predict_step")
_SAVED = StateDictOptions(full_state_dict=True, cpu_offload=True)
_LOADED = StateDictOptions(full_state_dict=True, strict=False)
_HOOKS = tuple(
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, dict) and name not in ("_parameters", "_buffers", "_modules")
)


class FSDPStrategy(DistributedStrategy):
    """Shards a task along the first axis of each of its parameters."""

    name = "fsdp"

    def __init__(self, device: str = "auto") -> None:
        super().__init__(device)
        self._root: FSDPModule | None = None
        self._before: dict[nn.Module, tuple[type[nn.Module], set[tuple[str, Any]]]] = {}

    def place(self, task: Task) -> Task:
        """Shard the main rank's weights.

        Raises:
            ConfigError: if a parameter has no axis to be sharded along.
        """
        for name, parameter in task.named_parameters():
            if parameter.ndim == 0:
                raise ConfigError(
                    f"trainer.strategy=fsdp cannot shard {type(task).__name__}.{name}, a scalar; "
                    "give it the shape (1,), or use trainer.strategy=ddp"
                )
        self._from_main(task.state_dict().values())
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        self._before = {module: (type(module), _entries(module)) for module in task.modules()}
        for module in [*task.blocks(), task]:
            # Also the root, so that between steps all parameters are the optimizer's shards.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for step in _STEPS:
            register_fsdp_forward_method(task, step)
        self.lockstep = True
        self._before = {m: (kind, _entries(m) - had) for m, (kind, had) in self._before.items()}
        return task

    def wrap(self, task: Task) -> TrainStep:
        assert isinstance(task, FSDPModule)
        self._root = task
        buffers = persistent_buffers(task)

        def train_step(batch: Batch) -> StepOutput:
            self._from_main(buffers)
            return task.train_step(batch)

        return train_step

    def clip(self, parameters: Sequence[Parameter], max_norm: float) -> Tensor:
        norm = self.sum(gradient_norm(parameters).square()).sqrt()
        return clip_gradients(parameters, max_norm, norm)

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[None]:
        return self._syncing(enabled)

    @contextmanager
    def _syncing(self, enabled: bool) -> Iterator[None]:
        if self._root is not None:
            self._root.set_requires_gradient_sync(enabled)
        yield

    def model_state(self, task: Task) -> dict[str, Tensor]:
        saved: dict[str, Any] = get_model_state_dict(task, options=_SAVED)
        return saved

    def load_model(self, task: Task, state: dict[str, Tensor], source: str) -> None:
        check_weights(task, state, source)
        set_model_state_dict(task, dict(state), options=_LOADED)

    def optimizer_state(self, task: Task, optimizer: Optimizer) -> dict[str, Any]:
        if not optimizer.state:  # PyTorch would make a first state by a step
            return optimizer.state_dict()
        named: dict[str, Any] = get_optimizer_state_dict(task, optimizer, options=_SAVED)
        if self.rank:
            return {}
        names = _names(task, optimizer)
        state = {i: named["state"][n] for i, n in enumerate(names) if n in named["state"]}
        return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}

    def load_optimizer(self, task: Task, optimizer: Optimizer, state: dict[str, Any]) -> None:
        if not state["state"]:
            optimizer.load_state_dict(state)
            return
        names = _names(task, optimizer)
        groups = [
            {**group, "params": [names[index] for index in group["params"]]}
            for group in state["param_groups"]
        ]
        moments = {names[index]: values for index, values in state["state"].items()}
        named: dict[str, Any] = {"state": moments, "param_groups": groups}
        set_optimizer_state_dict(task, optimizer, named, options=_LOADED)

    @torch.no_grad()
    def release(self, task: Task) -> None:
        """Put whole parameters in the place of shards and take away what sharding added.

        The optimizer keeps its shards: it is of no more use.
        """
        parameters: dict[Tensor, Parameter] = {}
        for module in task.modules():
            for name, shard in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if shard not in parameters:
                    parameters[shard] = Parameter(whole(shard), shard.requires_grad)
                module.register_parameter(name, parameters[shard])
        for module, (kind, added) in self._before.items():
            module.__class__ = kind
            _module_state_mapping.pop(module, None)  # PyTorch's own list of what was sharded
            for name, hook in added:
                if hook is None:
                    vars(module).pop(name, None)
                else:
                    vars(module)[name].pop(hook, None)
        self._root = None
        self._before = {}
        self.lockstep = False


def _entries(module: nn.Module) -> set[tuple[str, Any]]:
    """A module's own attributes as (name, None), and its hooks as (kind of hook, key)."""
    hooks = chain.from_iterable(((name, key) for key in vars(module)[name]) for name in _HOOKS)
    return {(name, None) for name in vars(module)} | set(hooks)


def _names(task: Task, optimizer: Optimizer) -> list[str]:
    """The parameters' names in the order in which ``Optimizer.state_dict`` numbers them."""
    names = {parameter: name for name, parameter in task.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
