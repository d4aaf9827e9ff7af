"""Optuna's samplers and pruners by the name a configuration gives, with arguments that they take."""

import inspect
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config.validate import show
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean
from projects.image_classification.core.config import SearchConfig
from projects.image_classification.core.search.space import Parameter
from projects.image_classification.core.search.studies import import_optuna

SAMPLERS = (
    "TPESampler",
    "RandomSampler",
    "CmaEsSampler",
    "GridSampler",
    "QMCSampler",
    "GPSampler",
    "BruteForceSampler",
)
PRUNERS = (
    "MedianPruner",
    "PercentilePruner",
    "HyperbandPruner",
    "SuccessiveHalvingPruner",
    "ThresholdPruner",
    "WilcoxonPruner",
    "NopPruner",
)
WILCOXON = "WilcoxonPruner"
_DEFAULTS = {"PercentilePruner": {"percentile": 25.0}}
_OURS = {"seed": "it comes from seed", "search_space": "it comes from search.search_space"}
_KINDS = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "None": ()}


def build_sampler(search: SearchConfig, parameters: Sequence[Parameter], seed: int) -> Any:
    """The sampler of ``search.sampler``; TPE by default.

    Raises:
        ConfigError: for an unknown name or argument, and a sampler that does not fit the space.
    """
    optuna = import_optuna()
    name = search.sampler.type or "TPESampler"
    kind = _named(optuna.samplers, name, SAMPLERS, "search.sampler.type")
    options = _checked_options(kind, search.sampler.options, "search.sampler.options")
    if name == "GridSampler":
        options["search_space"] = {each.key: each.grid() for each in parameters}
    if name == "CmaEsSampler":
        _check_cma_es(parameters)
    return _build(kind, {**options, "seed": seed}, "search.sampler")


def build_pruner(search: SearchConfig, over_folds: bool) -> Any:
    """The pruner of ``search.pruner``; by default the median, or Wilcoxon's test over folds.

    Args:
        search: The section.
        over_folds: Whether a trial is the mean of folds.

    Raises:
        ConfigError: for an unknown name or argument.
    """
    optuna = import_optuna()
    name = search.pruner.type or (WILCOXON if over_folds else "MedianPruner")
    kind = _named(optuna.pruners, name, PRUNERS, "search.pruner.type")
    if name == WILCOXON and not over_folds:
        raise ConfigError(
            "search.pruner.type is WilcoxonPruner, which compares folds, but a trial trains one "
            "fold; set search.fold=all (--fold all), or take MedianPruner"
        )
    options = _checked_options(kind, search.pruner.options, "search.pruner.options")
    return _build(kind, {**_DEFAULTS.get(name, {}), **options}, "search.pruner")


def sampler_seed(seed: int, is_first: bool) -> int:
    """The seed of this process's sampler.

    The process that begins a study takes the configuration's, so that the same command on a new
    study tries the same values. One that joins or resumes mixes in its process and machine: two
    with the same seed would try the same values.
    """
    if is_first:
        return seed
    words = [seed, os.getpid(), *socket.gethostname().encode(), *os.urandom(4)]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _named(module: Any, name: str, names: Sequence[str], key: str) -> type:
    if name not in names or not hasattr(module, name):
        raise ConfigError(f"{key} is '{name}': {did_you_mean(name, names)}")
    found: type = getattr(module, name)
    return found


def _checked_options(kind: type, options: Mapping[str, Any], key: str) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    for name, value in options.items():
        if name in _OURS and name in parameters:
            raise ConfigError(f"{key}.{name} cannot be set: {_OURS[name]}")
        if name not in parameters:
            free = [each for each in parameters if each not in _OURS]
            raise ConfigError(
                f"{key}.{name} is no argument of {kind.__name__}; {did_you_mean(name, free)}"
            )
        _check_kind(f"{key}.{name}", value, str(parameters[name].annotation).strip("'\""))
    return dict(options)


def _check_kind(key: str, value: Any, annotation: str) -> None:
    words = [word.strip() for word in annotation.split("|")]
    if not all(word in _KINDS for word in words):
        raise ConfigError(f"{key} is {annotation} in Python, which a configuration cannot hold")
    kinds = tuple(kind for word in words for kind in _KINDS[word])
    is_none = value is None and "None" in words
    if not is_none and type(value) not in kinds:
        raise ConfigError(f"{key} is {show(value)}, expected {' or '.join(words)}")


def _check_cma_es(parameters: Sequence[Parameter]) -> None:
    try:
        import cmaes  # noqa: F401
    except ImportError:
        raise ConfigError(
            "search.sampler.type CmaEsSampler needs the package cmaes; uv pip install cmaes"
        ) from None
    numbers = [each.key for each in parameters if each.kind != "categorical"]
    if len(numbers) < 2:
        raise ConfigError(
            "search.sampler.type CmaEsSampler moves two or more numbers together; "
            f"search.search_space has {len(numbers)}: take TPESampler"
        )


def _build(kind: type, options: dict[str, Any], key: str) -> Any:
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key} ({kind.__name__}): {' '.join(str(error).split())}") from None
