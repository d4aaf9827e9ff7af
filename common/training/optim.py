"""Optimizers by name, with every trainable tensor in exactly one group."""

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from common.config import option
from common.training.task import Task
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean


@dataclass
class OptimizerConfig:
    """Which optimizer, and its values; what is left out keeps the optimizer's own default."""

    name: str = option("any optimizer of torch.optim, in any case: adamw, adam, sgd, ...", "adamw")
    lr: float | None = option("peak learning rate", 1e-3, gt=0)
    weight_decay: float = option("decoupled weight decay (matrices only)", 0.0, ge=0)
    betas: list[float] | None = option("Adam's decay rates", None)
    eps: float | None = option("added to the denominator", None, gt=0)
    momentum: float | None = option("SGD's momentum", None, ge=0, lt=1)
    nesterov: bool | None = option("Nesterov's momentum", None)


def build_optimizer(config: OptimizerConfig, task: Task) -> Optimizer:
    """Make the optimizer over ``task.parameter_groups``; fused where the kernels exist.

    A group's ``lr_scale`` is the factor of its peak rate.

    Raises:
        ConfigError: for an unknown optimizer, a value it does not take, or no learning rate.
        ValueError: if a trainable tensor of the task is in no group, or in two.
    """
    kind, values = optimizer_values(config)
    if config.lr is None:
        raise ConfigError("optim.lr is not set; give a peak learning rate, e.g. optim.lr=1e-3")
    groups = task.parameter_groups(config.weight_decay)
    _check_groups(task, groups)
    for group in groups:
        if (scale := group.pop("lr_scale", None)) is not None:
            group["lr"] = config.lr * scale
    # Fused SGD takes no group in which some parameters have a momentum and others not yet.
    waits = kind is torch.optim.SGD and any(
        not parameter.requires_grad for group in groups for parameter in group["params"]
    )
    if "fused" in inspect.signature(kind).parameters and _can_fuse(task) and not waits:
        values["fused"] = True
    return kind(groups, **values)


def checked_optimizer(optim: OptimizerConfig | Optimizer | None, task: Task) -> Optimizer:
    """An optimizer that is given, once every trainable tensor is found in it, or a new one.

    Args:
        optim: An optimizer over the parameters of ``task``, or the values of one; AdamW by default.
        task: Placed where it is trained.

    Raises:
        ConfigError, ValueError: as ``build_optimizer``.
    """
    if not isinstance(optim, Optimizer):
        return build_optimizer(optim or OptimizerConfig(), task)
    _check_groups(task, optim.param_groups)
    return optim


def optimizer_values(config: OptimizerConfig) -> tuple[type[Optimizer], dict[str, Any]]:
    """The optimizer's class and the arguments that ``config`` sets.

    Raises:
        ConfigError: for an unknown optimizer, or a value it does not take.
    """
    known = {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    kind = known.get(config.name.lower())
    if kind is None:
        raise ConfigError(
            f"optim.name is '{config.name}': {did_you_mean(config.name.lower(), known)}"
        )
    values: dict[str, Any] = {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "betas": tuple(config.betas) if config.betas is not None else None,
        "eps": config.eps,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
    }
    values = {key: value for key, value in values.items() if value is not None}
    accepted = inspect.signature(kind).parameters
    for key in values.keys() - accepted.keys():
        if key != "weight_decay" or values[key]:
            raise ConfigError(f"optim.{key} is set, but torch.optim.{kind.__name__} has no {key}")
        del values[key]
    return kind, values


def _can_fuse(task: Task) -> bool:
    trained = [p for p in task.parameters() if p.requires_grad]
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)


def _check_groups(task: Task, groups: list[dict[str, Any]]) -> None:
    counts = Counter(id(p) for group in groups for p in group["params"])
    for name, parameter in task.named_parameters():
        if parameter.requires_grad and counts[id(parameter)] != 1:
            where = "no parameter group" if not counts[id(parameter)] else "several groups"
            raise ValueError(f"{type(task).__name__}.{name} is in {where}; it must be in one")
