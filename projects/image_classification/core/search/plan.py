"""What a search is going to do, checked before there is a study; and whether a study did the same."""

import os
from pathlib import Path
from typing import Any

from loguru import logger

from common.config import Source
from common.config.files import parse_config
from common.config.tree import leaves, plain
from common.utils.errors import ConfigError, DataError
from common.utils.files import sha256_file
from common.utils.paths import validate_name
from projects.image_classification.core.config import ALL_FOLDS, Config
from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.experiment import MONITORS
from projects.image_classification.core.facts import resolve_facts
from projects.image_classification.core.index_files import find_files, read_index
from projects.image_classification.core.run_directories import RUNS, dataset_name
from projects.image_classification.core.search.methods import build_pruner, build_sampler
from projects.image_classification.core.search.space import (
    Parameter,
    override_word,
    parse_space,
    split_words,
)
from projects.image_classification.core.search.studies import masked
from projects.image_classification.core.training import fold_number, folds_of

STUDIES = RUNS / "optuna_studies"
SETTINGS = "settings"
_IN_NO_SETTINGS = ("search.", "data.class_names", "data.class_counts", "training.device")


class SearchPlan:
    """What the configuration says of a search.

    Args:
        config_file: The configuration.
        overrides: ``key=value`` words.

    Attributes:
        config: Without any trial's values.
        parameters: What is varied.
        name: The study's.
        direction: ``maximize`` or ``minimize``.
        folds: What a trial trains.
        directory: Where the study's files and trials go.

    Raises:
        ConfigError: for whatever is wrong with it, or with how the process was started.
    """

    def __init__(self, config_file: str, overrides: list[str]) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "ml-search trains each trial in one process; start the command once for each "
                "process, with --join"
            )
        self.file, self.overrides = config_file, overrides
        self.config, self.context = load_config(config_file, overrides)
        self._digest = sha256_file(Path(config_file))
        settings = self.config.search
        self.parameters: list[Parameter] = parse_space(settings.search_space)
        typed = split_words(overrides)
        for parameter in self.parameters:
            if parameter.key in typed:
                raise ConfigError(
                    f"{parameter.key} is given on the command line and varied by "
                    "search.search_space; leave one of them out"
                )
        if "data.fold" in typed:
            raise ConfigError("ml-search takes its fold as --fold K or search.fold=K")
        self.name = validate_name(settings.study_name or dataset_name(self.config), "study name")
        if "/" in self.name:
            raise ConfigError(f"search.study_name is '{self.name}'; expected a name without '/'")
        best = {"max": "maximize", "min": "minimize"}[MONITORS[settings.metric][1]]
        self.direction = settings.direction or best
        if self.direction != best:
            raise ConfigError(
                f"search.direction is {self.direction}, but {settings.metric} gets better the "
                f"other way; leave it null or set {best}"
            )
        if settings.metric != self.config.training.monitor:
            logger.warning(
                f"trials are judged by {settings.metric} of the weights that are best by "
                f"{self.config.training.monitor}; training.monitor={settings.metric} takes those "
                "that are best by what is searched for"
            )
        self.folds = self._folds(settings.fold)
        build_sampler(settings, self.parameters, 0)
        build_pruner(settings, len(self.folds) > 1)
        self.directory = STUDIES / self.name
        # What a run would save: for a password from the environment the reference to it.
        self._saved_storage = str(
            parse_config(self.context.to_yaml(), "").content["search"]["storage"]
        )

    def _folds(self, fold: int | str) -> list[int]:
        if fold != ALL_FOLDS:
            config, _ = load_config(self.file, [*self.overrides, override_word("data.fold", fold)])
            return [fold_number(config)]
        folds = folds_of(self.config)
        if len(folds) < 2:
            raise ConfigError(f"search.fold is all, but there are {len(folds)} folds")
        return folds

    def check_data(self) -> None:
        """What no trial could do without; on a configuration of its own.

        Raises:
            ConfigError, DataError: if data are missing, or are not what the configuration says.
        """
        splits = Path(self.config.data.data_dir) / "splits"
        for fold in self.folds:
            for split in ("train", "val"):
                file = splits / f"fold_{fold}_{split}.txt"
                if not find_files(file, read_index(file)):
                    raise DataError(f"{file} lists no image; a trial trains and is judged by some")
        config, context = load_config(self.file, self.overrides)
        resolve_facts(config, context, self.folds[0])

    def words(self, values: dict[str, Any], fold: int | str) -> list[str]:
        """The ``key=value`` words of a trial's configuration."""
        found = [override_word(key, value) for key, value in values.items()]
        typed, storage = self.overrides, self._saved_storage
        if storage != masked(storage):  # a password, which every run would save
            typed = [word for word in typed if not word.startswith("search.storage=")]
            found.append(override_word("search.storage", masked(storage)))
        return [*typed, *found, override_word("data.fold", fold)]

    def load(self, values: dict[str, Any], fold: int | str) -> tuple[Config, Any]:
        """The configuration of a trial, and its context.

        Raises:
            DataError: if the file is not what it was: trials of one search differ in nothing else.
        """
        if sha256_file(Path(self.file)) != self._digest:
            raise DataError(
                f"{self.file} has changed since the search began; put it back and go on with --resume, "
                "or begin another study with --study-name"
            )
        return load_config(self.file, self.words(values, fold))

    def decoded(self, params: dict[str, Any]) -> dict[str, Any]:
        """What a trial of the storage stands for, as values of the configuration."""
        known = {each.key: each for each in self.parameters}
        return {key: known[key].decode(value) for key, value in params.items() if key in known}

    def best_yaml(self, params: dict[str, Any]) -> str:
        """The whole configuration with a trial's values, which trains what the trial trained.

        Defaults are comments: the data may replace a default, but not what a file sets.
        """
        fold = ALL_FOLDS if len(self.folds) > 1 else self.folds[0]
        return _defaults_as_comments(self.load(self.decoded(params), fold)[1].to_yaml())

    def storage_words(self) -> str:
        """The flag that names the storage, if the command line did."""
        typed = split_words(self.overrides)
        given = "search.storage" in typed
        return f" --storage '{masked(self.config.search.storage)}'" if given else ""

    def settings(self) -> dict[str, Any]:
        """What makes trials comparable, with the space: kept with the study."""
        found = {
            key: value
            for key, value in leaves(plain(self.config))
            if not key.startswith(_IN_NO_SETTINGS)
            and key not in {each.key for each in self.parameters}
        }
        space = {each.key: each.describe() for each in self.parameters}
        search_ = self.config.search
        fold = str(search_.fold)
        return {"metric": search_.metric, "fold": fold, "space": space, "config": found}


def compare_settings(study: Any, plan: SearchPlan, is_new: bool) -> None:
    """Keep what makes trials comparable with a new study; compare it with an earlier one's.

    Raises:
        ConfigError: if the earlier trials measured something else, or chose from other choices.
    """
    ours = plan.settings()
    theirs = study.user_attrs.get(SETTINGS)
    if is_new or theirs is None:
        study.set_user_attr(SETTINGS, ours)
        return
    for name in ("metric", "fold"):
        if theirs[name] != ours[name]:
            raise ConfigError(
                f"study '{plan.name}' was made with search.{name}={theirs[name]}, the configuration "
                f"says {ours[name]}; values of both cannot be compared: give another --study-name"
            )
    for key, space in ours["space"].items():
        before = theirs["space"].get(key)
        if before == space or before is None:
            continue
        if "categorical" in (before["type"], space["type"]) or before["type"] != space["type"]:
            raise ConfigError(
                f"study '{plan.name}' was made with another search space of {key}; Optuna takes "
                "other limits into a study, but not other choices or types: give another "
                "--study-name"
            )
        logger.warning(f"the search space of {key} differs from the study's earlier one")
    changed = [
        f"{key} ({theirs['config'].get(key)!r}, now {value!r})"
        for key, value in ours["config"].items()
        if theirs["config"].get(key) != value and key not in theirs["space"]
    ]
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        logger.warning(
            f"earlier trials were trained with other values: {', '.join(changed[:5])}{more}"
        )


def _defaults_as_comments(text: str) -> str:
    """A saved configuration whose defaults, and sections of nothing else, are comments."""
    lines: list[str] = []
    set_at: set[int] = set()  # indents of what is set below the line that is looked at
    for line in reversed(text.splitlines()):
        name = line.lstrip(" ")
        indent = len(line) - len(name)
        if name.endswith(":"):
            is_set = any(each > indent for each in set_at)
            set_at = {each for each in set_at if each <= indent}
        else:
            is_set = not name.endswith(f"  # {Source.DEFAULT}")
        if is_set:
            set_at.add(indent)
        lines.append(line if is_set else f"{' ' * indent}# {name}")
    return "\n".join(reversed(lines)) + "\n"
