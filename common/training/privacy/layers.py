"""Layers that break privacy: named and refused, or replaced by ones that keep examples apart.

BatchNorm normalises an example by its companions, and its running means keep what it saw. Opacus
knows such layers and their replacements; it looks at trained layers of exactly these types, so
frozen and derived ones are looked for here.
"""

from loguru import logger
from torch import nn

from common.training.task import Task
from common.utils.errors import ConfigError


def replace_layers(task: Task) -> None:
    """Put Opacus' replacement in the place of every layer that has one, in place.

    BatchNorm becomes GroupNorm, multi-head attention and recurrent layers become Opacus' own.
    Whoever evaluates such a run's weights calls this after ``task.configure``.
    """
    from opacus.validators import ModuleValidator

    for name, layer in list(task.named_modules()):
        fix = ModuleValidator.FIXERS.get(type(layer))
        if fix is None or not _complaints(layer):
            continue
        # One group: Opacus' up to 32 would leave a group of a vector a single value.
        is_vector = isinstance(layer, nn.BatchNorm1d)
        fixed = nn.GroupNorm(1, layer.num_features, layer.eps) if is_vector else fix(layer)
        replacement = fixed.train(layer.training)
        parent, _, child = name.rpartition(".")
        setattr(task.get_submodule(parent), child, replacement)
        logger.info(f"privacy: replaced {name}: {layer} by {replacement}")


def check_layers(task: Task) -> None:
    """Refuse what makes one example's gradient depend on the others, or keeps what it saw.

    Raises:
        ConfigError: naming every such layer.
    """
    refused = {name: layer for name, layer in task.named_modules() if _complaints(layer)}
    inside = tuple(f"{name}." for name in refused)
    refused = {name: layer for name, layer in refused.items() if not name.startswith(inside)}
    if refused:
        from opacus.validators import ModuleValidator

        named = ", ".join(
            f"{name or 'the task'} ({type(layer).__name__})" for name, layer in refused.items()
        )
        can_fix = all(type(layer) in ModuleValidator.FIXERS for layer in refused.values())
        advice = (
            "set trainer.privacy.replace_layers=true, or use GroupNorm and the like"
            if can_fix
            else "use GroupNorm and the like, or freeze them outside of the trained part"
        )
        raise ConfigError(f"trainer.strategy=private cannot train these layers: {named}; {advice}")


def _complaints(layer: nn.Module) -> bool:
    """Whether Opacus refuses a layer; also one without trained parameters, or a kind of one."""
    from opacus.validators import ModuleValidator

    for kind in type(layer).__mro__:
        if kind in ModuleValidator.VALIDATORS:
            return bool(ModuleValidator.VALIDATORS[kind](layer))
    trained = any(p.requires_grad for p in layer.parameters(recurse=False))
    return trained and any(True for _ in layer.buffers())
