"""The command line of every experiment: options, overrides, sweeps, resuming, evaluating.

``python -m papers.x.train --config configs/big.yaml optim.lr=1e-3``; ``--help`` lists the rest.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config.context import RunContext
from common.config.files import parse_config, show_path
from common.config.load import compose, load_run_config
from common.config.locate import group_options
from common.config.overrides import expand_sweep
from common.config.runs import default_checkpoint, find_run
from common.config.schema import walk
from common.config.usage import usage
from common.utils.errors import ConfigError, exit_on_error
from common.utils.text import nearest

_FLAGS = {"--help": "help", "-h": "help", "-m": "multirun", "--multirun": "multirun"}
_TRAIN_FLAGS = _FLAGS | {"--dry-run": "dry_run"}
_VALUES = {"--cfg": "cfg"}
_TRAIN_VALUES = _VALUES | {"--config": "config", "--resume": "resume"}
_EVALUATE_VALUES = _VALUES | {"--run": "run", "--checkpoint": "checkpoint"}

Main = Callable[[Any, RunContext], float | None]
_Job = tuple[Any, RunContext]


@dataclass
class Arguments:
    """A command line, taken apart."""

    help: bool = False
    multirun: bool = False
    dry_run: bool = False
    cfg: str | None = None
    config: str | None = None
    resume: str | None = None
    run: str | None = None
    checkpoint: str | None = None
    overrides: list[str] = field(default_factory=list)


def launch(main: Main, schema: type, anchor: str | Path, *, needs_run: bool = False) -> None:
    """Run ``main(config, context)`` as the command line says.

    Args:
        main: What to run; the number it returns is what a sweep's table shows.
        schema: The experiment's dataclass.
        anchor: The script, ``__file__``.
        needs_run: For scripts that read a run, such as ``evaluate.py``: its configuration comes
            from ``--run`` (the newest run by default), ``context.run_dir`` and
            ``context.checkpoint`` say what to load.

    Raises:
        SystemExit: with code 2 after an input error, which is shown in one line.
    """
    with exit_on_error():
        arguments = parse_arguments(sys.argv[1:], schema, needs_run)
        folder = Path(anchor).absolute().parent
        if arguments.help:
            sys.stdout.write(_help(main, schema, Path(anchor).absolute(), arguments, needs_run))
            return
        if needs_run:
            from common.utils.logging import setup_logger

            setup_logger()
            arguments.run = str(find_run(arguments.run, folder))
        jobs = [arguments.overrides]
        if arguments.multirun:
            jobs = expand_sweep(arguments.overrides, lambda group: group_options(folder, group))
        composed = [_compose(schema, anchor, arguments, overrides) for overrides in jobs]
        if arguments.cfg:
            sys.stdout.write("\n".join(context.to_yaml() for _, context in composed))
        elif arguments.multirun:
            _sweep(main, composed)
        else:
            main(*composed[0])


def parse_arguments(words: Sequence[str], schema: type, needs_run: bool = False) -> Arguments:
    """Take a command line apart.

    Raises:
        ConfigError: for options that are unknown, incomplete, repeated or contradict each other.
    """
    flags = _FLAGS if needs_run else _TRAIN_FLAGS
    values = _EVALUATE_VALUES if needs_run else _TRAIN_VALUES
    arguments = Arguments()
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("-"):
            arguments.overrides.append(word)
            continue
        name, equals, value = word.partition("=")
        if name in flags and not equals:
            setattr(arguments, flags[name], True)
        elif name in values:
            if getattr(arguments, values[name]) is not None:
                raise ConfigError(f"{name} is given twice; keep one")
            if not equals:
                value = remaining.pop(0) if remaining else ""
            if not value or (not equals and value.startswith("-")):
                raise ConfigError(f"{name} needs a value; see --help")
            setattr(arguments, values[name], value)
        else:
            raise ConfigError(f"unknown option '{name}'; {_hint(name, schema, flags | values)}")
    if arguments.cfg not in (None, "job"):
        raise ConfigError(f"--cfg is '{arguments.cfg}', expected job")
    if arguments.resume and (arguments.config or arguments.multirun or arguments.dry_run):
        other = "--config" if arguments.config else "-m" if arguments.multirun else "--dry-run"
        raise ConfigError(
            f"--resume and {other} exclude each other: a resumed run goes on with its own config"
        )
    return arguments


def _help(main: Main, schema: type, anchor: Path, arguments: Arguments, needs_run: bool) -> str:
    """The help; it shows what the rest of the command line would come to, also where it is wrong."""
    if needs_run:
        return usage(main, schema, anchor, needs_run=True)
    overrides = [] if arguments.multirun else arguments.overrides
    try:
        _, context = _compose(schema, anchor, arguments, overrides)
    except ConfigError as error:
        return usage(main, schema, anchor, problem=str(error))
    composed = parse_config(context.to_yaml(), "the configuration")
    return usage(main, schema, anchor, composed=composed)


def _compose(
    schema: type, anchor: str | Path, arguments: Arguments, overrides: Sequence[str]
) -> _Job:
    folder = Path(anchor).absolute().parent
    run = arguments.run
    if arguments.resume is not None:
        run = str(find_run(arguments.resume, folder))
    config: Any
    if run is None:
        config, context = compose(schema, anchor, arguments.config, overrides)
    else:
        config, context = load_run_config(schema, run, overrides)
        context.experiment = folder.name
        context.resume = context.run_dir if arguments.resume is not None else None
        context.checkpoint = arguments.checkpoint or default_checkpoint(Path(run))
        if arguments.run is not None:
            _check_checkpoint(context)
    context.dry_run = arguments.dry_run
    return config, context


def _sweep(main: Main, jobs: Sequence[_Job]) -> None:
    """Run job after job; the table of what finished is printed also when one fails."""
    results: list[float | None] = []
    try:
        for number, (config, context) in enumerate(jobs, 1):
            sys.stderr.write(f"run {number} of {len(jobs)}: {' '.join(context.overrides)}\n")
            results.append(main(config, context))
    finally:
        rows = [
            (" ".join(context.overrides) or "-", "-" if result is None else f"{result:.6g}")
            for (_, context), result in zip(jobs, results, strict=False)
        ]
        width = max(len(overrides) for overrides, _ in [("overrides", ""), *rows])
        for overrides, result in [("overrides", "result"), *rows]:
            sys.stdout.write(f"{overrides:<{width}}  {result}\n")


def _check_checkpoint(context: RunContext) -> None:
    path = context.checkpoint_path
    if path is None or path.is_file():
        return
    known = sorted(p.stem for p in path.parent.glob("*.pt"))
    there = f"; there: {', '.join(known)}" if known else ""
    raise ConfigError(f"no checkpoint {show_path(path)}{there}")


def _hint(name: str, schema: type, options: dict[str, str]) -> str:
    word = name.strip("-").replace("-", "_")
    keys = {f.key.rpartition(".")[2]: f.key for f in walk(schema)}
    if word in keys:
        return f"values are set without dashes: {keys[word]}=..."
    match = nearest(name, options)
    return f"did you mean '{match}'?" if match else "see --help"
