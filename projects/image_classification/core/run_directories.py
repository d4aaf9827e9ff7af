"""Where a run lies: ``runs/<dataset>_<overrides>_fold_<N>/`` below the working directory.

Its checkpoints are ``weights/best.pt`` and ``weights/last.pt``; each holds the run's configuration, so
that one file is enough for inference and export.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from common.utils.errors import CheckpointError, ConfigError
from common.utils.text import did_you_mean
from projects.image_classification.core.config import Config

RUNS = Path("runs")
WEIGHTS = "weights"
EVALUATION = "evaluation"
_SHORT = {"batch_size": "batch", "num_epochs": "epochs"}
_UNNAMED = ("data.fold", "data.data_dir", "data.dataset_name")
_LONGEST = 100


def run_name(dataset: str, overrides: Sequence[str], fold: int | str) -> str:
    """``<dataset>_batch_32_lr_0.01_fold_0``: what a run is called.

    Args:
        dataset: ``data.dataset_name``, or the name of its folder.
        overrides: ``key=value`` words of the command line.
        fold: The fold's number, or ``all``.
    """
    words = [dataset]
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        name = key.rpartition(".")[2]
        if key not in _UNNAMED:
            words += [_SHORT.get(name, name), value]
    safe = re.sub(r"[^\w=.+-]+", "-", "_".join(filter(None, words)))
    return f"{safe[:_LONGEST].strip('-._')}_fold_{fold}"


def dataset_name(config: Config) -> str:
    """What the data set is called in names and reports."""
    return config.data.dataset_name or Path(config.data.data_dir).absolute().name


def run_of(place: str | Path) -> tuple[Path, Path | None]:
    """The run that a person names, and the checkpoint if it is one that is named.

    Args:
        place: A run's directory, its ``weights/`` or one of the files in it.

    Raises:
        ConfigError: if there is no such run.
        CheckpointError: if there is no such checkpoint in a run.
    """
    path = Path(place).expanduser()
    if path.suffix == ".pt":
        if not path.is_file():
            raise missing_checkpoint(path)
        return path.absolute().parent.parent, path
    directory = path.parent if path.name == WEIGHTS else path
    if not (directory / "config.yaml").is_file():
        known = [each.parent.as_posix() for each in RUNS.glob("*/config.yaml")]
        hint = did_you_mean(str(place), known) if known else "runs/ holds no run here"
        raise ConfigError(f"no run at {place}; {hint}")
    return directory, None


def missing_checkpoint(path: Path) -> CheckpointError:
    """What to say where a checkpoint is expected and is not: those that are there instead."""
    there = sorted(each.name for each in path.parent.glob("*.pt"))
    if there:
        hint = f"there: {', '.join(there)}"
    elif path.parent.is_dir():
        hint = f"{path.parent} holds no checkpoint"
    else:
        known = [each.as_posix() for each in RUNS.glob(f"*/{WEIGHTS}/{path.name}")]
        hint = did_you_mean(str(path), known) if known else f"there is no folder {path.parent}"
    return CheckpointError(f"no checkpoint at {path}; {hint}")
