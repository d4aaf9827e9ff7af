"""Objects named in a configuration: ``_target_: torch.nn.Linear``, behind an allow-list.

A configuration may come from somewhere else, and a callable may do anything. So a ``_target_`` has
to begin with one of our roots before anything is imported, and what it resolves to is judged by
where it is *defined*: ``common.utils.files.os.system`` is defined in ``posix`` and refused. Whole
areas that write files, fetch or unpickle by design are not on the list. ``papers`` and ``projects``
hold commands beside networks, so of these only parts of a training are. All targets of a run are
checked before it starts; then Hydra's ``instantiate`` builds them.
"""

import functools
import importlib
import importlib.util
import inspect
import keyword
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from common.config.tree import plain
from common.config.validate import InvalidValue, show
from common.utils.errors import ConfigError
from common.utils.paths import get_project_root
from common.utils.text import did_you_mean

_OURS = ("common", "papers", "projects")
_ROOTS = (*_OURS, "torch.nn", "torch.optim", "torchvision.transforms", "timm")
_FUNCTIONS = (
    "common.losses",
    "common.metrics",
    "common.models",
    "papers",
    "projects",
    "torch.nn.functional",
    "torch.nn.init",
    "torchvision.transforms",
    "timm.models._factory.create_model",
)
_CLASSES = (
    "common.data",
    "common.losses",
    "common.metrics",
    "common.models",
    "common.training.callbacks",
    "papers",
    "projects",
    "torch.nn",
    "torch.optim",
    "torchvision.transforms",
    "timm.data.auto_augment",
    "timm.data.mixup",
    "timm.data.random_erasing",
    "timm.data.transforms",
    "timm.layers",
    "timm.loss",
    "timm.models",
    "timm.optim",
    "timm.scheduler",
)
_PARTS = {  # of a training; by name, so that nothing is imported to compare with
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "torch.utils.data.dataset.Dataset",
    "common.training.callbacks.base.Callback",
}
_TARGET = "_target_"
_RESERVED = {_TARGET, "_args_", "_partial_", "_recursive_", "_convert_"}
_CONVERT = ("none", "partial", "object", "all")


def instantiate(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Build the object that a section of a configuration describes.

    Args:
        node: A dict or a schema's instance with a ``_target_``; nested targets are built too.
            ``_partial_: true`` gives a callable in its place.
        *args: Positional arguments; they replace the section's ``_args_``.
        **kwargs: Arguments that no file can hold (parameters, modules); they go to the target as
            they are and win over the section's.

    Raises:
        ConfigError: if a target is not on the allow-list or does not take its arguments.
    """
    section = plain(node)
    if not isinstance(section, dict) or _TARGET not in section:
        raise ConfigError(f"expected a section with {_TARGET}, got {show(section)}")
    check_targets(section)
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    if args:
        section.pop("_args_", None)
    partial = section.get("_partial_", False)
    try:
        build = hydra_instantiate({"_convert_": "all", **section, "_partial_": True})
    except InstantiationException as error:  # of a nested target
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{section[_TARGET]}: {reason}") from error
    if partial:
        return functools.partial(build, *args, **kwargs)
    try:
        if (signature := _signature(build)) is not None:
            signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{section[_TARGET]}: {error}") from None
    return build(*args, **kwargs)


def check_targets(tree: Any, key: str = "") -> None:
    """Check every ``_target_`` in a tree, without building anything.

    Raises:
        InvalidValue: for the first that is not on the allow-list or gets an unknown argument.
    """
    if isinstance(tree, dict):
        if _TARGET in tree:
            _check_section(tree, key)
        for name, item in tree.items():
            check_targets(item, f"{key}.{name}" if key else name)
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            check_targets(item, f"{key}[{index}]")
    elif isinstance(tree, str) and "${" in tree:
        raise InvalidValue(key, f"is {show(tree)}; references are resolved before this")


def resolve_target(path: Any, key: str = _TARGET) -> Any:
    """The class or function a dotted path names, if it is on the allow-list.

    Raises:
        InvalidValue: if it is not, or does not exist.
    """
    if not isinstance(path, str) or not all(_is_public(part) for part in path.split(".")):
        raise InvalidValue(key, f"is {show(path)}, expected a path such as torch.nn.Linear")
    if not _below(path, _ROOTS) or path in _ROOTS:
        raise InvalidValue(
            key, f"is '{path}', which is not allowed; allowed: below {', '.join(_ROOTS)}"
        )
    found = _locate(path, key)
    module, name = str(getattr(found, "__module__", "")), str(getattr(found, "__qualname__", ""))
    identity = f"{module}.{name}"
    lists = _CLASSES if inspect.isclass(found) else _FUNCTIONS if inspect.isfunction(found) else ()
    if not _below(identity, lists) or getattr(sys.modules.get(module), name, None) is not found:
        really = "" if identity == path else f" (it is {identity.strip('.') or 'a module'})"
        raise InvalidValue(key, f"is '{path}'{really}, which is not on the allow-list")
    if _below(module, ("papers", "projects")) and not _gives_a_part(found):
        raise InvalidValue(
            key,
            f"is '{path}', which is no part of a training; of papers and projects a target is a "
            "network, loss, task, data set, optimizer, schedule or callback, or a function whose "
            "annotation says that it returns one",
        )
    return found


def _check_section(section: dict[str, Any], key: str) -> None:
    prefix = f"{key}." if key else ""
    target = resolve_target(section[_TARGET], f"{prefix}{_TARGET}")
    for name, value in section.items():
        if name.startswith("_") and name not in _RESERVED:
            raise InvalidValue(prefix + name, f"is not a key; {did_you_mean(name, _RESERVED)}")
        if name in ("_partial_", "_recursive_") and not isinstance(value, bool):
            raise InvalidValue(prefix + name, f"is {show(value)}, expected true or false")
        if name == "_args_" and not isinstance(value, list):
            raise InvalidValue(prefix + name, f"is {show(value)}, expected a list")
        if name == "_convert_" and value not in _CONVERT:
            raise InvalidValue(prefix + name, f"is {show(value)}, expected one of {_CONVERT}")
    signature = _signature(target)
    parameters = signature.parameters if signature is not None else {}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in section if parameters and not takes_any else ():
        if name not in _RESERVED and name not in parameters:
            raise InvalidValue(
                prefix + name,
                f"is no argument of {section[_TARGET]}; {did_you_mean(name, parameters)}",
            )


def _locate(path: str, key: str) -> Any:
    """Follow a path through modules of our roots and then attributes; import nothing else."""
    first, *rest = path.split(".")
    name, found = first, _import(first, path, key)
    for part in rest:
        outer, name = found, f"{name}.{part}"
        found = getattr(outer, part, None)
        if found is None and hasattr(outer, "__path__"):
            found = _import(name, path, key)
        if found is None:
            hint = did_you_mean(part, (n for n in dir(outer) if _is_public(n)))
            raise InvalidValue(key, f"is '{path}', but there is no '{name}'; {hint}")
        if isinstance(found, ModuleType) and not _is_on_the_way(found.__name__):
            raise InvalidValue(key, f"is '{path}', but '{name}' is not on the allow-list")
    return found


def _import(name: str, path: str, key: str) -> ModuleType | None:
    """A package or module of one of our roots; ``None`` if there is none of this name."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if name.split(".")[0] in _OURS:
        _check_places([spec.origin, *(spec.submodule_search_locations or [])], name, key)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidValue(key, f"is '{path}', but importing '{name}' fails: {error}") from None


def _check_places(places: Sequence[str | None], name: str, key: str) -> None:
    """Our code lies in the project; below a paper's ``data`` lies what others have written."""
    package, *rest = name.split(".")
    root = get_project_root() / package
    inside = [Path(place).resolve().is_relative_to(root) for place in places if place]
    if not inside or not all(inside) or (package != "common" and "data" in rest):
        raise InvalidValue(key, f"names '{name}', which is not code of this project")


def _gives_a_part(found: Any) -> bool:
    """Whether a class is a part of a training, or a function says that it returns one."""
    if not inspect.isclass(found):
        try:
            found = typing.get_type_hints(found).get("return")
        except (NameError, TypeError):  # of a name that is there for type checkers alone
            return False
    bases = found.__mro__ if inspect.isclass(found) else ()
    return any(f"{base.__module__}.{base.__qualname__}" in _PARTS for base in bases)


def _signature(target: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except ValueError:  # written in C, without a signature
        return None


def _is_on_the_way(module: str) -> bool:
    """Whether a module is below one of our roots, or above one (``torch`` for ``torch.nn``)."""
    return _below(module, _ROOTS) or any(root.startswith(f"{module}.") for root in _ROOTS)


def _below(name: str, roots: Sequence[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _is_public(part: str) -> bool:
    return part.isidentifier() and not part.startswith("_") and not keyword.iskeyword(part)
