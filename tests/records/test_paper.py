"""``paper.yaml`` is read strictly."""

from pathlib import Path

import pytest

from common.records import Paper, find_paper, papers
from common.utils.errors import ConfigError
from tests.records.examples import PAPER, project


def test_a_paper_says_what_it_claims(tmp_path: Path) -> None:
    paper = Paper.read(project(tmp_path))
    (claim,) = paper.claims
    assert (claim.metric, claim.value, claim.tolerance) == ("test/accuracy", 0.9, 0.005)
    assert (paper.name, paper.module) == ("method", "papers.method")
    assert paper.citation == "Lovelace and Babbage 1843"
    assert paper.url == "https://arxiv.org/abs/1801.00001"
    assert paper.overfit is not None
    assert paper.overfit.ratio == 0.2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("claims:", "claim:", r"paper\.yaml: claims is missing; expected a list"),
        ("year: 1843", "year: soon", r"paper\.yaml:3: year is 'soon', expected a whole number"),
        ('"1801.00001"', "1801.00001", r"paper\.yaml:4: arxiv is 1801.00001, expected text"),
        ('arxiv: "1801.00001"', "", r"arxiv is missing; expected an id in quotes, or url"),
        ("arxiv: ", "url: ", r"url is '1801\.00001', expected https://"),
        ("value: 0.9", "value: high", r"claims\[0\]\.value is 'high', expected a number"),
        ("value: 0.9", "valu: 0.9", r"claims\[0\]\.value is missing"),
        ("tolerance: 0.005", "tolerance: -1", r"claims\[0\]\.tolerance is -1, expected 0 or more"),
        ("title: A", "titel: x\ntitle: A", r"titel is unknown; did you mean 'title'\?"),
        ("[trainer.max_steps=4]", "fast", r"smoke is 'fast', expected a list of texts"),
        ("higher_is_better: true", "higher_is_better: 1", r"headline\.higher_is_better is 1"),
        (PAPER, "- a list", r"holds a list"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    folder = project(tmp_path, **{"paper.yaml": PAPER.replace(old, new)})
    with pytest.raises(ConfigError, match=message) as caught:
        Paper.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("authors", ["The authors", "The Reprise authors"])
def test_a_group_of_authors_is_cited_by_its_whole_name(tmp_path: Path, authors: str) -> None:
    text = PAPER.replace("Ada Lovelace, Charles Babbage", authors)
    assert Paper.read(project(tmp_path, **{"paper.yaml": text})).citation == f"{authors} 1843"


def test_a_paper_that_is_not_on_arxiv_gives_its_page(tmp_path: Path) -> None:
    text = PAPER.replace('arxiv: "1801.00001"', "url: https://example.org/a.pdf")
    paper = Paper.read(project(tmp_path, **{"paper.yaml": text}))
    assert (paper.arxiv, paper.url) == ("", "https://example.org/a.pdf")


def test_all_papers_and_projects_are_found_but_no_template(tmp_path: Path) -> None:
    for name in ("method", "another", "_template"):
        project(tmp_path, name)
    (tmp_path / "projects" / "ours").mkdir(parents=True)
    without_arxiv = PAPER.replace('arxiv: "1801.00001"\n', "")
    (tmp_path / "projects" / "ours" / "paper.yaml").write_text(without_arxiv)
    assert [p.module for p in papers(tmp_path)] == [
        "papers.another",
        "papers.method",
        "projects.ours",
    ]


def test_a_misspelt_paper_is_offered_the_nearest(tmp_path: Path) -> None:
    project(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'method'"):
        find_paper("methd", tmp_path)


def test_the_papers_of_this_repository_can_be_read() -> None:
    assert "attention_is_all_you_need" in [paper.name for paper in papers()]
