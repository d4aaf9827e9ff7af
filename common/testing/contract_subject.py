"""What is under contract: the folders of ``papers/`` and ``projects/``, and what they say of themselves."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.records.paper import HOMES, PAPER_FILE, Paper
from common.utils.errors import InputError
from common.utils.paths import get_project_root
from common.utils.text import did_you_mean


@dataclass(frozen=True)
class Subject:
    """A paper or a project.

    Attributes:
        root: The repository.
        family: ``papers`` or ``projects``.
        name: The folder's name.
    """

    root: Path
    family: str
    name: str

    @property
    def folder(self) -> Path:
        return self.root / self.family / self.name

    @property
    def module(self) -> str:
        """How it is imported: ``papers.x``."""
        return f"{self.family}.{self.name}"

    @property
    def tests(self) -> Path:
        """Where its facts are tested."""
        name = f"test_{self.name.lstrip('_')}.py"
        return self.root / "tests" / self.family / name

    @cached_property
    def card(self) -> Paper:
        """What ``paper.yaml`` says.

        Raises:
            ConfigError: if the file is missing or wrong, in one line.
        """
        return Paper.read(self.folder)

    def sources(self) -> list[Path]:
        """Its Python files."""
        return sorted(self.folder.rglob("*.py"))

    def shown(self, path: Path) -> str:
        """A path for messages, from the root of the repository."""
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )


def find_subjects(root: Path | None = None) -> list[Subject]:
    """Every folder of ``papers/``, and every one of ``projects/`` that has a ``paper.yaml``."""
    root = root or get_project_root()
    folders = [(home, folder) for home in HOMES for folder in sorted((root / home).glob("[!.]*/"))]
    return [
        Subject(root, home, folder.name)
        for home, folder in folders
        if (folder / PAPER_FILE).exists() or (home == "papers" and _holds_files(folder))
    ]


def choose_subjects(names: Sequence[str], root: Path | None = None) -> list[Subject]:
    """The subjects that a person named as ``papers.x``, ``papers/x`` or ``x``; all without a name.

    Raises:
        InputError: for a name that is none.
    """
    known = find_subjects(root)
    by_module = {subject.module: subject for subject in known}
    chosen = []
    for name in names:
        word = name.strip("/").replace("/", ".")
        family = next((f for f in HOMES if f"{f}.{word}" in by_module), None)
        module = f"{family}.{word}" if family else word
        if module not in by_module:
            raise InputError(f"there is no paper {name!r}; {did_you_mean(module, by_module)}")
        chosen.append(by_module[module])
    return chosen or known


def imports_of(path: Path) -> Iterator[tuple[int, int, str]]:
    """Line, level (0 is absolute) and name of every import of a file; also of those in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module in HOMES:  # `from papers import gpt2`
                yield from ((node.lineno, 0, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.level, module


def _holds_files(folder: Path) -> bool:
    """Whether there is more in it than what Python leaves behind of a folder that went away."""
    return folder.name != "__pycache__" and any(p.name != "__pycache__" for p in folder.iterdir())
