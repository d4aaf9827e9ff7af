"""The command a run was started with, as a person types it, and the file it was configured by."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from common.config.files import show_path
from common.records.paper import Paper
from common.records.run_record import RunRecord, is_users
from common.utils.errors import ConfigError

_SWEEP = ("-m", "--multirun")
_OVERRIDE = re.compile(r"[+~]*([A-Za-z_][\w.]*)=")


def overrides_of(record: RunRecord) -> dict[str, Any]:
    """The values that were typed on the command line, by key."""
    return {key: value for key, (value, origin) in record.settings.items() if is_users(origin)}


def changed_keys(record: RunRecord) -> list[str]:
    """The keys that a person changed against the configuration file, groups of values included."""
    words = [word for part in record.parts for word in part.get("command", [])[1:]]
    typed = [found[1] for word in words if (found := _OVERRIDE.match(str(word)))]
    return list(dict.fromkeys([*overrides_of(record), *typed]))


def config_file(record: RunRecord, paper: Paper) -> str:
    """The configuration file of a run, relative to the paper's folder.

    Raises:
        ConfigError: if it is not in the paper's folder.
    """
    named = _option(record.values["command"][1:], "--config")
    if named is None:
        return "config.yaml"
    given = Path(named)
    home = (paper.folder.parent.name, paper.folder.name)
    parts = given.parts
    inner = [parts[i + 2 :] for i in range(len(parts) - 1) if parts[i : i + 2] == home]
    for candidate in [given, *(Path(*rest) for rest in inner if rest)]:
        is_inside = not candidate.is_absolute() and ".." not in candidate.parts
        if is_inside and (paper.folder / candidate).is_file():
            return candidate.as_posix()
    raise ConfigError(
        f"{record.name} was configured by {named}, which is not in {show_path(paper.folder)}; "
        "put the file there, commit it and train again"
    )


def typed_command(record: RunRecord, paper: Paper, config: str) -> str:
    """What to type to train again: ``python -m papers.x.train --config ... key=value``.

    A sweep's and a resumed run's own values are taken from its configuration, because the command
    line names those of other runs, or a directory.
    """
    module = f"python -m {paper.module}.train"
    words = [] if config == "config.yaml" else ["--config", config]
    typed = record.values["command"][1:]
    if any(word in _SWEEP for word in typed) or len(record.parts) > 1:
        for key in overrides_of(record):
            value, origin = record.settings[key]
            plus = "+" if origin.text.startswith("+") else ""
            words.append(f"{plus}{key}={_text(value)}")
    else:
        words += _overrides(typed)
    return " ".join([module, *map(shlex.quote, words)])


def _option(words: list[str], name: str) -> str | None:
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _overrides(words: list[str]) -> list[str]:
    """The words that are no options, nor the values of options."""
    previous = ["", *words]
    pairs = zip(previous, words, strict=False)
    return [word for before, word in pairs if not word.startswith("-") and before != "--config"]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
