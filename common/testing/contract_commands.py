"""Clauses of the contract on what a person types: every command parses, and none of them is run.

A script is executed up to the moment at which it reads its command line: ``launch`` and argparse
are replaced, so its own options, keys and configuration files decide, and nothing comes after.
"""

import argparse
import ast
import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from common.config import compose
from common.config.command_line import parse_arguments
from common.config.locate import group_options
from common.config.overrides import expand_sweep
from common.testing.contract_subject import Subject
from common.utils.errors import ConfigError, RepriseError

_BLOCK = re.compile(r"^```(?:bash|console|sh|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"(?:\w+=\S+ +)*(?:uv run +)?(?:python|torchrun|accelerate|tools/|docker)\b.*"
)
_READS_WORDS = re.compile(r"\b(launch|ArgumentParser|typer)\b")


class _Read(BaseException):
    """The script has read its command line; a BaseException, so that no script holds it back."""


def readme(subject: Subject) -> Iterator[str]:
    """Every command of the README, of the configurations' headers and of docstrings parses."""
    for place, line in _lines(subject):
        for problem in command_problems(line, subject.root):
            yield f"{place}: {problem}"


def _lines(subject: Subject) -> Iterator[tuple[str, str]]:
    """Commands and where they stand."""
    folder = subject.folder
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1)) + 1
        for number, line in enumerate(block[1].replace("\\\n", "  ").splitlines(), first):
            if line.strip() and not line.startswith("#"):
                yield f"README.md:{number}", line.removeprefix("$ ")
    for path in sorted(folder.rglob("*.yaml")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            command = line.lstrip("# ")
            if line.startswith("#") and _COMMAND.fullmatch(command):
                yield f"{subject.shown(path)}:{number}", command
    for path in subject.sources():
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for line in document.splitlines():
            if re.match(r"python -m (papers|projects)\.|python tools/|tools/", line.strip()):
                yield f"{subject.shown(path)}, docstring", line.strip()


def command_problems(line: str, root: Path) -> Iterator[str]:
    """What is wrong with a line for a shell, typed in the root of the repository."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        yield f"no shell reads {line!r}: {error}"
        return
    here = root
    for command in simple_commands(words):
        if command[0] == "cd" and len(command) == 2:
            here = here / command[1]
            if not here.is_dir():
                yield f"{line!r}: there is no folder {command[1]}"
                return
        elif command[0] == "docker" and "-f" in command[:-1]:
            if not (here / command[command.index("-f") + 1]).is_file():
                yield f"{line!r}: there is no file {command[command.index('-f') + 1]}"
        else:
            try:
                _check_script(command, here, root)
            except ConfigError as error:
                yield f"{line!r}: {error}"


def simple_commands(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands of a line, without pipes, redirections and variables set for them."""
    command: list[str] = []
    skips = False
    for word in [*words, "&&"]:
        if word in ("&&", "||", ";", "|", "&"):
            while command and re.fullmatch(r"\w+=.*", command[0], re.DOTALL):
                command.pop(0)
            if command:
                yield command
            command, skips = [], False
        elif skips or re.match(r"\d?[<>]", word):
            skips = not skips and bool(re.fullmatch(r"\d?[<>]{1,2}", word))
        else:
            command.append(word)


def _check_script(command: Sequence[str], here: Path, root: Path) -> None:
    """Find the script of a command and have it read its words.

    Raises:
        ConfigError: if it is missing, or refuses a word.
    """
    for index, word in enumerate(command):
        if word == "-m" and index + 1 < len(command) and index > 0:
            module = command[index + 1]
            path = _module_file(module, root)
            if path is not None:
                _read_words(path, module, command[index + 2 :], here)
            return
        if word.endswith(".py"):
            if not (here / word).is_file():
                raise ConfigError(f"there is no script {word}")
            _read_words(here / word, word, command[index + 1 :], here)
            return


def _module_file(module: str, root: Path) -> Path | None:
    """The file of a module of ours; ``None`` for one of somebody else."""
    base = root.joinpath(*module.split("."))
    if not (root / module.split(".")[0]).is_dir():
        return None
    for path in (base.with_suffix(".py"), base / "__main__.py"):
        if path.is_file():
            return path
    raise ConfigError(f"there is no module {module}")


def _read_words(path: Path, name: str, words: Sequence[str], here: Path) -> None:
    if not _READS_WORDS.search(path.read_text(encoding="utf-8")):
        if words:
            raise ConfigError(f"{name} reads no words")
        return
    said = io.StringIO()
    with (
        contextlib.chdir(here),
        mock.patch.object(sys, "argv", [str(path), *words]),
        mock.patch("common.config.launch", _launch),
        mock.patch.object(argparse.ArgumentParser, "parse_args", _parsed("parse_known_args")),
        mock.patch.object(
            argparse.ArgumentParser, "parse_intermixed_args", _parsed("parse_known_intermixed_args")
        ),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        _no_typer_command(),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Read:
            return
        except SystemExit as stop:
            if stop.code in (0, None):
                return
            reason = " ".join((said.getvalue() or str(stop.code)).split())
            raise ConfigError(reason.rpartition("error: ")[2]) from None
        except RepriseError as error:
            raise ConfigError(str(error)) from None


def _launch(
    main: Callable[..., Any], schema: type, anchor: str | Path, *, needs_run: bool = False
) -> None:
    """In place of ``launch``: read the words, compose every configuration, and stop."""
    arguments = parse_arguments(sys.argv[1:], schema, needs_run)
    folder = Path(anchor).absolute().parent
    jobs = [arguments.overrides]
    if arguments.multirun:
        jobs = expand_sweep(arguments.overrides, lambda group: group_options(folder, group))
    for overrides in jobs:
        compose(schema, anchor, arguments.config, overrides)
    raise _Read


def _parsed(original: str) -> Callable[..., Any]:
    """In place of a parser's method: parse, refuse what is left, and stop."""

    def parse(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        _, left = getattr(parser, original)(*given, **named)
        if left:
            parser.error(f"unrecognized arguments: {' '.join(left)}")
        raise _Read

    return parse


@contextlib.contextmanager
def _no_typer_command() -> Iterator[None]:
    """A typer application parses its words and runs no command."""
    try:
        core = import_module("typer.core")
    except ImportError:
        yield
        return

    def invoke(command: Any, context: Any) -> Any:
        raise _Read

    with mock.patch.object(core.TyperCommand, "invoke", invoke):
        yield
