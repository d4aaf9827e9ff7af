"""Which files a configuration is made of: ``config.yaml``, ``configs/*.yaml`` and groups."""

from collections.abc import Sequence
from pathlib import Path

from common.config.files import ConfigFile, read_config, show_path
from common.utils.errors import ConfigError
from common.utils.text import did_you_mean


def find_config(folder: Path, config: str | Path | None = None) -> Path:
    """The file to read: ``config`` from the working directory or ``folder``, or ``config.yaml``.

    Raises:
        ConfigError: if there is none, naming the nearest that exists.
    """
    wanted = Path(config).expanduser() if config is not None else folder / "config.yaml"
    try:
        for candidate in (wanted, folder / wanted):
            if candidate.exists():
                return candidate
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise ConfigError(f"no configuration file {str(wanted)[:60]!a}: {error}") from None
    known = [p.relative_to(folder).as_posix() for p in sorted(folder.glob("*.yaml"))]
    known += [p.relative_to(folder).as_posix() for p in sorted(folder.glob("configs/*.yaml"))]
    place = "" if wanted.is_absolute() else f" here or in {show_path(folder)}"
    hint = did_you_mean(wanted.as_posix(), known) if known else "the folder has no YAML file"
    raise ConfigError(f"no configuration file {str(wanted)!r}{place}; {hint}")


def group_folder(group: str, folders: Sequence[Path]) -> Path | None:
    """The folder that holds a group's files, e.g. ``configs/model``; ``None`` if it is no group."""
    if not group.isidentifier():
        return None
    candidates = (folder / group for folder in folders)
    return next((c for c in candidates if c.is_dir() and any(c.glob("*.yaml"))), None)


def group_options(folder: Path, group: str) -> list[str]:
    """The choices of a group of an experiment."""
    found = group_folder(group, [folder / "configs", folder])
    return sorted(path.stem for path in found.glob("*.yaml")) if found else []


def groups_of(folder: Path) -> dict[str, list[str]]:
    """All groups of an experiment with their choices."""
    names = sorted(path.name for path in folder.glob("configs/*") if path.is_dir())
    return {name: options for name in names if (options := group_options(folder, name))}


def read_group(file: ConfigFile, group: str, choice: str, folders: Sequence[Path]) -> ConfigFile:
    """Read the file behind ``group: choice`` as a section of a whole configuration.

    Raises:
        ConfigError: if there is no such group or choice, or the file has a defaults list itself.
    """
    found = group_folder(group, folders)
    if found is None:
        raise ConfigError(
            f"{file.place('defaults')}: defaults names the group '{group}', "
            f"but there is no folder configs/{group}/ with YAML files"
        )
    options = {path.stem: path for path in sorted(found.glob("*.yaml"))}
    if choice not in options:
        shown = show_path(found)
        raise ConfigError(f"no {choice!r} in {shown}/; {did_you_mean(choice, options)}")
    layer = read_config(options[choice])
    if "defaults" in layer.content:
        raise ConfigError(
            f"{layer.place('defaults')}: a group's file has no defaults of its own; "
            "write its values out"
        )
    return layer.under(group)
