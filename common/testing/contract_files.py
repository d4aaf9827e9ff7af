"""Clauses of the contract that are read off the files: names, cards, configurations, imports, results."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from common.testing.contract_subject import Subject, imports_of
from common.utils.errors import RepriseError

NAMES = ("README.md", "paper.yaml", "config.yaml", "results.json", "__init__.py")
SCRIPTS = ("model.py", "train.py", "evaluate.py")
LONGEST_TRAIN = 200
# An absolute path of somebody's machine: not an address, not a part of a name with a slash in it.
_MACHINE_PATH = re.compile(r"(?<![\w.:/$}>])(?:~|/[A-Za-z_][\w.-]*)/[\w.-]+|\b[A-Z]:\\")
_ELSEWHERE = ("tests", "tools", "benchmarks", "exploratory")


def files(subject: Subject) -> Iterator[str]:
    """The files are there, documented, and the card is a valid one."""
    folder = subject.folder
    for name in (*NAMES, *SCRIPTS):
        if not (folder / name).is_file():
            yield f"{name} is missing"
    if not any(folder.glob("configs/*.yaml")):
        yield "configs/ holds no YAML file; expected the configurations of the paper's own data"
    for path in subject.sources():
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            yield f"{subject.shown(path)} has no module docstring"
    train = folder / "train.py"
    if train.is_file() and (lines := len(train.read_text().splitlines())) >= LONGEST_TRAIN:
        yield f"train.py has {lines} lines; expected fewer than {LONGEST_TRAIN}"
    yield from _card(subject)


def _card(subject: Subject) -> Iterator[str]:
    """``paper.yaml`` is valid, and says what the contract needs to try the paper."""
    try:
        paper = subject.card
    except RepriseError as error:
        yield str(error)
        return
    if paper.arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv):
        yield f"paper.yaml: arxiv is '{paper.arxiv}'; expected an id such as '1512.03385'"
    if not paper.smoke:
        yield "paper.yaml has no smoke; expected overrides such as [trainer.max_steps=40]"
    if paper.overfit is None:
        yield "paper.yaml has no overfit; expected {overrides: [trainer.max_steps=80], ratio: 0.2}"
    elif not 0 < paper.overfit.ratio < 1:
        yield f"paper.yaml: overfit.ratio is {paper.overfit.ratio}; expected a number from 0 to 1"


def configs(subject: Subject) -> Iterator[str]:
    """Every configuration composes against the schema, names no machine and says its command."""
    from importlib import import_module

    from common.config import compose

    schema = import_module(f"{subject.module}.train").Config
    anchor = subject.folder / "train.py"
    for path in [subject.folder / "config.yaml", *sorted(subject.folder.glob("configs/*.yaml"))]:
        try:
            compose(schema, anchor, path)
        except RepriseError as error:
            yield str(error)
        if path.parent.name == "configs" and f"--config configs/{path.name}" not in _header(path):
            yield f"{subject.shown(path)}: its header does not say '--config configs/{path.name}'"
    for path in sorted(subject.folder.glob("configs/*/*.yaml")):
        try:
            compose(schema, anchor, None, [f"{path.parent.name}={path.stem}"])
        except RepriseError as error:
            yield str(error)
    for path in sorted(subject.folder.rglob("*.yaml")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := _MACHINE_PATH.search(line):
                yield f"{subject.shown(path)}:{number} names a path of a machine: {found[0]}"


def _header(path: Path) -> str:
    """The comments a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), None)
    return "\n".join(lines[:count])


def independence(subject: Subject) -> Iterator[str]:
    """Imports are absolute and go to ``common``, to itself, and to the papers it says it builds on."""
    others = [f"papers.{name}" for name in subject.card.builds_on]
    for path in subject.sources():
        for line, level, name in imports_of(path):
            place = f"{subject.shown(path)}:{line}"
            parts = name.split(".")
            if level:
                yield f"{place}: a relative import; write from {subject.module}... import"
            elif parts[0] in _ELSEWHERE:
                yield f"{place}: imports {name}; {parts[0]}/ is imported by nothing"
            elif parts[0] in ("papers", "projects"):
                other = ".".join(parts[:2])
                if other != subject.module and other not in others:
                    yield (
                        f"{place}: imports {name}; say so in paper.yaml "
                        f"(builds_on: [{parts[1] if len(parts) > 1 else '...'}]), or move it to common"
                    )


def results(subject: Subject) -> Iterator[str]:
    """Claims name configurations, full rows have the headline, the README says what was recorded."""
    from common.records.tables import between, results_block
    from common.records.verdicts import Standing

    paper = subject.card
    for claim in paper.claims:
        if not (subject.folder / claim.config).is_file():
            yield f"paper.yaml: the claim '{claim.name}' has the config {claim.config}, which is missing"
    try:
        standing = Standing.of(paper)
        for row in standing.rows:
            if row.is_full and paper.headline.metric not in row.metrics:
                yield f"results.json: the full row '{row.name}' lacks the headline {paper.headline.metric}"
        path = subject.folder / "README.md"
        text = path.read_text(encoding="utf-8")
        if between(text, "results", results_block(standing), subject.shown(path)) != text:
            yield "README.md shows other results than results.json; run: python tools/make_index.py"
    except (RepriseError, OSError) as error:
        yield str(error)
