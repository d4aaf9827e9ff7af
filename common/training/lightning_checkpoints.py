"""Read a Lightning ``.ckpt`` safely, with or without Lightning.

Only tensors and plain values are read (``weights_only=True``). The class of the task is a name in
the file, so it goes through the allow-list that configurations go through, and is only looked for
when the caller does not give the task.

    task = load_lightning_checkpoint("epoch=3-step=400.ckpt")             # written by LightningTask
    model = load_lightning_checkpoint("best.ckpt", Classifier, width=64)  # by any LightningModule
"""

import inspect
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from loguru import logger
from torch import Tensor, nn

from common.config import RunContext
from common.config.targets import resolve_target
from common.config.validate import build
from common.data.info import DatasetInfo
from common.training.task import Task
from common.utils.checkpoint import load_checkpoint, load_weights
from common.utils.errors import CheckpointError, ConfigError

Module = TypeVar("Module", bound=nn.Module)

_PREFIX_PARTS = 2  # "task.", "model.", "model._orig_mod."
_SHOWN = 5


@overload
def load_lightning_checkpoint(path: Path | str, task: None = None, **arguments: Any) -> Task: ...
@overload
def load_lightning_checkpoint(
    path: Path | str, task: Module | type[Module], **arguments: Any
) -> Module: ...
def load_lightning_checkpoint(
    path: Path | str, task: nn.Module | type[nn.Module] | None = None, **arguments: Any
) -> nn.Module:
    """The task of a Lightning checkpoint, with its weights, on the CPU.

    Args:
        path: The ``.ckpt`` file.
        task: Takes the weights: a module of the right size, or a class, which is built with the
            hyper-parameters in the file. ``None`` builds the task that ``LightningTask`` recorded.
        **arguments: Constructor arguments that are not in the file, or win over those that are.

    Returns:
        The module; weights under a prefix (``task.``, ``model.``) have come without it.

    Raises:
        CheckpointError: if the file is damaged, unsafe, or does not fit, with the differences.
        ConfigError: if the class it names is not on the allow-list or cannot be built.
    """
    path = Path(path)
    checkpoint = load_checkpoint(path, "cpu")
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path} holds no 'state_dict'; expected a checkpoint of Lightning")
    recorded = checkpoint.get("hyper_parameters")
    recorded = dict(recorded) if isinstance(recorded, Mapping) else {}
    if not isinstance(task, nn.Module):
        task = _build(task, recorded, arguments, path)
    elif arguments:
        raise ConfigError(f"{', '.join(arguments)} given for a {type(task).__name__} that is built")
    load_weights(task, _without_prefix(weights, task, path), str(path))
    return task


def task_record(
    task: Task, arguments: Mapping[str, Any] | None, info: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a checkpoint must hold so that ``load_lightning_checkpoint`` can build ``task``."""
    kind = type(task)
    return {"task": f"{kind.__module__}.{kind.__qualname__}", "arguments": arguments, "info": info}


def _build(
    kind: type[nn.Module] | None, recorded: dict[str, Any], arguments: dict[str, Any], path: Path
) -> nn.Module:
    is_ours = isinstance(recorded.get("task"), str) and "arguments" in recorded
    if kind is None:
        if not is_ours:
            raise ConfigError(
                f"{path} does not say which task it holds (LightningTask did not write it); give "
                "the task, or its class"
            )
        if recorded["task"].startswith("__main__."):
            raise ConfigError(
                f"{path}: its task was defined in the script that was run ({recorded['task']}), which "
                "cannot be found by name; give its class"
            )
        kind = resolve_target(recorded["task"], f"{path}: the task")
        if not (inspect.isclass(kind) and issubclass(kind, Task)):
            raise ConfigError(f"{path}: the task is '{recorded['task']}', which is no Task")
    parameters = inspect.signature(kind).parameters
    known = recorded["arguments"] if is_ours else recorded
    if known is None and not arguments and parameters:
        raise ConfigError(
            f"{path} does not say what {kind.__name__} was built with; give "
            f"{', '.join(parameters)}, or the task itself"
        )
    values = {name: value for name, value in (known or {}).items() if name in parameters}
    hints = typing.get_type_hints(kind.__init__)
    values = {name: _typed(hints.get(name), value) for name, value in values.items()} | arguments
    try:
        inspect.signature(kind).bind(**values)
    except TypeError as error:
        raise ConfigError(f"{path}: {kind.__name__}: {error}") from None
    built = kind(**values)
    if is_ours and recorded.get("info") is not None and isinstance(built, Task):
        built.configure(build(DatasetInfo, recorded["info"]), RunContext())
    return built


def _typed(hint: Any, value: Any) -> Any:
    """A plain section as the schema that the constructor asks for."""
    is_section = isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict)
    return build(hint, value) if is_section else value


def _without_prefix(
    weights: Mapping[str, Tensor], task: nn.Module, path: Path
) -> dict[str, Tensor]:
    """The weights below the prefix that gives most of the task's names."""
    expected = task.state_dict().keys()
    prefixes = {""}
    for key in weights:
        parts = key.split(".")[:-1][:_PREFIX_PARTS]
        prefixes |= {".".join(parts[: i + 1]) + "." for i in range(len(parts))}

    def fits(prefix: str) -> tuple[int, int]:
        return sum(prefix + name in weights for name in expected), -len(prefix)

    prefix = max(prefixes, key=fits)
    left_out = [key for key in weights if not key.startswith(prefix)]
    if left_out:
        shown = ", ".join(left_out[:_SHOWN]) + (", ..." if len(left_out) > _SHOWN else "")
        logger.warning(f"{path}: {len(left_out)} tensors outside of '{prefix}' not used: {shown}")
    return {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
