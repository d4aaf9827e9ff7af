"""Earlier runs, as a person names them: a path, a directory's name, or nothing for the newest."""

import json
from datetime import datetime
from pathlib import Path

from common.config.files import show_path
from common.config.usage import program
from common.utils.errors import ConfigError
from common.utils.paths import get_outputs_dir
from common.utils.text import did_you_mean

_STAMP, _STAMP_LENGTH = "%Y-%m-%d_%H-%M-%S", 19  # what names begin with, in local time


def find_run(run: str | None, folder: Path) -> Path:
    """A run's directory.

    Args:
        run: Its path or name; ``None`` is the newest run that has a checkpoint, by the start that
            its ``run.json`` records, else by the time its name begins with.
        folder: The paper's or project's.

    Raises:
        ConfigError: if there is none.
    """
    home = get_outputs_dir() / folder.name
    if run is not None:
        for candidate in (Path(run).expanduser(), home / run):
            if candidate.is_dir():
                return candidate
        above = next((p for p in Path(run).absolute().parents if (p / "run.json").is_file()), None)
        if above is not None:
            raise ConfigError(f"{run} is inside a run; give its directory: {show_path(above)}")
        known = [path.name for path in home.glob("*/") if (path / "config.yaml").is_file()]
        known = sorted(known)[-3:]
        hint = did_you_mean(run, known) if known else f"{show_path(home)} holds no runs"
        raise ConfigError(f"no run directory {run!r}; {hint}")
    runs = [
        path
        for path in home.glob("*/")
        if (path / "config.yaml").is_file()
        and any(path.glob("checkpoints/*.pt"))
        and "dry-run" not in path.name
    ]
    if not runs:
        raise ConfigError(
            f"{show_path(home)} holds no run with a checkpoint; train first: "
            f"{program(folder / 'train.py')}, or give --run RUN_DIR"
        )
    return max(runs, key=lambda path: (_started(path), path.name))


def _started(run: Path) -> float:
    """When a run began, in seconds: a copied or renamed directory keeps what it recorded."""
    try:
        recorded = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return datetime.fromisoformat(recorded["started"]).timestamp()
    except (OSError, ValueError, TypeError, LookupError):
        pass
    try:
        return datetime.strptime(run.name[:_STAMP_LENGTH], _STAMP).timestamp()
    except ValueError:
        return float("-inf")


def default_checkpoint(run: Path) -> str:
    """``final`` for a run that wrote its finished weights, else ``best``."""
    return "final" if (run / "model.safetensors").is_file() else "best"
