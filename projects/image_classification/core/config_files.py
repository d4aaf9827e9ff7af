"""From a configuration file to a checked ``Config`` and the context that knows its origins."""

from collections.abc import Sequence
from pathlib import Path

from common.config import RunContext, compose, load_run_config
from common.utils.errors import ConfigError
from projects.image_classification.core.config import Config

FOLDER = Path(__file__).resolve().parents[1]


def load_config(
    file: str | Path | None, overrides: Sequence[str] = ()
) -> tuple[Config, RunContext]:
    """The configuration of a file with ``key=value`` words.

    Args:
        file: As ``ml-init-config`` writes it; relative to the working directory.
        overrides: Replace its values.

    Raises:
        ConfigError: if the file is missing, or a key or value is wrong.
    """
    if file is None:
        raise ConfigError("--config is missing; make a file with ml-init-config DATA_DIR")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"no configuration at {file}; make one with ml-init-config DATA_DIR")
    return compose(Config, FOLDER / "train.py", path, list(overrides))


def run_config(place: str | Path, overrides: Sequence[str] = ()) -> tuple[Config, RunContext]:
    """The configuration of a run's directory, or the one a checkpoint holds.

    Raises:
        ConfigError: if there is none, or it is not one of this project.
        CheckpointError: if the checkpoint is missing or damaged.
    """
    config, context = load_run_config(Config, place, list(overrides))
    context.experiment = FOLDER.name
    return config, context
