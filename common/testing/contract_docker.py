"""The clause of the contract on a paper's ``docker/Dockerfile``, which is read and not built.

What is installed is pinned or named in ``pyproject.toml``; what is copied is what the paper needs;
what the container runs is the paper's own training command.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from common.testing.contract_commands import command_problems, simple_commands
from common.testing.contract_subject import Subject

_UNPINNED = re.compile(r"(?:^|:)latest$")
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def docker(subject: Subject) -> Iterator[str]:
    """The Dockerfile, if there is one, is pinned, small, without secrets, and runs the paper."""
    path = subject.folder / "docker" / "Dockerfile"
    if not path.is_file():
        return
    steps = list(_steps(path.read_text(encoding="utf-8")))
    for word, rest in steps:
        yield from (
            f"docker/Dockerfile: {problem}" for problem in _step_problems(word, rest, subject)
        )
    installs = [rest for word, rest in steps if word == "RUN"]
    if not any(re.search(r"\buv==\d", rest) for rest in installs) and not any(
        re.search(r"astral-sh/uv:\d", rest) for _, rest in steps
    ):
        yield "docker/Dockerfile: uv is not installed in a fixed version, as pip install uv==0.13.9"
    if not any(re.search(r"\buv (sync|pip install)\b", rest) for rest in installs):
        yield "docker/Dockerfile: nothing is installed with uv sync or uv pip install"
    last, rest = steps[-1] if steps else ("", "")
    train = [f"{subject.module}.train"]
    command = _exec_form(rest) if last in ("CMD", "ENTRYPOINT") else []
    if command[:2] != ["python", "-m"] or command[2:3] != train:
        yield f'docker/Dockerfile: the last line is not CMD ["python", "-m", "{train[0]}"]'
    else:
        problems = command_problems(shlex.join(command), subject.root)
        yield from (f"docker/Dockerfile: {problem}" for problem in problems)


def _steps(text: str) -> Iterator[tuple[str, str]]:
    """Instructions and what they say, without comments; continued lines are joined."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(kept).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word.upper(), rest.strip()


def _step_problems(word: str, rest: str, subject: Subject) -> Iterator[str]:
    if word == "FROM":
        image = next((w for w in rest.split() if not w.startswith("--")), "")
        if _UNPINNED.search(image) or not re.search(r"[:@].*\d", image):
            yield f"FROM {image} has no fixed version; write python:3.11.7-slim-bookworm"
    if word in ("ENV", "ARG"):
        names = [w.partition("=")[0] for w in rest.split()]
        yield from (
            f"{word} {n} would keep a secret in the image" for n in names if _SECRET.search(n)
        )
    if word == "RUN" and re.search(r"\b(curl|wget)\b.*\|\s*(ba|z|da)?sh\b", rest):
        yield f"'{rest}' runs what a server sends"
    if word == "RUN":
        yield from _unknown_installs(rest, subject.root)
    if word in ("COPY", "ADD"):
        *sources, _ = [w for w in rest.split() if not w.startswith("--")] or [""]
        if "--from=" not in rest:
            yield from (p for source in sources if (p := _copy_problem(source, subject)))


def _copy_problem(source: str, subject: Subject) -> str:
    """A container holds what the paper needs, and not the store or the history beside it."""
    name = source.removeprefix("./").rstrip("/")
    needed = [subject.module, *(f"papers.{other}" for other in subject.card.builds_on)]
    ours = [module.replace(".", "/") for module in needed]
    ours += [f"{folder}/__init__.py" for folder in ("papers", "projects")]
    files = ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "common")
    if name not in (*files, *ours) and not name.startswith(("common/", *(f"{o}/" for o in ours))):
        return f"copies {source}; expected only {', '.join((*files[:1], 'common', *ours[:-2]))}"
    if name != "uv.lock" and not (subject.root / name).exists():
        return f"copies {source}, which is not there"
    return ""


def _unknown_installs(line: str, root: Path) -> Iterator[str]:
    """Packages, extras and groups that ``pyproject.toml`` does not name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"].get("optional-dependencies", {}))
    groups = set(project.get("dependency-groups", {}))
    for command in simple_commands(shlex.split(line)):
        if command[:2] == ["uv", "sync"]:
            for option, known in (("--extra", extras), ("--group", groups)):
                for name, value in pairwise(command):
                    if name == option and value not in known:
                        yield f"uv sync {option} {value} is not in pyproject.toml"
        elif command[:3] == ["uv", "pip", "install"]:
            for word in (w for w in command[3:] if not w.startswith("-")):
                asked = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
                if asked is None:
                    yield f"uv pip install {word}: what is installed is named in pyproject.toml"
                elif asked[1] and not set(asked[1].split(",")) <= extras:
                    yield f"uv pip install {word} names an extra that is not in pyproject.toml"


def _exec_form(text: str) -> list[str]:
    try:
        words = json.loads(text)
    except ValueError:
        return []
    return [str(word) for word in words] if isinstance(words, list) else []
