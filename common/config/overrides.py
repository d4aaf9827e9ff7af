"""What is typed after the options: ``optim.lr=1e-3``, ``+new.key=1``, ``model=arcface``.

The grammar is Hydra's own (its parser reads every word), and so is the meaning of a sweep:
``optim.lr=1e-3,1e-4``, ``seed=range(0,5)``, ``model=glob(*)``.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.utils.errors import ConfigError

COMMAND_LINE = "command line"
_MAX_RUNS = 1000


@dataclass(frozen=True)
class Override:
    """One ``key=value``.

    Attributes:
        key: The dotted key, or the name of a group.
        value: The value as the grammar reads it.
        text: The value as it was typed.
        adds: ``"+"`` for a new key, ``"++"`` for a new or known one, else empty.
    """

    key: str
    value: Any
    text: str
    adds: str


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Read overrides that name one value each.

    Raises:
        ConfigError: if a word is not an override, is a sweep, or names a key a second time.
    """
    overrides: list[Override] = []
    for word, parsed in zip(words, _parse(words), strict=True):
        if parsed.is_sweep_override():
            raise ConfigError(
                f"{COMMAND_LINE}: {word!r} is a sweep; add -m to run all of it, "
                f"or write {parsed.key_or_group}=[...] for a list"
            )
        key = parsed.key_or_group
        if any(key == other.key for other in overrides):
            raise ConfigError(f"{COMMAND_LINE}: {key} is given twice; keep one")
        adds = "++" if parsed.is_force_add() else "+" if parsed.is_add() else ""
        overrides.append(Override(key, parsed.value(), parsed.get_value_string(), adds))
    return overrides


def expand_sweep(
    words: Sequence[str], group_options: Callable[[str], list[str]]
) -> list[list[str]]:
    """The overrides of every run of a sweep: the product of all that is listed.

    Args:
        words: The overrides as typed.
        group_options: The choices of a group, for ``model=glob(*)``.

    Raises:
        ConfigError: for an override that is wrong or cannot be enumerated.
    """
    alternatives: list[list[str]] = []
    total = 1
    for word, parsed in zip(words, _parse(words), strict=True):
        if not parsed.is_sweep_override():
            alternatives.append([word])
            continue
        if not parsed.is_discrete_sweep():
            raise ConfigError(f"{COMMAND_LINE}: {word!r} has no end; list its values instead")
        value: Any = parsed.value()
        try:
            if hasattr(value, "filter"):  # glob(...)
                values = value.filter(group_options(parsed.key_or_group))
            else:
                values = list(itertools.islice(parsed.sweep_string_iterator(), _MAX_RUNS + 1))
        except (ValueError, ArithmeticError) as error:
            raise ConfigError(f"{COMMAND_LINE}: {word!r}: {error}") from None
        if not values:
            raise ConfigError(f"{COMMAND_LINE}: {word!r} lists nothing to run")
        total *= len(values)
        if total > _MAX_RUNS:
            raise ConfigError(f"{COMMAND_LINE}: more than {_MAX_RUNS} runs; sweep in parts")
        alternatives.append([f"{parsed.get_key_element()}={value}" for value in values])
    return [list(run) for run in itertools.product(*alternatives)]


def _parse(words: Sequence[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    overrides = []
    for word in words:
        where = f"{COMMAND_LINE}: {word!r}"
        if word.startswith("~"):
            raise ConfigError(f"{where}: keys are not deleted; set the value, e.g. key=null")
        key, equals, _ = word.partition("=")
        if not equals or not key.strip("+"):
            raise ConfigError(f"{where} is not an override; expected key=value")
        if key.lstrip("+").startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{where}: Hydra's own settings cannot be changed here")
        try:
            (parsed,) = parser.parse_overrides([word])
        except (HydraException, RecursionError, ValueError):
            raise ConfigError(
                f"{where} cannot be read; close brackets and quotes, and quote text that holds "
                f"other characters than letters, digits and ./:_- as {key}=\"'...'\""
            ) from None
        if parsed.package is not None:
            raise ConfigError(f"{where}: '@' is not understood; a group fills its own section")
        overrides.append(parsed)
    return overrides
