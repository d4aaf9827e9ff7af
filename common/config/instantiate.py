"""Objects named in a configuration: ``_target_: torch.nn.Linear``, behind an allow-list.

A configuration may come from somewhere else, and a callable may do anything. So a ``_target_`` has
to begin with one of our roots before anything is imported, and what it resolves to is judged by
where it is *defined*: ``common.utils.files.os.system`` is defined in ``posix`` and refused. Whole
areas that write files, fetch or unpickle by design are not on the list. All targets of a run are
checked before it starts; then Hydra's ``instantiate`` builds them.
"""

import functools
import importlib
import importlib.util
import inspect
import keyword
from collections.abc import Sequence
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
        return functools.partial(build, *args, **kwargs) if partial else build(*args, **kwargs)
    except (InstantiationException, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{section[_TARGET]}: {reason}") from error


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
    defined = importlib.import_module(module) if _below(module, _ROOTS) else None
    if not _below(identity, lists) or getattr(defined, name, None) is not found:
        kind = "a module" if isinstance(found, ModuleType) else f"{identity}"
        raise InvalidValue(key, f"is '{path}', which is {kind}: not on the allow-list")
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
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # a signature that Python cannot see
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for name in section:
        if name not in _RESERVED and name not in parameters:
            raise InvalidValue(
                prefix + name,
                f"is no argument of {section[_TARGET]}; {did_you_mean(name, parameters)}",
            )


def _locate(path: str, key: str) -> Any:
    """Follow a path through modules of our roots and then attributes; import nothing else."""
    parts = path.split(".")
    found: Any = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if found is None or (
            isinstance(found, ModuleType) and not hasattr(found, parts[count - 1])
        ):
            found = _import(name, path, key)
        else:
            found = getattr(found, parts[count - 1], None)
            foreign = isinstance(found, ModuleType) and not _is_on_the_way(found.__name__)
            if found is None or foreign:
                raise InvalidValue(key, f"is '{path}', but '{name}' is not on the allow-list")
    return found


def _import(name: str, path: str, key: str) -> ModuleType:
    try:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(name)
        if name.split(".")[0] in _OURS:
            places = (
                [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
            )
            _check_places(places, name, key)
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidValue(key, f"is '{path}', but there is no '{name}' ({error})") from None


def _check_places(places: Sequence[str | None], name: str, key: str) -> None:
    """Our packages lie in the project: a folder's ``data`` link leads to files that are not ours."""
    root = get_project_root() / name.split(".")[0]
    if "data" in name.split(".")[1:] and not name.startswith("common.data"):
        raise InvalidValue(key, f"names '{name}', where data lies, not code")
    if not places or not all(p and Path(p).resolve().is_relative_to(root) for p in places):
        raise InvalidValue(key, f"names '{name}', which lies outside the project")


def _is_on_the_way(module: str) -> bool:
    """Whether a module is below one of our roots, or above one (``torch`` for ``torch.nn``)."""
    return _below(module, _ROOTS) or any(root.startswith(f"{module}.") for root in _ROOTS)


def _below(name: str, roots: Sequence[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _is_public(part: str) -> bool:
    return part.isidentifier() and not part.startswith("_") and not keyword.iskeyword(part)
