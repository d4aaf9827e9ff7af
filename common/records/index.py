"""The documents made of records: README tables, ``papers/README.md``, the root README, the site.

Every document is a pure function of ``paper.yaml``, ``results.json`` and the configurations, and
never of the commit that is checked out: it is out of date only when one of these changed. How far
the code has moved since a row was recorded is computed when somebody asks (``staleness``).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from common.config.files import read_config
from common.config.tree import ABSENT, read
from common.records.paper import Paper, papers
from common.records.tables import (
    NOTHING,
    between,
    cell,
    code,
    measurement,
    number,
    ours,
    results_block,
    signed,
    table,
)
from common.records.verdicts import Standing, Verdict
from common.utils.errors import ConfigError
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root

_GENERATED = "<!-- made by tools/make_index.py from paper.yaml and results.json -->"


def documents(root: Path | None = None) -> dict[Path, str]:
    """Every generated document and what it should say.

    Args:
        root: The project.

    Raises:
        ConfigError: if a record cannot be read, or a document lacks its markers.
    """
    root = root or get_project_root()
    standings = [Standing.of(paper) for paper in papers(root)]
    found: dict[Path, str] = {}
    for standing in standings:
        path = standing.paper.folder / "README.md"
        if path.is_file():
            found[path] = _with(path, "results", results_block(standing), root)
    listed = [s for s in standings if s.paper.folder.parent.name == "papers"]
    found[root / "papers" / "README.md"] = index_page(listed)
    readme = root / "README.md"
    found[readme] = _with(readme, "papers", papers_table(listed), root)
    found[root / "docs" / "papers.md"] = site_page(standings)
    return found


def out_of_date(root: Path | None = None) -> list[Path]:
    """The documents that do not say what the records say."""
    return [
        path
        for path, text in documents(root).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def write_documents(root: Path | None = None) -> list[Path]:
    """Bring every document up to date; returns those that changed."""
    wanted = documents(root)
    changed = out_of_date(root)
    for path in changed:
        atomic_write_text(path, wanted[path])
    return changed


def index_page(standings: Sequence[Standing]) -> str:
    """``papers/README.md``: every paper with its headline."""
    rows = []
    for standing in standings:
        paper, row, headline = standing.paper, standing.shown_row, standing.headline
        is_claims = headline is not None and headline.row is not None
        here = NOTHING
        if headline is not None and is_claims:
            here = ours(headline, headline.claim.metric)
        elif row is not None:
            here = measurement(row.metrics[paper.headline.metric])
        theirs = NOTHING
        if headline is not None:
            claim = headline.claim
            whose = ": ".join(filter(None, [claim.source, claim.name]))
            theirs = f"{number(claim.value)} ({cell(whose)})"
        command = row.command if row is not None else f"python -m {paper.module}.train"
        rows.append(
            [
                _titled(paper, f"{paper.name}/README.md"),
                str(standing.status),
                f"`{paper.headline.metric}`",
                f"{here} ({cell(row.name)})" if row is not None else NOTHING,
                theirs,
                signed(headline.gap if headline is not None else None),
                cell(row.scale) if row is not None else NOTHING,
                code(command),
                _counts(standing),
            ]
        )
    headers = [
        "Paper",
        "Status",
        "Headline",
        "Here",
        "Paper's",
        "Gap",
        "Scale",
        "Command",
        "Claims",
    ]
    return (
        f"# Papers\n\n{_GENERATED}\n\n"
        "What each status means stands in [Results](../docs/results.md); each paper's own page has "
        "all of its\nrows and claims. A gap is given only where both numbers are of the same "
        "experiment.\n\n" + table(headers, rows) + "\n"
    )


def papers_table(standings: Sequence[Standing]) -> str:
    """The Papers table of the root README."""
    rows = []
    for standing in standings:
        paper, row = standing.paper, standing.shown_row
        here = NOTHING
        if row is not None:
            metric = paper.headline.metric
            scale = "" if row.is_full else ", reduced scale"
            here = f"`{metric}` {measurement(row.metrics[metric])} on {cell(row.name)}{scale}"
        link = _titled(paper, f"papers/{paper.name}/README.md")
        data = ", ".join(f"`{name}`" for name in data_names(paper))
        rows.append([link, str(standing.status), here, data or NOTHING])
    return table(["Paper", "Status", "Measured here", "Data it is set up for"], rows)


def site_page(standings: Sequence[Standing]) -> str:
    """``docs/papers.md``: one line for every paper and project."""
    lines = []
    for standing in standings:
        paper = standing.paper
        title = f"[{cell(paper.title)}]({paper.url})" if paper.url else cell(paper.title)
        lines.append(
            f"- {title} ({cell(paper.citation)}): {standing.status}; claims: {_counts(standing)}.\n"
            f"  `python -m {paper.module}.train`{_picture(paper)}"
        )
    return (
        f"# Papers\n\n{_GENERATED}\n\n"
        "What each status means: [Results](results.md). The numbers stand in `papers/README.md` and "
        "in each\npaper's own README.\n\n" + "\n".join(lines) + "\n"
    )


def data_names(paper: Paper) -> list[str]:
    """The data sets its configurations read, the default one first."""
    files = [paper.folder / "config.yaml", *sorted(paper.folder.glob("configs/*.yaml"))]
    names = []
    for file in files:
        if file.is_file():
            name = read(read_config(file).content, "data.name")
            if name is not ABSENT:
                names.append(str(name))
    return list(dict.fromkeys(names))


def _titled(paper: Paper, page: str) -> str:
    """Title and citation; the title leads to the paper's own page, if there is one."""
    title = cell(paper.title)
    if (paper.folder / "README.md").is_file():
        title = f"[{title}]({page})"
    return f"{title} ({cell(paper.citation)})"


def _picture(paper: Paper) -> str:
    """The first picture of the paper's own page, for the site."""
    page = paper.folder / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    found = re.search(r"^!\[([^\]]*)\]\(\.\./\.\./docs/(images/[^)\s]+)\)", text, re.MULTILINE)
    return f"\n\n    ![{found[1]}]({found[2]})\n" if found else ""


def _counts(standing: Standing) -> str:
    """How many claims have which verdict, in words."""
    verdicts = [judgement.verdict for judgement in standing.judgements]
    counts = [f"{verdicts.count(v)} {v}" for v in Verdict if v in verdicts]
    return ", ".join(counts) or "none"


def _with(path: Path, marker: str, block: str, root: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return between(text, marker, block, path.relative_to(root).as_posix())
