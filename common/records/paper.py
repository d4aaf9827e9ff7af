"""``paper.yaml``: what a paper is, what it claims, and how its implementation is tried.

The file is read strictly: an unknown key, a wrong type or a missing field is one line that names the
file, the line and the key. ``papers()`` finds all papers and projects that have such a file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.config.files import ConfigFile, read_config
from common.config.validate import show
from common.utils.errors import ConfigError
from common.utils.paths import get_project_root
from common.utils.text import did_you_mean

PAPER_FILE = "paper.yaml"
HOMES = ("papers", "projects")
_URL = re.compile(r"https://[^\s()<>\[\]]+")


@dataclass(frozen=True)
class Claim:
    """A number the paper states.

    Attributes:
        name: What it is a number of.
        metric: The key of the metric in a run's record, or ``parameters``.
        value: The paper's.
        where: In the paper: a table, a figure, a section.
        tolerance: How far ours may be from it, on either side.
        config: The file that reproduces it, relative to the paper's folder.
        note: What else a reader must know to compare.
        source: Whose number it is, if not the paper's own.
    """

    name: str
    metric: str
    value: float
    where: str
    tolerance: float
    config: str
    note: str = ""
    source: str = ""

    @property
    def is_count(self) -> bool:
        """Whether it is about the size of a model, which no training has to reach."""
        return self.metric.split("/")[0] == "parameters"


@dataclass(frozen=True)
class Headline:
    """The metric a paper is listed with."""

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Overfit:
    """How one batch is learnt by heart: the last loss is at most ``ratio`` times the first."""

    overrides: tuple[str, ...]
    ratio: float


@dataclass(frozen=True)
class Paper:
    """A paper's or project's folder and what its ``paper.yaml`` says.

    Attributes:
        folder: Where it lies.
        title: Of the paper.
        authors: Full names, separated by commas.
        year: Of the first version.
        headline: The metric it is listed with.
        claims: The paper's numbers; a project may have none.
        arxiv: The id, ``1706.03762``; empty for a project, and for what is not there.
        url: The paper's page, of itself for one on arXiv; empty for a project.
        smoke: Overrides that make ``config.yaml`` a run of seconds.
        overfit: How one batch is learnt by heart.
        builds_on: Papers that this one imports.
    """

    folder: Path
    title: str
    authors: str
    year: int
    headline: Headline
    claims: tuple[Claim, ...]
    arxiv: str = ""
    url: str = ""
    smoke: tuple[str, ...] = ()
    overfit: Overfit | None = None
    builds_on: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``paper.yaml`` in ``folder``.

        Raises:
            ConfigError: if the file is missing, or says something wrong, or leaves something out.
        """
        folder = folder.absolute()
        file = read_config(folder / PAPER_FILE)
        top = _Section(file, "", file.content)
        paper = cls(
            folder=folder,
            title=top.text("title"),
            authors=top.text("authors"),
            year=top.integer("year"),
            headline=_headline(top.section("headline")),
            claims=tuple(_claim(section) for section in top.sections("claims")),
            arxiv=top.text("arxiv", ""),
            url=_url(top, is_project=folder.parent.name == "projects"),
            smoke=top.texts("smoke"),
            overfit=_overfit(top.section("overfit")) if "overfit" in top.values else None,
            builds_on=top.texts("builds_on"),
        )
        top.finish()
        return paper

    @property
    def name(self) -> str:
        """The folder's name, which is also the experiment's."""
        return self.folder.name

    @property
    def module(self) -> str:
        """The importable name: ``papers.resnet``."""
        return f"{self.folder.parent.name}.{self.folder.name}"

    @property
    def citation(self) -> str:
        """``Vaswani et al. 2017``; a group (``The authors``) keeps its whole name."""
        names = [name.strip() for name in self.authors.split(",")]
        last = [n if n.lower().startswith("the ") else n.split()[-1] for n in names]
        who = f"{last[0]} et al." if len(last) > 2 else " and ".join(last)
        return f"{who} {self.year}"


def papers(root: Path | None = None) -> list[Paper]:
    """All papers, then all projects, by name; folders that begin with ``_`` are none.

    Raises:
        ConfigError: if the ``paper.yaml`` of one cannot be read.
    """
    return [Paper.read(folder) for folder in paper_folders(root)]


def readable_papers(root: Path | None = None) -> tuple[list[Paper], dict[str, ConfigError]]:
    """The papers whose ``paper.yaml`` can be read, and what is wrong with the others, by name."""
    found, broken = [], {}
    for folder in paper_folders(root):
        try:
            found.append(Paper.read(folder))
        except ConfigError as error:
            broken[folder.name] = error
    return found, broken


def paper_folders(root: Path | None = None) -> list[Path]:
    """The folders of all papers, then of all projects, by name."""
    root = root or get_project_root()
    files = [path for home in HOMES for path in sorted((root / home).glob(f"[!_.]*/{PAPER_FILE}"))]
    return [path.parent for path in files]


def find_paper(name: str, root: Path | None = None) -> Paper:
    """The paper or project of an experiment's name.

    Raises:
        ConfigError: if there is none.
    """
    root = root or get_project_root()
    for home in HOMES:
        if (root / home / name / PAPER_FILE).is_file():
            return Paper.read(root / home / name)
    known = [path.parent.name for home in HOMES for path in (root / home).glob(f"*/{PAPER_FILE}")]
    raise ConfigError(f"there is no paper or project '{name}'; {did_you_mean(name, known)}")


def _url(top: "_Section", is_project: bool) -> str:
    """The paper's page: arXiv's, or the one that is given."""
    arxiv = top.text("arxiv", "")
    url = top.text("url", f"https://arxiv.org/abs/{arxiv}" if arxiv else "")
    if not url and not is_project:
        raise top.error("arxiv", "is missing; expected an id in quotes, or url if it is not there")
    if url and not _URL.fullmatch(url):
        raise top.error("url", f"is {show(url)}, expected https://...")
    return url


def _headline(section: "_Section") -> Headline:
    headline = Headline(section.text("metric"), section.truth("higher_is_better"))
    section.finish()
    return headline


def _overfit(section: "_Section") -> Overfit:
    overfit = Overfit(section.texts("overrides"), section.number("ratio"))
    section.finish()
    return overfit


def _claim(section: "_Section") -> Claim:
    claim = Claim(
        name=section.text("name"),
        metric=section.text("metric"),
        value=section.number("value"),
        where=section.text("where"),
        tolerance=section.number("tolerance"),
        config=section.text("config"),
        note=section.text("note", ""),
        source=section.text("source", ""),
    )
    if claim.tolerance < 0:
        raise section.error("tolerance", f"is {claim.tolerance}, expected 0 or more")
    section.finish()
    return claim


class _Section:
    """Fields of a mapping, taken one by one; what is left at the end is unknown."""

    def __init__(self, file: ConfigFile, key: str, values: Mapping[str, Any]) -> None:
        self.values = values
        self._file = file
        self._key = key
        self._known: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._take(name, "text (in quotes)", lambda v: isinstance(v, str), default))

    def integer(self, name: str) -> int:
        return int(self._take(name, "a whole number", lambda v: type(v) is int))

    def number(self, name: str) -> float:
        value = self._take(name, "a number", lambda v: type(v) in (int, float))
        return value if isinstance(value, int) else float(value)

    def truth(self, name: str) -> bool:
        return bool(self._take(name, "true or false", lambda v: isinstance(v, bool)))

    def texts(self, name: str) -> tuple[str, ...]:
        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        return tuple(self._take(name, "a list of texts", fits, []))

    def section(self, name: str) -> "_Section":
        values = self._take(name, "keys and values", lambda v: isinstance(v, dict))
        return _Section(self._file, self._full(name), values)

    def sections(self, name: str) -> list["_Section"]:
        items = self._take(name, "a list", lambda v: isinstance(v, list))
        found = []
        for index, item in enumerate(items):
            key = f"{name}[{index}]"
            if not isinstance(item, dict):
                raise self.error(key, f"is {show(item)}, expected keys and values")
            found.append(_Section(self._file, self._full(key), item))
        return found

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        for name in self.values:
            if name not in self._known:
                raise self.error(name, f"is unknown; {did_you_mean(name, self._known)}")

    def error(self, name: str, problem: str) -> ConfigError:
        key = self._full(name)
        return ConfigError(f"{self._file.place(key)}: {key} {problem}")

    def _take(
        self, name: str, expected: str, fits: Callable[[Any], bool], default: Any = None
    ) -> Any:
        self._known.append(name)
        if name not in self.values:
            if default is None:
                raise self.error(name, f"is missing; expected {expected}")
            return default
        value = self.values[name]
        if not fits(value):
            raise self.error(name, f"is {show(value)}, expected {expected}")
        return value

    def _full(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name
