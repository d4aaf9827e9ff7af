"""How far the code has moved since a row was recorded: "verified at commit X; N files changed".

The files are those the paper's ``train`` and ``evaluate`` import, directly or not, found by reading
their import statements, and the row's configuration. What is imported by a computed name (a
``_target_`` of a configuration) is not seen. This answer changes with every commit, so it is printed
and never written into a document.
"""

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.records.paper import Paper, papers
from common.records.results import Row, read_results
from common.utils.paths import get_project_root

_PACKAGES = ("common", "papers", "projects")


@dataclass(frozen=True)
class Staleness:
    """What changed since a row was recorded.

    Attributes:
        row: The row.
        depends_on: The files that made it.
        changed: Those of them that differ at the current commit; ``None`` if the row's commit is
            not in this clone.
    """

    row: Row
    depends_on: tuple[str, ...]
    changed: tuple[str, ...] | None

    def __str__(self) -> str:
        verified = f"verified at commit {self.row.commit[:7]}"
        if self.changed is None:
            return f"{verified}, which this clone does not hold"
        if not self.changed:
            return f"{verified}; up to date"
        files = "file" if len(self.changed) == 1 else "files"
        return (
            f"{verified}; {len(self.changed)} {files} it depends on changed since "
            f"(of {len(self.depends_on)})"
        )


def staleness(paper: Paper, row: Row, root: Path | None = None) -> Staleness:
    """What changed, of all that ``row`` depends on, between its commit and the current one."""
    root = root or get_project_root()
    files = [*dependencies(paper, root), (paper.folder / row.config).relative_to(root).as_posix()]
    result = subprocess.run(
        ["git", "-C", str(root), "diff", "--name-only", f"{row.commit}..HEAD", "--", *files],
        capture_output=True,
        text=True,
    )
    changed = tuple(result.stdout.splitlines()) if result.returncode == 0 else None
    return Staleness(row, tuple(files), changed)


def staleness_of_all(root: Path | None = None) -> Iterator[tuple[Paper, Staleness]]:
    """Every recorded row of every paper, and what changed since."""
    for paper in papers(root):
        for row in read_results(paper.folder):
            yield paper, staleness(paper, row, root)


def report_lines(root: Path | None = None) -> Iterator[str]:
    """One line for each recorded row of each paper, and the files that changed below it."""
    for paper, found in staleness_of_all(root):
        yield f"{paper.module}, {found.row.name}: {found}"
        yield from (f"    {file}" for file in found.changed or ())


def dependencies(paper: Paper, root: Path) -> list[str]:
    """The files that a paper's ``train`` and ``evaluate`` import, relative to ``root``, sorted."""
    waiting = [
        file for name in ("train", "evaluate") for file in _files(f"{paper.module}.{name}", root)
    ]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            text = file.read_text(encoding="utf-8")
            waiting += [path for name in _imports(text) for path in _files(name, root)]
    return sorted(file.relative_to(root).as_posix() for file in seen)


@functools.cache  # rows by the dozen depend on the same files
def _imports(text: str) -> tuple[str, ...]:
    """Every name of ours that the import statements of a source may mean, wherever they stand."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(dict.fromkeys(name for name in names if name.split(".")[0] in _PACKAGES))


def _files(name: str, root: Path) -> Iterator[Path]:
    """The files that run when ``name`` is imported: its own, and every package's above it."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:length])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file
