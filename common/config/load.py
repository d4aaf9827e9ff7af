"""From files and overrides to a checked, typed configuration: the two ways in.

A configuration is composed for a new run, or taken from an earlier one.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from common.config.composition import Composition
from common.config.context import RunContext
from common.config.environment import scalar
from common.config.files import ConfigFile, parse_config, read_config, show_path
from common.config.locate import find_config
from common.config.origins import Origin, Source
from common.config.tree import plain
from common.config.validate import show
from common.utils.errors import ConfigError

Schema = TypeVar("Schema")


def compose(
    schema: type[Schema],
    anchor: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Schema, RunContext]:
    """The configuration of an experiment.

    Args:
        schema: The experiment's dataclass.
        anchor: The experiment's ``train.py`` (``__file__``); its folder holds ``config.yaml`` and
            ``configs/``.
        config: A file to read in place of ``config.yaml``, relative to the working directory, else
            to the experiment's folder.
        overrides: ``key=value`` words of the command line.

    Returns:
        The schema's instance and the context that knows where each value came from.

    Raises:
        ConfigError: in one line that names the file or the command line, the key and what was
            expected.
    """
    folder = Path(anchor).absolute().parent
    path = find_config(folder, config)
    folders = list(dict.fromkeys([path.absolute().parent, folder / "configs", folder]))
    composition = Composition(schema, read_config(path), folder)
    built, extra = composition.run(overrides, folders)
    context = RunContext(
        built,
        composition.origins,
        experiment=folder.name,
        overrides=overrides,
        config_file=path,
        extra=extra,
    )
    return built, context


def load_run_config(
    schema: type[Schema], run: str | Path, overrides: Sequence[str] = ()
) -> tuple[Schema, RunContext]:
    """The configuration of an earlier run.

    It may come from somewhere else, so it passes the same checks as a file that was written by
    hand. The sources of its values are restored.

    Args:
        schema: The experiment's dataclass.
        run: The run's directory, or one of its checkpoints (which holds the same text).
        overrides: ``key=value`` words that replace values of the run.

    Raises:
        ConfigError: if there is no such configuration, or it is not one of this schema.
    """
    run = Path(run).expanduser()
    if run.is_file():
        file, path, run_dir = _read_checkpoint(run), run, None
    else:
        path, run_dir = run / "config.yaml", run
        if not path.exists():
            raise ConfigError(
                f"{show_path(run)} is no run: it has no config.yaml; "
                "expected a directory such as assets/outputs/<experiment>/<run>"
            )
        file = read_config(path)
    composition = Composition(schema, file, run)
    facts = composition.restore()
    built, extra = composition.run(overrides, [])
    context = RunContext(
        built,
        composition.origins,
        experiment=run_dir.absolute().parent.name if run_dir else "",
        overrides=overrides,
        config_file=path,
        extra=extra,
        facts=facts,
        run_dir=run_dir,
    )
    for key in composition.changed:
        context.invalidate(key)
    if run_dir is not None:
        origins = composition.origins | {key: origin for key, (_, origin) in facts.items()}
        _compare_environment(context, origins)
    return built, context


def _compare_environment(context: RunContext, origins: Mapping[str, Origin]) -> None:
    """Say what a run keeps although the environment says otherwise now, and what it reads again."""
    from loguru import logger

    for key, origin in origins.items():
        if origin.source is not Source.ENV:
            continue
        names = ", ".join(origin.names)
        if origin.secret:
            logger.info(f"{key} is read again from the environment: {names}")
            continue
        value = context.get(key)
        now = [os.environ[name] for name in origin.names if name in os.environ]
        if any(text not in str(value) and scalar(key, text) != value for text in now):
            logger.warning(
                f"{key} keeps the run's value {show(plain(value))}; the environment ({names}) says "
                f"otherwise now, {key}=... changes it"
            )


def _read_checkpoint(path: Path) -> ConfigFile:
    """The configuration inside a checkpoint, which holds a run's ``config.yaml`` as text."""
    from common.utils.checkpoint import load_checkpoint

    text = load_checkpoint(path).get("config")
    if not isinstance(text, str):
        raise ConfigError(f"{show_path(path)} holds no configuration; give the run's directory")
    return parse_config(text, show_path(path))
